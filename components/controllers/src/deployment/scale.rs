//! The sizes of the sets: rolling forward, scaling in proportion, scaling down what is old. Pure.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::util::{
    MAX, Set, by_creation, is_active, is_rolling, max_surge, max_unavailable, set_available, set_wanted,
    total, wanted,
};
use client::objects::{entry, name};

/// A set and the size it is to have.
#[derive(Clone, Debug)]
pub struct Resize {
    pub set: Set,
    pub to: i32,
}

/// The size of the new set that the surge allows now.
pub fn new_size(d: &Deployment, all: &[Set], new: Option<&ReplicaSet>) -> i32 {
    let current = new.map_or(0, set_wanted);
    if !is_rolling(d) {
        return wanted(d);
    }
    let room = wanted(d) + max_surge(d) - total(all, set_wanted);
    if room <= 0 {
        return current;
    }
    current + room.min(wanted(d) - current)
}

/// Moves the new set towards the wanted number; `None` when it is there or has no room.
pub fn step_new(d: &Deployment, all: &[Set], new: &Set) -> Option<Resize> {
    let current = set_wanted(new);
    let to = if current >= wanted(d) { wanted(d) } else { new_size(d, all, Some(new)) };
    (to != current).then(|| Resize { set: new.clone(), to })
}

/// Scales the old sets down as far as availability allows: first what is unhealthy anyway, then the rest.
pub fn step_old(d: &Deployment, all: &[Set], new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    if total(old, set_wanted) == 0 {
        return Vec::new();
    }
    let least = wanted(d) - max_unavailable(d);
    let new_unavailable = new.map_or(0, |rs| set_wanted(rs) - set_available(rs));
    let most = total(all, set_wanted) - least - new_unavailable;
    if most <= 0 {
        return Vec::new();
    }
    let mut sorted: Vec<Resize> =
        old.iter().map(|rs| Resize { set: rs.clone(), to: set_wanted(rs) }).collect();
    sorted.sort_by(|a, b| by_creation(&a.set, &b.set));
    let mut removed = 0;
    for item in &mut sorted {
        let unhealthy = item.to - set_available(&item.set);
        if removed < most && unhealthy > 0 {
            let part = unhealthy.min(most - removed);
            item.to -= part;
            removed += part;
        }
    }
    let spare = total(all, set_available) - least;
    let mut taken = 0;
    for item in &mut sorted {
        if taken < spare && item.to > 0 {
            let part = item.to.min(spare - taken);
            item.to -= part;
            taken += part;
        }
    }
    sorted.retain(|item| item.to != set_wanted(&item.set));
    sorted
}

/// Every active old set goes to zero.
pub fn drop_old(old: &[Set]) -> Vec<Resize> {
    old.iter().filter(|rs| is_active(rs)).map(|rs| Resize { set: rs.clone(), to: 0 }).collect()
}

