//! One informer per kind (and scope) for the whole process.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kit::Shutdown;
use kube::api::{Api, ApiResource};
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::watch::{self, WatchOptions};
use super::{Change, Informer};

/// Which part of a kind an informer sees. The default is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: Option<String>,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// A change reduced to metadata: what graph-like consumers need of any kind.
pub struct MetaChange<'a> {
    pub meta: &'a ObjectMeta,
    pub deleted: bool,
}

/// An informer whose kind is known only at run time.
pub trait AnyInformer: Send + Sync {
    fn subscribe_meta(&self, handler: Box<dyn Fn(MetaChange<'_>) + Send + Sync>);
    fn has_synced(&self) -> bool;
    fn synced(&self) -> futures::future::BoxFuture<'static, ()>;
}

impl<K: Resource + Send + Sync + 'static> AnyInformer for Informer<K> {
    fn subscribe_meta(&self, handler: Box<dyn Fn(MetaChange<'_>) + Send + Sync>) {
        self.subscribe(move |change: &Change<K>| {
            handler(MetaChange { meta: change.object().meta(), deleted: change.is_deleted() });
        });
    }

    fn has_synced(&self) -> bool {
        Informer::has_synced(self)
    }

    fn synced(&self) -> futures::future::BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move { Informer::synced(&this).await })
    }
}

struct Entry {
    typed: Box<dyn Any + Send + Sync>,
    erased: Arc<dyn AnyInformer>,
    resource: ApiResource,
}

struct Inner {
    client: Client,
    stop: Shutdown,
    entries: Mutex<HashMap<(TypeId, Scope), Entry>>,
}

/// A handle; clones share the informers. An informer starts when it is first asked for and ends with `stop`.
#[derive(Clone)]
pub struct InformerFactory(Arc<Inner>);

impl InformerFactory {
    pub fn new(client: Client, stop: Shutdown) -> Self {
        Self(Arc::new(Inner { client, stop, entries: Mutex::new(HashMap::new()) }))
    }

    /// The informer of every object of kind `K`. Must be called inside a tokio runtime.
    pub fn informer<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.scoped(Scope::default())
    }

    /// The informer of the objects of kind `K` in `scope`. A namespace in the scope only makes sense for a namespaced
    /// kind; it becomes a field selector on `metadata.namespace`.
    pub fn scoped<K>(&self, scope: Scope) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut entries = self.0.entries.lock();
        let id = (TypeId::of::<K>(), scope.clone());
        if let Some(found) = entries.get(&id).and_then(|e| e.typed.downcast_ref::<Informer<K>>()) {
            return found.clone();
        }
        let informer = Informer::<K>::detached();
        let api: Api<K> = Api::all(self.0.client.clone());
        let fields = match (&scope.namespace, &scope.fields) {
            (Some(ns), Some(fields)) => Some(format!("metadata.namespace={ns},{fields}")),
            (Some(ns), None) => Some(format!("metadata.namespace={ns}")),
            (None, fields) => fields.clone(),
        };
        let options = WatchOptions { labels: scope.labels, fields, paged: false };
        tokio::spawn(watch::feed(informer.clone(), api, options, self.0.stop.clone()));
        let entry = Entry {
            typed: Box::new(informer.clone()),
            erased: Arc::new(informer.clone()),
            resource: ApiResource::erase::<K>(&()),
        };
        entries.insert(id, entry);
        informer
    }

    /// The running informer that sees every object of `group`/`plural`, whatever its version, if there is one.
    pub fn running(&self, group: &str, plural: &str) -> Option<Arc<dyn AnyInformer>> {
        let entries = self.0.entries.lock();
        entries
            .iter()
            .find(|((_, scope), e)| {
                *scope == Scope::default() && e.resource.group == group && e.resource.plural == plural
            })
            .map(|(_, entry)| entry.erased.clone())
    }

    /// Resolves once every informer that runs now has its first list.
    pub async fn synced(&self) {
        let waits: Vec<_> = self.0.entries.lock().values().map(|e| e.erased.synced()).collect();
        futures::future::join_all(waits).await;
    }

    pub fn client(&self) -> &Client {
        &self.0.client
    }

    pub fn stop(&self) -> &Shutdown {
        &self.0.stop
    }
}
