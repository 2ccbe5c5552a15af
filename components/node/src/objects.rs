//! Config maps and secrets that pods on this node refer to, each kept fresh by a watch on that one object.
//!
//! A watch lives as long as somebody holds the [`Tracked`] it feeds; asking for an object that is tracked already joins
//! the watch that is there.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long a first answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub trait Kept:
    kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
    /// As upstream's messages name it.
    const WORD: &'static str;
}

impl Kept for ConfigMap {
    const WORD: &'static str = "configmap";
}

impl Kept for Secret {
    const WORD: &'static str = "secret";
}

#[derive(Clone, Debug)]
enum State<K> {
    Loading,
    Failed(String),
    Absent,
    Present(Arc<K>),
}

pub struct Tracked<K> {
    name: String,
    state: watch::Receiver<State<K>>,
    task: tokio::task::JoinHandle<()>,
}

impl<K> Drop for Tracked<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Kept> Tracked<K> {
    /// The object, `None` when there is none. Waits for the first answer.
    pub async fn get(&self) -> Result<Option<Arc<K>>, String> {
        let mut state = self.state.clone();
        let known = tokio::time::timeout(PATIENCE, state.wait_for(|s| !matches!(s, State::Loading))).await;
        match known {
            Ok(Ok(s)) => match &*s {
                State::Present(object) => Ok(Some(object.clone())),
                State::Failed(why) => Err(why.clone()),
                State::Loading | State::Absent => Ok(None),
            },
            Ok(Err(_)) | Err(_) => {
                Err(format!("failed to sync {} cache: timed out waiting for the condition", K::WORD))
            }
        }
    }

    /// Resolves at the next change after this call.
    pub async fn changed(&self) {
        let mut state = self.state.clone();
        state.mark_unchanged();
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

pub struct Tracker<K> {
    client: kube::Client,
    known: Mutex<HashMap<(String, String), Weak<Tracked<K>>>>,
}

impl<K: Kept> Tracker<K> {
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    pub fn track(&self, namespace: &str, name: &str) -> Arc<Tracked<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut known = self.known.lock();
        if let Some(there) = known.get(&key).and_then(Weak::upgrade) {
            return there;
        }
        if known.len() > 64 {
            known.retain(|_, w| w.strong_count() > 0);
        }
        let (tx, state) = watch::channel(State::Loading);
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let object = name.to_owned();
        let task = tokio::spawn(async move {
            let mut wait = Duration::from_millis(100);
            let mut stream = std::pin::pin!(watcher::watch_object(api, &object));
            while let Some(item) = stream.next().await {
                match item {
                    Ok(found) => {
                        wait = Duration::from_millis(100);
                        tx.send_replace(found.map_or(State::Absent, |o| State::Present(Arc::new(o))));
                    }
                    Err(error) => {
                        tx.send_if_modified(|s| {
                            let first = matches!(s, State::Loading);
                            if first {
                                *s = State::Failed(error.to_string());
                            }
                            first
                        });
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(30));
                    }
                }
            }
        });
        let tracked = Arc::new(Tracked { name: name.to_owned(), state, task });
        known.insert(key, Arc::downgrade(&tracked));
        tracked
    }
}

/// Both trackers.
pub struct Objects {
    pub config_maps: Tracker<ConfigMap>,
    pub secrets: Tracker<Secret>,
}

impl Objects {
    pub fn new(client: kube::Client) -> Self {
        Self { config_maps: Tracker::new(client.clone()), secrets: Tracker::new(client) }
    }
}