/// What a change of `spec.replicas` means for the sets. In the middle of a rollout it is shared in proportion.
/// Sets whose size stays are returned too, so that their annotations follow.
pub fn proportional(d: &Deployment, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    let all: Vec<Set> = old.iter().cloned().chain(new.cloned()).collect();
    let active: Vec<Set> = all.iter().filter(|rs| is_active(rs)).cloned().collect();
    let only = match active.len() {
        0 => new.cloned().or_else(|| old.iter().max_by(|a, b| by_creation(a, b)).cloned()),
        1 => active.first().cloned(),
        _ => None,
    };
    if let Some(set) = only {
        return vec![Resize { set, to: wanted(d) }];
    }
    if new.is_some_and(|rs| is_saturated(d, rs)) {
        return drop_old(old);
    }
    if !is_rolling(d) || active.is_empty() {
        return Vec::new();
    }
    let allowed = if wanted(d) > 0 { wanted(d) + max_surge(d) } else { 0 };
    let to_add = allowed - total(&active, set_wanted);
    let mut sorted = active;
    sorted.sort_by(|a, b| {
        let age = if to_add > 0 { by_creation(b, a) } else { by_creation(a, b) };
        set_wanted(b).cmp(&set_wanted(a)).then(age)
    });
    let mut added = 0;
    let mut sizes: Vec<Resize> = sorted
        .into_iter()
        .map(|set| {
            let part = proportion(d, &set, to_add, added);
            added += part;
            let to = set_wanted(&set) + part;
            Resize { set, to }
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        first.to = (first.to + to_add - added).max(0);
    }
    sizes
}

fn is_saturated(d: &Deployment, rs: &ReplicaSet) -> bool {
    let desired =
        entry(rs.metadata.annotations.as_ref(), super::util::DESIRED).and_then(|t| t.parse::<i32>().ok());
    set_wanted(rs) == wanted(d) && desired == Some(wanted(d)) && set_available(rs) == wanted(d)
}

fn proportion(d: &Deployment, rs: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if set_wanted(rs) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(d, rs);
    let allowed = to_add - added;
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

fn fraction(d: &Deployment, rs: &ReplicaSet) -> i32 {
    if wanted(d) == 0 {
        return -set_wanted(rs);
    }
    let after = f64::from(wanted(d) + max_surge(d));
    let noted =
        entry(rs.metadata.annotations.as_ref(), MAX).and_then(|t| t.parse::<i32>().ok()).filter(|n| *n > 0);
    let before = noted.or_else(|| d.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
    if before <= 0 {
        return 0;
    }
    let size = f64::from(set_wanted(rs)) * after / f64::from(before);
    // Bounded by the number of replicas, so the cast is exact.
    (size.round() as i32) - set_wanted(rs)
}

/// Upstream's words for a change of size.
pub fn describe(set: &ReplicaSet, to: i32) -> String {
    let from = set_wanted(set);
    let direction = if to > from { "up" } else { "down" };
    format!("Scaled {direction} replica set {} from {from} to {to}", name(&set.metadata))
}

#[cfg(test)]
mod tests {
    use super::super::util::{DESIRED, size_annotations};
    use super::*;
    use k8s_openapi::api::apps::v1::{
        DeploymentSpec, DeploymentStrategy, ReplicaSetSpec, ReplicaSetStatus, RollingUpdateDeployment,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
        Deployment {
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(IntOrString::Int(surge)),
                        max_unavailable: Some(IntOrString::Int(unavailable)),
                    }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn set(id: i64, wanted: i32, available: i32) -> Set {
        Arc::new(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("rs{id}")),
                creation_timestamp: Some(Time(jiff::Timestamp::from_second(id).unwrap())),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec { replicas: Some(wanted), ..Default::default() }),
            status: Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..Default::default()
            }),
        })
    }

    fn resize(set: &Set, to: i32, available: i32) -> Set {
        let mut rs = (**set).clone();
        rs.spec.as_mut().unwrap().replicas = Some(to);
        let status = rs.status.as_mut().unwrap();
        status.replicas = to;
        status.available_replicas = Some(available.min(to));
        Arc::new(rs)
    }

    proptest! {
        /// Rolling to the end never breaks the bounds, whatever becomes available when, and it ends.
        #[test]
        fn a_rollout_keeps_its_bounds_and_ends(
            replicas in 0i32..20, surge in 0i32..5, unavailable in 0i32..5, luck in prop::collection::vec(0u8..3, 400)
        ) {
            prop_assume!(surge + unavailable > 0);
            let d = deployment(replicas, surge, unavailable);
            let mut old = set(1, replicas, replicas);
            let mut new = set(2, 0, 0);
            let least = replicas - unavailable.min(replicas);
            let mut luck = luck.into_iter().chain(std::iter::repeat(2));
            for _ in 0..1000 {
                let all = [old.clone(), new.clone()];
                if let Some(r) = step_new(&d, &all, &new) {
                    new = resize(&new, r.to, set_available(&new));
                } else {
                    for r in step_old(&d, &all, Some(&new), std::slice::from_ref(&old)) {
                        prop_assert!(r.to >= 0);
                        old = resize(&old, r.to, set_available(&old));
                    }
                }
                let total = set_wanted(&old) + set_wanted(&new);
                prop_assert!(total <= replicas + surge, "{} pods for {}+{}", total, replicas, surge);
                prop_assert!(set_available(&old) + set_available(&new) >= least);
                let ready = (set_available(&new) + i32::from(luck.next().unwrap())).min(set_wanted(&new));
                new = resize(&new, set_wanted(&new), ready);
                if set_wanted(&old) == 0 && set_available(&new) == replicas {
                    return Ok(());
                }
            }
            prop_assert!(false, "the rollout never ended");
        }

        /// Scaling in the middle of a rollout lands exactly on the allowed total.
        #[test]
        fn proportional_scaling_lands_on_the_total(
            sizes in prop::collection::vec(1i32..20, 2..5), to in 1i32..60, surge in 0i32..5
        ) {
            let before: i32 = sizes.iter().sum();
            let d = deployment(to, surge, 1);
            let sets: Vec<Set> = sizes.iter().enumerate().map(|(i, n)| {
                let mut rs = (*set(i as i64, *n, 0)).clone();
                rs.metadata.annotations = size_annotations(&rs, before, before);
                Arc::new(rs)
            }).collect();
            let (new, old) = sets.split_last().unwrap();
            let result = proportional(&d, Some(new), old);
            prop_assert!(result.iter().all(|r| r.to >= 0));
            let sum: i32 = result.iter().map(|r| r.to).sum();
            prop_assert_eq!(sum, to + surge);
        }
    }

    #[test]
    fn a_single_set_just_follows() {
        let d = deployment(7, 1, 1);
        let only = set(1, 3, 3);
        let result = proportional(&d, Some(&only), &[]);
        assert_eq!(result[0].to, 7);
        assert_eq!(describe(&only, 7), "Scaled up replica set rs1 from 3 to 7");
        assert!(only.metadata.annotations.as_ref().is_none_or(|a| !a.contains_key(DESIRED)));
    }
}
