//! ReplicaSets and ReplicationControllers: as many pods as wanted, by one loop over two kinds.

mod kinds;
pub mod plan;

use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_OWNER, owner_uids};
use client::objects::{controller_of, controller_ref, is_deleting, namespace, selector_is_empty, uid};
use client::{Change, EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::Client;
use kube::api::Api;

use crate::common::claim::claim;
use crate::common::expectations::Expectations;
use crate::common::podctl::{create_pod, delete_pod, message, pod_of, slow_start};
use crate::common::until;
use crate::{Context, Error, synced};
use kinds::ReplicaOwner;

struct Loop<K: ReplicaOwner> {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<K>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

/// Runs the ReplicaSet controller until the context's stop.
pub async fn run(cx: Context) -> Result<(), Error> {
    run_kind::<ReplicaSet>(cx, "replicaset-controller").await
}

/// Runs the ReplicationController controller until the context's stop.
pub async fn run_replication(cx: Context) -> Result<(), Error> {
    run_kind::<ReplicationController>(cx, "replication-controller").await
}

async fn run_kind<K: ReplicaOwner>(cx: Context, name: &'static str) -> Result<(), Error> {
    let controller = Arc::new(Loop::<K> {
        client: cx.client_for(name),
        recorder: cx.recorder(name),
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named(name.trim_end_matches("-controller")),
        expectations: Expectations::default(),
    });
    controller.sets.index(BY_OWNER, owner_uids);
    controller.pods.index(BY_OWNER, owner_uids);
    if !synced!(cx, controller.sets, controller.pods) {
        return Ok(());
    }
    let this = controller.clone();
    controller.sets.subscribe(move |change: &Change<K>| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            this.expectations.forget(&key);
        }
        this.queue.add(key);
    });
    let this = controller.clone();
    controller.pods.subscribe(move |change| this.pod_changed(change));
    let this = controller.clone();
    client::controller::run(name, 5, controller.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl<K: ReplicaOwner> Loop<K> {
    fn owner_key(&self, pod: &Pod) -> Option<ObjectKey> {
        let reference = controller_of(&pod.metadata).filter(|r| r.kind == K::kind(&()))?;
        Some(ObjectKey::new(namespace(&pod.metadata), &reference.name))
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let owner = self.owner_key(pod);
        match change {
            Change::Deleted(_) => {
                if let Some(owner) = &owner {
                    self.expectations.deletion_observed(owner, uid(&pod.metadata));
                }
            }
            Change::Added(_) => match &owner {
                Some(owner) if is_deleting(&pod.metadata) => {
                    self.expectations.deletion_observed(owner, uid(&pod.metadata));
                }
                Some(owner) => self.expectations.creation_observed(owner),
                None => {}
            },
            Change::Updated { old, .. } => {
                if let Some(owner) = &owner
                    && is_deleting(&pod.metadata)
                {
                    self.expectations.deletion_observed(owner, uid(&pod.metadata));
                }
                let before = self.owner_key(old);
                if before != owner
                    && let Some(before) = before
                {
                    self.queue.add(before);
                }
            }
        }
        match owner {
            Some(owner) => self.queue.add(owner),
            None if controller_of(&pod.metadata).is_none() && !change.is_deleted() => self.wake_matching(pod),
            None => {}
        }
    }

    /// An orphan wakes every set that could adopt it.
    fn wake_matching(&self, pod: &Pod) {
        if pod.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
            return;
        }
        for set in self.sets.namespace(namespace(&pod.metadata)) {
            let selector = set.selector();
            if !selector_is_empty(&selector)
                && client::objects::selector_matches(&selector, pod.metadata.labels.as_ref())
            {
                self.queue.add(ObjectKey::of(&*set));
            }
        }
    }

    /// The pods that are the set's or could become so.
    fn candidates(&self, set: &K) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.by_index(BY_OWNER, uid(set.meta()));
        let selector = set.selector();
        pods.extend(self.pods.namespace(namespace(set.meta())).into_iter().filter(|p| {
            controller_of(&p.metadata).is_none()
                && client::objects::selector_matches(&selector, p.metadata.labels.as_ref())
        }));
        pods
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::DONE);
        };
        let selector = set.selector();
        if selector_is_empty(&selector) {
            return Ok(Outcome::DONE);
        }
        let trusted = self.expectations.satisfied(key);
        let owned =
            claim(&self.client, &*set, &controller_ref(&*set), &selector, self.candidates(&set)).await?;
        let now = Timestamp::now();
        let mut failure = None;
        let mut failed = None;
        if trusted && !is_deleting(set.meta()) {
            (failure, failed) = self.act(key, &set, &owned, now).await;
        }
        let old = set.status();
        let generation = set.meta().generation.unwrap_or(0);
        let mut new = plan::status(&old, generation, set.template(), set.min_ready(), &owned, failure, now);
        if !K::COUNTS_TERMINATING {
            new.terminating = None;
        }
        if new != old {
            let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
            match client::patch::replace_status(&api, &set.with_status(&new)).await {
                Ok(_) => {}
                Err(e) if client::errors::is_not_found(&e) => {}
                // The event of whatever changed it wakes us; but it may have come already.
                Err(e) if failed.is_none() => return Err(e),
                Err(_) => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(match plan::next_available(set.min_ready(), &owned, now) {
                Some(at) => Outcome::after(until(at, now)),
                None => Outcome::DONE,
            }),
        }
    }

    /// Creates or deletes pods. Returns the failure to report in the status and the error to retry on.
    async fn act(
        &self,
        key: &ObjectKey,
        set: &K,
        owned: &[Arc<Pod>],
        now: Timestamp,
    ) -> (Option<(&'static str, String)>, Option<kube::Error>) {
        let related = self.related(set, owned);
        let moves = plan::moves(set.replicas(), owned, related.as_deref().unwrap_or(owned), now);
        if moves.create > 0 {
            let Some(template) = set.template() else { return (None, None) };
            let pod = pod_of(template, &key.name, controller_ref(set));
            self.expectations.expect_creations(key, moves.create);
            let (done, error) = slow_start(moves.create, |_| async {
                create_pod(&self.client, &self.recorder, set, &key.namespace, &pod).await.map(drop)
            })
            .await;
            for _ in done..moves.create {
                self.expectations.creation_observed(key);
            }
            return match error {
                Some(e) if client::errors::is_namespace_terminating(&e) => (None, None),
                Some(e) => (Some(("FailedCreate", message(&e))), Some(e)),
                None => (None, None),
            };
        }
        if !moves.delete.is_empty() {
            self.expectations.expect_deletions(key, plan::uids(&moves.delete));
            let deletions = moves.delete.iter().map(|pod| async move {
                let result = delete_pod(&self.client, &self.recorder, set, pod).await;
                if !matches!(result, Ok(true)) {
                    self.expectations.deletion_observed(key, uid(&pod.metadata));
                }
                result
            });
            let error = futures::future::join_all(deletions).await.into_iter().find_map(Result::err);
            return match error {
                Some(e) => (Some(("FailedDelete", message(&e))), Some(e)),
                None => (None, None),
            };
        }
        (None, None)
    }

    /// The pods of all sets with the same controller, when there is one and a choice is to be made.
    fn related(&self, set: &K, owned: &[Arc<Pod>]) -> Option<Vec<Arc<Pod>>> {
        if owned.len() <= usize::try_from(set.replicas()).unwrap_or(0) {
            return None;
        }
        let owner = controller_of(set.meta())?;
        let siblings = self.sets.by_index(BY_OWNER, &owner.uid);
        Some(siblings.iter().flat_map(|s| self.pods.by_index(BY_OWNER, uid(s.meta()))).collect())
    }
}
