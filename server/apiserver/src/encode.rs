//! Objects, lists and watch events in the client's encoding.
//!
//! JSON in the storage version is written as the cache holds it. Anything else (another version, YAML, protobuf,
//! Table, partial metadata) is computed from those bytes; the protobuf form of an object is kept beside it.

use crate::cache::Entry;
use crate::convert;
use crate::crd;
use crate::http::{Body, Encoding, Negotiated, Transform, negotiate, respond};
use crate::registry::list::Page;
use crate::resolve::Resource;
use crate::schemas;
use crate::status::ApiError;
use crate::table::{self, IncludeObject};
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use machinery::codec::protobuf;
use machinery::schema::{Schema, TypeId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Slot of [`Entry::encoded`] for protobuf in the storage version.
const PROTOBUF_SLOT: u32 = 1;

fn parse(json: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(json).map_err(ApiError::internal)
}

fn plain(resource: &Resource, accept: Negotiated) -> bool {
    accept.encoding == Encoding::Json
        && accept.transform == Transform::None
        && !accept.pretty
        && resource.is_storage_version()
}

/// Protobuf of stored objects as they are.
fn wire(resource: &Resource, accept: Negotiated) -> bool {
    accept.encoding == Encoding::Protobuf
        && accept.transform == Transform::None
        && resource.is_storage_version()
        && resource.protobuf
}

/// The protobuf message of a cached object, made once and kept beside it.
fn message(resource: &Resource, entry: &Entry) -> Result<Bytes, ApiError> {
    entry.encoded(PROTOBUF_SLOT, |entry| {
        let (schema, root) =
            resource.shape().ok_or_else(|| ApiError::internal("no protobuf form of this kind"))?;
        protobuf::encode_message(&parse(&entry.json)?, schema, root)
            .map(Bytes::from)
            .map_err(ApiError::internal)
    })
}

fn envelope(resource: &Resource, message: &[u8]) -> Bytes {
    protobuf::envelope(&resource.api_version(), &resource.kind, message).into()
}

/// One cached object.
pub fn entry(
    resource: &Resource,
    accept: Negotiated,
    include: IncludeObject,
    entry: &Entry,
) -> Result<Response<Body>, ApiError> {
    if wire(resource, accept) {
        let bytes = envelope(resource, &message(resource, entry)?);
        return Ok(respond::bytes(200, negotiate::PROTOBUF, Body::full(bytes)));
    }
    object(resource, accept, include, 200, &crd::view(resource, entry)?)
}

/// One stored object.
pub fn object(
    resource: &Resource,
    accept: Negotiated,
    include: IncludeObject,
    code: u16,
    json: &Bytes,
) -> Result<Response<Body>, ApiError> {
    if plain(resource, accept) {
        return Ok(respond::bytes(code, negotiate::JSON, Body::full(json.clone())));
    }
    let value = convert::from_storage(resource, parse(json)?);
    let (value, shape) = transform(resource, accept, include, true, vec![value], None)?;
    respond::object(accept, code, &value, shape)
}

/// An object that is no stored one: a `Status`, a review, a scale.
pub fn other(
    accept: Negotiated,
    code: u16,
    value: &Value,
    shape: Option<(&Schema, TypeId)>,
) -> Result<Response<Body>, ApiError> {
    let accept = Negotiated { transform: Transform::None, ..accept };
    respond::object(accept, code, value, shape)
}

/// Applies the wanted transformation to one object or to a list's items.
fn transform(
    resource: &Resource,
    accept: Negotiated,
    include: IncludeObject,
    single: bool,
    mut items: Vec<Value>,
    list_meta: Option<Value>,
) -> Result<(Value, Option<(&Schema, TypeId)>), ApiError> {
    match accept.transform {
        Transform::None if single => Ok((items.pop().unwrap_or_default(), resource.shape())),
        Transform::None => {
            if resource.custom.is_none() {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.remove("kind");
                    item.remove("apiVersion");
                }
            }
            let value = json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": list_meta.unwrap_or_default(),
                "items": items,
            });
            Ok((value, schemas::list_shape(resource)))
        }
        Transform::Table(version) => {
            let meta = match list_meta {
                Some(meta) => meta,
                None => {
                    json!({"resourceVersion": items.first().map(|i| i["metadata"]["resourceVersion"].clone())})
                }
            };
            Ok((table::table(resource, &items, include, version, meta, true), schemas::meta_shape("Table")))
        }
        Transform::Partial(version) if single => Ok((
            partial(&mut items.pop().unwrap_or_default(), version),
            schemas::meta_shape("PartialObjectMetadata"),
        )),
        Transform::Partial(version) => {
            let items: Vec<Value> = items.iter_mut().map(|i| partial(i, version)).collect();
            let value = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": list_meta.unwrap_or_default(),
                "items": items,
            });
            Ok((value, schemas::meta_shape("PartialObjectMetadataList")))
        }
    }
}

