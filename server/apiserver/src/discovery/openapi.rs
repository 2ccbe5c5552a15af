//! /openapi/v2 (JSON and protobuf) and /openapi/v3, built on request from the schema and what is served.
//!
//! Only compressed bytes are kept; a client that takes no gzip has them unpacked.

use super::{Document, document};
use crate::ApiServer;
use crate::http::{Body, negotiate};
use crate::resolve::{Index, Resource};
use crate::status::ApiError;
use bytes::Bytes;
use descriptions::Descriptions;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, EXPIRES, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use machinery::openapi::{self, ResourceDoc, SubresourceDoc};
use sha2::{Digest, Sha512};
use std::io::{Read, Write};

const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";

pub(super) fn answer(
    server: &ApiServer,
    index: &Index,
    headers: &HeaderMap,
    rest: &[&str],
    asked: Option<&str>,
) -> Result<Response<Body>, ApiError> {
    match rest {
        ["v2"] => v2(server, index, headers),
        ["v3"] => {
            let made = server.discovery.get(index, "openapi/v3", || {
                let docs = docs(index);
                let mut value = openapi::v3_index(&docs, &|path| hash(&docs, path));
                for extension in index.extensions() {
                    let documents = extension.documents();
                    for (path, at) in documents.v3.iter().filter(|(p, _)| p.starts_with("apis/")) {
                        value["paths"][path] = serde_json::json!({"serverRelativeURL": at});
                    }
                }
                serde_json::to_vec(&value).map_err(ApiError::internal)
            })?;
            Ok(document(headers, negotiate::JSON, &made))
        }
        ["v3", rest @ ..] => {
            let path = rest.join("/");
            let mut response = v3(server, index, headers, &path)?;
            // A document that is asked for by its hash never changes.
            if asked.is_some_and(|asked| asked == hash(&docs(index), &path)) {
                let year = chrono::Utc::now() + chrono::Duration::days(365);
                let out = response.headers_mut();
                out.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
                if let Ok(value) =
                    HeaderValue::from_str(&year.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
                {
                    out.insert(EXPIRES, value);
                }
            }
            Ok(response)
        }
        _ => Err(ApiError::no_such_path()),
    }
}

fn v2(server: &ApiServer, index: &Index, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    for clause in negotiate::clauses(negotiate::accept(headers)) {
        let media = clause.media;
        let protobuf = openapi::V2_PROTOBUF.contains(&media);
        if !protobuf && !matches!(media, negotiate::JSON | "*/*" | "application/*") {
            continue;
        }
        let name = if protobuf { "openapi/v2.pb" } else { "openapi/v2.json" };
        let made = server.discovery.get(index, name, || {
            let docs = docs(index);
            let texts = Descriptions::load();
            let describe = |name: &str, field: &str| texts.get(name, field);
            let mut document = openapi::v2(&docs, Some(&describe));
            super::merge::extensions(index, &mut document);
            pack(&if protobuf {
                openapi::document_protobuf(&document)
            } else {
                serde_json::to_vec(&document).map_err(ApiError::internal)?
            })
        })?;
        return packed(headers, &content_type(protobuf, openapi::V2_PROTOBUF[0]), &made);
    }
    Err(ApiError::not_acceptable(&[negotiate::JSON, openapi::V2_PROTOBUF[0]]))
}

fn v3(
    server: &ApiServer,
    index: &Index,
    headers: &HeaderMap,
    path: &str,
) -> Result<Response<Body>, ApiError> {
    let docs = docs(index);
    let (_, group, version) = openapi::v3_paths(&docs)
        .into_iter()
        .find(|(p, _, _)| p == path)
        .ok_or_else(ApiError::no_such_path)?;
    for clause in negotiate::clauses(negotiate::accept(headers)) {
        let media = clause.media;
        let protobuf = media == V3_PROTOBUF || media == V3_PROTOBUF.replace('@', ".");
        if !protobuf && !matches!(media, negotiate::JSON | "*/*" | "application/*") {
            continue;
        }
        let name = format!("openapi/v3/{path}.{}", if protobuf { "pb" } else { "json" });
        let made = server.discovery.get(index, &name, || {
            let texts = Descriptions::load();
            let describe = |name: &str, field: &str| texts.get(name, field);
            let value = openapi::v3_group_version(&docs, &group, &version, Some(&describe))
                .ok_or_else(ApiError::no_such_path)?;
            pack(&if protobuf {
                super::openapi_v3_proto::encode(&value)
            } else {
                serde_json::to_vec(&value).map_err(ApiError::internal)?
            })
        })?;
        return packed(headers, &content_type(protobuf, V3_PROTOBUF), &made);
    }
    Err(ApiError::not_acceptable(&[negotiate::JSON, V3_PROTOBUF]))
}

/// Clients ask with an `@`, which is no media type they could parse in the answer.
fn content_type(protobuf: bool, media: &str) -> String {
    if protobuf { media.replace('@', ".") } else { negotiate::JSON.to_owned() }
}

fn pack(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(ApiError::internal)
}

fn packed(headers: &HeaderMap, content_type: &str, made: &Document) -> Result<Response<Body>, ApiError> {
    let gzip = headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
    if gzip {
        let mut response = document(headers, content_type, made);
        if response.status() == StatusCode::OK {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        return Ok(response);
    }
    let mut plain = Vec::new();
    GzDecoder::new(&made.bytes[..]).read_to_end(&mut plain).map_err(ApiError::internal)?;
    let unpacked = Document { bytes: Bytes::from(plain), etag: made.etag.clone() };
    Ok(document(headers, content_type, &unpacked))
}

/// Changes whenever the document under that path does.
fn hash(docs: &[ResourceDoc], path: &str) -> String {
    let mut digest = Sha512::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    for doc in docs {
        let own = if doc.group.is_empty() {
            format!("api/{}", doc.version)
        } else {
            format!("apis/{}/{}", doc.group, doc.version)
        };
        if own == path {
            digest.update(format!("{doc:?}"));
        }
    }
    hex::encode_upper(digest.finalize())
}

fn docs(index: &Index) -> Vec<ResourceDoc> {
    index.iter().map(|r| doc(r)).collect()
}

fn doc(r: &Resource) -> ResourceDoc {
    let own = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect();
    ResourceDoc {
        group: r.group.clone(),
        version: r.version.clone(),
        kind: r.kind.clone(),
        plural: r.plural.clone(),
        namespaced: r.namespaced,
        verbs: own(r.verbs),
        subresources: r
            .subresources
            .iter()
            .map(|s| SubresourceDoc {
                name: s.name.clone(),
                group: if s.version.is_empty() { r.group.clone() } else { s.group.clone() },
                version: if s.version.is_empty() { r.version.clone() } else { s.version.clone() },
                kind: s.kind.clone(),
                verbs: own(s.verbs),
            })
            .collect(),
        schema: r.custom.as_ref().and_then(|c| c.published_schema()),
        list_kind: if r.custom.is_some() { r.list_kind.clone() } else { String::new() },
        selectable_fields: r.custom.as_ref().map(|c| c.selectable_fields()).unwrap_or_default(),
    }
}
