//! Keys and signatures of JSON web tokens (RFC 7515, 7517, 7518): what `ring` verifies, read from PEM or JWK.
//!
//! The algorithm is checked against the key's own kind before anything is verified, so a token cannot choose how it
//! is checked. ES512 is known by name and never verified: `ring` has no P-521.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kit::pki::{PrivateKey, pem};
use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use std::sync::Arc;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Every algorithm upstream lets an issuer use.
pub const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// Uncompressed point.
    P256(Vec<u8>),
    /// Uncompressed point.
    P384(Vec<u8>),
}

fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes[zeros..].to_vec()
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        match info.parsed().ok()? {
            Parsed::RSA(key) => Some(Self::Rsa { n: trimmed(key.modulus), e: trimmed(key.exponent) }),
            Parsed::EC(point) => Self::point(point.data().to_vec()),
            _ => None,
        }
    }

    fn point(point: Vec<u8>) -> Option<Self> {
        match (point.first(), point.len()) {
            (Some(4), 65) => Some(Self::P256(point)),
            (Some(4), 97) => Some(Self::P384(point)),
            _ => None,
        }
    }

    /// From a member of a JWK set; keys for encryption and kinds `ring` does not know are `None`.
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        if jwk["use"].as_str().is_some_and(|u| u != "sig") {
            return None;
        }
        let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str()?.trim_end_matches('=')).ok();
        match jwk["kty"].as_str()? {
            "RSA" => Some(Self::Rsa { n: trimmed(&part("n")?), e: trimmed(&part("e")?) }),
            "EC" => {
                let size = match jwk["crv"].as_str()? {
                    "P-256" => 32,
                    "P-384" => 48,
                    _ => return None,
                };
                let (x, y) = (part("x")?, part("y")?);
                if x.len() > size || y.len() > size {
                    return None;
                }
                let mut point = vec![4];
                for coordinate in [x, y] {
                    point.extend(std::iter::repeat_n(0, size - coordinate.len()));
                    point.extend(coordinate);
                }
                Self::point(point)
            }
            _ => None,
        }
    }

    /// The algorithm that service-account tokens of this key use.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
        }
    }

    pub fn to_jwk(&self, id: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (alg, point, curve) = match self {
            Self::Rsa { n, e } => {
                return json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": encode(n), "e": encode(e)});
            }
            Self::P256(point) => ("ES256", point, "P-256"),
            Self::P384(point) => ("ES384", point, "P-384"),
        };
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": alg, "x": encode(x), "y": encode(y)})
    }

    /// Whether `signature` is this key's over `message`, by an algorithm that fits the key.
    pub fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Self::Rsa { n, e }, _) => {
                let how = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(how, message, signature).is_ok()
            }
            (Self::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            (Self::P384(point), "ES384") => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            _ => false,
        }
    }
}

/// A verifying key under the name that tokens call it by: the digest of its SubjectPublicKeyInfo, as upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    pub id: String,
    pub key: PublicKey,
}

impl NamedKey {
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        Some(Self { id: key_id(der), key: PublicKey::from_spki(der)? })
    }
}

fn key_id(spki: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, spki))
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("data does not contain any valid RSA or ECDSA public keys")]
    NoPublicKey,
    #[error(
        "data does not contain a usable private key: RSA (2048 bits or more) or ECDSA P-256 in PKCS#8, or RSA in PKCS#1"
    )]
    NoPrivateKey,
}

/// Every verifying key of a PEM file: public keys, certificates, and the public half of private keys.
pub fn public_keys(text: &[u8]) -> Result<Vec<NamedKey>, KeyError> {
    let mut found = Vec::new();
    for (kind, der) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).flatten() {
        let key = match kind {
            SectionKind::PublicKey => NamedKey::from_spki(&der),
            SectionKind::Certificate => x509_parser::parse_x509_certificate(&der)
                .ok()
                .and_then(|(_, c)| NamedKey::from_spki(c.tbs_certificate.subject_pki.raw)),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey => {
                SigningKey::from_der(kind == SectionKind::RsaPrivateKey, &der).map(|k| k.public())
            }
            _ => None,
        };
        found.extend(key);
    }
    if found.is_empty() { Err(KeyError::NoPublicKey) } else { Ok(found) }
}

/// A key that signs service-account tokens.
#[derive(Clone)]
pub enum SigningKey {
    Ecdsa(PrivateKey),
    Rsa(Arc<RsaKeyPair>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// The first private key of a PEM file.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).flatten();
        let mut keys = sections.filter_map(|(kind, der)| match kind {
            SectionKind::PrivateKey => Self::from_der(false, &der),
            SectionKind::RsaPrivateKey => Self::from_der(true, &der),
            _ => None,
        });
        keys.next().ok_or(KeyError::NoPrivateKey)
    }

