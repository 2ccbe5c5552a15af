//! Pods with names, in order. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::objects::{
    controller_ref, entry, is_active, is_available, is_deleting, is_ready, name, namespace, phase,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::history::HASH;

pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The two templates in play.
pub struct Revisions<'a> {
    pub current: (&'a str, &'a PodTemplateSpec),
    pub update: (&'a str, &'a PodTemplateSpec),
}

#[derive(Debug, Default)]
pub struct Moves {
    /// Ordinals to create, in order.
    pub create: Vec<i32>,
    pub delete: Vec<Arc<Pod>>,
}

pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn first_ordinal(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0)
}

fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) == Some("Parallel")
}

fn min_ready(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

fn is_on_delete(set: &StatefulSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete")
}

pub fn partition(set: &StatefulSet) -> i32 {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0)
}

/// The number at the end of the pod's name, when the pod is named as one of this set.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = name(&pod.metadata).strip_prefix(name(&set.metadata))?.strip_prefix('-')?;
    rest.parse().ok().filter(|n: &i32| *n >= 0)
}

fn hash(pod: &Pod) -> &str {
    entry(pod.metadata.labels.as_ref(), HASH).unwrap_or("")
}

/// Whether a new pod of this ordinal gets the update template.
fn is_updated_ordinal(set: &StatefulSet, status: &StatefulSetStatus, ordinal: i32) -> bool {
    let start = first_ordinal(set);
    if is_on_delete(set) {
        // A pod that was deleted by hand comes back new.
        return ordinal >= start + status.current_replicas.unwrap_or(0);
    }
    ordinal >= start + partition(set)
}

/// The pod of an ordinal.
pub fn pod(set: &StatefulSet, status: &StatefulSetStatus, revisions: &Revisions<'_>, ordinal: i32) -> Pod {
    let updated = is_updated_ordinal(set, status, ordinal);
    let (hash, template) = if updated { revisions.update } else { revisions.current };
    let set_name = name(&set.metadata);
    let pod_name = format!("{set_name}-{ordinal}");
    let from = template.metadata.clone().unwrap_or_default();
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(HASH.into(), hash.to_owned());
    labels.insert(POD_NAME.into(), pod_name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(pod_name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|n| !n.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for claim in set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten()) {
        let volume_name = name(&claim.metadata);
        volumes.retain(|v| v.name != volume_name);
        volumes.push(Volume {
            name: volume_name.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, claim, ordinal),
                read_only: None,
            }),
            ..Default::default()
        });
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name),
            namespace: Some(namespace(&set.metadata).to_owned()),
            labels: Some(labels),
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![controller_ref(set)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn claim_name(set: &StatefulSet, claim: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(&claim.metadata), name(&set.metadata))
}

/// The claims that the pod of an ordinal needs.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let spec = set.spec.clone().unwrap_or_default();
    let selected = spec.selector.match_labels.unwrap_or_default();
    let templates = spec.volume_claim_templates.into_iter().flatten();
    templates
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selected.clone());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name(set, &template, ordinal)),
                    namespace: Some(namespace(&set.metadata).to_owned()),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..Default::default()
                },
                spec: template.spec,
                status: None,
            }
        })
        .collect()
}

/// What to do to the pods now. In order, at most one pod moves at a time unless the set is parallel.
pub fn moves(set: &StatefulSet, pods: &[Arc<Pod>], update_hash: &str, now: Timestamp) -> Moves {
    let mut moves = Moves::default();
    if is_deleting(&set.metadata) {
        return moves;
    }
    let (start, count) = (first_ordinal(set), replicas(set));
    let end = start + count;
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> =
        pods.iter().filter_map(|p| ordinal(set, p).map(|n| (n, p))).collect();
    let parallel = is_parallel(set);
    let up = |p: &Pod| is_active(p) && is_available(p, min_ready(set), now);
    for n in start..end {
        match by_ordinal.get(&n) {
            None => {
                moves.create.push(n);
                if !parallel {
                    return moves;
                }
            }
            Some(pod) if matches!(phase(pod), "Failed" | "Succeeded") && !is_deleting(&pod.metadata) => {
                moves.delete.push((*pod).clone());
                if !parallel {
                    return moves;
                }
            }
            // In order, each waits for those before it.
            Some(pod) if !parallel && !up(pod) => {
                // But one that cannot come up with an old template must not keep the new one from coming.
                if !is_deleting(&pod.metadata) && is_stuck(set, pod, update_hash) {
                    moves.delete.push((*pod).clone());
                }
                return moves;
            }
            Some(_) => {}
        }
    }
    let condemned: Vec<&Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(n, _)| **n < start || **n >= end).map(|(_, p)| *p).collect();
    for pod in &condemned {
        if !is_deleting(&pod.metadata) {
            moves.delete.push((*pod).clone());
        }
        if !parallel {
            return moves;
        }
    }
    if !(moves.create.is_empty() && moves.delete.is_empty()) || is_on_delete(set) {
        return moves;
    }
    for n in ((start + partition(set)).max(start)..end).rev() {
        let Some(pod) = by_ordinal.get(&n) else { return moves };
        if is_deleting(&pod.metadata) {
            return moves;
        }
        if hash(pod) != update_hash {
            moves.delete.push((*pod).clone());
            return moves;
        }
        if !up(pod) {
            return moves;
        }
    }
    moves
}

fn is_stuck(set: &StatefulSet, pod: &Pod, update_hash: &str) -> bool {
    let rolls =
        !is_on_delete(set) && ordinal(set, pod).is_some_and(|n| n >= first_ordinal(set) + partition(set));
    rolls && phase(pod) == "Pending" && hash(pod) != update_hash && !is_ready(pod)
}

