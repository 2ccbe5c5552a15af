//! Who asks: the front proxy's word, if it is the front proxy.

use anyhow::{Context, Result};
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The user the front proxy speaks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    authorities: Vec<CertificateDer<'static>>,
    names: Vec<String>,
}

impl FrontProxy {
    /// `authorities` is PEM; `names` are the common names that may speak for others, empty for all.
    pub fn new(authorities: &[u8], names: Vec<String>) -> Result<Self> {
        let authorities = rustls_pemfile::certs(&mut &*authorities)
            .collect::<Result<_, _>>()
            .context("read the authority")?;
        Ok(Self { authorities, names })
    }

    /// TLS that asks for a client certificate and lets those without one in, as far as `/healthz`.
    pub fn tls(&self, certificate: &[u8], key: &[u8]) -> Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        let verifier: Arc<dyn ClientCertVerifier> =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let chain = rustls_pemfile::certs(&mut &*certificate).collect::<Result<Vec<_>, _>>()?;
        let key = rustls_pemfile::private_key(&mut &*key)?.context("there is no private key")?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The user, or `None` for a stranger. The handshake has checked the certificate's authority.
    pub fn user(&self, peer: Option<&CertificateDer<'_>>, headers: &HeaderMap) -> Option<User> {
        let (_, certificate) = x509_parser::parse_x509_certificate(peer?).ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        if !self.names.is_empty() && !self.names.iter().any(|n| n == name) {
            return None;
        }
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut user = User {
            name: text("x-remote-user")?,
            uid: text("x-remote-uid").unwrap_or_default(),
            groups: headers
                .get_all("x-remote-group")
                .iter()
                .filter_map(|v| v.to_str().ok().map(str::to_owned))
                .collect(),
            extra: BTreeMap::new(),
        };
        for (name, value) in headers {
            if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("x-remote-extra-"), value.to_str()) {
                user.extra.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Some(user)
    }
}
