//! The status of disruption budgets: how many pods may go now.

use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::objects::{
    controller_of, is_active, is_deleting, is_ready, name, namespace, phase, scaled, selector_matches,
};
use client::{Change, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::Api;

use crate::{Context, Error, synced};

const NAME: &str = "disruption-controller";
/// An eviction that was granted but never happened is forgotten after this.
const DISRUPTION_TIMEOUT: i64 = 120;

struct Loop {
    client: Client,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    stateful: Informer<StatefulSet>,
    replication: Informer<ReplicationController>,
    queue: WorkQueue<ObjectKey>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        budgets: cx.informers.informer(),
        pods: cx.informers.informer(),
        deployments: cx.informers.informer(),
        sets: cx.informers.informer(),
        stateful: cx.informers.informer(),
        replication: cx.informers.informer(),
        queue: WorkQueue::new().named("disruption"),
    });
    let c = &controller;
    if !synced!(cx, c.budgets, c.pods, c.deployments, c.sets, c.stateful, c.replication) {
        return Ok(());
    }
    let this = c.clone();
    c.budgets.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.pods.subscribe(move |change| {
        let pod = change.object();
        if let Change::Updated { old, new } = change {
            let shown = |p: &Pod| (is_ready(p), is_deleting(&p.metadata), phase(p).to_owned());
            if shown(old) == shown(new) && old.metadata.labels == new.metadata.labels {
                return;
            }
        }
        this.budgets.for_each(|key, budget| {
            if key.namespace == namespace(&pod.metadata) && covers(budget, pod) {
                this.queue.add(key.clone());
            }
        });
    });
    let this = c.clone();
    client::controller::run(NAME, 1, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| selector_matches(s, pod.metadata.labels.as_ref()))
}

impl Loop {
    /// How many pods the controllers of these pods want, each controller counted once.
    fn expected(&self, pods: &[Arc<Pod>]) -> i32 {
        let mut seen = Vec::new();
        let mut sum = 0;
        for pod in pods {
            let Some(r) = controller_of(&pod.metadata) else { continue };
            let key = ObjectKey::new(namespace(&pod.metadata), &r.name);
            let (owner, count) = match r.kind.as_str() {
                "ReplicaSet" => {
                    let Some(set) = self.sets.get(&key) else { continue };
                    let above = controller_of(&set.metadata).filter(|r| r.kind == "Deployment");
                    let parent = above.and_then(|r| {
                        self.deployments.get(&ObjectKey::new(namespace(&pod.metadata), &r.name))
                    });
                    match parent {
                        Some(d) => {
                            (d.metadata.uid.clone(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                        }
                        None => (
                            set.metadata.uid.clone(),
                            set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
                        ),
                    }
                }
                "StatefulSet" => {
                    let Some(set) = self.stateful.get(&key) else { continue };
                    (set.metadata.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                }
                "ReplicationController" => {
                    let Some(set) = self.replication.get(&key) else { continue };
                    (set.metadata.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                }
                _ => continue,
            };
            if !seen.contains(&owner) {
                seen.push(owner);
                sum += count;
            }
        }
        sum
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Outcome::DONE) };
        let mut pods = self.pods.namespace(&key.namespace);
        pods.retain(|p| covers(&budget, p));
        let status = plan(&budget, &pods, self.expected(&pods), Timestamp::now());
        let again = status.disrupted_pods.as_ref().is_some_and(|d| !d.is_empty());
        if budget.status.as_ref() != Some(&status) {
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
            let object = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            client::errors::ignore_not_found(client::patch::replace_status(&api, &object).await)?;
        }
        let wait = Duration::from_secs(DISRUPTION_TIMEOUT.unsigned_abs() + 1);
        Ok(if again { Outcome::after(wait) } else { Outcome::DONE })
    }
}

/// The budget's status; `expected` is what the pods' controllers want in all.
pub fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let mut disrupted = old.disrupted_pods.unwrap_or_default();
    disrupted.retain(|pod, at| {
        let waits = pods.iter().any(|p| name(&p.metadata) == pod && !is_deleting(&p.metadata));
        waits && at.0.as_second() + DISRUPTION_TIMEOUT > now.as_second()
    });
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_active(p)).collect();
    let count = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let (total, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected, (expected - scaled(most, expected, true).unwrap_or(0)).max(0)),
        (None, Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(n))) => (count, *n),
        (None, Some(percent)) => (expected, scaled(percent, expected, true).unwrap_or(0)),
        (None, None) => (count, 0),
    };
    let healthy = active.iter().filter(|p| is_ready(p) && !disrupted.contains_key(name(&p.metadata))).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if total <= 0 { 0 } else { (healthy - desired).max(0) };
    let (status, reason) = match allowed > 0 {
        true => ("True", "SufficientPods"),
        false => ("False", "InsufficientPods"),
    };
    let mut conditions = old.conditions.unwrap_or_default();
    let known = conditions.iter().find(|c| c.type_ == "DisruptionAllowed");
    let since = known.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    conditions.retain(|c| c.type_ != "DisruptionAllowed");
    conditions.push(condition);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(total),
        observed_generation: budget.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;

    fn pod(id: usize, ready: bool) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta { name: Some(format!("p{id}")), ..Default::default() },
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    proptest! {
        /// Taking as many as are allowed never leaves fewer healthy ones than desired.
        #[test]
        fn what_is_allowed_leaves_enough(ready in prop::collection::vec(any::<bool>(), 0..20), min in 0i32..20, percent: bool) {
            let pods: Vec<_> = ready.iter().enumerate().map(|(i, r)| pod(i, *r)).collect();
            let want = if percent { IntOrString::String(format!("{}%", min * 5)) } else { IntOrString::Int(min) };
            let budget = PodDisruptionBudget {
                spec: Some(PodDisruptionBudgetSpec { min_available: Some(want), ..Default::default() }),
                ..Default::default()
            };
            let s = plan(&budget, &pods, pods.len() as i32, Timestamp::now());
            let healthy = ready.iter().filter(|r| **r).count() as i32;
            prop_assert_eq!(s.current_healthy, Some(healthy));
            let allowed = s.disruptions_allowed.unwrap();
            prop_assert!(allowed == 0 || healthy - allowed >= s.desired_healthy.unwrap());
        }
    }

    #[test]
    fn a_granted_eviction_counts_until_it_happens_or_is_forgotten() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut budget = PodDisruptionBudget {
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pods = [pod(0, true), pod(1, true)];
        assert_eq!(plan(&budget, &pods, 2, now).disruptions_allowed, Some(1));
        budget.status.get_or_insert_default().disrupted_pods = Some([("p0".to_owned(), Time(now))].into());
        assert_eq!(plan(&budget, &pods, 2, now).disruptions_allowed, Some(0));
        let later = Timestamp::from_second(1200).unwrap();
        assert_eq!(plan(&budget, &pods, 2, later).disruptions_allowed, Some(1));
    }
}
