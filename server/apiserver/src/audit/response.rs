//! The response's object, read back from the bytes that are about to be sent.

use crate::http::{Body, negotiate};
use crate::schemas;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// `None` for streams and for what is no object.
pub(super) fn object(response: &Response<Body>) -> Option<Value> {
    let kind = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let chunks = response.body().as_chunks()?;
    let bytes = match chunks.len() {
        0 => return None,
        1 => chunks.front().cloned()?,
        _ => Bytes::from(chunks.iter().flat_map(|c| c.iter().copied()).collect::<Vec<u8>>()),
    };
    if kind.starts_with(negotiate::JSON) {
        serde_json::from_slice(&bytes).ok()
    } else if kind.starts_with(negotiate::YAML) {
        machinery::codec::yaml::decode(&bytes).ok()
    } else if kind.starts_with(negotiate::PROTOBUF) {
        let (api_version, kind) = envelope(&bytes)?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (schema, root) = schemas::kind_shape(group, version, kind)?;
        let mut value = machinery::codec::protobuf::decode(&bytes, schema, root).ok()?;
        value["kind"] = kind.into();
        value["apiVersion"] = api_version.into();
        Some(value)
    } else {
        None
    }
}

/// `apiVersion` and `kind` of a `runtime.Unknown`: its first field, a message of two strings.
fn envelope(bytes: &[u8]) -> Option<(&str, &str)> {
    let rest = bytes.strip_prefix(b"k8s\0")?;
    let (meta, _) = field(rest, 0x0a)?;
    let (api_version, rest) = field(meta, 0x0a)?;
    let (kind, _) = field(rest, 0x12)?;
    Some((std::str::from_utf8(api_version).ok()?, std::str::from_utf8(kind).ok()?))
}

/// A length-delimited field with this tag at the start; these are all shorter than 128 bytes.
fn field(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    (found == tag && length < 0x80).then_some(())?;
    rest.split_at_checked(length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes() {
        let bytes = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00";
        assert_eq!(envelope(bytes), Some(("v1", "Pod")));
        assert_eq!(envelope(b"k8s\0\x0a\x7f"), None);
        assert_eq!(envelope(b"{}"), None);
    }
}
