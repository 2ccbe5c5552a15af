//! The vocabulary of rollouts: annotations, revisions, bounds, which set is new and which are old.

use std::cmp::Ordering;
use std::sync::Arc;

use client::objects::{StringMap, created, entry, is_deleting, name, scaled};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
const HISTORY_CHARS: usize = 2000;

pub type Set = Arc<ReplicaSet>;

pub fn spec(d: &Deployment) -> DeploymentSpec {
    d.spec.clone().unwrap_or_default()
}

pub fn wanted(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn set_wanted(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn set_actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn set_ready(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

pub fn set_available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub fn is_paused(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false)
}

pub fn is_rolling(d: &Deployment) -> bool {
    let kind = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    kind != Some("Recreate")
}

/// Upstream's marker for "no deadline".
pub fn deadline(d: &Deployment) -> Option<i32> {
    d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|n| *n != i32::MAX)
}

/// How many pods may be above and below the wanted number.
pub fn bounds(d: &Deployment) -> (i32, i32) {
    if !is_rolling(d) {
        return (0, 0);
    }
    let replicas = wanted(d);
    let rolling = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.clone());
    let rolling = rolling.unwrap_or_default();
    let quarter = IntOrString::String("25%".into());
    let surge = scaled(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, true).unwrap_or(0);
    let unavailable =
        scaled(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, false).unwrap_or(0);
    // Neither may be zero when both are, or nothing could ever move.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (surge, unavailable)
}

pub fn max_surge(d: &Deployment) -> i32 {
    bounds(d).0
}

pub fn max_unavailable(d: &Deployment) -> i32 {
    if wanted(d) == 0 || !is_rolling(d) { 0 } else { bounds(d).1.min(wanted(d)) }
}

pub fn revision(annotations: Option<&StringMap>) -> i64 {
    entry(annotations, REVISION).and_then(|t| t.parse().ok()).unwrap_or(0)
}

pub fn condition<'a>(d: &'a Deployment, kind: &str) -> Option<&'a DeploymentCondition> {
    d.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Equal but for the hash label.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let labels = |t: &PodTemplateSpec| -> StringMap {
        let labels = t.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.into_iter().filter(|(k, _)| k != HASH_LABEL).collect()
    };
    let rest = |t: &PodTemplateSpec| {
        let mut meta = t.metadata.clone().unwrap_or_default();
        meta.labels = None;
        meta.creation_timestamp = None;
        meta
    };
    a.spec == b.spec && labels(a) == labels(b) && rest(a) == rest(b)
}

/// The oldest set with the deployment's template, and the others; both in order of creation.
pub fn new_and_old(d: &Deployment, sets: &[Set]) -> (Option<Set>, Vec<Set>) {
    let mut sorted = sets.to_vec();
    sorted.sort_by(|a, b| by_creation(a, b));
    let template = d.spec.as_ref().map(|s| &s.template);
    let found = sorted.iter().position(|rs| {
        let own = rs.spec.as_ref().and_then(|s| s.template.as_ref());
        own.zip(template).is_some_and(|(a, b)| same_template(a, b))
    });
    let new = found.map(|i| sorted.remove(i));
    (new, sorted)
}

pub fn by_creation(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    created(&a.metadata).cmp(&created(&b.metadata)).then_with(|| name(&a.metadata).cmp(name(&b.metadata)))
}

pub fn is_active(rs: &ReplicaSet) -> bool {
    set_wanted(rs) > 0
}

pub fn total(sets: &[Set], count: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.iter().map(|rs| count(rs)).sum()
}

/// The desired and maximal numbers that a set should carry; `None` when it already does.
pub fn size_annotations(rs: &ReplicaSet, desired: i32, max: i32) -> Option<StringMap> {
    let mut map = rs.metadata.annotations.clone().unwrap_or_default();
    let (desired, max) = (desired.to_string(), max.to_string());
    if map.get(DESIRED) == Some(&desired) && map.get(MAX) == Some(&max) {
        return None;
    }
    map.insert(DESIRED.into(), desired);
    map.insert(MAX.into(), max);
    Some(map)
}

/// What the new set should carry: the deployment's annotations, its revision, and the revisions it had before.
/// `None` when it already does.
pub fn new_annotations(
    d: &Deployment,
    current: Option<&StringMap>,
    revision_wanted: i64,
) -> Option<StringMap> {
    let mut map = current.cloned().unwrap_or_default();
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            map.insert(key.clone(), value.clone());
        }
    }
    let old_text = entry(current, REVISION);
    let old: Option<i64> = old_text.map_or(Some(0), |t| t.parse().ok());
    if let Some(old) = old
        && old < revision_wanted
    {
        map.insert(REVISION.into(), revision_wanted.to_string());
        if let Some(text) = old_text {
            let history = map.remove(REVISION_HISTORY).unwrap_or_default();
            let mut parts: Vec<&str> = history.split(',').filter(|p| !p.is_empty()).collect();
            if old > 0 {
                parts.push(text);
            }
            while !parts.is_empty() && parts.iter().map(|p| p.len() + 1).sum::<usize>() > HISTORY_CHARS {
                parts.remove(0);
            }
            if !parts.is_empty() {
                map.insert(REVISION_HISTORY.into(), parts.join(","));
            }
        }
    }
    if Some(&map) == current || (current.is_none() && map.is_empty()) { None } else { Some(map) }
}

/// Sets that no one needs, oldest revision first.
pub fn to_clean(d: &Deployment, old: &[Set]) -> Vec<Set> {
    let Some(limit) = d.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|n| *n != i32::MAX)
    else {
        return Vec::new();
    };
    let mut alive: Vec<Set> = old.iter().filter(|rs| !is_deleting(&rs.metadata)).cloned().collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by(|a, b| {
        let rev = |rs: &ReplicaSet| revision(rs.metadata.annotations.as_ref());
        rev(a).cmp(&rev(b)).then_with(|| by_creation(a, b))
    });
    alive.truncate(surplus);
    alive.retain(|rs| {
        let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        set_actual(rs) == 0 && set_wanted(rs) == 0 && rs.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}