fn partial(object: &mut Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"].take(),
    })
}

/// How the stored form of a built-in kind begins: what upstream leaves out of the items of a JSON list, whose own kind
/// tells theirs. Custom objects keep it.
fn item_types(resource: &Resource) -> String {
    match &resource.custom {
        Some(_) => String::new(),
        None => format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", resource.kind, resource.api_version()),
    }
}

/// A page of a list.
pub fn list(
    resource: &Resource,
    accept: Negotiated,
    include: IncludeObject,
    page: &Page,
) -> Result<Response<Body>, ApiError> {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = &page.continue_token {
        meta["continue"] = token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    if plain(resource, accept) {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
            resource.list_kind,
            resource.api_version()
        );
        let mut chunks = Vec::with_capacity(page.items.len() * 2 + 2);
        chunks.push(Bytes::from(head));
        let types = item_types(resource);
        for (i, entry) in page.items.iter().enumerate() {
            let json = crd::view(resource, entry)?;
            let bare = !types.is_empty() && json.starts_with(types.as_bytes());
            match (i, bare) {
                (0, false) => {}
                (0, true) => chunks.push(Bytes::from_static(b"{")),
                (_, false) => chunks.push(Bytes::from_static(b",")),
                (_, true) => chunks.push(Bytes::from_static(b",{")),
            }
            chunks.push(if bare { json.slice(types.len()..) } else { json });
        }
        chunks.push(Bytes::from_static(b"]}\n"));
        return Ok(respond::bytes(200, negotiate::JSON, Body::chunks(chunks)));
    }
    if wire(resource, accept) {
        let mut messages = Vec::with_capacity(page.items.len());
        for entry in &page.items {
            messages.push(message(resource, entry)?);
        }
        let items = messages.iter().map(|m| &m[..]);
        let list = protobuf::encode_list(&resource.api_version(), &resource.list_kind, &meta, items)
            .map_err(ApiError::internal)?;
        return Ok(respond::bytes(200, negotiate::PROTOBUF, Body::full(list)));
    }
    let mut items = Vec::with_capacity(page.items.len());
    for entry in &page.items {
        items.push(convert::from_storage(resource, parse(&crd::view(resource, entry)?)?));
    }
    let (value, shape) = transform(resource, accept, include, false, items, Some(meta))?;
    respond::object(accept, 200, &value, shape)
}

/// A list of objects that are not stored.
pub fn values(
    resource: &Resource,
    accept: Negotiated,
    include: IncludeObject,
    items: Vec<Value>,
) -> Result<Response<Body>, ApiError> {
    let (value, shape) = transform(resource, accept, include, false, items, Some(json!({})))?;
    respond::object(accept, 200, &value, shape)
}

/// Frames the events of one watch.
pub struct EventEncoder {
    resource: Arc<Resource>,
    accept: Negotiated,
    include: IncludeObject,
    /// Table headers are sent once.
    headers: bool,
}

