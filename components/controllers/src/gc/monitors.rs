//! One source of metadata for each kind, and the kinds that come later with custom resource definitions.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::informer::{WatchOptions, follow};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use super::Collector;
use super::graph::{Place, Uid};
use crate::Context;
use crate::served::{Served, discover};

/// After a definition changed; its kind is served a moment later, and several often come together.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) struct Monitors {
    collector: Arc<Collector>,
    cx: Context,
    /// Group and plural of what is followed, with the stop of each follower of our own.
    followed: Mutex<Vec<(String, String, kit::Shutdown)>>,
}

fn is_followed(served: &Served) -> bool {
    // Events are many, own nothing and end by themselves.
    served.resource.plural != "events" && ["list", "watch", "delete"].iter().all(|v| served.can(v))
}

fn place(resource: usize, meta: &ObjectMeta) -> Place {
    Place {
        resource,
        namespace: meta.namespace.as_deref().unwrap_or("").into(),
        name: meta.name.as_deref().unwrap_or("").into(),
    }
}

impl Monitors {
    pub(super) fn new(collector: Arc<Collector>, cx: Context) -> Self {
        Self { collector, cx, followed: Mutex::new(Vec::new()) }
    }

    /// Follows what is served and not followed yet, and leaves what is served no more. The future ends when every first
    /// list is in the graph.
    pub(super) fn follow_all(&self, served: &[Served]) -> impl Future<Output = ()> + use<> {
        let mut waits: Vec<futures::future::BoxFuture<'static, ()>> = Vec::new();
        let mut followed = self.followed.lock();
        followed.retain(|(group, plural, stop)| {
            let still = served.iter().any(|s| s.resource.group == *group && s.resource.plural == *plural);
            if !still {
                debug!(group, plural, "kind is served no more");
                stop.trigger();
            }
            still
        });
        let known =
            |s: &Served| followed.iter().any(|(g, p, _)| *g == s.resource.group && *p == s.resource.plural);
        let new: Vec<&Served> = served.iter().filter(|s| is_followed(s) && !known(s)).collect();
        // All of them before the first is followed: an informer that is full already tells its objects at once, and an
        // owner of a kind that is not in the table would never be linked.
        let indexed: Vec<(usize, &Served)> = new.into_iter().map(|s| (self.register(s), s)).collect();
        for (index, served) in indexed {
            let stop = self.cx.stop.child();
            waits.push(self.follow_one(index, &served.resource, stop.clone()));
            followed.push((served.resource.group.clone(), served.resource.plural.clone(), stop));
        }
        let relinks = if waits.is_empty() { Vec::new() } else { self.collector.known.lock().graph.relink() };
        self.collector.enqueue(relinks);
        let all = futures::future::join_all(waits);
        async move {
            all.await;
        }
    }

    fn register(&self, served: &Served) -> usize {
        let table = &mut self.collector.known.lock().table.0;
        let same = |s: &Served| {
            s.resource.group == served.resource.group && s.resource.plural == served.resource.plural
        };
        match table.iter().position(same) {
            Some(at) => {
                table[at] = served.clone();
                at
            }
            None => {
                table.push(served.clone());
                table.len() - 1
            }
        }
    }

    fn follow_one(
        &self,
        index: usize,
        resource: &ApiResource,
        stop: kit::Shutdown,
    ) -> futures::future::BoxFuture<'static, ()> {
        let collector = self.collector.clone();
        if let Some(informer) = self.cx.informers.running(&resource.group, &resource.plural) {
            informer.subscribe_meta(Box::new(move |change| {
                if change.deleted {
                    collector.gone(change.meta.uid.as_deref().unwrap_or(""));
                } else {
                    collector.observe(change.meta, place(index, change.meta));
                }
            }));
            return informer.synced();
        }
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(collector.client.clone(), resource);
        let (sender, mut receiver) = watch::channel(false);
        let mut seen: Option<HashSet<Uid>> = None;
        let each = move |event: Event<PartialObjectMeta<DynamicObject>>| match event {
            Event::Init => seen = Some(HashSet::new()),
            Event::InitApply(object) => {
                if let (Some(seen), Some(uid)) = (&mut seen, &object.metadata.uid) {
                    seen.insert(uid.as_str().into());
                }
                collector.observe(&object.metadata, place(index, &object.metadata));
            }
            Event::InitDone => {
                if let Some(seen) = seen.take() {
                    let unseen = collector.known.lock().graph.unseen(index, &seen);
                    unseen.iter().for_each(|uid| collector.gone(uid));
                }
                sender.send_replace(true);
            }
            Event::Apply(object) => collector.observe(&object.metadata, place(index, &object.metadata)),
            Event::Delete(object) => collector.gone(object.metadata.uid.as_deref().unwrap_or("")),
        };
        tokio::spawn(follow(api, WatchOptions::default(), stop, each));
        Box::pin(async move {
            // An error means that the follower was stopped.
            let _ = receiver.wait_for(|done| *done).await;
        })
    }

    /// Asks discovery again whenever a definition or an API service changes.
    pub(super) async fn follow_definitions(self) {
        let changed = Arc::new(Notify::new());
        for (group, kind, plural) in [
            ("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions"),
            ("apiregistration.k8s.io", "APIService", "apiservices"),
        ] {
            let served = self.collector.known.lock().table.by_kind(group, kind).is_some();
            if !served {
                continue;
            }
            let resource =
                ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::all_with(self.collector.client.clone(), &resource);
            let notify = changed.clone();
            let each = move |event: Event<PartialObjectMeta<DynamicObject>>| {
                if matches!(event, Event::Apply(_) | Event::Delete(_) | Event::InitDone) {
                    notify.notify_one();
                }
            };
            tokio::spawn(follow(api, WatchOptions::default(), self.cx.stop.child(), each));
        }
        loop {
            tokio::select! {
                () = changed.notified() => {}
                () = self.cx.stop.wait() => return,
            }
            tokio::time::sleep(SETTLE).await;
            match discover(&self.collector.client).await {
                Ok((served, _)) => drop(self.follow_all(&served)),
                Err(error) => {
                    warn!(%error, "cannot rediscover the served kinds");
                    changed.notify_one();
                }
            }
        }
    }
}
