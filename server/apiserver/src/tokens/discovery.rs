//! The OIDC discovery documents, for those who check our tokens without asking us.

use super::Issuer;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const OPENID_CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
pub const JWKS_PATH: &str = "/openid/v1/jwks";

impl Issuer {
    /// `/.well-known/openid-configuration`; `base` is the external address of this server (`https://host:port`).
    /// Content type `application/json`.
    pub fn openid_configuration(&self, base: &str) -> Value {
        json!({
            "issuer": self.url(),
            "jwks_uri": format!("{}{JWKS_PATH}", base.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`. Content type `application/jwk-set+json`.
    pub fn jwks(&self) -> Value {
        let point = self.public_point();
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id(),
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::pki::{PrivateKey, verify_fixed};

    #[test]
    fn the_published_key_verifies_tokens() {
        let issuer = Issuer::new(PrivateKey::generate().unwrap(), "https://issuer");
        let key = issuer.jwks()["keys"][0].clone();
        let decode = |v: &Value| URL_SAFE_NO_PAD.decode(v.as_str().unwrap()).unwrap();
        let point = [vec![4], decode(&key["x"]), decode(&key["y"])].concat();
        let token = issuer.sign(&json!({"iss": "https://issuer"})).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(verify_fixed(&point, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()));
        let config = issuer.openid_configuration("https://h:6443/");
        assert_eq!(config["jwks_uri"], "https://h:6443/openid/v1/jwks");
    }
}
