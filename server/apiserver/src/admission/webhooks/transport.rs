//! Reaching a webhook: HTTPS to a URL or a Service.

use crate::reader::{Reader, parse, text};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What an answer may weigh.
const MAX_ANSWER: usize = 3 << 20;

#[derive(Clone, Debug)]
enum Target {
    Host(String),
    Service { namespace: String, name: String },
}

/// Where a webhook listens, and whom to trust there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    target: Target,
    port: u16,
    path: String,
    /// The name its certificate must have.
    server_name: String,
    tls: Arc<rustls::ClientConfig>,
}

fn tls(ca: Option<&[u8]>) -> Result<Arc<rustls::ClientConfig>, String> {
    let ca = ca.ok_or("it has no caBundle, and this server trusts no public authorities")?;
    let authorities = kit::pki::pem::certificates(ca).map_err(|e| e.to_string())?;
    let mut config = kit::pki::client_config(&authorities, None).map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Endpoint {
    pub(super) fn url(url: &str, ca: Option<&[u8]>) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|_| format!("the url {url:?} cannot be read"))?;
        let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.scheme_str() != Some("https") || host.is_empty() {
            return Err(format!("the url {url:?} is not an https url"));
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let (port, server_name) = (uri.port_u16().unwrap_or(443), host.clone());
        Ok(Self { target: Target::Host(host), port, path, server_name, tls: tls(ca)? })
    }

    pub(super) fn service(
        namespace: &str,
        name: &str,
        port: u16,
        path: &str,
        ca: Option<&[u8]>,
    ) -> Result<Self, String> {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self {
            target: Target::Service { namespace: namespace.into(), name: name.into() },
            port,
            path,
            server_name: format!("{name}.{namespace}.svc"),
            tls: tls(ca)?,
        })
    }

    /// As error messages name it.
    pub fn shown(&self, timeout: std::time::Duration) -> String {
        let host = match &self.target {
            Target::Host(host) => host.clone(),
            Target::Service { .. } => self.server_name.clone(),
        };
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("https://{host}:{}{}{separator}timeout={}s", self.port, self.path, timeout.as_secs())
    }
}

/// Carries an AdmissionReview there and back. The seam for tests.
#[async_trait]
pub trait WebhookTransport: Send + Sync + 'static {
    async fn call(&self, endpoint: &Endpoint, review: Bytes) -> Result<Bytes, String>;
}

/// The real one: a connection a call. Services are reached at their cluster address.
pub(super) struct Https {
    pub reader: Arc<dyn Reader>,
}

impl Https {
    fn address(&self, endpoint: &Endpoint) -> Result<String, String> {
        match &endpoint.target {
            Target::Host(host) => Ok(host.clone()),
            Target::Service { namespace, name } => {
                let entry = self.reader.get("", "services", namespace, name);
                let service = parse(&*entry.ok_or_else(|| format!("service {name:?} not found"))?);
                match (text(&service, "/spec/type"), text(&service, "/spec/clusterIP")) {
                    ("ExternalName", _) => Ok(text(&service, "/spec/externalName").to_owned()),
                    (_, "" | "None") => Err(format!("service {name:?} has no cluster address")),
                    (_, address) => Ok(address.to_owned()),
                }
            }
        }
    }
}

#[async_trait]
impl WebhookTransport for Https {
    async fn call(&self, endpoint: &Endpoint, review: Bytes) -> Result<Bytes, String> {
        let address = self.address(endpoint)?;
        let tcp = TcpStream::connect((address.as_str(), endpoint.port))
            .await
            .map_err(|e| format!("dial tcp {address}:{}: {e}", endpoint.port))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(endpoint.server_name.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(endpoint.tls.clone())
            .connect(name, tcp)
            .await
            .map_err(|e| format!("tls: {e}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends with the sender below, or with this future's timeout.
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = http::Request::post(&endpoint.path)
            .header(http::header::HOST, &endpoint.server_name)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(review))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        drop(connection);
        if !status.is_success() {
            return Err(format!("the server answered {status}"));
        }
        Ok(body.to_bytes())
    }
}

/// For callers that need JSON.
pub(super) fn decode(answer: &Bytes) -> Result<Value, String> {
    serde_json::from_slice(answer).map_err(|e| format!("the answer is not JSON: {e}"))
}
