//! One object as readers see it, and one change of it.

use super::codec;
use super::key::GroupResource;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tracing::warn;

/// Values of the fields a resource's field selectors can name, `metadata.*` excluded.
pub type Fields = Vec<(&'static str, String)>;
/// Extracts [`Fields`] from an object; called at most once for each state of it, and only when a selector asks.
pub type FieldsOf = Arc<dyn Fn(&GroupResource, &Value) -> Fields + Send + Sync>;

/// What all entries of one resource share.
pub(super) struct ResourceInfo {
    pub resource: GroupResource,
    pub fields: FieldsOf,
}

/// One object. The bytes are final; everything else is derived from them when first asked for.
pub struct Entry {
    /// Final JSON, `metadata.resourceVersion` included; what GET writes to the socket.
    pub json: Bytes,
    /// The resource version.
    pub revision: u64,
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Where the resource version's digits start in `json`.
    digits: u32,
    info: Arc<ResourceInfo>,
    metadata: OnceLock<Box<Metadata>>,
    fields: OnceLock<Box<Fields>>,
    alternatives: Mutex<Option<Box<Vec<(u32, Bytes)>>>>,
}

/// What selectors, owners and the garbage collector need of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The version the object is stored in.
    #[serde(skip)]
    pub api_version: String,
    pub uid: String,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub owner_references: Vec<Owner>,
    pub deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    pub uid: String,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

impl Entry {
    pub(super) fn new(
        info: &Arc<ResourceInfo>,
        namespace: Arc<str>,
        name: &str,
        stored: &[u8],
        revision: u64,
    ) -> Result<Self, codec::CodecError> {
        let (json, digits) = codec::splice(stored, revision)?;
        Ok(Self::build(info, namespace, name.into(), json, digits, revision))
    }

    fn build(
        info: &Arc<ResourceInfo>,
        namespace: Arc<str>,
        name: Arc<str>,
        json: Bytes,
        digits: usize,
        revision: u64,
    ) -> Self {
        Self {
            json,
            revision,
            namespace,
            name,
            digits: u32::try_from(digits).unwrap_or(u32::MAX),
            info: info.clone(),
            metadata: OnceLock::new(),
            fields: OnceLock::new(),
            alternatives: Mutex::new(None),
        }
    }

    /// An entry outside any cache, for unit tests of those who read entries.
    #[cfg(test)]
    pub(crate) fn standalone(
        resource: GroupResource,
        namespace: &str,
        name: &str,
        stored: &[u8],
        revision: u64,
    ) -> Self {
        let info = ResourceInfo { resource, fields: Arc::new(|_, _| Vec::new()) };
        Self::new(&Arc::new(info), namespace.into(), name, stored, revision).expect("a stored object")
    }

    /// The final bytes with another resource version: what a watcher whose selector an object leaves is sent.
    pub fn json_at(&self, revision: u64) -> Bytes {
        codec::respliced(&self.json, self.digits as usize, revision)
    }

    /// The same object as a deletion at `revision` reports it.
    pub(super) fn deleted_at(&self, revision: u64) -> Self {
        let json = self.json_at(revision);
        Self::build(
            &self.info,
            self.namespace.clone(),
            self.name.clone(),
            json,
            self.digits as usize,
            revision,
        )
    }

    pub fn resource(&self) -> &GroupResource {
        &self.info.resource
    }

    /// The parsed object. Not cached: for writers and slow paths.
    pub fn object(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    pub fn metadata(&self) -> &Metadata {
        self.metadata.get_or_init(|| {
            let read = || -> Result<Metadata, String> {
                let part = |name: &[u8]| codec::member_value(&self.json, name).map_err(|e| e.to_string());
                let mut metadata: Metadata =
                    serde_json::from_slice(part(b"metadata")?).map_err(|e| e.to_string())?;
                // Kinds held in tests and by extension servers may lack it.
                if let Ok(version) = part(b"apiVersion") {
                    metadata.api_version = serde_json::from_slice(version).unwrap_or_default();
                }
                Ok(metadata)
            };
            match read() {
                Ok(metadata) => Box::new(metadata),
                Err(error) => {
                    warn!(resource = %self.info.resource, namespace = %self.namespace, name = %self.name, %error, "unreadable metadata");
                    Box::default()
                }
            }
        })
    }

    pub fn uid(&self) -> &str {
        &self.metadata().uid
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.metadata().labels
    }

    /// Values for field selectors, `metadata.*` excluded.
    pub fn fields(&self) -> &Fields {
        self.fields.get_or_init(|| match self.object() {
            Ok(object) => Box::new((self.info.fields)(&self.info.resource, &object)),
            Err(_) => Box::default(),
        })
    }

    /// Another encoding of this object (protobuf, a Table row, another API version), made once and kept. The
    /// caller numbers the encodings; two racing makers may both run, one result is kept.
    pub fn encoded<E>(&self, slot: u32, make: impl FnOnce(&Self) -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(found) = self.kept(slot) {
            return Ok(found);
        }
        let made = make(self)?;
        Ok(self.keep(0, slot, made))
    }

    /// The encoding in a slot, if it was made.
    pub fn kept(&self, slot: u32) -> Option<Bytes> {
        let slots = self.alternatives.lock();
        let found = slots.as_ref()?.iter().find(|(id, _)| *id == slot);
        found.map(|(_, bytes)| bytes.clone())
    }

    /// Keeps an encoding, unless there is one already; returns what is kept. Encodings in slots from
    /// [`Self::OWNED`] up to `floor` are of a schema that is gone, and go with it.
    pub fn keep(&self, floor: u32, slot: u32, made: Bytes) -> Bytes {
        let mut slots = self.alternatives.lock();
        let all = slots.get_or_insert_default();
        all.retain(|(id, _)| *id < Self::OWNED || *id >= floor);
        if let Some((_, found)) = all.iter().find(|(id, _)| *id == slot) {
            return found.clone();
        }
        all.push((slot, made.clone()));
        made
    }

    /// Slots from here on belong to custom kinds.
    pub const OWNED: u32 = 16;
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}@{}", self.info.resource, self.namespace, self.name, self.revision)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One change. Shared by all watchers.
#[derive(Debug)]
pub struct Event {
    pub kind: Kind,
    /// The new state; for a deletion the last state, with the deletion's revision as its resource version.
    pub entry: Arc<Entry>,
    /// The state before, where there was one: a watcher whose selector it matched sees this change as a deletion
    /// when the new state does not match.
    pub prev: Option<Arc<Entry>>,
    pub revision: u64,
}

impl Event {
    /// What keeping this event costs beyond what the map holds anyway.
    pub(super) fn cost(&self) -> usize {
        let deletion = if self.kind == Kind::Deleted { self.entry.json.len() } else { 0 };
        self.prev.as_ref().map_or(0, |prev| prev.json.len()) + deletion + 256
    }
}
