//! Calls to services outside the cluster's own machinery: OIDC issuers, token and authorization webhooks.
//!
//! A client belongs to one service: its trust, its credentials, its pooled connections. Answers are bounded in size
//! and in time; redirects are not followed.

pub mod kubeconfig;
pub mod retry;
#[cfg(test)]
pub(crate) mod testing;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::time::Duration;

/// The largest answer that is read.
const LARGEST: usize = 4 << 20;

/// Whose certificates a service may show.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// The machine's own authorities.
    #[default]
    System,
    /// These authorities and no others.
    Bundle(Vec<CertificateDer<'static>>),
    /// Anybody's.
    Nobody,
}

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("this machine has no trusted certificate authorities; name one in the configuration")]
    NoSystemRoots,
    #[error("the TLS set-up is not usable: {0}")]
    Tls(String),
    #[error("{0:?} is not a URL that can be called")]
    Url(String),
    #[error("{method} {url}: {reason}")]
    Call { method: Method, url: String, reason: String },
    #[error("{method} {url}: no answer within {seconds} s")]
    Timeout { method: Method, url: String, seconds: f32 },
}

/// What a service said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Bytes,
}

/// How a client shows who it is.
#[derive(Default)]
pub struct Identity {
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The whole `Authorization` header.
    pub authorization: Option<String>,
    /// The name the service's certificate must bear, where that is not the URL's host.
    pub server_name: Option<String>,
}

/// One service's client.
pub struct Remote {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl Remote {
    pub fn new(trust: &Trust, identity: Identity) -> Result<Self, RemoteError> {
        let tls = |e: &dyn std::fmt::Display| RemoteError::Tls(e.to_string());
        let builder = ClientConfig::builder_with_provider(kit::pki::provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| tls(&e))?;
        let builder = match trust {
            Trust::Nobody => {
                builder.dangerous().with_custom_certificate_verifier(unverified::Anyone::verifier())
            }
            trust => builder.with_root_certificates(roots(trust)?),
        };
        let config = match identity.certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| tls(&e))?,
            None => builder.with_no_client_auth(),
        };
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let builder = match identity.server_name {
            Some(name) => {
                let name = ServerName::try_from(name).map_err(|e| tls(&e))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(30)));
        let connector = builder.enable_http1().enable_http2().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .build(connector);
        let authorization = identity.authorization.map(|value| {
            let mut value = HeaderValue::from_str(&value).map_err(|e| tls(&e))?;
            value.set_sensitive(true);
            Ok::<_, RemoteError>(value)
        });
        Ok(Self { client, authorization: authorization.transpose()? })
    }

    pub async fn get(&self, url: &str, within: Duration) -> Result<Answer, RemoteError> {
        self.call(Method::GET, url, None, None, within).await
    }

    /// [`get`](Self::get) with a bearer token of this one call.
    pub async fn get_as(&self, url: &str, token: &str, within: Duration) -> Result<Answer, RemoteError> {
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        self.call(Method::GET, url, None, header.ok(), within).await
    }

    pub async fn post_json(&self, url: &str, body: Bytes, within: Duration) -> Result<Answer, RemoteError> {
        self.call(Method::POST, url, Some(body), None, within).await
    }

    async fn call(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        authorization: Option<HeaderValue>,
        within: Duration,
    ) -> Result<Answer, RemoteError> {
        let uri: Uri = url.parse().map_err(|_| RemoteError::Url(url.to_owned()))?;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(uri)
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(value) = authorization.or_else(|| self.authorization.clone()) {
            request = request.header(AUTHORIZATION, value);
        }
        let failed =
            |reason: String| RemoteError::Call { method: method.clone(), url: url.to_owned(), reason };
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| failed(e.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| failed(chain(&e)))?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|e| failed(e.to_string()))?.to_bytes();
            Ok(Answer { code, body })
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = within.as_secs_f32();
                Err(RemoteError::Timeout { method: method.clone(), url: url.to_owned(), seconds })
            }
        }
    }
}

/// An error with everything behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn roots(trust: &Trust) -> Result<RootCertStore, RemoteError> {
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Bundle(authorities) => {
            for authority in authorities {
                roots.add(authority.clone()).map_err(|e| RemoteError::Tls(e.to_string()))?;
            }
        }
        _ => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(RemoteError::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

/// For `insecure-skip-tls-verify: true`.
mod unverified {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use std::sync::Arc;

    #[derive(Debug)]
    pub struct Anyone(WebPkiSupportedAlgorithms);

    impl Anyone {
        pub fn verifier() -> Arc<Self> {
            Arc::new(Self(kit::pki::provider().signature_verification_algorithms))
        }
    }

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.0)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}
