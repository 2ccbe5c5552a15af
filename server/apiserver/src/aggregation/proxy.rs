//! Sending a request on to an extension server, and its answer back: bodies stream both ways, upgraded connections
//! are spliced. Source: kube-aggregator's `handler_proxy.go` and apimachinery's `UpgradeAwareHandler`.

use super::Extension;
use super::backend::Address;
use super::transport::cause;
use crate::ApiServer;
use crate::authentication::{UserInfo, is_request_header};
use crate::chain::Call;
use crate::http::serve::PeerAddress;
use crate::http::{Body, respond};
use crate::status::ApiError;
use crate::subresources::proxy::{HOP_BY_HOP, Upstream, is_upgrade, upgrade};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use std::fmt::Write;
use std::sync::Arc;

/// Answers an authorized request through the extension server.
pub(crate) async fn forward(
    server: &ApiServer,
    call: &mut Call,
    extension: &Arc<Extension>,
) -> Result<Response<Body>, ApiError> {
    if !extension.is_available() {
        return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"));
    }
    if let Some(why) = extension.transport_error() {
        return Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR, why));
    }
    let address = match extension.address(server) {
        Ok(address) => address,
        Err(error) => {
            tracing::debug!(group = %extension.group, version = %extension.version, %error, "no address");
            return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"));
        }
    };
    let upgrading = is_upgrade(&call.parts.headers);
    let mut headers = passed_on(&call.parts.headers, upgrading);
    if let Some(PeerAddress(peer)) = call.parts.extensions.get() {
        forwarded_for(&mut headers, &peer.ip().to_string());
    }
    speak_for(&mut headers, &call.user);
    let path = call.parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if upgrading {
        let tls = extension.tls().map_err(ApiError::internal)?;
        let upstream = Upstream {
            host: address.host,
            port: address.port,
            tls: Some(tls),
            server_name: Some(extension.service.server_name()),
            path: path.as_str().to_owned(),
        };
        return match upgrade(call, upstream, headers).await {
            Ok(response) => Ok(response),
            Err(error) => Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, &error.message)),
        };
    }
    let body = call.body.get_mut().take();
    let body = body.unwrap_or_else(|| super::request_bytes(bytes::Bytes::new()));
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = target(&address, path).map_err(ApiError::internal)?;
    *request.headers_mut() = headers;
    match extension.send(request).await {
        Ok(response) => Ok(answer(response)),
        Err(error) => Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, &cause(&*error))),
    }
}

pub(crate) fn target(address: &Address, path: PathAndQuery) -> Result<Uri, http::Error> {
    Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(Authority::try_from(address.to_string())?)
        .path_and_query(path)
        .build()
}

fn refuse(code: StatusCode, why: &str) -> Response<Body> {
    respond::text(code.as_u16(), format!("{why}\n"))
}

fn answer<B>(response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<crate::http::BoxError>,
{
    let (mut parts, body) = response.into_parts();
    if parts.status.is_redirection() && parts.headers.contains_key(LOCATION) {
        return refuse(
            StatusCode::BAD_GATEWAY,
            "the backend attempted to redirect this request, which is not permitted",
        );
    }
    for name in HOP_BY_HOP {
        parts.headers.remove(HeaderName::from_static(name));
    }
    parts.headers.remove(CONNECTION);
    // Ours to say: the two connections may speak different versions of HTTP.
    parts.version = Version::default();
    Response::from_parts(parts, Body::boxed(body))
}

/// The client's headers without what is between it and us, or would speak for someone.
fn passed_on(from: &HeaderMap, upgrading: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from.len() + 4);
    for (name, value) in from {
        let dropped = name == AUTHORIZATION
            || name == HOST
            || HOP_BY_HOP.contains(&name.as_str())
            || is_request_header(name.as_str())
            || name.as_str().starts_with("impersonate-")
            || (!upgrading && (name == CONNECTION || name == UPGRADE));
        if !dropped {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

fn forwarded_for(headers: &mut HeaderMap, peer: &str) {
    let before: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    let mut all = before.join(", ");
    if !all.is_empty() {
        all.push_str(", ");
    }
    all.push_str(peer);
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert("x-forwarded-for", value);
    }
}

/// Says, in the front proxy's headers, who asks.
pub(super) fn speak_for(headers: &mut HeaderMap, user: &UserInfo) {
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        for value in values {
            add(&name, value);
        }
    }
}

/// A key of `extra` as part of a header's name.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for b in key.bytes() {
        if b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_speaks_for_others_through_us() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("x-remote-user", "root"),
            ("x-remote-extra-a", "b"),
            ("impersonate-user", "root"),
            ("connection", "close"),
            ("accept", "application/json"),
            ("x-forwarded-for", "1.1.1.1"),
        ] {
            from.insert(name, HeaderValue::from_static(value));
        }
        let mut user = UserInfo::new("jane", &["dev", "ops"]);
        user.extra.insert("example.com/a b".into(), vec!["1".into(), "2".into()]);
        let mut headers = passed_on(&from, false);
        speak_for(&mut headers, &user);
        forwarded_for(&mut headers, "2.2.2.2");
        let get = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
        };
        assert_eq!(get("x-remote-user"), ["jane"]);
        assert_eq!(get("x-remote-group"), ["dev", "ops"]);
        assert_eq!(get("x-remote-extra-example.com%2fa%20b"), ["1", "2"]);
        assert_eq!(get("x-forwarded-for"), ["1.1.1.1, 2.2.2.2"]);
        assert_eq!(get("accept"), ["application/json"]);
        for gone in ["authorization", "x-remote-extra-a", "impersonate-user", "connection"] {
            assert!(get(gone).is_empty(), "{gone}");
        }
    }
}
