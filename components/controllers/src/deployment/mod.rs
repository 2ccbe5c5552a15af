//! Deployments: which sets exist, and how many pods each has.

pub mod plan;
pub mod scale;
pub mod status;
pub mod util;

use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_OWNER, owner_uids};
use client::objects::{
    controller_of, controller_ref, is_terminal, name, namespace, selector_is_empty, selector_matches, uid,
};
use client::{Change, EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};

use crate::common::claim::claim;
use crate::common::podctl::message;
use crate::common::until;
use crate::{Context, Error, synced};
use plan::{Plan, resized};
use util::{REVISION, Set, is_rolling, new_and_old, same_template, set_wanted};

const NAME: &str = "deployment-controller";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        deployments: cx.informers.informer(),
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named("deployment"),
    });
    controller.sets.index(BY_OWNER, owner_uids);
    controller.pods.index(BY_OWNER, owner_uids);
    if !synced!(cx, controller.deployments, controller.sets, controller.pods) {
        return Ok(());
    }
    let this = controller.clone();
    controller.deployments.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = controller.clone();
    controller.sets.subscribe(move |change| this.set_changed(change));
    let this = controller.clone();
    controller.pods.subscribe(move |change| {
        // Only a Recreate deployment waits for pods to go.
        if change.is_deleted() || is_terminal(change.object()) {
            this.pod_ended(change.object());
        }
    });
    let this = controller.clone();
    client::controller::run(NAME, 5, controller.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    fn owner_key(set: &ReplicaSet) -> Option<ObjectKey> {
        let reference = controller_of(&set.metadata).filter(|r| r.kind == "Deployment")?;
        Some(ObjectKey::new(namespace(&set.metadata), &reference.name))
    }

    fn set_changed(&self, change: &Change<ReplicaSet>) {
        let set = change.object();
        let owner = Self::owner_key(set);
        if let Change::Updated { old, .. } = change
            && let Some(before) = Self::owner_key(old)
            && Some(&before) != owner.as_ref()
        {
            self.queue.add(before);
        }
        match owner {
            Some(owner) => self.queue.add(owner),
            None if controller_of(&set.metadata).is_none() => {
                for d in self.deployments.namespace(namespace(&set.metadata)) {
                    let selector = &util::spec(&d).selector;
                    if !selector_is_empty(selector)
                        && selector_matches(selector, set.metadata.labels.as_ref())
                    {
                        self.queue.add(ObjectKey::of(&*d));
                    }
                }
            }
            None => {}
        }
    }

    fn pod_ended(&self, pod: &Pod) {
        let Some(reference) = controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet") else { return };
        let key = ObjectKey::new(namespace(&pod.metadata), &reference.name);
        let Some(owner) = self.sets.get(&key).and_then(|set| Self::owner_key(&set)) else { return };
        if self.deployments.get(&owner).is_some_and(|d| !is_rolling(&d)) {
            self.queue.add(owner);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(d) = self.deployments.get(key) else { return Ok(Outcome::DONE) };
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let selector = util::spec(&d).selector;
        if selector_is_empty(&selector) {
            let words = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*d, "SelectingAll", words);
            return Ok(Outcome::DONE);
        }
        let mut candidates = self.sets.by_index(BY_OWNER, uid(&d.metadata));
        candidates.extend(self.sets.namespace(&key.namespace).into_iter().filter(|rs| {
            controller_of(&rs.metadata).is_none() && selector_matches(&selector, rs.metadata.labels.as_ref())
        }));
        let sets = claim(&self.client, &*d, &controller_ref(&*d), &selector, candidates).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&d, &sets, self.old_pods_run(&d, &sets), now);
        self.act(&api, &d, plan, now).await
    }

    fn old_pods_run(&self, d: &Deployment, sets: &[Set]) -> bool {
        if is_rolling(d) {
            return false;
        }
        let (_, old) = new_and_old(d, sets);
        old.iter().any(|rs| self.pods.by_index(BY_OWNER, uid(&rs.metadata)).iter().any(|p| !is_terminal(p)))
    }

    async fn act(
        &self,
        api: &Api<Deployment>,
        d: &Deployment,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Outcome, kube::Error> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace(&d.metadata));
        let mut status = plan.status;
        if let Some(made) = &plan.create {
            match sets.create(&PostParams::default(), made).await {
                Ok(_) => {
                    let (set, size) = (name(&made.metadata), set_wanted(made));
                    if size > 0 {
                        let words = format!("Scaled up replica set {set} from 0 to {size}");
                        self.recorder.normal(d, "ScalingReplicaSet", words);
                    }
                }
                Err(e) if client::errors::is_already_exists(&e) => {
                    return self.collided(api, &sets, d, made).await;
                }
                Err(e) => {
                    if !client::errors::is_namespace_terminating(&e) {
                        self.creation_failed(api, d, made, &e, now).await?;
                    }
                    return Err(e);
                }
            }
        }
        if let Some(set) = &plan.refresh {
            sets.replace(name(&set.metadata), &PostParams::default(), set).await?;
        }
        for resize in &plan.resize {
            let Some(set) = resized(d, resize) else { continue };
            sets.replace(name(&set.metadata), &PostParams::default(), &set).await?;
            if set_wanted(&resize.set) != resize.to {
                self.recorder.normal(d, "ScalingReplicaSet", scale::describe(&resize.set, resize.to));
            }
        }
        for set in &plan.clean {
            client::errors::ignore_not_found(
                sets.delete(name(&set.metadata), &DeleteParams::background()).await,
            )?;
        }
        let mut written = None;
        if let Some(text) = &plan.revision {
            let mut object = d.clone();
            object.metadata.annotations.get_or_insert_default().insert(REVISION.into(), text.clone());
            written = Some(api.replace(name(&d.metadata), &PostParams::default(), &object).await?);
        }
        if let Some(status) = status.take() {
            let base = written.as_ref().unwrap_or(d);
            let object = Deployment { status: Some(status), ..base.clone() };
            client::errors::ignore_not_found(client::patch::replace_status(api, &object).await)?;
        }
        Ok(plan.again.map_or(Outcome::DONE, |at| Outcome::after(until(at, now))))
    }

    /// A set of the name exists: it is ours and the cache is late, or the hash collided.
    async fn collided(
        &self,
        api: &Api<Deployment>,
        sets: &Api<ReplicaSet>,
        d: &Deployment,
        made: &ReplicaSet,
    ) -> Result<Outcome, kube::Error> {
        let Some(found) = client::errors::optional(sets.get(name(&made.metadata)).await)? else {
            return Ok(Outcome::after(std::time::Duration::from_millis(10)));
        };
        let ours = controller_of(&found.metadata).is_some_and(|r| r.uid == uid(&d.metadata));
        let template = found.spec.as_ref().and_then(|s| s.template.as_ref());
        if ours && template.is_some_and(|t| same_template(t, &util::spec(d).template)) {
            // Its event will wake us.
            return Ok(Outcome::DONE);
        }
        let mut object = d.clone();
        let count = object.status.get_or_insert_default().collision_count.get_or_insert(0);
        *count = count.saturating_add(1);
        client::patch::replace_status(api, &object).await?;
        Ok(Outcome::DONE)
    }

    async fn creation_failed(
        &self,
        api: &Api<Deployment>,
        d: &Deployment,
        made: &ReplicaSet,
        error: &kube::Error,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let words =
            format!("Failed to create new replica set \"{}\": {}", name(&made.metadata), message(error));
        self.recorder.warning(d, "ReplicaSetCreateError", words.clone());
        let mut object = d.clone();
        let condition = status::new_condition("Progressing", "False", "ReplicaSetCreateError", words, now);
        status::set_condition(object.status.get_or_insert_default(), condition);
        if object.status != d.status {
            client::patch::replace_status(api, &object).await?;
        }
        Ok(())
    }
}
