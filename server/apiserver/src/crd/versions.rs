//! The versions of one definition: how a stored object reads in each of them.
//!
//! A read is upstream's: the object is pruned and defaulted by the schema of the version it was stored in, converted,
//! and pruned by the schema of the version it is read in. The result is kept beside the cached object, so that it is
//! made once for all readers and watchers ("encode once"). What this server wrote itself under the definition as it is
//! now reads as it lies, and costs nothing.

use super::conversion::Webhook;
use crate::ApiServer;
use crate::cache::{self, Entry};
use crate::registry::meta;
use crate::resolve::{Resource, join};
use crate::schemas::SchemaRef;
use crate::status::ApiError;
use bytes::Bytes;
use machinery::schema::structural::prune;
use machinery::schema::{TypeId, defaults};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many objects one review carries.
const BATCH: usize = 500;

struct Version {
    name: String,
    shape: Option<(SchemaRef, TypeId)>,
}

/// What all versions of a definition share.
pub struct Versions {
    group: String,
    kind: String,
    storage: String,
    all: Vec<Version>,
    /// `None`: versions differ in `apiVersion` alone.
    webhook: Option<Webhook>,
    /// Slot of the first version; those of earlier compilations are below it.
    slots: u32,
    /// Objects of later revisions were written under this compilation.
    settled: AtomicU64,
}

