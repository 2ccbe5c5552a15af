//! Connections to where things run: kubelets over TLS, pods and services over plain HTTP. Responses stream;
//! upgrades are spliced.

use crate::ApiServer;
use crate::cache::GroupResource;
use crate::chain::Call;
use crate::http::{Body, RequestBody};
use crate::resolve::Resource;
use crate::status::ApiError;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a request goes on to.
pub(crate) struct Upstream {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name its certificate must have, where that is not the host.
    pub server_name: Option<String>,
    /// Path and query.
    pub path: String,
}

/// The kubelet of a node.
pub(super) async fn kubelet(server: &ApiServer, node: &str, path: &str) -> Result<Upstream, ApiError> {
    let tls = server
        .config
        .kubelet
        .as_ref()
        .ok_or_else(|| ApiError::unavailable("the server has no credentials for kubelets"))?();
    server.storage.cache().fresh(crate::storage::PATIENCE).await?;
    let nodes = server.storage.cache().resource(&GroupResource::new("", "nodes"));
    let entry = nodes.get("", node).ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    let object = entry.object().map_err(ApiError::internal)?;
    let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let host = ["InternalIP", "ExternalIP", "InternalDNS", "Hostname", "ExternalDNS"]
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a["type"] == *kind))
        .and_then(|a| a["address"].as_str())
        .ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
        })?;
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
        .unwrap_or(10250);
    Ok(Upstream { host: host.to_owned(), port, tls: Some(tls), server_name: None, path: path.to_owned() })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(upstream: &Upstream) -> Result<Box<dyn Stream>, String> {
    let address = (upstream.host.as_str(), upstream.port);
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(format!("dial tcp {}:{}: {e}", upstream.host, upstream.port)),
        Err(_) => return Err(format!("dial tcp {}:{}: i/o timeout", upstream.host, upstream.port)),
    };
    let _ = stream.set_nodelay(true);
    let Some(tls) = &upstream.tls else { return Ok(Box::new(stream)) };
    let name = upstream.server_name.clone().unwrap_or_else(|| upstream.host.clone());
    let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(tls.clone());
    match tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("TLS handshake timeout".into()),
    }
}

pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")))
}

pub(crate) const HOP_BY_HOP: [&str; 7] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "proxy-connection",
];

/// Sends the call's request on and hands its answer back.
pub(super) async fn forward(
    call: &mut Call,
    upstream: Upstream,
    method: Method,
) -> Result<Response<Body>, ApiError> {
    let upgrading = is_upgrade(&call.parts.headers);
    let mut headers = HeaderMap::with_capacity(call.parts.headers.len());
    for (name, value) in &call.parts.headers {
        let dropped = name == AUTHORIZATION
            || name == HOST
            || HOP_BY_HOP.contains(&name.as_str())
            || name.as_str().starts_with("impersonate-")
            || (!upgrading && (name == CONNECTION || name == UPGRADE));
        if !dropped {
            headers.append(name.clone(), value.clone());
        }
    }
    exchange(call, upstream, method, headers).await
}

/// Sends an upgrade on, with these headers and the method of the call.
pub(crate) async fn upgrade(
    call: &mut Call,
    upstream: Upstream,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let method = call.parts.method.clone();
    exchange(call, upstream, method, headers).await
}

