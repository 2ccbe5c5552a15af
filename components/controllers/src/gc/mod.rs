//! The garbage collector: what no one owns any more goes, and owners that wait for their dependents are let go.
//!
//! It follows the metadata of every kind that can be deleted. Kinds that another controller caches already are read from
//! that cache's events; of the others nothing but the ownership graph is kept.

pub mod graph;
mod monitors;

use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::{EventRecorder, EventType, WorkQueue};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::json;
use tracing::debug;

use crate::served::{Served, discover};
use crate::{Context, Error};
use graph::{FOREGROUND, Graph, ORPHAN, Place, Resolve, Task, Uid};

const NAME: &str = "generic-garbage-collector";

/// Resources by index; a resource keeps its index for as long as the process lives.
#[derive(Default)]
struct Table(Vec<Served>);

impl Table {
    fn by_kind(&self, group: &str, kind: &str) -> Option<(usize, &Served)> {
        self.0.iter().enumerate().find(|(_, s)| s.resource.group == group && s.resource.kind == kind)
    }
}

impl Resolve for Table {
    fn owner_place(&self, r: &OwnerReference, from: &Place) -> Option<Place> {
        let group = r.api_version.split_once('/').map_or("", |(group, _)| group);
        let (resource, served) = self.by_kind(group, &r.kind)?;
        let namespace: Box<str> = match (served.namespaced, from.namespace.is_empty()) {
            (true, true) => return None,
            (true, false) => from.namespace.clone(),
            (false, _) => "".into(),
        };
        Some(Place { resource, namespace, name: r.name.as_str().into() })
    }
}

struct Known {
    graph: Graph,
    table: Table,
}

struct Collector {
    client: Client,
    recorder: EventRecorder,
    known: Mutex<Known>,
    queue: WorkQueue<Task>,
}

/// Must start after the other controllers, so that it finds their informers.
pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(NAME);
    let (served, _) = discover(&client).await?;
    let collector = Arc::new(Collector {
        client,
        recorder: cx.recorder(NAME),
        known: Mutex::new(Known { graph: Graph::default(), table: Table::default() }),
        queue: WorkQueue::with_limits(Duration::from_millis(20), Duration::from_secs(60))
            .named("garbage_collector_attempt_to_delete"),
    });
    let monitors = monitors::Monitors::new(collector.clone(), cx.clone());
    let synced = monitors.follow_all(&served);
    tokio::select! {
        () = synced => {}
        () = cx.stop.wait() => return Ok(()),
    }
    let growth = tokio::spawn(monitors.follow_definitions());
    let this = collector.clone();
    client::controller::run(NAME, 8, collector.queue.clone(), cx.stop.clone(), move |task| {
        let this = this.clone();
        async move {
            match task {
                Task::Check(uid) => this.check(&uid).await,
                Task::Orphan(uid) => this.orphan(&uid).await,
                Task::Relink(uid) => this.relink(&uid).await,
            }
            .map(|()| Outcome::DONE)
        }
    })
    .await;
    growth.abort();
    Ok(())
}

/// What the live object and its owners call for.
enum Verdict {
    Keep,
    /// Drop the references to these owners; others hold it.
    Loosen(Vec<String>),
    Delete(PropagationPolicy),
    /// An owner waits for it, and so does it for a dependent that is waiting already: a circle. Its references are to
    /// block nothing any more, then it goes in the foreground.
    Unblock,
}

impl Collector {
    fn enqueue(&self, tasks: Vec<Task>) {
        tasks.into_iter().for_each(|t| self.queue.add(t));
    }

    fn api(&self, place: &Place) -> Option<Api<DynamicObject>> {
        let known = self.known.lock();
        let served = known.table.0.get(place.resource)?;
        Some(if place.namespace.is_empty() {
            Api::all_with(self.client.clone(), &served.resource)
        } else {
            Api::namespaced_with(self.client.clone(), &place.namespace, &served.resource)
        })
    }

    /// The metadata of the object with this uid at this place, if it is there.
    async fn live(&self, uid: &str, place: &Place) -> Result<Option<ObjectMeta>, kube::Error> {
        let Some(api) = self.api(place) else { return Ok(None) };
        let found = client::errors::optional(api.get_metadata(&place.name).await)?;
        Ok(found.map(|o| o.metadata).filter(|m| m.uid.as_deref() == Some(uid)))
    }

