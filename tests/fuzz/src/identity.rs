//! What proves who somebody is: tokens, certificates, certificate requests.

use apiserver::tokens::{Issuer, jose};
use kit::pki::{Authority, PrivateKey, Request, Usages, pem};
use machinery::field::quote;
use std::sync::LazyLock;
use std::time::Duration;

static ISSUER: LazyLock<Issuer> =
    LazyLock::new(|| Issuer::new(PrivateKey::generate().expect("a key"), "https://kubernetes.default.svc"));
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::generate("fuzz").expect("an authority"));

/// Only what the issuer signed is valid; a change of one of its tokens makes it invalid.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = jose::split(text);
    let own = ISSUER.sign(&serde_json::json!({"iss": ISSUER.url(), "sub": "a"})).expect("a token");
    assert!(text == own || ISSUER.verify(text).is_err(), "{} is valid", quote(text));
    // The input as a change of a good token: its bytes, exchanged at a place the first two choose.
    if let [high, low, change @ ..] = data
        && let Ok(change) = std::str::from_utf8(change)
        && own.is_ascii()
    {
        let at = (usize::from(*high) << 8 | usize::from(*low)) % own.len();
        let end = (at + change.len()).min(own.len());
        let forged = format!("{}{change}{}", &own[..at], &own[end..]);
        assert!(
            forged == own || ISSUER.verify(&forged).is_err() || same_signature(&forged, &own),
            "{}",
            quote(&forged)
        );
    }
    if let Ok(value) = serde_json::from_str(text) {
        let _ = jose::PublicKey::from_jwk(&value);
    }
}

/// The last character of base64 has bits that mean nothing.
fn same_signature(forged: &str, own: &str) -> bool {
    let body = |token: &str| token.rsplit_once('.').map(|(body, _)| body.to_owned());
    body(forged) == body(own)
}

/// No panic; what is read of a request is signed only for the key it came with.
pub fn request(data: &[u8]) {
    let read = |pem: &[u8]| {
        if let Ok(request) = Request::from_pem(pem) {
            let usages = Usages { client: true, ..Usages::default() };
            let _ = AUTHORITY.sign_request(&request, usages, Duration::from_secs(60));
            let _ = quote(&format!("{:?}", request.subject));
        }
    };
    read(data);
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(data);
    read(
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
            .as_bytes(),
    );
}

/// No panic; only certificates of the authority are believed.
pub fn certificate(data: &[u8]) {
    let _ = pem::request(data);
    let authorities = [AUTHORITY.certificate().clone()];
    let unknown = rustls::pki_types::CertificateDer::from(data.to_vec());
    let _ = kit::pki::not_after(&unknown);
    let _ = apiserver::authentication::ClientCertificates::new(&[unknown]);
    let _ = apiserver::authentication::ClientCertificates::new(&authorities).expect("the authority is one");
    let _ = jose::public_keys(data);
    let _ = jose::SigningKey::from_pem(data);
    let _ = jose::PublicKey::from_spki(data);
}