impl Versions {
    pub(super) fn new(
        group: &str,
        kind: &str,
        storage: &str,
        all: Vec<(String, Option<(SchemaRef, TypeId)>)>,
        webhook: Option<Webhook>,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(Entry::OWNED);
        let count = u32::try_from(all.len()).unwrap_or(1).max(1);
        Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            storage: storage.to_owned(),
            all: all.into_iter().map(|(name, shape)| Version { name, shape }).collect(),
            webhook,
            slots: NEXT.fetch_add(count, Ordering::Relaxed),
            settled: AtomicU64::new(u64::MAX),
        }
    }

    /// No request under an earlier form of the definition is under way any more, as of this revision.
    pub(super) fn settle(&self, revision: u64) {
        self.settled.store(revision, Ordering::Release);
    }

    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// Conversion needs another server.
    pub fn asks(&self) -> bool {
        self.webhook.is_some()
    }

    fn api_version(&self, version: &str) -> String {
        join(&self.group, version)
    }

    fn slot(&self, version: &str) -> u32 {
        let at = self.all.iter().position(|v| v.name == version).unwrap_or(0);
        self.slots + u32::try_from(at).unwrap_or(0)
    }

    /// The stored bytes are what the version reads.
    fn as_written(&self, version: &str, entry: &Entry) -> bool {
        version == self.storage
            && entry.revision > self.settled.load(Ordering::Acquire)
            && (self.all.len() == 1 || entry.metadata().api_version == self.api_version(version))
    }

    /// Pruned and defaulted by the schema of its own version, where that still exists.
    fn normalize(&self, object: Value) -> Value {
        let own = object["apiVersion"].as_str().unwrap_or_default();
        let own = own.rsplit('/').next().unwrap_or_default();
        let Some(version) = self.all.iter().find(|v| v.name == own) else { return object };
        let Some((schema, root)) = &version.shape else { return object };
        let mut object = match prune(schema, *root, object.clone()) {
            Ok(pruned) => pruned,
            // Not as the schema has it any more: shown as it is, and refused when it is written.
            Err(_) => object,
        };
        defaults::apply(schema, *root, &mut object);
        object
    }

    /// A converted object without what its schema does not know.
    fn coerce(&self, version: &str, object: Value) -> Value {
        let found = self.all.iter().find(|v| v.name == version).and_then(|v| v.shape.as_ref());
        let Some((schema, root)) = found else { return object };
        prune(schema, *root, object.clone()).unwrap_or(object)
    }

    fn relabel(&self, version: &str, mut object: Value) -> Value {
        object["apiVersion"] = self.api_version(version).into();
        self.coerce(version, object)
    }

    /// A cached object as the version reads it; `None` where the webhook was not asked yet ([`Self::prepare`]).
    pub(crate) fn view(&self, version: &str, entry: &Entry) -> Result<Option<Bytes>, ApiError> {
        if self.as_written(version, entry) {
            return Ok(Some(entry.json.clone()));
        }
        let slot = self.slot(version);
        if let Some(kept) = entry.kept(slot) {
            return Ok(Some(kept));
        }
        let stored = entry.object().map_err(ApiError::internal)?;
        let mut object = self.normalize(stored.clone());
        if object["apiVersion"] != self.api_version(version).as_str() {
            if self.webhook.is_some() {
                return Ok(None);
            }
            object = self.relabel(version, object);
        }
        let bytes = if object == stored { entry.json.clone() } else { finished(&object, entry.revision)? };
        entry.keep(self.slots, slot, bytes.clone());
        Ok(Some(bytes))
    }

    /// Asks the webhook for whatever [`Self::view`] cannot tell yet, many objects at a time.
    async fn prepare(
        &self,
        server: &ApiServer,
        version: &str,
        entries: &mut (dyn Iterator<Item = &Arc<Entry>> + Send),
    ) -> Result<(), ApiError> {
        let mut missing = Vec::new();
        for entry in entries {
            if self.view(version, entry)?.is_none() {
                missing.push(entry.clone());
            }
        }
        for batch in missing.chunks(BATCH) {
            let mut objects = Vec::with_capacity(batch.len());
            for entry in batch {
                objects.push(self.normalize(entry.object().map_err(ApiError::internal)?));
            }
            let converted = self.ask(server, version, objects).await?;
            for (entry, object) in batch.iter().zip(converted) {
                let bytes = finished(&object, entry.revision)?;
                entry.keep(self.slots, self.slot(version), bytes);
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        server: &ApiServer,
        version: &str,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let Some(webhook) = &self.webhook else { return Ok(objects) };
        let wanted = self.api_version(version);
        let converted = webhook.convert(server, &self.kind, &wanted, objects).await?;
        Ok(converted.into_iter().map(|object| self.coerce(version, object)).collect())
    }

    /// An object in any version, as this one has it.
    async fn convert(&self, server: &ApiServer, version: &str, object: Value) -> Result<Value, ApiError> {
        if object["apiVersion"] == self.api_version(version).as_str() {
            return Ok(object);
        }
        if self.webhook.is_none() {
            return Ok(self.relabel(version, object));
        }
        let mut converted = self.ask(server, version, vec![object]).await?;
        converted.pop().ok_or_else(|| ApiError::internal("a conversion gave no object"))
    }
}

/// Bytes as the cache has them, so that a watch can give them another revision.
fn finished(object: &Value, revision: u64) -> Result<Bytes, ApiError> {
    Ok(cache::splice_revision(&cache::encode_for_store(object)?, revision)?)
}

/// Makes sure that [`view`] can tell of all these. Nothing to do for built-in kinds.
pub(crate) async fn prepare<'a>(
    server: &ApiServer,
    resource: &Resource,
    entries: impl IntoIterator<Item = &'a Arc<Entry>, IntoIter: Send>,
) -> Result<(), ApiError> {
    match &resource.custom {
        Some(custom) if custom.versions.asks() => {
            custom.versions.prepare(server, &resource.version, &mut entries.into_iter()).await
        }
        _ => Ok(()),
    }
}

/// The final bytes of a cached object in the resource's version.
pub(crate) fn view(resource: &Resource, entry: &Entry) -> Result<Bytes, ApiError> {
    match &resource.custom {
        None => Ok(entry.json.clone()),
        Some(custom) => custom
            .versions
            .view(&resource.version, entry)?
            .ok_or_else(|| ApiError::internal("an object was not converted")),
    }
}

/// A cached object as a value, with what a writer has to know.
pub(crate) struct Current {
    pub value: Value,
    pub revision: u64,
    /// What is stored is not what a write would store: another version, or another schema's defaults.
    pub stale: bool,
}

/// A cached object in the resource's version.
pub(crate) async fn current(
    server: &ApiServer,
    resource: &Resource,
    entry: &Arc<Entry>,
) -> Result<Current, ApiError> {
    let revision = entry.revision;
    let Some(custom) = &resource.custom else {
        let value = entry.object().map_err(ApiError::internal)?;
        return Ok(Current { value, revision, stale: false });
    };
    prepare(server, resource, [entry]).await?;
    let bytes = view(resource, entry)?;
    let value = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    let stored = join(&resource.group, custom.versions.storage());
    let stale = entry.metadata().api_version != stored
        || resource.version == custom.versions.storage() && bytes != entry.json;
    Ok(Current { value, revision, stale })
}

