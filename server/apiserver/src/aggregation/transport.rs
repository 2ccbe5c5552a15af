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

/// Why a request got no answer, in the words of upstream's client. `at` is the address that was dialled.
pub(crate) fn failure(error: &(dyn std::error::Error + 'static), at: &str) -> String {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return tls_failure(error);
        }
        if let Some(mut error) = error.downcast_ref::<std::io::Error>() {
            // Errors of one in another are no sources.
            while let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<std::io::Error>()) {
                error = inner;
            }
            if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                return tls_failure(inner);
            }
            let why = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused",
                std::io::ErrorKind::TimedOut => "i/o timeout",
                std::io::ErrorKind::HostUnreachable => "connect: no route to host",
                std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable",
                std::io::ErrorKind::UnexpectedEof => return "EOF".to_owned(),
                _ => "",
            };
            if !why.is_empty() {
                return format!("dial tcp {at}: {why}");
            }
            if error.to_string().contains("failed to lookup address") {
                let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
                return format!("dial tcp: lookup {host}: no such host");
            }
        }
        next = error.source();
    }
    cause(error)
}

fn tls_failure(error: &rustls::Error) -> String {
    use rustls::CertificateError;
    let why = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "certificate signed by unknown authority".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate has expired or is not yet valid".to_owned()
            }
            other => other.to_string(),
        },
        other => return format!("tls: {other}"),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// What upstream's client makes of an answer that is no success: the message of the `Status` it holds, or one of its
/// own by the code.
pub(crate) fn server_response(code: u16, content_type: &str, body: &[u8]) -> String {
    if let Ok(status) = serde_json::from_slice::<serde_json::Value>(body)
        && status["kind"] == "Status"
        && status["status"] != "Success"
        && let Some(message) = status["message"].as_str()
    {
        return message.to_owned();
    }
    let text = content_type.is_empty() || content_type.starts_with("text/");
    let said = String::from_utf8_lossy(&body[..body.len().min(2048)]);
    let said = if text { said.trim() } else { "unknown" };
    let words = match code {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 | 406 | 415 => return said.to_owned(),
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => {
            return format!("an error on the server ({said:?}) has prevented the request from succeeding");
        }
        _ => {
            return format!(
                "the server responded with the status code {code} but did not return more information"
            );
        }
    };
    words.to_owned()
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
