//! Writing responses: encodings, compression, warnings.

use super::body::Body;
use super::negotiate::{self, Encoding, Negotiated};
use crate::status::ApiError;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    VARY,
};
use http::{HeaderMap, Response, StatusCode};
use machinery::schema::{Schema, TypeId};
use serde_json::Value;
use std::io::Write;

/// Upstream compresses from 128 KiB on, where the CPU it costs is less than the bytes it saves.
const GZIP_FROM: usize = 128 * 1024;

/// A response of bytes that are already in their final encoding.
pub fn bytes(code: u16, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text, as health endpoints answer.
pub fn text(code: u16, text: impl Into<String>) -> Response<Body> {
    let mut r = bytes(code, "text/plain; charset=utf-8", Body::full(text.into()));
    r.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    r
}

/// The schema an object is encoded by: needed for protobuf only.
pub type Shape<'a> = Option<(&'a Schema, TypeId)>;

/// An object that is final JSON bytes.
pub fn json_object(
    accept: Negotiated,
    code: u16,
    json: Bytes,
    shape: Shape<'_>,
) -> Result<Response<Body>, ApiError> {
    match accept.encoding {
        Encoding::Json if !accept.pretty => Ok(bytes(code, negotiate::JSON, Body::full(json))),
        _ => {
            let value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
            object(accept, code, &value, shape)
        }
    }
}

/// An object that is a value.
pub fn object(
    accept: Negotiated,
    code: u16,
    value: &Value,
    shape: Shape<'_>,
) -> Result<Response<Body>, ApiError> {
    let encoded = encode(accept, value, shape)?;
    Ok(bytes(code, accept.encoding.content_type(), Body::full(encoded)))
}

/// A value in the wanted encoding. Without a schema there is no protobuf form and the answer is an internal
/// error; callers negotiate accordingly.
pub fn encode(accept: Negotiated, value: &Value, shape: Shape<'_>) -> Result<Bytes, ApiError> {
    match accept.encoding {
        Encoding::Json => {
            let mut out =
                if accept.pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) }
                    .map_err(ApiError::internal)?;
            out.push(b'\n');
            Ok(out.into())
        }
        Encoding::Yaml => {
            machinery::codec::yaml::to_string(value).map(Bytes::from).map_err(ApiError::internal)
        }
        Encoding::Protobuf => {
            let (schema, root) = shape.ok_or_else(|| ApiError::internal("no protobuf form of this kind"))?;
            machinery::codec::protobuf::encode(value, schema, root)
                .map(Bytes::from)
                .map_err(ApiError::internal)
        }
    }
}

/// An error, as a `Status` in the client's encoding (JSON where it accepts nothing we speak).
pub fn error(headers: &HeaderMap, error: &ApiError) -> Response<Body> {
    if error.code == 404 && error.reason == ApiError::PLAIN {
        return text(404, error.message.clone());
    }
    let accept = negotiate::negotiate(headers, false, true).unwrap_or_default();
    let shape = crate::schemas::status_shape();
    let status = error.to_status();
    let mut response = object(accept, error.code, &status, shape)
        .or_else(|_| object(Negotiated::default(), error.code, &status, None))
        .unwrap_or_else(|e| text(500, e.message));
    if let Some(after) = error.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after));
    }
    if !error.warnings.is_empty() {
        warn(&mut response, &error.warnings);
    }
    response
}

/// Adds `Warning: 299` headers, bounded as upstream bounds them.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    const TOTAL: usize = 4096;
    const EACH: usize = 256;
    let total: usize = warnings.iter().map(String::len).sum();
    let mut seen = std::collections::HashSet::new();
    let mut used = 0;
    for text in warnings {
        if !seen.insert(text.as_str()) {
            continue;
        }
        let mut text = text.as_str();
        if total > TOTAL && text.len() > EACH {
            let mut cut = EACH;
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text = &text[..cut];
        }
        used += text.len();
        if used > TOTAL {
            break;
        }
        let quoted: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if c == '"' || c == '\\' { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append("warning", value);
        }
    }
}

/// Compresses big in-memory bodies for clients that accept it.
pub fn compress(request: &HeaderMap, response: &mut Response<Body>) {
    let Some(chunks) = response.body().as_chunks() else { return };
    let size: usize = chunks.iter().map(Bytes::len).sum();
    if size < GZIP_FROM || response.headers().contains_key(CONTENT_ENCODING) {
        return;
    }
    let accepted = request
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
    if !accepted {
        return;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(size / 6), Compression::fast());
    for chunk in chunks {
        if encoder.write_all(chunk).is_err() {
            return;
        }
    }
    let Ok(packed) = encoder.finish() else { return };
    *response.body_mut() = Body::full(packed);
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
}
