//! The status of a deployment: counts and conditions, with upstream's reasons and words. Pure.

use client::objects::name;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::util::{
    Set, condition, deadline, max_unavailable, set_actual, set_available, set_ready, set_wanted, total,
    wanted,
};

pub fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition, unless one with the same status and reason is there.
pub fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|c| c.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// Counts, and the Available condition.
pub fn calculate(d: &Deployment, all: &[Set], new: Option<&Set>, now: Timestamp) -> DeploymentStatus {
    let available = total(all, set_available);
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let old = d.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: Some(d.metadata.generation.unwrap_or(0)),
        replicas: some(total(all, set_actual)),
        updated_replicas: some(new.map_or(0, |rs| set_actual(rs))),
        ready_replicas: some(total(all, set_ready)),
        available_replicas: some(available),
        unavailable_replicas: some((total(all, set_wanted) - available).max(0)),
        terminating_replicas: terminating(all),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let condition = if available >= wanted(d) - max_unavailable(d) {
        let words = "Deployment has minimum availability.";
        new_condition("Available", "True", "MinimumReplicasAvailable", words.into(), now)
    } else {
        let words = "Deployment does not have minimum availability.";
        new_condition("Available", "False", "MinimumReplicasUnavailable", words.into(), now)
    };
    set_condition(&mut status, condition);
    status
}

/// Unknown until every set knows.
fn terminating(all: &[Set]) -> Option<i32> {
    all.iter().map(|rs| rs.status.as_ref().map_or(Some(0), |s| s.terminating_replicas)).sum()
}

pub fn is_complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    s.updated_replicas.unwrap_or(0) == wanted(d)
        && s.replicas.unwrap_or(0) == wanted(d)
        && s.available_replicas.unwrap_or(0) == wanted(d)
        && s.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

fn is_progressing(d: &Deployment, new: &DeploymentStatus) -> bool {
    let old = d.status.clone().unwrap_or_default();
    let n = |v: Option<i32>| v.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Whether the deadline has passed since progress was last seen.
fn timed_out(d: &Deployment, now: Timestamp) -> bool {
    let (Some(c), Some(seconds)) = (condition(d, "Progressing"), deadline(d)) else { return false };
    match c.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => c
            .last_update_time
            .as_ref()
            .is_some_and(|t| t.0.as_second() + i64::from(seconds) < now.as_second()),
    }
}

/// When the deadline must be looked at again, if it runs.
pub fn deadline_at(d: &Deployment, new: &DeploymentStatus, now: Timestamp) -> Option<Timestamp> {
    let seconds = deadline(d)?;
    let c = new.conditions.iter().flatten().find(|c| c.type_ == "Progressing")?;
    if is_complete(d, new) || c.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let from = c.last_update_time.as_ref().map_or(now, |t| t.0);
    Timestamp::from_second(from.as_second() + i64::from(seconds) + 1).ok()
}

/// The whole status of a rollout that goes on.
pub fn rollout(d: &Deployment, all: &[Set], new: Option<&Set>, now: Timestamp) -> DeploymentStatus {
    let mut status = calculate(d, all, new, now);
    let subject = match new {
        Some(rs) => format!("ReplicaSet \"{}\"", name(&rs.metadata)),
        None => format!("Deployment \"{}\"", name(&d.metadata)),
    };
    if deadline(d).is_none() {
        remove_condition(&mut status, "Progressing");
    }
    let current = condition(d, "Progressing");
    let finished = status.replicas == status.updated_replicas
        && current.is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if deadline(d).is_some() && !finished {
        if is_complete(d, &status) {
            let words = format!("{subject} has successfully progressed.");
            set_condition(
                &mut status,
                new_condition("Progressing", "True", "NewReplicaSetAvailable", words, now),
            );
        } else if is_progressing(d, &status) {
            let words = format!("{subject} is progressing.");
            let mut c = new_condition("Progressing", "True", "ReplicaSetUpdated", words, now);
            if let Some(current) = current {
                if current.status == "True" {
                    c.last_transition_time = current.last_transition_time.clone();
                }
                // So that the time of the last progress moves although the reason stays.
                remove_condition(&mut status, "Progressing");
            }
            set_condition(&mut status, c);
        } else if timed_out(d, now) {
            let words = format!("{subject} has timed out progressing.");
            set_condition(
                &mut status,
                new_condition("Progressing", "False", "ProgressDeadlineExceeded", words, now),
            );
        }
    }
    match failure(all, new) {
        Some(c) => set_condition(&mut status, c),
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    status
}

/// The failure of the new set, or else of any.
fn failure(all: &[Set], new: Option<&Set>) -> Option<DeploymentCondition> {
    let find = |rs: &Set| {
        let c =
            rs.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure")?.clone();
        Some(DeploymentCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_update_time: c.last_transition_time.clone(),
            last_transition_time: c.last_transition_time,
        })
    };
    new.and_then(find).or_else(|| all.iter().find_map(find))
}

/// The condition that pausing or resuming calls for, if it is not there.
pub fn pause_condition(d: &Deployment, now: Timestamp) -> Option<DeploymentCondition> {
    deadline(d)?;
    let reason = condition(d, "Progressing").and_then(|c| c.reason.as_deref());
    if reason == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let noted = reason == Some("DeploymentPaused");
    match (super::util::is_paused(d), noted) {
        (true, false) => {
            let words = "Deployment is paused".to_owned();
            Some(new_condition("Progressing", "Unknown", "DeploymentPaused", words, now))
        }
        (false, true) => {
            let words = "Deployment is resumed".to_owned();
            Some(new_condition("Progressing", "Unknown", "DeploymentResumed", words, now))
        }
        _ => None,
    }
}
