//! DaemonSets.

pub mod plan;

use std::collections::HashSet;
use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_OWNER, owner_uids};
use client::objects::{
    controller_of, controller_ref, entry, is_deleting, name, namespace, selector_is_empty, selector_matches,
    uid,
};
use client::{Change, EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::Api;

use crate::common::claim::claim;
use crate::common::expectations::Expectations;
use crate::common::history;
use crate::common::podctl::{create_pod, delete_pod, pod_of, slow_start};
use crate::common::until;
use crate::{Context, Error, synced};

const NAME: &str = "daemonset-controller";
/// The service account is spelled differently.
const IDENTITY: &str = "daemon-set-controller";
const GENERATION: &str = "deprecated.daemonset.template.generation";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(IDENTITY),
        recorder: cx.recorder_as(IDENTITY, NAME),
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        nodes: cx.informers.informer(),
        revisions: cx.informers.informer(),
        queue: WorkQueue::new().named("daemonset"),
        expectations: Expectations::default(),
    });
    let c = &controller;
    c.pods.index(BY_OWNER, owner_uids);
    c.revisions.index(BY_OWNER, owner_uids);
    if !synced!(cx, c.sets, c.pods, c.nodes, c.revisions) {
        return Ok(());
    }
    let this = c.clone();
    c.sets.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            this.expectations.forget(&key);
        }
        this.queue.add(key);
    });
    let this = c.clone();
    c.pods.subscribe(move |change| this.pod_changed(change));
    let this = c.clone();
    c.nodes.subscribe(move |change| {
        if let Change::Updated { old, new } = change {
            let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
            if old.metadata.labels == new.metadata.labels && taints(old) == taints(new) {
                return;
            }
        }
        this.sets.for_each(|key, _| this.queue.add(key.clone()));
    });
    let this = c.clone();
    client::controller::run(NAME, 2, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    fn owner(pod: &Pod) -> Option<ObjectKey> {
        let reference = controller_of(&pod.metadata).filter(|r| r.kind == "DaemonSet")?;
        Some(ObjectKey::new(namespace(&pod.metadata), &reference.name))
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        match Self::owner(pod) {
            Some(owner) => {
                if change.is_deleted() || is_deleting(&pod.metadata) {
                    self.expectations.deletion_observed(&owner, uid(&pod.metadata));
                } else if matches!(change, Change::Added(_)) {
                    self.expectations.creation_observed(&owner);
                }
                self.queue.add(owner);
            }
            None if controller_of(&pod.metadata).is_none() && !change.is_deleted() => {
                for set in self.sets.namespace(namespace(&pod.metadata)) {
                    let selector = set.spec.as_ref().map(|s| &s.selector);
                    if selector.is_some_and(|s| {
                        !selector_is_empty(s) && selector_matches(s, pod.metadata.labels.as_ref())
                    }) {
                        self.queue.add(ObjectKey::of(&*set));
                    }
                }
            }
            None => {}
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(ds) = self.sets.get(key).filter(|d| !is_deleting(&d.metadata)) else {
            return Ok(Outcome::DONE);
        };
        let Some(spec) = ds.spec.as_ref().filter(|s| !selector_is_empty(&s.selector)) else {
            let words = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*ds, "SelectingAll", words);
            return Ok(Outcome::DONE);
        };
        let trusted = self.expectations.satisfied(key);
        let mut candidates = self.pods.by_index(BY_OWNER, uid(&ds.metadata));
        candidates.extend(self.pods.namespace(&key.namespace).into_iter().filter(|p| {
            controller_of(&p.metadata).is_none()
                && selector_matches(&spec.selector, p.metadata.labels.as_ref())
        }));
        let owned = claim(&self.client, &*ds, &controller_ref(&*ds), &spec.selector, candidates).await?;
        let revisions = history::of_owner(&ds.metadata, self.revisions.by_index(BY_OWNER, uid(&ds.metadata)));
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        let collisions = ds.status.as_ref().and_then(|s| s.collision_count);
        let step = history::plan(&*ds, &spec.template, labels, collisions, &revisions);
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(current) = history::act(&self.client, step).await? else {
            let mut object = (*ds).clone();
            let count = object.status.get_or_insert_default().collision_count.get_or_insert(0);
            *count = count.saturating_add(1);
            client::patch::replace_status(&api, &object).await?;
            return Ok(Outcome::DONE);
        };
        let hash = history::hash_of(&current);
        let nodes = self.nodes.list();
        let map = plan::by_node(&owned);
        let now = Timestamp::now();
        let mut failed = None;
        if trusted {
            let mut moves = plan::manage(&ds, &nodes, &map, hash);
            if moves.create.is_empty() && moves.delete.is_empty() && moves.failed.is_empty() {
                moves = plan::roll(&ds, &nodes, &map, hash, now);
            }
            failed = self.act(key, &ds, moves, hash).await.err();
        }
        let status = plan::status(&ds, &nodes, &map, hash, now);
        if ds.status.as_ref() != Some(&status) {
            let object = DaemonSet { status: Some(status), ..(*ds).clone() };
            client::errors::ignore_not_found(client::patch::replace_status(&api, &object).await)?;
        }
        let used: HashSet<&str> = owned
            .iter()
            .filter_map(|p| entry(p.metadata.labels.as_ref(), history::HASH))
            .chain([hash])
            .collect();
        history::clean(&self.client, &revisions, &used, spec.revision_history_limit.unwrap_or(10)).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let next = crate::replicaset::plan::next_available(min_ready, &owned, now);
        Ok(next.map_or(Outcome::DONE, |at| Outcome::after(until(at, now))))
    }

    async fn act(
        &self,
        key: &ObjectKey,
        ds: &DaemonSet,
        moves: plan::Moves,
        hash: &str,
    ) -> Result<(), kube::Error> {
        let mut delete = moves.delete;
        for (node, pod) in moves.failed {
            let words = format!(
                "Found failed daemon pod {}/{} on node {node}, will try to kill it",
                key.namespace,
                name(&pod.metadata)
            );
            self.recorder.warning(ds, "FailedDaemonPod", words);
            delete.push(pod);
        }
        self.expectations.expect_deletions(key, delete.iter().map(|p| uid(&p.metadata).to_owned()));
        let deletions = delete.iter().map(|pod| async move {
            let result = delete_pod(&self.client, &self.recorder, ds, pod).await;
            if !matches!(result, Ok(true)) {
                self.expectations.deletion_observed(key, uid(&pod.metadata));
            }
            result
        });
        let mut error = futures::future::join_all(deletions).await.into_iter().find_map(Result::err);
        let count = moves.create.len();
        if count > 0 {
            let template = ds.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
            let generation = entry(ds.metadata.annotations.as_ref(), GENERATION).map(str::to_owned);
            self.expectations.expect_creations(key, count);
            let (done, failure) =
                slow_start(count, |i| {
                    let mut pod = pod_of(&template, &key.name, controller_ref(ds));
                    let labels = pod.metadata.labels.get_or_insert_default();
                    labels.insert(history::HASH.into(), hash.to_owned());
                    if let Some(generation) = &generation {
                        labels.insert("pod-template-generation".into(), generation.clone());
                    }
                    pod.spec =
                        Some(plan::spec_for(&template.spec.clone().unwrap_or_default(), &moves.create[i]));
                    async move {
                        create_pod(&self.client, &self.recorder, ds, &key.namespace, &pod).await.map(drop)
                    }
                })
                .await;
            for _ in done..count {
                self.expectations.creation_observed(key);
            }
            error = error.or(failure.filter(|e| !client::errors::is_namespace_terminating(e)));
        }
        error.map_or(Ok(()), Err)
    }
}
