//! PEM in and out.

use super::PkiError;
use base64::Engine as _;
use rustls::pki_types::pem::{PemObject as _, SectionKind, SliceIter};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

/// One PEM block with 64-character lines.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 64);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for at in (0..body.len()).step_by(64) {
        out.push_str(&body[at..body.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// All `CERTIFICATE` blocks in order; at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(PkiError::Pem("certificate")),
    }
}

/// The first private key.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|_| PkiError::Pem("private key"))
}

/// The first `CERTIFICATE REQUEST`, as DER.
pub fn request(text: &[u8]) -> Result<Vec<u8>, PkiError> {
    let der = CertificateSigningRequestDer::from_pem_slice(text)
        .map_err(|_| PkiError::Pem("certificate request"))?;
    Ok(der.as_ref().to_vec())
}

/// The first `PUBLIC KEY` (SubjectPublicKeyInfo DER).
pub fn public_key(text: &[u8]) -> Result<Vec<u8>, PkiError> {
    for item in SliceIter::<(SectionKind, Vec<u8>)>::new(text) {
        match item {
            Ok((SectionKind::PublicKey, der)) => return Ok(der),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Err(PkiError::Pem("public key"))
}
