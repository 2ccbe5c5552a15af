//! Service-account tokens as JSON web tokens.

use super::jose::{NamedKey, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kit::pki::PrivateKey;
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

/// The `iss` of tokens that live in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token that lives in a Secret: no audience, no end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    #[serde(default)]
    pub iss: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub name: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
    #[serde(default)]
    pub sub: String,
}

/// As a bound token's, for what both kinds are asked.
impl From<LegacyClaims> for Claims {
    fn from(legacy: LegacyClaims) -> Self {
        let serviceaccount = Ref { name: legacy.name, uid: legacy.uid };
        let kubernetes = Kubernetes { namespace: legacy.namespace, serviceaccount, ..Kubernetes::default() };
        Self { iss: legacy.iss, sub: legacy.sub, kubernetes, exp: i64::MAX, ..Self::default() }
    }
}

/// What a token of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    Bound(Claims),
    Legacy(LegacyClaims),
}

/// Signs tokens with the service-account key and knows its own again, by whichever of its keys and names they were
/// issued.
pub struct Issuer {
    key: SigningKey,
    /// Verifying keys; that of `key` is among them.
    known: Vec<NamedKey>,
    /// The first one issues.
    urls: Vec<String>,
    header: String,
    jwks_uri: Option<String>,
}

impl Issuer {
    /// One key, one name. `url` is the `iss` claim, by upstream's default `https://kubernetes.default.svc.cluster.local`.
    pub fn new(key: PrivateKey, url: impl Into<String>) -> Self {
        Self::rotating(SigningKey::Ecdsa(key), Vec::new(), vec![url.into()], None)
    }

    /// `others` verify tokens that were issued before; `urls` after the first are names it had before. `jwks_uri`
    /// replaces this server's own address in the discovery document. `urls` must not be empty.
    pub fn rotating(
        key: SigningKey,
        others: Vec<NamedKey>,
        urls: Vec<String>,
        jwks_uri: Option<String>,
    ) -> Self {
        let own = key.public();
        let header =
            URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{}","kid":"{}"}}"#, own.key.algorithm(), own.id));
        let mut known = others;
        if !known.contains(&own) {
            known.insert(0, own);
        }
        Self { key, known, urls, header, jwks_uri }
    }

    pub fn url(&self) -> &str {
        self.urls.first().map_or("", String::as_str)
    }

    /// All names tokens of ours may bear.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn key_id(&self) -> String {
        self.key.public().id
    }

    pub(super) fn keys(&self) -> &[NamedKey] {
        &self.known
    }

    pub(super) fn jwks_uri(&self) -> Option<&str> {
        self.jwks_uri.as_deref()
    }

    /// Signs any JSON claims.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, JwtError> {
        let body = serde_json::to_vec(claims).map_err(|_| JwtError::Malformed)?;
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(body));
        let signature = self.key.sign(token.as_bytes()).ok_or(JwtError::Signature)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The token of a Secret of type `kubernetes.io/service-account-token`.
    pub fn sign_legacy(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        secret: &str,
    ) -> Result<String, JwtError> {
        self.sign(&LegacyClaims {
            iss: LEGACY_ISSUER.into(),
            namespace: namespace.into(),
            secret: secret.into(),
            name: name.into(),
            uid: uid.into(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        })
    }

    /// The claims of a bound token that one of this issuer's keys signed. Time, audience and liveness are the
    /// caller's to check.
    pub fn verify(&self, token: &str) -> Result<Claims, JwtError> {
        match self.verify_any(token)? {
            Verified::Bound(claims) => Ok(claims),
            Verified::Legacy(_) => Err(JwtError::Foreign),
        }
    }

    /// [`verify`](Self::verify), for tokens of Secrets too.
    pub fn verify_any(&self, token: &str) -> Result<Verified, JwtError> {
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
        let legacy = issued.iss == LEGACY_ISSUER;
        if !legacy && !self.urls.contains(&issued.iss) {
            return Err(JwtError::Foreign);
        }
        let header_json = URL_SAFE_NO_PAD.decode(header).map_err(|_| JwtError::Malformed)?;
        let parsed: Header<'_> = serde_json::from_slice(&header_json).map_err(|_| JwtError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
        let signed = &token.as_bytes()[..header.len() + 1 + body.len()];
        // The algorithm is the key's to say, not the token's.
        let ours = self.known.iter().any(|known| {
            (parsed.kid.is_empty() || parsed.kid == known.id)
                && parsed.alg == known.key.algorithm()
                && known.key.verify(parsed.alg, signed, &signature)
        });
        if !ours {
            return Err(JwtError::Signature);
        }
        if legacy {
            return serde_json::from_slice(&body_json).map(Verified::Legacy).map_err(|_| JwtError::Malformed);
        }
        serde_json::from_slice(&body_json).map(Verified::Bound).map_err(|_| JwtError::Malformed)
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
    fn older_keys_and_names_are_still_known() {
        let old = issuer();
        let rsa = SigningKey::from_pem(super::super::jose::tests::RSA_PEM.as_bytes()).unwrap();
        let urls = vec!["https://new".to_owned(), "https://issuer".to_owned()];
        let new = Issuer::rotating(rsa, old.keys().to_vec(), urls, None);
        let token = old.sign(&claims("https://issuer")).unwrap();
        assert_eq!(new.verify(&token), Ok(claims("https://issuer")));
        let fresh = new.sign(&claims("https://new")).unwrap();
        assert_eq!(new.verify(&fresh), Ok(claims("https://new")));
        assert_eq!(old.verify(&fresh), Err(JwtError::Foreign));
        assert_eq!((new.url(), new.keys().len()), ("https://new", 2));
    }

    #[test]
    fn tokens_of_secrets_are_told_apart() {
        let issuer = issuer();
        let token = issuer.sign_legacy("a", "sa", "u", "s").unwrap();
        let Ok(Verified::Legacy(claims)) = issuer.verify_any(&token) else { panic!("a legacy token") };
        assert_eq!((claims.name.as_str(), claims.sub.as_str()), ("sa", "system:serviceaccount:a:sa"));
        assert_eq!(issuer.verify(&token), Err(JwtError::Foreign));
        assert_eq!(super::tests::issuer().verify_any(&token), Err(JwtError::Signature));
    }

    #[test]
    fn a_single_audience_may_be_a_string() {
        let parsed: Claims = serde_json::from_str(r#"{"aud":"one"}"#).unwrap();
        assert_eq!(parsed.aud, ["one"]);
    }
}
