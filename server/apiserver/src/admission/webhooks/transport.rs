//! Reaching a webhook: HTTPS to a URL or a Service, over connections that are kept.

use crate::aggregation::{self, Address, Pool, Service};
use crate::reader::{Reader, parse};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use std::sync::Arc;
use std::time::Duration;

/// What an answer may weigh.
const MAX_ANSWER: usize = 3 << 20;

#[derive(Clone, Debug)]
enum Target {
    Host(Address),
    Service(Service),
}

/// Where a webhook listens, and whom to trust there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    target: Target,
    path: String,
    /// Scheme, host and port, as messages show them.
    shown: String,
    pool: Pool,
}

fn connections(ca: Option<&[u8]>, server_name: &str) -> Result<Pool, String> {
    let ca = ca.ok_or("it has no caBundle, and this server trusts no public authorities")?;
    aggregation::pool(aggregation::client_tls(ca, false, None)?, server_name)
}

impl Endpoint {
    pub(super) fn url(url: &str, ca: Option<&[u8]>) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|_| format!("the url {url:?} cannot be read"))?;
        let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.scheme_str() != Some("https") || host.is_empty() {
            return Err(format!("the url {url:?} is not an https url"));
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let pool = connections(ca, &host)?;
        let address = Address { host, port: uri.port_u16().unwrap_or(443) };
        Ok(Self { shown: format!("https://{address}"), target: Target::Host(address), path, pool })
    }

    pub(super) fn service(
        namespace: &str,
        name: &str,
        port: u16,
        path: &str,
        ca: Option<&[u8]>,
    ) -> Result<Self, String> {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let service = Service { namespace: namespace.into(), name: name.into(), port };
        let pool = connections(ca, &service.server_name())?;
        let shown = format!("https://{}:{port}", service.server_name());
        Ok(Self { shown, target: Target::Service(service), path, pool })
    }

    /// The path with the time the webhook has.
    fn path(&self, timeout: Duration) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{separator}timeout={}s", self.path, timeout.as_secs())
    }

    /// As error messages name it.
    pub fn shown(&self, timeout: Duration) -> String {
        format!("{}{}", self.shown, self.path(timeout))
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answered {
    pub code: u16,
    pub content_type: String,
    pub body: Bytes,
}

/// Carries an AdmissionReview there and back. The seam for tests.
#[async_trait]
pub trait WebhookTransport: Send + Sync + 'static {
    /// `Err`: there was no answer.
    async fn call(&self, endpoint: &Endpoint, timeout: Duration, review: Bytes) -> Result<Answered, String>;
}

/// The real one.
pub(super) struct Https {
    pub reader: Arc<dyn Reader>,
}

impl Https {
    /// Ready endpoints come first, then the cluster address, as for extension servers.
    fn address(&self, endpoint: &Endpoint) -> Result<Address, String> {
        let service = match &endpoint.target {
            Target::Host(address) => return Ok(address.clone()),
            Target::Service(service) => service,
        };
        let entry = self.reader.get("", "services", &service.namespace, &service.name);
        let object = parse(&*entry.ok_or_else(|| format!("service {:?} not found", service.name))?);
        let slices = self.reader.list("discovery.k8s.io", "endpointslices", Some(&service.namespace));
        let owned = slices.iter().filter(|e| {
            e.labels().get("kubernetes.io/service-name").is_some_and(|name| *name == service.name)
        });
        let slices: Vec<_> = owned.map(|e| parse(e)).collect();
        let all = service.addresses(&object, &slices)?;
        let at = rand::random_range(0..all.len().max(1));
        all.into_iter()
            .nth(at)
            .ok_or_else(|| format!("no endpoints available for service {:?}", service.name))
    }
}

#[async_trait]
impl WebhookTransport for Https {
    async fn call(&self, endpoint: &Endpoint, timeout: Duration, review: Bytes) -> Result<Answered, String> {
        let address = self.address(endpoint)?;
        let mut request = Request::new(aggregation::request_bytes(review));
        *request.method_mut() = Method::POST;
        let path = endpoint.path(timeout).parse().map_err(|e| format!("{e}"))?;
        *request.uri_mut() = aggregation::target(&address, path).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver-admission"));
        let failed = |e| aggregation::failure(&e, &address.to_string());
        let response = endpoint.pool.request(request).await.map_err(failed)?;
        let code = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let body =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        Ok(Answered { code, content_type, body: body.to_bytes() })
    }
}
