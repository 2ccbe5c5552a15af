//! What a replica set should do next, as a pure function of what the cache holds.

use std::sync::Arc;

use client::objects::{
    is_active, is_available, is_deleting, is_ready, is_terminal, map_matches, ready_since, uid,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::common::podctl::{BURST, crowding, deletion_order};

/// The status fields that ReplicaSets and ReplicationControllers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetStatus {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<ReplicaSetCondition>,
}

/// What to do to the pods.
#[derive(Debug, Default)]
pub struct Moves {
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
}

/// How many pods to create, or which to delete. `owned` are the set's pods; `related` those of every set of the same
/// controller, by which crowded nodes are found.
pub fn moves(replicas: i32, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Moves {
    let mut active: Vec<_> = owned.iter().filter(|p| is_active(p)).cloned().collect();
    let wanted = usize::try_from(replicas).unwrap_or(0);
    if active.len() < wanted {
        return Moves { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus > 0 && wanted > 0 {
        let crowd = crowding(related);
        active.sort_by(|a, b| deletion_order(a, b, &crowd, now));
    }
    active.truncate(surplus);
    Moves { create: 0, delete: active }
}

/// The status that the pods amount to; conditions other than ReplicaFailure are kept.
pub fn status(
    old: &SetStatus,
    generation: i64,
    template: Option<&PodTemplateSpec>,
    min_ready: i32,
    owned: &[Arc<Pod>],
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> SetStatus {
    let labels = template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let mut new = SetStatus { observed_generation: generation, terminating: Some(0), ..Default::default() };
    for pod in owned {
        if is_active(pod) {
            new.replicas += 1;
            new.fully_labeled +=
                i32::from(labels.is_none_or(|l| map_matches(l, pod.metadata.labels.as_ref())));
            new.ready += i32::from(is_ready(pod));
            new.available += i32::from(is_available(pod, min_ready, now));
        } else if is_deleting(&pod.metadata) && !is_terminal(pod) {
            new.terminating = new.terminating.map(|n| n + 1);
        }
    }
    let known = old.conditions.iter().find(|c| c.type_ == "ReplicaFailure");
    new.conditions = old.conditions.iter().filter(|c| c.type_ != "ReplicaFailure").cloned().collect();
    if let Some((reason, message)) = failure {
        // The first failure is kept until it is cured.
        new.conditions.push(known.cloned().unwrap_or_else(|| ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }));
    }
    new
}

/// When the next ready pod becomes available, if one is still to.
pub fn next_available(min_ready: i32, owned: &[Arc<Pod>], now: Timestamp) -> Option<Timestamp> {
    if min_ready <= 0 {
        return None;
    }
    owned
        .iter()
        .filter(|p| is_active(p) && !is_available(p, min_ready, now))
        .filter_map(|p| ready_since(p))
        .filter_map(|t| Timestamp::from_second(t.as_second() + i64::from(min_ready)).ok())
        .min()
}

/// The uids of pods, for expectations.
pub fn uids(pods: &[Arc<Pod>]) -> impl Iterator<Item = String> {
    pods.iter().map(|p| uid(&p.metadata).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    fn pod(id: usize, phase: u8, deleting: bool, ready: bool) -> Arc<Pod> {
        let phase = ["Pending", "Running", "Succeeded", "Failed"][usize::from(phase % 4)];
        Arc::new(Pod {
            metadata: ObjectMeta {
                uid: Some(id.to_string()),
                deletion_timestamp: deleting.then_some(Time(Timestamp::UNIX_EPOCH)),
                ..Default::default()
            },
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: ready.then(|| {
                    vec![PodCondition {
                        type_: "Ready".into(),
                        status: "True".into(),
                        last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    proptest! {
        /// One pass leads to exactly the wanted number of active pods, deletes no pod twice, never does both.
        #[test]
        fn one_pass_reaches_the_wanted_number(
            replicas in 0i32..40, pods in prop::collection::vec(any::<(u8, bool, bool)>(), 0..60)
        ) {
            let owned: Vec<_> = pods.iter().enumerate().map(|(i, p)| pod(i, p.0, p.1, p.2)).collect();
            let active = owned.iter().filter(|p| is_active(p)).count();
            let m = moves(replicas, &owned, &owned, Timestamp::now());
            prop_assert_eq!(active + m.create - m.delete.len(), usize::try_from(replicas).unwrap());
            prop_assert!(m.create == 0 || m.delete.is_empty());
            let mut gone: Vec<_> = uids(&m.delete).collect();
            gone.sort();
            gone.dedup();
            prop_assert_eq!(gone.len(), m.delete.len());
            prop_assert!(m.delete.iter().all(|p| is_active(p)));
            // A ready running pod goes only when no unready one is left.
            if m.delete.iter().any(|p| is_ready(p) && client::objects::phase(p) == "Running") && replicas > 0 {
                prop_assert!(owned.iter().filter(|p| is_active(p) && !is_ready(p)).all(|p| m.delete.iter().any(|d| Arc::ptr_eq(d, p))));
            }
        }
    }

    #[test]
    fn status_counts_and_keeps_the_first_failure() {
        let now = Timestamp::from_second(100).unwrap();
        let owned =
            [pod(1, 1, false, true), pod(2, 1, true, true), pod(3, 2, false, false), pod(4, 0, false, false)];
        let s = status(&SetStatus::default(), 3, None, 10, &owned, Some(("FailedCreate", "a".into())), now);
        assert_eq!((s.replicas, s.ready, s.available, s.terminating), (2, 1, 1, Some(1)));
        assert_eq!(s.observed_generation, 3);
        let again = status(&s, 3, None, 200, &owned, Some(("FailedCreate", "b".into())), now);
        assert_eq!(again.available, 0);
        assert_eq!(again.conditions[0].message.as_deref(), Some("a"));
        assert!(status(&again, 3, None, 10, &owned, None, now).conditions.is_empty());
        assert_eq!(next_available(200, &owned, now), Timestamp::from_second(200).ok());
    }
}
