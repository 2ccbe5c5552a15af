//! HTTPS to extension servers: TLS as an APIService asks for it, and a pool of connections a server.

use crate::http::RequestBody;
use bytes::Bytes;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kit::pki::{RotatingCertificate, pem, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Pool = Client<HttpsConnector<HttpConnector>, RequestBody>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(90);

/// Whom to trust, and as whom to come. Without a bundle nobody is trusted: this server knows no public authorities.
pub(crate) fn client_tls(
    ca_bundle: &[u8],
    insecure: bool,
    certificate: Option<Arc<RotatingCertificate>>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if insecure {
        let algorithms = provider().signature_verification_algorithms;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(algorithms)))
    } else {
        let mut roots = RootCertStore::empty();
        if !ca_bundle.is_empty() {
            let authorities = pem::certificates(ca_bundle).map_err(|e| e.to_string())?;
            if authorities.is_empty() {
                return Err(
                    "unable to load root certificates: no valid certificate authority data seen".into()
                );
            }
            for authority in authorities {
                roots.add(authority).map_err(|e| e.to_string())?;
            }
        }
        builder.with_root_certificates(roots)
    };
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}

/// A pool whose connections all go to servers of one name, over HTTP/2 where they speak it.
pub(crate) fn pool(tls: ClientConfig, server_name: &str) -> Result<Pool, String> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|e| e.to_string())?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_all_versions()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(4)
        .build(connector))
}

/// A request body that is in memory.
pub(crate) fn request_bytes(bytes: Bytes) -> RequestBody {
    crate::http::body::request_body(http_body_util::Full::new(bytes))
}

/// The cause at the end of an error's chain, which is what upstream's messages show.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}

/// `insecureSkipTLSVerify`: any certificate whose key the peer holds.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