/// What another writer left, in the resource's version.
pub(crate) async fn read(
    server: &ApiServer,
    resource: &Resource,
    object: Value,
    revision: u64,
) -> Result<Current, ApiError> {
    let Some(custom) = &resource.custom else { return Ok(Current { value: object, revision, stale: false }) };
    let stale = object["apiVersion"] != join(&resource.group, custom.versions.storage()).as_str();
    let normal = custom.versions.normalize(object);
    let mut value = custom.versions.convert(server, &resource.version, normal).await?;
    meta::set_revision(&mut value, revision);
    Ok(Current { value, revision, stale })
}

/// An object of any version, in the resource's.
pub(crate) async fn convert(
    server: &ApiServer,
    resource: &Resource,
    object: Value,
) -> Result<Value, ApiError> {
    match &resource.custom {
        None => Ok(object),
        Some(custom) => custom.versions.convert(server, &resource.version, object).await,
    }
}

/// The object in the version it is stored in; `None` where it is in that already.
pub(crate) async fn to_storage(
    server: &ApiServer,
    resource: &Resource,
    object: &Value,
) -> Result<Option<Value>, ApiError> {
    match &resource.custom {
        Some(custom) if custom.versions.storage() != resource.version => {
            custom.versions.convert(server, custom.versions.storage(), object.clone()).await.map(Some)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::GroupResource;
    use machinery::field::Path;
    use machinery::schema::structural::compile;
    use serde_json::json;

    fn shape(properties: Value) -> Option<(SchemaRef, TypeId)> {
        let schema = json!({"type": "object", "properties": properties});
        let (schema, root) = compile(&schema, &Path::new("schema")).unwrap();
        Some((SchemaRef::Custom(Arc::new(schema)), root))
    }

    fn entry(object: &Value, revision: u64) -> Entry {
        let bytes = crate::cache::encode_for_store(object).unwrap();
        Entry::standalone(GroupResource::new("a.b", "foos"), "", "x", &bytes, revision)
    }

    #[test]
    fn objects_read_in_every_version() {
        let old = shape(json!({"size": {"type": "integer", "default": 3}}));
        let new = shape(json!({"size": {"type": "integer"}, "more": {"type": "string", "default": "m"}}));
        let all = vec![("v1".to_owned(), old), ("v2".to_owned(), new)];
        let versions = Versions::new("a.b", "Foo", "v2", all, None);
        let stored = json!({"apiVersion": "a.b/v1", "kind": "Foo", "metadata": {"name": "x"}, "gone": 1});
        let entry = entry(&stored, 5);
        let read = |version: &str| -> Value {
            serde_json::from_slice(&versions.view(version, &entry).unwrap().unwrap()).unwrap()
        };
        assert_eq!((&read("v1")["size"], &read("v1")["gone"]), (&json!(3), &Value::Null));
        assert_eq!(read("v2")["apiVersion"], "a.b/v2");
        assert_eq!(read("v2")["size"], 3, "defaulted by the version it lies in");
        assert_eq!(read("v2")["more"], Value::Null, "and by no other");
        let (a, b) =
            (versions.view("v2", &entry).unwrap().unwrap(), versions.view("v2", &entry).unwrap().unwrap());
        assert_eq!(a.as_ptr(), b.as_ptr(), "made once");
    }

    #[test]
    fn what_was_written_under_this_definition_is_not_touched() {
        let all = vec![("v1".to_owned(), shape(json!({"a": {"type": "string", "default": "x"}})))];
        let versions = Versions::new("a.b", "Foo", "v1", all, None);
        let object = json!({"apiVersion": "a.b/v1", "kind": "Foo", "metadata": {"name": "x"}});
        let (before, after) = (entry(&object, 5), entry(&object, 6));
        versions.settle(5);
        assert_ne!(versions.view("v1", &before).unwrap().unwrap(), before.json);
        assert_eq!(versions.view("v1", &after).unwrap().unwrap().as_ptr(), after.json.as_ptr());
    }
}