/// One request on a connection of its own.
async fn exchange(
    call: &mut Call,
    upstream: Upstream,
    method: Method,
    sent: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let failed =
        |why: String| ApiError::generic(500, "InternalError", format!("error dialing backend: {why}"));
    let io = connect(&upstream).await.map_err(|why| {
        ApiError::generic(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, RequestBody>(TokioIo::new(io))
        .await
        .map_err(|e| failed(e.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let body = call.body.get_mut().take();
    let body = body.unwrap_or_else(|| crate::http::body::request_body(http_body_util::Empty::<Bytes>::new()));
    let path: Uri = upstream.path.parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path;
    *request.headers_mut() = sent;
    let headers = request.headers_mut();
    let host = if upstream.host.contains(':') {
        format!("[{}]:{}", upstream.host, upstream.port)
    } else {
        format!("{}:{}", upstream.host, upstream.port)
    };
    if let Ok(value) = HeaderValue::from_str(&host) {
        headers.insert(HOST, value);
    }
    let mut response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        let Some(ours) = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
            return Err(ApiError::bad_request("this connection cannot be upgraded"));
        };
        tokio::spawn(splice(ours, theirs));
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(HeaderName::from_static(name));
    }
    parts.headers.remove(CONNECTION);
    Ok(Response::from_parts(parts, Body::boxed(body)))
}

/// Joins two upgraded connections until both ends are done.
async fn splice(ours: hyper::upgrade::OnUpgrade, theirs: hyper::upgrade::OnUpgrade) {
    let (client, backend) = match tokio::join!(ours, theirs) {
        (Ok(client), Ok(backend)) => (client, backend),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%error, "an upgrade failed");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}

/// A kubelet's plain-text refusal as a `Status`.
pub(super) async fn kubelet_error(response: Response<Body>) -> ApiError {
    let code = response.status().as_u16();
    let bytes = match tokio::time::timeout(Duration::from_secs(5), response.into_body().collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        _ => Bytes::new(),
    };
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        500 => "InternalError",
        _ => "",
    };
    let message = if text.is_empty() { format!("the kubelet answered {code}") } else { text.to_owned() };
    ApiError::generic(code, reason, message)
}

/// `[scheme:]name[:port]`.
fn split_name(name: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

pub(super) async fn handle(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let (scheme, bare, port) = split_name(name)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {} request {name:?}", resource.singular)))?;
    let path = call.info.path.clone();
    let marker = format!(
        "/{}/{}/proxy",
        resource.plural,
        path.split('/')
            .find(|p| { crate::http::info::percent_decode(p).as_deref() == Some(name) })
            .unwrap_or(name)
    );
    let rest = path.find(&marker).map_or("", |at| &path[at + marker.len()..]);
    if rest.is_empty() && matches!(call.parts.method, Method::GET | Method::HEAD) {
        let query = call.parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(value) = HeaderValue::from_str(&format!("{path}/{query}")) {
            response.headers_mut().insert(LOCATION, value);
        }
        return Ok(response);
    }
    let query = call.parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    super::connect::admit(server, call, resource, namespace, name, rest).await?;
    let path = format!("{}{query}", if rest.is_empty() { "/" } else { rest });
    server.storage.cache().fresh(crate::storage::PATIENCE).await?;
    let upstream = match resource.plural.as_str() {
        "nodes" => kubelet(server, bare, &path).await?,
        "pods" => pod(server, namespace, bare, port, path)?,
        _ => service(server, namespace, bare, port, path)?,
    };
    if scheme == "https" && upstream.tls.is_none() {
        return Err(ApiError::bad_request("proxying to https backends is not supported by this server"));
    }
    let method = call.parts.method.clone();
    forward(call, upstream, method).await
}

fn pod(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    port: &str,
    path: String,
) -> Result<Upstream, ApiError> {
    let pods = server.storage.cache().resource(&GroupResource::new("", "pods"));
    let entry = pods.get(namespace, name).ok_or_else(|| ApiError::not_found("", "pods", name))?;
    let pod = entry.object().map_err(ApiError::internal)?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    if ip.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let ports: Vec<&Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|c| c["ports"].as_array().into_iter().flatten())
        .collect();
    let number = if port.is_empty() {
        ports.first().and_then(|p| p["containerPort"].as_u64()).unwrap_or(80)
    } else if let Ok(number) = port.parse::<u64>() {
        number
    } else {
        ports
            .iter()
            .find(|p| p["name"] == port)
            .and_then(|p| p["containerPort"].as_u64())
            .ok_or_else(|| ApiError::bad_request(format!("no port named {port:?} on pod {name:?}")))?
    };
    let port = u16::try_from(number).map_err(|_| ApiError::bad_request("the port is out of range"))?;
    Ok(Upstream { host: ip.to_owned(), port, tls: None, server_name: None, path })
}

/// A ready endpoint of the service, at random.
fn service(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    port: &str,
    path: String,
) -> Result<Upstream, ApiError> {
    let cache = server.storage.cache();
    let services = cache.resource(&GroupResource::new("", "services"));
    let entry = services.get(namespace, name).ok_or_else(|| ApiError::not_found("", "services", name))?;
    let service = entry.object().map_err(ApiError::internal)?;
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let wanted = ports.iter().find(|p| {
        port.is_empty() && ports.len() == 1
            || p["name"].as_str().unwrap_or_default() == port && !port.is_empty()
            || p["port"].as_u64().is_some_and(|n| n.to_string() == port)
    });
    let unavailable = || ApiError::unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = match wanted {
        Some(p) => p["name"].as_str().unwrap_or_default().to_owned(),
        None if port.is_empty() => String::new(),
        None => {
            return Err(ApiError::unavailable(format!(
                "no service port {port:?} found for service {name:?}"
            )));
        }
    };
    let slices = cache.resource(&GroupResource::new("discovery.k8s.io", "endpointslices"));
    let mut found: Vec<(String, u16)> = Vec::new();
    for entry in slices.snapshot().page(Some(namespace), None) {
        if entry.labels().get("kubernetes.io/service-name").is_none_or(|n| n != name) {
            continue;
        }
        let slice = entry.object().map_err(ApiError::internal)?;
        let number = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let Some(number) = number else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == Value::Bool(false) {
                continue;
            }
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            found.extend(addresses.filter_map(|a| a.as_str()).map(|a| (a.to_owned(), number)));
        }
    }
    if found.is_empty() {
        return Err(unavailable());
    }
    let (host, port) = found.swap_remove(rand::random_range(0..found.len()));
    Ok(Upstream { host, port, tls: None, server_name: None, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        assert_eq!(split_name("web"), Some(("", "web", "")));
        assert_eq!(split_name("web:80"), Some(("", "web", "80")));
        assert_eq!(split_name("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(split_name("ftp:web:21"), None);
    }
}
