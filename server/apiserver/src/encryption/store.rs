//! The store that encrypts.

use super::{Encryption, UNREADABLE};
use crate::cache::Parts;
use ::store::{Batch, Event, KeyValue, Op, Range, Revision, Store, StoreError, WatchStream, Write, Written};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::sync::Arc;

pub(super) struct EncryptedStore {
    pub raw: Arc<dyn Store>,
    pub encryption: Arc<Encryption>,
}

/// As metrics name the resource of a key.
fn resource(key: &[u8]) -> String {
    match Parts::parse(key) {
        Some(parts) if parts.group.is_empty() => parts.resource.to_owned(),
        Some(parts) => format!("{}.{}", parts.resource, parts.group),
        None => String::new(),
    }
}

impl Encryption {
    async fn seal(&self, key: &[u8], plain: Bytes) -> Result<Bytes, StoreError> {
        let loaded = self.current.load_full();
        let Some(providers) = loaded.find(key) else { return Ok(plain) };
        let sealed = providers.seal(&plain, key).await;
        let prefix = providers.0.first().map_or("", |p| p.prefix.as_str());
        let prefix = if prefix.is_empty() { "identity" } else { prefix };
        self.count(&resource(key), "to_storage", prefix, sealed.is_ok());
        sealed.map_err(|why| unreadable(key, &why))
    }

    async fn open(&self, key: &[u8], stored: Bytes) -> Result<Bytes, StoreError> {
        let loaded = self.current.load_full();
        let Some(providers) = loaded.find(key) else { return Ok(stored) };
        let opened = providers.open(&stored, key).await;
        let used = providers.0.iter().map(|p| p.prefix.as_str());
        let prefix = used.filter(|p| stored.starts_with(p.as_bytes())).max_by_key(|p| p.len());
        let prefix = prefix.map_or("unknown", |p| if p.is_empty() { "identity" } else { p });
        self.count(&resource(key), "from_storage", prefix, opened.is_ok());
        match opened {
            Ok((plain, _)) => Ok(plain),
            Err(why) => Err(unreadable(key, &why)),
        }
    }

    /// For places that must go on.
    async fn open_or_mark(&self, key: &[u8], stored: Bytes) -> Bytes {
        match self.open(key, stored).await {
            Ok(plain) => plain,
            Err(error) => {
                tracing::error!(%error, "a stored value cannot be decrypted");
                Bytes::from_static(UNREADABLE)
            }
        }
    }

    async fn open_event(&self, event: &mut Event) {
        for value in [&mut event.value, &mut event.prev] {
            if let Some(stored) = value.take() {
                *value = Some(self.open_or_mark(&event.key, stored).await);
            }
        }
    }

    async fn open_pair(&self, pair: Option<KeyValue>) -> Option<KeyValue> {
        let mut pair = pair?;
        pair.value = self.open_or_mark(&pair.key, pair.value).await;
        Some(pair)
    }
}

fn unreadable(key: &[u8], why: &str) -> StoreError {
    StoreError::Unreadable(format!("unable to transform key \"{}\": {why}", key.escape_ascii()))
}

#[async_trait]
impl Store for EncryptedStore {
    async fn write(&self, mut write: Write) -> Result<Written, StoreError> {
        if let Op::Put { value, .. } = &mut write.op {
            *value = self.encryption.seal(&write.key, std::mem::take(value)).await?;
        }
        match self.raw.write(write).await {
            Ok(written) => Ok(Written {
                revision: written.revision,
                prev: self.encryption.open_pair(written.prev).await,
            }),
            Err(StoreError::Conflict { current }) => {
                Err(StoreError::Conflict { current: self.encryption.open_pair(current).await })
            }
            Err(other) => Err(other),
        }
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (found, revision) = self.raw.get(key).await?;
        let Some(mut found) = found else { return Ok((None, revision)) };
        found.value = self.encryption.open(key, found.value).await?;
        Ok((Some(found), revision))
    }

    async fn range(&self, prefix: &[u8], limit: usize) -> Result<Range, StoreError> {
        let mut range = self.raw.range(prefix, limit).await?;
        for kv in &mut range.kvs {
            let stored = std::mem::take(&mut kv.value);
            kv.value = self.encryption.open_or_mark(&kv.key, stored).await;
        }
        Ok(range)
    }

    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<WatchStream, StoreError> {
        let encryption = self.encryption.clone();
        let batches = self.raw.watch(prefix, after).await?;
        let opened = batches.then(move |batch| {
            let encryption = encryption.clone();
            async move {
                let mut batch: Batch = batch?;
                for event in &mut batch.events {
                    encryption.open_event(event).await;
                }
                Ok(batch)
            }
        });
        Ok(opened.boxed())
    }

    async fn recent(
        &self,
        prefix: &[u8],
        until: Revision,
        limit: u64,
    ) -> Result<Option<(Revision, Vec<Event>)>, StoreError> {
        let Some((floor, mut events)) = self.raw.recent(prefix, until, limit).await? else {
            return Ok(None);
        };
        for event in &mut events {
            self.encryption.open_event(event).await;
        }
        Ok(Some((floor, events)))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.raw.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.raw.compact(revision).await
    }

    async fn nudge(&self) -> Result<(), StoreError> {
        self.raw.nudge().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.raw.health().await
    }
}
