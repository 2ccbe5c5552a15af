//! Everything that is no resource: discovery, OpenAPI, version, health, metrics.

mod aggregated;
mod health;
mod legacy;
mod merge;
mod openapi;
mod openapi_v3_proto;

use crate::ApiServer;
use crate::aggregation;
use crate::chain::Call;
use crate::http::{Body, negotiate, respond};
use crate::resolve::Index;
use crate::schemas;
use crate::status::ApiError;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Method, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::sync::Arc;

/// Documents derived from the resource index, kept until it changes.
#[derive(Default)]
pub struct Documents(Mutex<(u64, HashMap<String, Document>)>);

#[derive(Clone)]
pub(crate) struct Document {
    pub bytes: Bytes,
    pub etag: String,
}

impl Documents {
    fn get(
        &self,
        index: &Index,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError>,
    ) -> Result<Document, ApiError> {
        {
            let mut kept = self.0.lock();
            if kept.0 != index.generation {
                *kept = (index.generation, HashMap::new());
            }
            if let Some(document) = kept.1.get(name) {
                return Ok(document.clone());
            }
        }
        let bytes = Bytes::from(make()?);
        let digest = hex::encode_upper(Sha512::digest(&bytes));
        let document = Document { bytes, etag: format!("\"{digest}\"") };
        let mut kept = self.0.lock();
        if kept.0 == index.generation {
            kept.1.insert(name.to_owned(), document.clone());
        }
        Ok(document)
    }
}

/// Answers a request whose path names no resource.
pub(crate) async fn handle(server: &ApiServer, mut call: Call) -> Result<Response<Body>, ApiError> {
    let path = call.info.path.trim_matches('/').to_owned();
    let parts: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
    match parts.first().copied() {
        Some("healthz" | "livez" | "readyz") => return health::answer(server, &call, &parts).await,
        Some("metrics") if parts.len() == 1 => {
            return Ok(respond::bytes(
                200,
                "text/plain; version=0.0.4; charset=utf-8",
                Body::full(server.metrics_page()),
            ));
        }
        Some("debug") if parts.get(1) == Some(&"api_priority_and_fairness") && parts.len() == 3 => {
            let text = crate::flow::dump(server, parts[2], &call.query).ok_or_else(ApiError::no_such_path)?;
            return Ok(respond::text(200, text));
        }
        _ => {}
    }
    if let Some(extension) = extension(&server.index.load(), &parts) {
        return aggregation::proxy::forward(server, &mut call, &extension).await;
    }
    if call.parts.method != Method::GET && call.parts.method != Method::HEAD {
        return Err(if known(&parts) { ApiError::method_unknown() } else { ApiError::page_not_found() });
    }
    let index: Arc<Index> = server.index.load_full();
    let headers = &call.parts.headers;
    match parts.as_slice() {
        [] => plain(&json!({"paths": paths(&index)})),
        ["version"] => plain(&version(server)),
        ["api"] | ["apis"] => {
            let core = parts == ["api"];
            if let Some(version) = aggregated::wanted(headers) {
                return aggregated::answer(server, &index, headers, core, version);
            }
            let value = if core { legacy::versions(server) } else { legacy::groups(&index) };
            let shape = schemas::kind_shape("", "v1", if core { "APIVersions" } else { "APIGroupList" });
            negotiated(headers, &value, shape)
        }
        ["api", version] => legacy_resources(&index, headers, "", version),
        ["apis", group] => {
            let group =
                index.group(group).filter(|g| !g.name.is_empty()).ok_or_else(ApiError::page_not_found)?;
            negotiated(headers, &legacy::group(group, true), schemas::kind_shape("", "v1", "APIGroup"))
        }
        ["apis", group, version] => legacy_resources(&index, headers, group, version),
        ["openapi", rest @ ..] => {
            // The first answer takes a moment of computing, which must not hold up others.
            let (server, headers) = (server.clone(), headers.clone());
            let rest: Vec<String> = rest.iter().map(|p| (*p).to_owned()).collect();
            let asked = call.query.get("hash").map(|h| h.to_string());
            let work = move || {
                let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
                openapi::answer(&server, &index, &headers, &rest, asked.as_deref())
            };
            tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
        }
        [".well-known", "openid-configuration"] => {
            let tokens = discoverable(server)?;
            let base = server.config.advertise.map_or_else(
                || "https://kubernetes.default.svc".to_owned(),
                |(ip, port)| format!("https://{ip}:{port}"),
            );
            openid(&tokens.issuer.openid_configuration(&base), negotiate::JSON)
        }
        ["openid", "v1", "jwks"] => openid(&discoverable(server)?.issuer.jwks(), "application/jwk-set+json"),
        _ => Err(ApiError::page_not_found()),
    }
}

