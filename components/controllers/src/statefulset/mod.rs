//! StatefulSets.

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
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use crate::common::claim::claim;
use crate::common::expectations::Expectations;
use crate::common::history;
use crate::common::podctl::message;
use crate::common::until;
use crate::{Context, Error, synced};
use plan::Revisions;

const NAME: &str = "statefulset-controller";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        revisions: cx.informers.informer(),
        claims: cx.informers.informer(),
        queue: WorkQueue::new().named("statefulset"),
        expectations: Expectations::default(),
    });
    let c = &controller;
    c.pods.index(BY_OWNER, owner_uids);
    c.revisions.index(BY_OWNER, owner_uids);
    if !synced!(cx, c.sets, c.pods, c.revisions, c.claims) {
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
    client::controller::run(NAME, 2, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        match controller_of(&pod.metadata) {
            Some(r) if r.kind == "StatefulSet" => {
                let owner = ObjectKey::new(namespace(&pod.metadata), &r.name);
                if change.is_deleted() || is_deleting(&pod.metadata) {
                    self.expectations.deletion_observed(&owner, uid(&pod.metadata));
                }
                if matches!(change, Change::Added(_)) {
                    self.expectations.creation_observed(&owner);
                }
                self.queue.add(owner);
            }
            None if !change.is_deleted() => {
                for set in self.sets.namespace(namespace(&pod.metadata)) {
                    let selector = set.spec.as_ref().map(|s| &s.selector);
                    if plan::ordinal(&set, pod).is_some()
                        && selector.is_some_and(|s| selector_matches(s, pod.metadata.labels.as_ref()))
                    {
                        self.queue.add(ObjectKey::of(&*set));
                    }
                }
            }
            _ => {}
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(set) = self.sets.get(key) else { return Ok(Outcome::DONE) };
        let Some(spec) = set.spec.as_ref().filter(|s| !selector_is_empty(&s.selector)) else {
            return Ok(Outcome::DONE);
        };
        let trusted = self.expectations.satisfied(key);
        let mut candidates = self.pods.by_index(BY_OWNER, uid(&set.metadata));
        candidates.extend(
            self.pods
                .namespace(&key.namespace)
                .into_iter()
                .filter(|p| controller_of(&p.metadata).is_none() && plan::ordinal(&set, p).is_some()),
        );
        let owned = claim(&self.client, &*set, &controller_ref(&*set), &spec.selector, candidates).await?;
        let history = history::of_owner(&set.metadata, self.revisions.by_index(BY_OWNER, uid(&set.metadata)));
        let labels = spec.selector.match_labels.clone().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let step = history::plan(&*set, &spec.template, labels, status.collision_count, &history);
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(update) = history::act(&self.client, step).await? else {
            let mut object = (*set).clone();
            let count = object.status.get_or_insert_default().collision_count.get_or_insert(0);
            *count = count.saturating_add(1);
            client::patch::replace_status(&api, &object).await?;
            return Ok(Outcome::DONE);
        };
        let named = status.current_revision.as_deref();
        let current = history.iter().find(|r| Some(name(&r.metadata)) == named).unwrap_or(&update);
        let old_template = history::template(current);
        // Upstream uses the name of the revision as the pods' hash.
        let revisions = Revisions {
            current: (name(&current.metadata), old_template.as_ref().unwrap_or(&spec.template)),
            update: (name(&update.metadata), &spec.template),
        };
        let now = Timestamp::now();
        let mut failed = None;
        if trusted {
            let moves = plan::moves(&set, &owned, revisions.update.0, now);
            failed = self.act(key, &set, moves, &status, &revisions).await.err();
        }
        let names = (name(&current.metadata), name(&update.metadata));
        let new = plan::status(&set, &owned, revisions.current.0, revisions.update.0, names, now);
        if set.status.as_ref() != Some(&new) {
            let object = StatefulSet { status: Some(new), ..(*set).clone() };
            client::errors::ignore_not_found(client::patch::replace_status(&api, &object).await)?;
        }
        let used: HashSet<&str> = owned
            .iter()
            .filter_map(|p| entry(p.metadata.labels.as_ref(), history::HASH))
            .chain([names.0, names.1])
            .collect();
        history::clean(&self.client, &history, &used, spec.revision_history_limit.unwrap_or(10)).await?;
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
        set: &StatefulSet,
        moves: plan::Moves,
        status: &k8s_openapi::api::apps::v1::StatefulSetStatus,
        revisions: &Revisions<'_>,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        for ordinal in moves.create {
            self.ensure_claims(key, set, ordinal).await?;
            let pod = plan::pod(set, status, revisions, ordinal);
            let pod_name = name(&pod.metadata);
            self.expectations.expect_creations(key, 1);
            match api.create(&PostParams::default(), &pod).await {
                Ok(_) => self.say(set, "create", pod_name, None),
                Err(error) => {
                    self.expectations.creation_observed(key);
                    if client::errors::is_already_exists(&error)
                        || client::errors::is_namespace_terminating(&error)
                    {
                        continue;
                    }
                    self.say(set, "create", pod_name, Some(&error));
                    return Err(error);
                }
            }
        }
        for pod in moves.delete {
            let (pod_name, pod_uid) = (name(&pod.metadata), uid(&pod.metadata));
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                ..Default::default()
            };
            self.expectations.expect_deletions(key, [pod_uid.to_owned()]);
            match api.delete(pod_name, &params).await {
                Ok(_) => self.say(set, "delete", pod_name, None),
                Err(error) => {
                    self.expectations.deletion_observed(key, pod_uid);
                    if client::errors::is_not_found(&error) || client::errors::is_conflict(&error) {
                        continue;
                    }
                    self.say(set, "delete", pod_name, Some(&error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn say(&self, set: &StatefulSet, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let title = if verb == "create" { "Create" } else { "Delete" };
        let set_name = name(&set.metadata);
        match error {
            None => {
                let words = format!("{verb} Pod {pod} in StatefulSet {set_name} successful");
                self.recorder.normal(set, &format!("Successful{title}"), words);
            }
            Some(error) => {
                let words =
                    format!("{verb} Pod {pod} in StatefulSet {set_name} failed error: {}", message(error));
                self.recorder.warning(set, &format!("Failed{title}"), words);
            }
        }
    }

    async fn ensure_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        ordinal: i32,
    ) -> Result<(), kube::Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for claim in plan::claims(set, ordinal) {
            if self.claims.get(&ObjectKey::of(&claim)).is_some() {
                continue;
            }
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let words = format!(
                        "create Claim {} Pod {}-{ordinal} in StatefulSet {} success",
                        name(&claim.metadata),
                        key.name,
                        key.name
                    );
                    self.recorder.normal(set, "SuccessfulCreate", words);
                }
                Err(e) if client::errors::is_already_exists(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
