//! ECDSA P-256 key pairs.

use super::{PkiError, der, pem};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key with its PKCS#8 form. `Debug` never shows it.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Vec<u8>,
    /// Uncompressed point, 65 bytes.
    public: Vec<u8>,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    pub fn generate() -> Result<Self, PkiError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| PkiError::Crypto("generating a key"))?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, PkiError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
            .map_err(|_| PkiError::Crypto("reading an ECDSA P-256 key"))?;
        Ok(Self { pkcs8: pkcs8.to_vec(), public: pair.public_key().as_ref().to_vec() })
    }

    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        match pem::private_key(text)? {
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            _ => Err(PkiError::Crypto("reading the key: only PKCS#8 ECDSA P-256 keys are used")),
        }
    }

    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    pub fn public_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.spki())
    }

    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))
    }

    /// The uncompressed public point: 4, x (32 bytes), y (32 bytes).
    pub fn public_point(&self) -> &[u8] {
        &self.public
    }

    /// SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        let algorithm =
            der::sequence(&[&der::oid(&[1, 2, 840, 10045, 2, 1]), &der::oid(&[1, 2, 840, 10045, 3, 1, 7])]);
        der::sequence(&[&algorithm, &der::bit_string(&self.public)])
    }

    /// ECDSA-SHA256, ASN.1 form, as certificates hold it.
    pub fn sign_asn1(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        self.sign(&ECDSA_P256_SHA256_ASN1_SIGNING, message)
    }

    /// ECDSA-SHA256, fixed form (r, s), as JSON web tokens hold it.
    pub fn sign_fixed(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        self.sign(&ECDSA_P256_SHA256_FIXED_SIGNING, message)
    }

    fn sign(
        &self,
        algorithm: &'static ring::signature::EcdsaSigningAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, PkiError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8, &random)
            .map_err(|_| PkiError::Crypto("reading an ECDSA P-256 key"))?;
        let signature = pair.sign(&random, message).map_err(|_| PkiError::Crypto("signing"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Checks a fixed-form ECDSA-SHA256 signature against an uncompressed point.
pub fn verify_fixed(public_point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_point).verify(message, signature).is_ok()
}
