//! What security needs from the rest of the server: reading cluster objects, following their changes, and (for
//! bootstrap only) writing them. The watch cache implements [`Reader`], the registry [`Writer`].

use crate::cache::{Cache, Entry, Filter, GroupResource, Kind};
use async_trait::async_trait;
use futures::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// One change of one resource, in order.
#[derive(Clone, Debug)]
pub enum Change {
    /// Everything there is; replaces whatever was known. Always the first item of a subscription.
    Snapshot(Vec<Arc<Entry>>),
    Put(Arc<Entry>),
    Delete {
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

/// Cluster objects from memory. `namespace` is empty for cluster-scoped resources; `resource` is the plural.
pub trait Reader: Send + Sync + 'static {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>>;
    /// Of one namespace, or of all of them.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Entry>>;
    /// Grows with every change of any resource, after readers can see it.
    fn revision(&self) -> u64;
    /// A snapshot, then every change after it. A stream that ends (the subscriber was too slow, say) is simply
    /// subscribed again.
    fn subscribe(&self, group: &str, resource: &str) -> BoxStream<'static, Change>;
}

impl Reader for Cache {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.resource(&GroupResource::new(group, resource)).get(namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        let snapshot = self.resource(&GroupResource::new(group, resource)).snapshot();
        snapshot.page(namespace, None).cloned().collect()
    }

    fn revision(&self) -> u64 {
        Cache::revision(self)
    }

    fn subscribe(&self, group: &str, resource: &str) -> BoxStream<'static, Change> {
        let resource = self.resource(&GroupResource::new(group, resource));
        let (snapshot, watcher) = resource.snapshot_and_watch(Filter::default());
        let first = Change::Snapshot(snapshot.iter().cloned().collect());
        let changes = stream::unfold(watcher, |mut watcher| async move {
            // An error is the watcher's end: the subscriber was too slow, or the cache reloaded.
            let event = watcher.next().await.ok()?;
            let change = match event.kind {
                Kind::Added | Kind::Modified => Change::Put(event.entry.clone()),
                Kind::Deleted => Change::Delete {
                    namespace: event.entry.namespace.clone(),
                    name: event.entry.name.clone(),
                },
            };
            Some((change, watcher))
        });
        Box::pin(stream::once(async move { first }).chain(changes))
    }
}

/// Why a bootstrap write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the object already exists")]
    AlreadyExists,
    #[error("the object was changed meanwhile")]
    Conflict,
    #[error("{0}")]
    Other(String),
}

/// Creates and updates through the registry, as `system:apiserver`, past authorization but not past defaulting
/// and validation. `object` has apiVersion, kind and metadata.
#[async_trait]
pub trait Writer: Send + Sync + 'static {
    async fn create(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        object: Value,
    ) -> Result<(), WriteError>;
    /// `object.metadata.resourceVersion` guards against lost updates.
    async fn update(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        object: Value,
    ) -> Result<(), WriteError>;
    /// [`update`](Self::update) of the `status` subresource.
    async fn update_status(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        object: Value,
    ) -> Result<(), WriteError>;
}

/// Follows some resources for an index that is brought up to date when it is asked, instead of by tasks of its own:
/// an idle server does nothing, and a reader sees every write the cache shows.
pub struct Feeds {
    reader: Arc<dyn Reader>,
    feeds: Vec<Feed>,
    /// The reader's revision up to which everything was taken.
    at: Option<u64>,
}

struct Feed {
    group: &'static str,
    resource: &'static str,
    stream: Option<BoxStream<'static, Change>>,
}

impl Feeds {
    pub fn new(reader: Arc<dyn Reader>, resources: &[(&'static str, &'static str)]) -> Self {
        let feed = |&(group, resource): &(&'static str, &'static str)| Feed { group, resource, stream: None };
        Self { reader, feeds: resources.iter().map(feed).collect(), at: None }
    }

    /// Whether [`drain`](Self::drain) may have something to do.
    pub fn is_behind(&self) -> bool {
        self.at != Some(self.reader.revision())
    }

    /// Hands over every change so far, with the place of its resource in the list given to [`new`](Self::new).
    pub fn drain(&mut self, mut apply: impl FnMut(usize, Change)) {
        let revision = self.reader.revision();
        if self.at == Some(revision) {
            return;
        }
        for (place, feed) in self.feeds.iter_mut().enumerate() {
            // A stream that has ended is replaced once; should the new one end too, the next call goes on.
            for _ in 0..2 {
                let reader = &self.reader;
                let stream = feed.stream.get_or_insert_with(|| reader.subscribe(feed.group, feed.resource));
                loop {
                    match stream.next().now_or_never() {
                        Some(Some(change)) => apply(place, change),
                        Some(None) => {
                            feed.stream = None;
                            break;
                        }
                        None => break,
                    }
                }
                if feed.stream.is_some() {
                    break;
                }
            }
        }
        self.at = Some(revision);
    }
}

