//! The registry's hands on the store: fresh reads from the cache, compare-and-put writes.

use crate::cache::{self, Cache, CacheError, CodecError, Entry};
use crate::metrics::StoreMetrics;
use crate::resolve::Resource;
use crate::status::ApiError;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Expect, KeyValue, Op, Store, StoreError, Write};

/// How long a read waits for the cache to reach a version (upstream's three seconds).
pub const PATIENCE: Duration = Duration::from_secs(3);

pub struct Storage {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    metrics: Arc<StoreMetrics>,
}

impl Storage {
    pub(crate) fn new(cache: Arc<Cache>, metrics: Arc<StoreMetrics>) -> Self {
        Self { store: cache.store().clone(), cache, metrics }
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// One object, every write acknowledged before this call included.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        self.cache.fresh(PATIENCE).await?;
        let found = resource.cache.get(namespace, name);
        if found.is_none() && resource.cache.is_unreadable(namespace, name) {
            return Err(self.why_unreadable(&resource.key(namespace, name)).await);
        }
        Ok(found)
    }

    /// Lists and new watches are refused where an object cannot be read: leaving it out would be a lie.
    pub async fn all_readable(&self, resource: &Resource, namespace: &str) -> Result<(), ApiError> {
        let Some(path) = resource.cache.first_unreadable(Some(namespace)) else { return Ok(()) };
        let (namespace, name) = path.split_once('/').unwrap_or(("", &path));
        Err(self.why_unreadable(&resource.key(namespace, name)).await)
    }

    async fn why_unreadable(&self, key: &[u8]) -> ApiError {
        match self.store.get(key).await {
            Err(error) => error.into(),
            Ok(_) => ApiError::internal(format!(
                "unable to transform key \"{}\": identity transformer tried to read encrypted data",
                key.escape_ascii()
            )),
        }
    }

    /// Durable when it returns; the revision written.
    pub async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<u64, StoreError> {
        let operation = if expect == Expect::Absent { "create" } else { "update" };
        self.write(operation, Write { key, expect, op: Op::Put { value, ttl } }).await
    }

    pub async fn delete(&self, key: Bytes, expect: Expect) -> Result<u64, StoreError> {
        self.write("delete", Write { key, expect, op: Op::Delete }).await
    }

    async fn write(&self, operation: &'static str, write: Write) -> Result<u64, StoreError> {
        let (key, began) = (write.key.clone(), Instant::now());
        let outcome = self.store.write(write).await;
        let failed = !matches!(outcome, Ok(_) | Err(StoreError::Conflict { .. }));
        self.metrics.note(operation, &key, began.elapsed(), failed);
        outcome.map(|written| written.revision)
    }
}

/// Final bytes of a stored value.
pub fn with_revision(stored: &Bytes, revision: u64) -> Result<Bytes, ApiError> {
    Ok(cache::splice_revision(stored, revision)?)
}

/// A value a conflicting writer left behind.
pub fn parse(current: Option<KeyValue>) -> Result<Option<(Value, u64)>, ApiError> {
    let Some(kv) = current else { return Ok(None) };
    let mut value: Value = serde_json::from_slice(&kv.value).map_err(ApiError::internal)?;
    crate::registry::meta::set_revision(&mut value, kv.mod_revision);
    Ok(Some((value, kv.mod_revision)))
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Expired { .. } => ApiError::expired(error.to_string()),
            CacheError::TooLarge { requested, current } => {
                ApiError::too_large_resource_version(requested, current)
            }
            CacheError::Unavailable(why) => ApiError::unavailable(why),
        }
    }
}

impl From<CodecError> for ApiError {
    fn from(error: CodecError) -> Self {
        ApiError::internal(error)
    }
}