fn discoverable(server: &ApiServer) -> Result<&crate::tokens::TokenRequests, ApiError> {
    let tokens = server.config.tokens.as_deref().filter(|t| t.issuer.is_discoverable());
    tokens.ok_or_else(ApiError::no_such_path)
}

/// The issuer's documents may be kept for an hour.
fn openid(value: &Value, content_type: &str) -> Result<Response<Body>, ApiError> {
    let bytes = serde_json::to_vec(value).map_err(ApiError::internal)?;
    let mut response = respond::bytes(200, content_type, Body::full(bytes));
    let lasting = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(http::header::CACHE_CONTROL, lasting);
    Ok(response)
}

/// The other server whose document this is.
fn extension(index: &Index, parts: &[&str]) -> Option<Arc<aggregation::Extension>> {
    match parts {
        ["apis", group, version] => index.extension(group, version).cloned(),
        ["openapi", "v3", "apis", rest @ ..] => {
            let path = format!("apis/{}", rest.join("/"));
            index.extensions().find(|e| e.documents().v3.contains_key(&path)).cloned()
        }
        _ => None,
    }
}

fn known(parts: &[&str]) -> bool {
    matches!(parts.first().copied(), None | Some("api" | "apis" | "version" | "openapi"))
}

fn legacy_resources(
    index: &Index,
    headers: &HeaderMap,
    group: &str,
    version: &str,
) -> Result<Response<Body>, ApiError> {
    let found = index.version(group, version).ok_or_else(|| match index.group(group) {
        // A group that is served answers for all of its versions.
        Some(_) => ApiError::no_such_path(),
        None => ApiError::page_not_found(),
    })?;
    let value = legacy::resources(group, found);
    negotiated(headers, &value, schemas::kind_shape("", "v1", "APIResourceList"))
}

fn negotiated(
    headers: &HeaderMap,
    value: &Value,
    shape: Option<(&machinery::schema::Schema, machinery::schema::TypeId)>,
) -> Result<Response<Body>, ApiError> {
    respond::object(negotiate::negotiate(headers, false, shape.is_some())?, 200, value, shape)
}

/// Indented JSON, as upstream writes what people read.
fn plain(value: &Value) -> Result<Response<Body>, ApiError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(ApiError::internal)?;
    Ok(respond::bytes(200, negotiate::JSON, Body::full(bytes)))
}

/// A kept document, or 304 for a client that has it.
fn document(headers: &HeaderMap, content_type: &str, document: &Document) -> Response<Body> {
    let fresh = headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|tag| tag.trim() == document.etag));
    let mut response = if fresh {
        let mut r = Response::new(Body::empty());
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        respond::bytes(200, content_type, Body::full(document.bytes.clone()))
    };
    let out = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&document.etag) {
        out.insert(ETAG, tag);
    }
    out.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn paths(index: &Index) -> Vec<String> {
    let mut out =
        vec!["/.well-known/openid-configuration".to_owned(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for group in index.groups.iter().filter(|g| !g.name.is_empty()) {
        out.push(format!("/apis/{}", group.name));
        out.extend(group.versions.iter().map(|v| format!("/apis/{}/{}", group.name, v.name)));
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ] {
        out.push(path.into());
    }
    out.sort();
    out
}

fn version(server: &ApiServer) -> Value {
    let full = &server.config.version;
    let mut parts = full.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("36"));
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |m| m.saturating_sub(1).to_string()),
        "gitVersion": full,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "unknown",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}
