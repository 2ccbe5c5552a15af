//! The OIDC discovery documents, for those who check our tokens without asking us.

use super::Issuer;
use serde_json::{Value, json};

pub const OPENID_CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
pub const JWKS_PATH: &str = "/openid/v1/jwks";

impl Issuer {
    /// Whether there is a discovery document: its rules ask for an issuer that is an https URL.
    pub fn is_discoverable(&self) -> bool {
        self.url().starts_with("https://")
    }

    /// `/.well-known/openid-configuration`; `base` is the external address of this server (`https://host:port`).
    /// Content type `application/json`.
    pub fn openid_configuration(&self, base: &str) -> Value {
        let own = || format!("{}{JWKS_PATH}", base.trim_end_matches('/'));
        let mut algorithms: Vec<&str> = self.keys().iter().map(|k| k.key.algorithm()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.url(),
            "jwks_uri": self.jwks_uri().map_or_else(own, str::to_owned),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// `/openid/v1/jwks`. Content type `application/jwk-set+json`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.keys().iter().map(|k| k.key.to_jwk(&k.id)).collect();
        json!({"keys": keys})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