impl EventEncoder {
    pub fn new(resource: Arc<Resource>, accept: Negotiated) -> Result<Self, ApiError> {
        if accept.encoding == Encoding::Yaml {
            return Err(ApiError::not_acceptable(&[
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ]));
        }
        Ok(Self {
            resource,
            accept: Negotiated { pretty: false, ..accept },
            include: IncludeObject::Metadata,
            headers: true,
        })
    }

    pub fn include(mut self, include: IncludeObject) -> Self {
        self.include = include;
        self
    }

    pub fn content_type(&self) -> &'static str {
        match self.accept.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => negotiate::JSON,
        }
    }

    /// One event; `json` is the object's final bytes, mostly the entry's own.
    pub fn event(&mut self, kind: &'static str, entry: &Entry, json: &Bytes) -> Result<Bytes, ApiError> {
        if plain(&self.resource, self.accept) {
            return Ok(frame_json(kind, json));
        }
        let own = json.as_ptr() == entry.json.as_ptr();
        if own && wire(&self.resource, self.accept) {
            return Ok(frame_protobuf(kind, &envelope(&self.resource, &message(&self.resource, entry)?)));
        }
        let value = convert::from_storage(&self.resource, parse(json)?);
        self.value(kind, value)
    }

    fn value(&mut self, kind: &'static str, value: Value) -> Result<Bytes, ApiError> {
        let resource = self.resource.clone();
        let (value, shape) = match self.accept.transform {
            Transform::Table(version) => {
                let meta = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let headers = std::mem::take(&mut self.headers);
                let table = table::table(&resource, &[value], self.include, version, meta, headers);
                (table, schemas::meta_shape("Table"))
            }
            _ => transform(&resource, self.accept, self.include, true, vec![value], None)?,
        };
        self.frame(kind, &value, shape)
    }

    fn frame(
        &self,
        kind: &'static str,
        value: &Value,
        shape: Option<(&Schema, TypeId)>,
    ) -> Result<Bytes, ApiError> {
        match self.accept.encoding {
            Encoding::Protobuf => Ok(frame_protobuf(kind, &respond::encode(self.accept, value, shape)?)),
            _ => Ok(frame_json(kind, &serde_json::to_vec(value).map_err(ApiError::internal)?)),
        }
    }

    /// Tells how far the watch has come.
    pub fn bookmark(&mut self, revision: u64, initial_end: bool) -> Result<Bytes, ApiError> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": metadata,
        });
        match self.accept.transform {
            Transform::None => {
                let filled = schemas::fill(&self.resource, object);
                self.frame("BOOKMARK", &filled, self.resource.shape())
            }
            _ => self.value("BOOKMARK", object),
        }
    }

    pub fn error(&mut self, error: &ApiError) -> Result<Bytes, ApiError> {
        self.frame("ERROR", &error.to_status(), schemas::status_shape())
    }
}

fn frame_json(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

/// A length-prefixed `WatchEvent{type=1, object=RawExtension{raw=1}}`.
fn frame_protobuf(kind: &str, object: &[u8]) -> Bytes {
    let raw = 1 + varint_len(object.len()) + object.len();
    let size = 1 + varint_len(kind.len()) + kind.len() + 1 + varint_len(raw) + raw;
    let mut out = BytesMut::with_capacity(size + 4);
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    out.put_u8(0x0a);
    varint(&mut out, kind.len());
    out.put_slice(kind.as_bytes());
    out.put_u8(0x12);
    varint(&mut out, raw);
    out.put_u8(0x0a);
    varint(&mut out, object.len());
    out.put_slice(object);
    out.freeze()
}

fn varint_len(mut n: usize) -> usize {
    let mut len = 1;
    while n >= 0x80 {
        n >>= 7;
        len += 1;
    }
    len
}

fn varint(out: &mut BytesMut, mut n: usize) {
    while n >= 0x80 {
        out.put_u8((n as u8) | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_frames_are_length_prefixed() {
        let frame = frame_protobuf("ADDED", &[7; 200]);
        let size = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        assert_eq!(size, frame.len() - 4);
        assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
    }
}