/// The status that the pods amount to. When every pod is up on the update template, it becomes the current one.
pub fn status(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    current: &str,
    update: &str,
    names: (&str, &str),
    now: Timestamp,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let mut s = StatefulSetStatus {
        observed_generation: Some(set.metadata.generation.unwrap_or(0)),
        collision_count: old.collision_count,
        conditions: old.conditions,
        current_revision: Some(names.0.to_owned()),
        update_revision: Some(names.1.to_owned()),
        ..Default::default()
    };
    let (mut ready, mut available, mut on_current, mut on_update) = (0, 0, 0, 0);
    for pod in pods.iter().filter(|p| ordinal(set, p).is_some()) {
        s.replicas += 1;
        ready += i32::from(is_ready(pod) && phase(pod) == "Running");
        available += i32::from(is_available(pod, min_ready(set), now));
        if !is_deleting(&pod.metadata) {
            on_current += i32::from(hash(pod) == current);
            on_update += i32::from(hash(pod) == update);
        }
    }
    let done = on_update == s.replicas && ready == s.replicas && s.replicas == replicas(set);
    if !is_on_delete(set) && done && current != update {
        s.current_revision = s.update_revision.clone();
        on_current = on_update;
    }
    s.ready_replicas = Some(ready).filter(|n| *n != 0);
    s.available_replicas = Some(available);
    s.current_replicas = Some(on_current).filter(|n| *n != 0);
    s.updated_replicas = Some(on_update).filter(|n| *n != 0);
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{StatefulSetSpec, StatefulSetUpdateStrategy};
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

    fn set(replicas: i32, parallel: bool) -> StatefulSet {
        StatefulSet {
            metadata: ObjectMeta { name: Some("db".into()), ..Default::default() },
            spec: Some(StatefulSetSpec {
                replicas: Some(replicas),
                service_name: Some("db".into()),
                pod_management_policy: parallel.then(|| "Parallel".into()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".into()),
                    ..Default::default()
                }),
                volume_claim_templates: Some(vec![PersistentVolumeClaim {
                    metadata: ObjectMeta { name: Some("data".into()), ..Default::default() },
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            status: None,
        }
    }

    fn made(set: &StatefulSet, n: i32, hash: &str, ready: bool) -> Arc<Pod> {
        let template = PodTemplateSpec::default();
        let both = Revisions { current: (hash, &template), update: (hash, &template) };
        let mut pod = pod(set, &StatefulSetStatus::default(), &both, n);
        pod.status = Some(PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
                ..Default::default()
            }]),
            ..Default::default()
        });
        Arc::new(pod)
    }

    #[test]
    fn names_labels_and_claims_are_upstreams() {
        let s = set(3, false);
        let p = made(&s, 2, "h", true);
        assert_eq!(name(&p.metadata), "db-2");
        assert_eq!(entry(p.metadata.labels.as_ref(), POD_INDEX), Some("2"));
        assert_eq!(p.spec.as_ref().unwrap().hostname.as_deref(), Some("db-2"));
        assert_eq!(name(&claims(&s, 2)[0].metadata), "data-db-2");
        let volume = &p.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
        assert_eq!(ordinal(&s, &p), Some(2));
    }

    proptest! {
        /// In order: while scaling and rolling, pods below any missing one are ready, at most one is down besides those
        /// not yet made, and it ends.
        #[test]
        fn it_goes_in_order_and_ends(from in 0i32..6, to in 0i32..6, luck in prop::collection::vec(any::<bool>(), 80)) {
            let s = set(to, false);
            let mut pods: Vec<Arc<Pod>> = (0..from).map(|n| made(&s, n, "old", true)).collect();
            let mut luck = luck.into_iter().chain(std::iter::repeat(true));
            for _ in 0..200 {
                let m = moves(&s, &pods, "new", Timestamp::now());
                prop_assert!(m.create.len() + m.delete.len() <= 1);
                for n in &m.create {
                    prop_assert!(pods.iter().filter(|p| ordinal(&s, p).unwrap() < *n).all(|p| is_ready(p)));
                    pods.push(made(&s, *n, "new", false));
                }
                for gone in &m.delete { pods.retain(|p| p.metadata.name != gone.metadata.name); }
                let st = status(&s, &pods, "old", "new", ("old", "new"), Timestamp::now());
                if pods.len() as i32 == to && st.updated_replicas.unwrap_or(0) == to && st.ready_replicas.unwrap_or(0) == to {
                    prop_assert_eq!(st.current_revision.as_deref(), Some("new"));
                    return Ok(());
                }
                for p in &mut pods {
                    if !is_ready(p) && luck.next().unwrap() { *p = made(&s, ordinal(&s, p).unwrap(), hash(p), true); }
                }
            }
            prop_assert!(false, "never ends");
        }
    }

    #[test]
    fn a_partition_holds_the_low_ones_back() {
        let mut s = set(3, false);
        let strategy = s.spec.as_mut().unwrap().update_strategy.as_mut().unwrap();
        strategy.rolling_update.get_or_insert_default().partition = Some(2);
        let pods: Vec<_> = (0..3).map(|n| made(&s, n, "old", true)).collect();
        let m = moves(&s, &pods, "new", Timestamp::now());
        assert_eq!(ordinal(&s, &m.delete[0]), Some(2));
        let pods = [made(&s, 0, "old", true), made(&s, 1, "old", true), made(&s, 2, "new", true)];
        assert!(moves(&s, &pods, "new", Timestamp::now()).delete.is_empty());
    }

    #[test]
    fn parallel_sets_do_all_at_once() {
        let s = set(3, true);
        assert_eq!(moves(&s, &[], "h", Timestamp::now()).create, [0, 1, 2]);
    }
}