    fn from_der(pkcs1: bool, der: &[u8]) -> Option<Self> {
        if pkcs1 {
            return RsaKeyPair::from_der(der).ok().map(|k| Self::Rsa(Arc::new(k)));
        }
        PrivateKey::from_pkcs8(der)
            .map(Self::Ecdsa)
            .ok()
            .or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(|k| Self::Rsa(Arc::new(k))))
    }

    pub fn public(&self) -> NamedKey {
        match self {
            Self::Ecdsa(key) => {
                NamedKey { id: key_id(&key.spki()), key: PublicKey::P256(key.public_point().to_vec()) }
            }
            Self::Rsa(pair) => {
                let spki = rsa_spki(pair.public_key().as_ref());
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::from(pair.public());
                NamedKey { id: key_id(&spki), key: PublicKey::Rsa { n, e } }
            }
        }
    }

    /// The signature in the form a token holds it.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Ecdsa(key) => key.sign_fixed(message).ok(),
            Self::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut out).ok()?;
                Some(out)
            }
        }
    }
}

/// SubjectPublicKeyInfo around a PKCS#1 RSAPublicKey.
fn rsa_spki(pkcs1: &[u8]) -> Vec<u8> {
    /// SEQUENCE { OID rsaEncryption, NULL }
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let mut bits = vec![0];
    bits.extend_from_slice(pkcs1);
    let mut content = ALGORITHM.to_vec();
    content.extend(tlv(0x03, &bits));
    tlv(0x30, &content)
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = trimmed(&length);
    match content.len() {
        0..=127 => out.push(content.len() as u8),
        _ => {
            out.push(0x80 | significant.len() as u8);
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A token taken apart, nothing of it verified.
pub struct Unverified<'a> {
    pub algorithm: String,
    pub key_id: String,
    /// The claims' JSON.
    pub payload: Vec<u8>,
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
}

/// Takes a compact token apart. `None`: not one.
pub fn split(token: &str) -> Option<Unverified<'_>> {
    let mut parts = token.split('.');
    let (header, body, signature, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let header_json: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    Some(Unverified {
        algorithm: header_json["alg"].as_str().unwrap_or_default().into(),
        key_id: header_json["kid"].as_str().unwrap_or_default().into(),
        payload: URL_SAFE_NO_PAD.decode(body).ok()?,
        signed: &token.as_bytes()[..header.len() + 1 + body.len()],
        signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
    })
}

/// PEM of a public key, for `--service-account-key-file` and tests.
pub fn spki_pem(spki: &[u8]) -> String {
    pem::encode("PUBLIC KEY", spki)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An RSA key made for these tests with `openssl genpkey -algorithm RSA`.
    pub const RSA_PEM: &str = include_str!("testdata/rsa.pem");

    #[test]
    fn each_kind_of_key_signs_publishes_and_verifies() {
        let ec = SigningKey::Ecdsa(PrivateKey::generate().unwrap());
        let rsa = SigningKey::from_pem(RSA_PEM.as_bytes()).unwrap();
        assert!(matches!(rsa, SigningKey::Rsa(_)));
        for key in [&ec, &rsa] {
            let public = key.public();
            let signature = key.sign(b"message").unwrap();
            let published = PublicKey::from_jwk(&public.key.to_jwk(&public.id)).unwrap();
            assert_eq!(published, public.key);
            assert!(published.verify(public.key.algorithm(), b"message", &signature));
            assert!(!published.verify(public.key.algorithm(), b"massage", &signature));
            for other in ["none", "HS256", "ES512", "EdDSA", "", "RS384"] {
                assert!(!published.verify(other, b"message", &signature), "{other}");
            }
        }
    }

    #[test]
    fn key_files_hold_many_keys_of_many_kinds() {
        let ec = PrivateKey::generate().unwrap();
        let text = format!("{}{}{}", ec.public_pem(), RSA_PEM, ec.to_pem());
        let keys = public_keys(text.as_bytes()).unwrap();
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[0], keys[2]);
        let rsa = SigningKey::from_pem(RSA_PEM.as_bytes()).unwrap().public();
        assert_eq!(keys[1], rsa);
        // The identifier is the digest of the whole SubjectPublicKeyInfo, whichever way the key was given.
        let SigningKey::Rsa(pair) = SigningKey::from_pem(RSA_PEM.as_bytes()).unwrap() else { panic!() };
        let again = NamedKey::from_spki(&rsa_spki(pair.public_key().as_ref())).unwrap();
        assert_eq!(again, rsa);
        assert!(public_keys(b"nothing").is_err() && SigningKey::from_pem(b"nothing").is_err());
    }

    #[test]
    fn keys_that_cannot_verify_are_left_out() {
        for bad in [
            json!({}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
            json!({"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "EC", "crv": "P-256", "x": "!", "y": "AA"}),
        ] {
            assert_eq!(PublicKey::from_jwk(&bad), None, "{bad}");
        }
        assert!(split("a.b").is_none() && split("").is_none() && split("e30.e30.!").is_none());
        assert!(split("e30.e30.").is_some());
    }
}
