//! rustls set-up: configurations whose certificates can be replaced while they are in use.

use super::{Leaf, PkiError};
use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The crypto provider of every TLS configuration in this binary.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let mut provider = rustls::crypto::ring::default_provider();
            // AES-128 first, as Go has it: as good for what lives as long as a session, and less work for each byte.
            provider.cipher_suites.sort_by_key(|suite| {
                use rustls::CipherSuite as S;
                let first = [
                    S::TLS13_AES_128_GCM_SHA256,
                    S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                    S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                ];
                !first.contains(&suite.suite())
            });
            Arc::new(provider)
        })
        .clone()
}

/// A certificate slot shared by configurations; replacing its content affects the next handshake.
#[derive(Debug)]
pub struct RotatingCertificate(ArcSwap<Slot>);

#[derive(Debug)]
struct Slot {
    key: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl RotatingCertificate {
    pub fn new(leaf: &Leaf) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(slot(leaf)?))))
    }

    pub fn replace(&self, leaf: &Leaf) -> Result<(), PkiError> {
        self.0.store(Arc::new(slot(leaf)?));
        Ok(())
    }

    /// See [`Leaf::renew_in`].
    pub fn renew_in(&self) -> Duration {
        self.0.load().leaf.renew_in()
    }
}

fn slot(leaf: &Leaf) -> Result<Slot, PkiError> {
    let key = provider().key_provider.load_private_key(leaf.key.to_rustls())?;
    Ok(Slot { key: Arc::new(CertifiedKey::new(leaf.chain.clone(), key)), leaf: leaf.clone() })
}

impl ResolvesServerCert for RotatingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

impl ResolvesClientCert for RotatingCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.0.load().key.clone();
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Asks for a client certificate and accepts any, once the peer has proved it holds the key; whether it is
/// trusted, and as whom, is the authenticator's question. A stranger's certificate is then answered by 401 like
/// any other bad credential, as upstream does, and not by a broken handshake.
#[derive(Debug)]
pub struct ClientVerifier {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// `authorities` are named to clients as those whose certificates may help.
    pub fn new(authorities: &[&CertificateDer<'static>]) -> Result<Arc<Self>, PkiError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add((*authority).clone())?;
        }
        Ok(Arc::new(Self {
            hints: roots.subjects(),
            algorithms: provider().signature_verification_algorithms,
        }))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. Without `clients` no client certificate is asked for.
pub fn server_config(
    certificate: Arc<RotatingCertificate>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, PkiError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    Ok(config)
}

/// A client that trusts `authorities` and nothing else, with its own certificate where it has one. ALPN is left
/// to the HTTP connector.
pub fn client_config(
    authorities: &[CertificateDer<'static>],
    certificate: Option<Arc<RotatingCertificate>>,
) -> Result<ClientConfig, PkiError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}
