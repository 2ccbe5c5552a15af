//! Shared informers: one list and watch per kind, one copy of each object, any number of consumers.
//!
//! Guarantees: a handler sees the changes of one object in order, each after the store holds it; it first sees what is
//! already there as [`Change::Added`]. Changes may be merged when the watch had to list again. Handlers run on the
//! informer's task, so they only note a key somewhere. `managedFields` are dropped.

mod factory;
mod store;
mod watch;

use std::sync::Arc;

use kube::ResourceExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as signal;

pub use factory::{AnyInformer, InformerFactory, MetaChange, Scope};
use store::Store;
pub use store::{IndexFn, ObjectKey};
pub use watch::{WatchOptions, follow};

/// Name of the index from an owner's uid to what it owns; see [`owner_uids`].
pub const BY_OWNER: &str = "owner";

/// For [`Informer::index`] under [`BY_OWNER`].
pub fn owner_uids<K: ResourceExt>(object: &K) -> Vec<String> {
    object.owner_references().iter().map(|r| r.uid.clone()).collect()
}

/// Name of the index from a node to its pods; see [`pod_node`].
pub const BY_NODE: &str = "node";

/// For [`Informer::index`] under [`BY_NODE`].
pub fn pod_node(pod: &k8s_openapi::api::core::v1::Pod) -> Vec<String> {
    pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()).into_iter().collect()
}

/// What happened to one object.
#[derive(Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest known form of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }

    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Deleted(_))
    }
}

type Handler<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;

struct Inner<K> {
    store: RwLock<Store<K>>,
    /// Held while a change is told, so that a new handler misses nothing and sees nothing twice.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: signal::Sender<bool>,
}

/// A handle; clones share the store.
pub struct Informer<K>(Arc<Inner<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Informer<K> {
    /// Whether the first list is in the store.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Resolves once the first list is in the store.
    pub async fn synced(&self) {
        let mut receiver = self.0.synced.subscribe();
        // The sender lives in `self`, so this cannot fail while we wait.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.store.read().objects.get(key).cloned()
    }

    /// Everything, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.store.read().objects.values().cloned().collect()
    }

    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.store.read().namespace(namespace).cloned().collect()
    }

    /// Calls `each` on every object under the read lock: no clone of the list, and no call back into the informer.
    pub fn for_each(&self, mut each: impl FnMut(&ObjectKey, &Arc<K>)) {
        for (key, object) in &self.0.store.read().objects {
            each(key, object);
        }
    }

    pub fn len(&self) -> usize {
        self.0.store.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index; a name that is known already keeps its first function.
    pub fn index(&self, name: &'static str, values: IndexFn<K>) {
        self.0.store.write().add_index(name, values);
    }

    /// The objects that have `value` in the index `name`, ordered by key.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.0.store.read().by_index(name, value)
    }

    /// Calls `handler` for everything that is there and for every later change, for as long as the informer lives.
    /// Must not be called from inside a handler of the same informer.
    pub fn subscribe(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        let present = self.list();
        for object in present {
            handler(&Change::Added(object));
        }
        handlers.push(Arc::new(handler));
    }
}

impl<K: ResourceExt> Informer<K> {
    /// An informer that nothing feeds: for tests and for feeding by hand with [`apply`](Self::apply).
    pub fn detached() -> Self {
        Self(Arc::new(Inner {
            store: RwLock::new(Store::default()),
            handlers: Mutex::new(Vec::new()),
            synced: signal::Sender::new(false),
        }))
    }

    /// Puts `object` in the store and tells the handlers, unless that resourceVersion is there already.
    pub fn apply(&self, object: K) {
        let handlers = self.0.handlers.lock();
        let key = ObjectKey::of(&object);
        let new = Arc::new(object);
        let old = {
            let mut store = self.0.store.write();
            if let (Some(version), Some(old)) = (&new.meta().resource_version, store.objects.get(&key))
                && old.meta().resource_version.as_ref() == Some(version)
            {
                return;
            }
            store.insert(key, new.clone())
        };
        match old {
            // Deleted and created again between two events: two objects, two changes.
            Some(old) if old.meta().uid != new.meta().uid => {
                tell(&handlers, &Change::Deleted(old));
                tell(&handlers, &Change::Added(new));
            }
            Some(old) => tell(&handlers, &Change::Updated { old, new }),
            None => tell(&handlers, &Change::Added(new)),
        }
    }

    /// Takes the object out of the store and tells the handlers its last form.
    pub fn delete(&self, object: K) {
        let handlers = self.0.handlers.lock();
        let old = self.0.store.write().remove(&ObjectKey::of(&object));
        if old.is_some() {
            tell(&handlers, &Change::Deleted(Arc::new(object)));
        }
    }

    fn delete_key(&self, key: &ObjectKey) {
        let handlers = self.0.handlers.lock();
        let old = self.0.store.write().remove(key);
        if let Some(old) = old {
            tell(&handlers, &Change::Deleted(old));
        }
    }

    /// Says that the first list is complete.
    pub fn mark_synced(&self) {
        self.0.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }
}

fn tell<K>(handlers: &[Handler<K>], change: &Change<K>) {
    for handler in handlers {
        handler(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn object(name: &str, version: &str, uid: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                resource_version: Some(version.into()),
                uid: Some(uid.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn record(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        informer.subscribe(move |change| {
            let word = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            sink.lock().push(format!("{word}{}", change.object().name_any()));
        });
        log
    }

    #[test]
    fn a_late_handler_sees_what_is_there_once() {
        let informer = Informer::detached();
        informer.apply(object("a", "1", "u1"));
        let log = record(&informer);
        informer.apply(object("a", "1", "u1"));
        informer.apply(object("a", "2", "u1"));
        informer.delete(object("a", "3", "u1"));
        informer.delete(object("a", "3", "u1"));
        assert_eq!(*log.lock(), ["+a", "~a", "-a"]);
    }

    #[test]
    fn a_new_uid_is_a_deletion_and_a_creation() {
        let informer = Informer::detached();
        let log = record(&informer);
        informer.apply(object("a", "1", "u1"));
        informer.apply(object("a", "5", "u2"));
        assert_eq!(*log.lock(), ["+a", "-a", "+a"]);
        assert_eq!(informer.len(), 1);
    }
}