    fn place_of(&self, uid: &str) -> Option<(Place, bool)> {
        let known = self.known.lock();
        known.graph.get(uid).map(|i| (i.place.clone(), i.real))
    }

    fn observe(&self, meta: &ObjectMeta, place: Place) {
        let tasks = {
            let mut known = self.known.lock();
            let Known { graph, table } = &mut *known;
            graph.observe(meta, place, table)
        };
        self.enqueue(tasks);
    }

    fn gone(&self, uid: &str) {
        let tasks = self.known.lock().graph.gone(uid);
        self.enqueue(tasks);
    }

    async fn relink(&self, uid: &Uid) -> Result<(), kube::Error> {
        let Some((place, true)) = self.place_of(uid) else { return Ok(()) };
        if let Some(meta) = self.live(uid, &place).await? {
            self.observe(&meta, place);
        }
        Ok(())
    }

    async fn check(&self, uid: &Uid) -> Result<(), kube::Error> {
        let Some((place, real)) = self.place_of(uid) else { return Ok(()) };
        let Some(meta) = self.live(uid, &place).await? else {
            debug!(uid = &**uid, name = &*place.name, "not there, its dependents follow");
            self.gone(uid);
            return Ok(());
        };
        if !real {
            // A virtual owner that exists.
            self.observe(&meta, place);
            return Ok(());
        }
        let finalizers = meta.finalizers.as_deref().unwrap_or(&[]);
        let deleting = meta.deletion_timestamp.is_some();
        if deleting {
            if finalizers.iter().any(|f| f == FOREGROUND) {
                return self.wait_for_dependents(uid, &place, &meta).await;
            }
            return Ok(());
        }
        match self.judge(uid, &place, &meta).await? {
            Verdict::Keep => Ok(()),
            Verdict::Loosen(gone) => self.loosen(&place, &meta, &gone).await,
            Verdict::Unblock => {
                let mut references = meta.owner_references.clone().unwrap_or_default();
                references.iter_mut().for_each(|r| r.block_owner_deletion = Some(false));
                self.patch(&place, &meta, json!({"metadata": {"ownerReferences": references}})).await?;
                let Some(api) = self.api(&place) else { return Ok(()) };
                let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: None };
                let params = DeleteParams::foreground().preconditions(preconditions);
                client::errors::ignore_not_found(api.delete(&place.name, &params).await)
            }
            Verdict::Delete(policy) => {
                let Some(api) = self.api(&place) else { return Ok(()) };
                debug!(
                    uid = &**uid,
                    name = &*place.name,
                    namespace = &*place.namespace,
                    ?policy,
                    "collecting"
                );
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(Preconditions {
                        uid: meta.uid.clone(),
                        resource_version: meta.resource_version.clone(),
                    }),
                    ..Default::default()
                };
                client::errors::ignore_not_found(api.delete(&place.name, &params).await)
            }
        }
    }

    async fn judge(&self, uid: &Uid, place: &Place, meta: &ObjectMeta) -> Result<Verdict, kube::Error> {
        let references = meta.owner_references.as_deref().unwrap_or(&[]);
        if references.is_empty() {
            return Ok(Verdict::Keep);
        }
        let (mut solid, mut dangling, mut waiting) = (false, Vec::new(), Vec::new());
        for reference in references {
            let (expected, known) = {
                let known = self.known.lock();
                let state = known.graph.get(&reference.uid).filter(|i| i.real);
                (known.table.owner_place(reference, place), state.map(|i| (i.place.clone(), i.foreground)))
            };
            let Some(expected) = expected else {
                // A kind that is not served, or an owner that cannot be: nothing is known, so nothing is done.
                self.complain(place, meta, reference);
                solid = true;
                continue;
            };
            let foreground = match known {
                Some((at, foreground)) if at == expected => Some(foreground),
                Some(_) => {
                    self.complain(place, meta, reference);
                    None
                }
                None => self.live(&reference.uid, &expected).await?.map(|m| {
                    m.deletion_timestamp.is_some() && m.finalizers.iter().flatten().any(|f| f == FOREGROUND)
                }),
            };
            match foreground {
                None => dangling.push(reference.uid.clone()),
                Some(true) => waiting.push(reference.uid.clone()),
                Some(false) => solid = true,
            }
        }
        if solid {
            dangling.extend(waiting);
            return Ok(if dangling.is_empty() { Verdict::Keep } else { Verdict::Loosen(dangling) });
        }
        if !waiting.is_empty() {
            let known = self.known.lock();
            if known.graph.has_waiting_dependents(uid) {
                return Ok(Verdict::Unblock);
            }
            if known.graph.get(uid).is_some_and(|i| !i.dependents.is_empty()) {
                return Ok(Verdict::Delete(PropagationPolicy::Foreground));
            }
        }
        let finalizers = meta.finalizers.as_deref().unwrap_or(&[]);
        let has = |name: &str| finalizers.iter().any(|f| f == name);
        Ok(Verdict::Delete(if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if has(FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        }))
    }

    fn complain(&self, place: &Place, meta: &ObjectMeta, reference: &OwnerReference) {
        let (api_version, kind) = {
            let known = self.known.lock();
            let Some(served) = known.table.0.get(place.resource) else { return };
            (served.resource.api_version.clone(), served.resource.kind.clone())
        };
        let about = ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..Default::default()
        };
        let owner = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}]",
            reference.api_version, reference.kind, place.namespace, reference.name, reference.uid
        );
        let words = format!("{owner} does not exist in namespace {:?}", place.namespace);
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", words);
    }

    /// Lets a foreground deletion go on when nothing blocks it, or sends its dependents on their way.
    async fn wait_for_dependents(
        &self,
        uid: &Uid,
        place: &Place,
        meta: &ObjectMeta,
    ) -> Result<(), kube::Error> {
        let blocking = self.known.lock().graph.blocking(uid);
        if blocking.is_empty() {
            return self.drop_finalizer(place, meta, FOREGROUND).await;
        }
        for (dependent, foreground) in blocking {
            if !foreground {
                self.queue.add(Task::Check(dependent));
            }
        }
        Ok(())
    }

    async fn patch(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        patch: serde_json::Value,
    ) -> Result<(), kube::Error> {
        let Some(api) = self.api(place) else { return Ok(()) };
        let mut patch = patch;
        patch["metadata"]["uid"] = json!(meta.uid);
        patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
        let done = api.patch_metadata(&place.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        client::errors::ignore_not_found(done)
    }

    async fn drop_finalizer(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        finalizer: &str,
    ) -> Result<(), kube::Error> {
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        self.patch(place, meta, json!({"metadata": {"finalizers": left}})).await
    }

    async fn loosen(&self, place: &Place, meta: &ObjectMeta, gone: &[String]) -> Result<(), kube::Error> {
        let left: Vec<_> =
            meta.owner_references.iter().flatten().filter(|r| !gone.contains(&r.uid)).collect();
        self.patch(place, meta, json!({"metadata": {"ownerReferences": left}})).await
    }

    /// Takes the owner out of its dependents' references, then lets it go.
    async fn orphan(&self, uid: &Uid) -> Result<(), kube::Error> {
        let Some((place, _)) = self.place_of(uid) else { return Ok(()) };
        let Some(owner) = self.live(uid, &place).await? else {
            self.gone(uid);
            return Ok(());
        };
        if !owner.finalizers.iter().flatten().any(|f| f == ORPHAN) {
            return Ok(());
        }
        let dependents: Vec<(Uid, Place)> = {
            let known = self.known.lock();
            let of = known.graph.get(uid).map(|i| i.dependents.clone()).unwrap_or_default();
            of.into_iter()
                .filter_map(|d| known.graph.get(&d).map(|i| i.place.clone()).map(|p| (d, p)))
                .collect()
        };
        for (dependent, at) in dependents {
            let Some(meta) = self.live(&dependent, &at).await? else { continue };
            if meta.owner_references.iter().flatten().any(|r| *r.uid == **uid) {
                self.loosen(&at, &meta, &[uid.to_string()]).await?;
            }
        }
        self.drop_finalizer(&place, &owner, ORPHAN).await
    }
}