/// The object of an entry. The cache holds what the registry encoded, so this does not fail in practice; damage
/// reads as null, which names nothing and grants nothing.
pub fn parse(entry: &Entry) -> Value {
    parse_as(entry)
}

/// [`parse`], of those fields that `T` names; the rest is passed over.
pub fn parse_as<T: DeserializeOwned + Default>(entry: &Entry) -> T {
    serde_json::from_slice(&entry.json).unwrap_or_else(|error| {
        tracing::error!(namespace = %entry.namespace, name = %entry.name, %error, "a cached object cannot be read");
        T::default()
    })
}

/// What a path of field names leads to: a JSON pointer (RFC 6901) without escapes and indices, so without allocations.
pub fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, field| value.as_object()?.get(field))
}

/// The string at a path of field names ([`at`]), or "".
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).and_then(Value::as_str).unwrap_or("")
}

/// The array at a path of field names, or nothing.
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings of the array at a path of field names.
pub fn strings(value: &Value, pointer: &str) -> Vec<String> {
    items(value, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
pub mod fake {
    //! A cluster in a map, for unit tests.

    use super::*;
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    type Key = (String, String, String, String);
    type Subscriber = (String, String, mpsc::UnboundedSender<Change>);

    #[derive(Default)]
    pub struct FakeCluster {
        inner: Mutex<(BTreeMap<Key, Arc<Entry>>, Vec<Subscriber>, u64)>,
    }

    impl FakeCluster {
        pub fn new() -> Arc<Self> {
            Arc::default()
        }

        /// Stores an object; namespace, name and uid are read from its metadata.
        pub fn put(&self, group: &str, resource: &str, mut object: Value) {
            let mut inner = self.inner.lock();
            inner.2 += 1;
            let revision = inner.2;
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            let stored = serde_json::to_vec(&object).unwrap();
            let resource_name = GroupResource::new(group, resource);
            let entry = Arc::new(Entry::standalone(resource_name, namespace, name, &stored, revision));
            let key = (group.into(), resource.into(), entry.namespace.to_string(), entry.name.to_string());
            inner.0.insert(key, entry.clone());
            inner.1.retain(|(g, r, to)| {
                !(g == group && r == resource) || to.send(Change::Put(entry.clone())).is_ok()
            });
        }

        pub fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
            let mut inner = self.inner.lock();
            inner.2 += 1;
            inner.0.remove(&(group.into(), resource.into(), namespace.into(), name.into()));
            let change = Change::Delete { namespace: namespace.into(), name: name.into() };
            inner.1.retain(|(g, r, to)| !(g == group && r == resource) || to.send(change.clone()).is_ok());
        }
    }

    impl Reader for FakeCluster {
        fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
            self.inner.lock().0.get(&(group.into(), resource.into(), namespace.into(), name.into())).cloned()
        }

        fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Entry>> {
            let inner = self.inner.lock();
            let of = |k: &Key| k.0 == group && k.1 == resource && namespace.is_none_or(|n| k.2 == n);
            inner.0.iter().filter(|(k, _)| of(k)).map(|(_, e)| e.clone()).collect()
        }

        fn revision(&self) -> u64 {
            self.inner.lock().2
        }

        fn subscribe(&self, group: &str, resource: &str) -> BoxStream<'static, Change> {
            let all = self.list(group, resource, None);
            let (to, from) = mpsc::unbounded_channel();
            self.inner.lock().1.push((group.into(), resource.into(), to));
            let first = stream::once(async move { Change::Snapshot(all) });
            Box::pin(first.chain(UnboundedReceiverStream::new(from)))
        }
    }

    #[async_trait]
    impl Writer for FakeCluster {
        async fn create(
            &self,
            group: &str,
            _version: &str,
            resource: &str,
            object: Value,
        ) -> Result<(), WriteError> {
            let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            if self.get(group, resource, namespace, name).is_some() {
                return Err(WriteError::AlreadyExists);
            }
            self.put(group, resource, object);
            Ok(())
        }

        async fn update_status(
            &self,
            group: &str,
            version: &str,
            resource: &str,
            object: Value,
        ) -> Result<(), WriteError> {
            self.update(group, version, resource, object).await
        }

        async fn update(
            &self,
            group: &str,
            _version: &str,
            resource: &str,
            object: Value,
        ) -> Result<(), WriteError> {
            let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            let now = self.get(group, resource, namespace, name).ok_or(WriteError::Conflict)?;
            if text(&object, "/metadata/resourceVersion") != now.revision.to_string() {
                return Err(WriteError::Conflict);
            }
            self.put(group, resource, object);
            Ok(())
        }
    }
}
