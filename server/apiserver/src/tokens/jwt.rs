//! JSON web tokens, ES256 only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kit::pki::{PrivateKey, verify_fixed};
use serde::{Deserialize, Serialize};

/// A name with the uid it had when the token was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default)]
    pub serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a bound service-account token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    #[serde(default)]
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    #[serde(default)]
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(default, rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    #[serde(default)]
    pub nbf: i64,
    #[serde(default)]
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: &'a str,
    #[serde(default)]
    kid: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not a token of ours at all: another authenticator may know it.
    #[error("not a service account token")]
    Foreign,
    #[error("invalid bearer token")]
    Malformed,
    #[error("invalid signature")]
    Signature,
}

/// Signs tokens with the service-account key and knows its own again.
pub struct Issuer {
    key: PrivateKey,
    key_id: String,
    url: String,
    header: String,
}

impl Issuer {
    /// `url` is the `iss` claim, by upstream's default `https://kubernetes.default.svc.cluster.local`.
    pub fn new(key: PrivateKey, url: impl Into<String>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &key.spki());
        let key_id = URL_SAFE_NO_PAD.encode(digest);
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{key_id}"}}"#));
        Self { key, key_id, url: url.into(), header }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn public_point(&self) -> &[u8] {
        self.key.public_point()
    }

    /// Signs any JSON claims.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, JwtError> {
        let body = serde_json::to_vec(claims).map_err(|_| JwtError::Malformed)?;
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(body));
        let signature = self.key.sign_fixed(token.as_bytes()).map_err(|_| JwtError::Signature)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims of a token that this issuer's key signed. Time, audience and liveness are the caller's to check.
    pub fn verify(&self, token: &str) -> Result<Claims, JwtError> {
        let mut parts = token.split('.');
        let (Some(header), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Foreign);
        };
        let body_json = URL_SAFE_NO_PAD.decode(body).map_err(|_| JwtError::Foreign)?;
        #[derive(Deserialize)]
        struct Issued {
            #[serde(default)]
            iss: String,
        }
        let issued: Issued = serde_json::from_slice(&body_json).map_err(|_| JwtError::Foreign)?;
        if issued.iss != self.url {
            return Err(JwtError::Foreign);
        }
        let header_json = URL_SAFE_NO_PAD.decode(header).map_err(|_| JwtError::Malformed)?;
        let parsed: Header<'_> = serde_json::from_slice(&header_json).map_err(|_| JwtError::Malformed)?;
        // The algorithm is ours to say, not the token's.
        if parsed.alg != "ES256" || !(parsed.kid.is_empty() || parsed.kid == self.key_id) {
            return Err(JwtError::Signature);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
        let signed = &token.as_bytes()[..header.len() + 1 + body.len()];
        if !verify_fixed(self.key.public_point(), signed, &signature) {
            return Err(JwtError::Signature);
        }
        serde_json::from_slice(&body_json).map_err(|_| JwtError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        Issuer::new(PrivateKey::generate().unwrap(), "https://issuer")
    }

    fn claims(iss: &str) -> Claims {
        Claims {
            iss: iss.into(),
            sub: "system:serviceaccount:a:b".into(),
            aud: vec!["x".into()],
            ..Claims::default()
        }
    }

    #[test]
    fn own_tokens_verify_and_others_do_not() {
        let issuer = issuer();
        let token = issuer.sign(&claims("https://issuer")).unwrap();
        assert_eq!(issuer.verify(&token).unwrap(), claims("https://issuer"));
        // Same issuer name, another key.
        assert_eq!(super::tests::issuer().verify(&token), Err(JwtError::Signature));
        // Another issuer.
        let foreign = issuer.sign(&claims("https://elsewhere")).unwrap();
        assert_eq!(issuer.verify(&foreign), Err(JwtError::Foreign));
        for garbage in ["", "a", "a.b", "a.b.c", "a.b.c.d", "..", "é.é.é"] {
            assert_eq!(issuer.verify(garbage), Err(JwtError::Foreign), "{garbage}");
        }
    }

    #[test]
    fn tampering_and_algorithm_tricks_fail() {
        let issuer = issuer();
        let token = issuer.sign(&claims("https://issuer")).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let body = |c: &Claims| URL_SAFE_NO_PAD.encode(serde_json::to_vec(c).unwrap());
        let mut other = claims("https://issuer");
        other.sub = "system:serviceaccount:kube-system:admin".into();
        let swapped = format!("{}.{}.{}", parts[0], body(&other), parts[2]);
        assert_eq!(issuer.verify(&swapped), Err(JwtError::Signature));
        for alg in ["none", "None", "HS256", "RS256", "ES384"] {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
            for signature in ["", parts[2]] {
                let forged = format!("{header}.{}.{signature}", parts[1]);
                assert_eq!(issuer.verify(&forged), Err(JwtError::Signature), "{alg}");
            }
        }
    }

    #[test]
    fn a_single_audience_may_be_a_string() {
        let parsed: Claims = serde_json::from_str(r#"{"aud":"one"}"#).unwrap();
        assert_eq!(parsed.aud, ["one"]);
    }
}
