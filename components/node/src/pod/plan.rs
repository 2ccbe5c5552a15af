//! What to do next for a pod. Pure: the same view gives the same plan.
//!
//! The plan is level-triggered. It says everything that should be under way now; the actor starts what is not under
//! way yet, and asks again when anything has changed or `wake` has come.

use super::backoff::go_duration;
use super::observed::{Ground, Memory, Observed, Waiting, is_alive, time};
use super::resources::is_sidecar;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::{ContainerState, ContainerStatus};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mount the volumes, make the sandbox, attach the network.
    Prepare {
        attempt: u32,
    },
    Start {
        name: String,
        attempt: u32,
    },
    Kill {
        name: String,
        id: String,
        message: String,
    },
    /// Stop every container (hooks, signals, in order), then the sandbox.
    StopPod {
        grace: i64,
    },
    /// Everything is stopped: give back network and volumes.
    Clean,
    /// The pod cannot go on; phase Failed.
    Fail {
        reason: String,
        message: String,
    },
    /// A dead container that is not needed for logs any more.
    Remove {
        id: String,
    },
    /// Gone for good: remove it from the API.
    Delete,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Ask again at this time.
    pub wake: Option<Timestamp>,
    /// Reasons found while planning (`CrashLoopBackOff`); they replace what was remembered.
    pub waiting: BTreeMap<String, Waiting>,
}

pub struct View<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &view.pod.spec else { return plan };
    if must_stop(view) {
        stop(view, &mut plan);
        return plan;
    }
    if let Some(end) = deadline(view, spec) {
        if end <= view.now {
            plan.actions
                .push(Action::Fail { reason: "DeadlineExceeded".into(), message: DEADLINE_MESSAGE.into() });
            return plan;
        }
        plan.wake_at(end);
    }
    if !ground(view, spec, &mut plan) {
        return plan;
    }
    if let Some(list) = &spec.ephemeral_containers {
        for c in list.iter().filter(|c| view.observed.latest(&c.name).is_none()) {
            start(view, &c.name, &mut plan);
        }
    }
    if initialize(view, spec, &mut plan) {
        mains(view, spec, &mut plan);
    }
    collect(view, &mut plan);
    plan
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Asked to go (deletion), judged failed, or done already according to the API.
pub fn must_stop(view: &View<'_>) -> bool {
    view.pod.metadata.deletion_timestamp.is_some()
        || view.memory.failed.is_some()
        || view.memory.done
        || is_terminal(view.pod)
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded"))
}

fn grace(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .filter(|_| pod.metadata.deletion_timestamp.is_some())
        .or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(30)
}

fn stop(view: &View<'_>, plan: &mut Plan) {
    let sandbox_up = view.observed.sandbox.as_ref().is_some_and(|s| s.ready);
    if view.observed.alive().next().is_some() || sandbox_up {
        plan.actions.push(Action::StopPod { grace: grace(view.pod) });
        return;
    }
    if !view.memory.busy.is_empty() || view.memory.ground == Ground::Busy {
        // A start under way ends by itself, and is then stopped.
        plan.actions.push(Action::StopPod { grace: grace(view.pod) });
        return;
    }
    if !view.memory.clean {
        if !view.memory.cleaning {
            plan.actions.push(Action::Clean);
        }
        return;
    }
    if view.pod.metadata.deletion_timestamp.is_some() {
        plan.actions.push(Action::Delete);
    }
}

fn deadline(view: &View<'_>, spec: &PodSpec) -> Option<Timestamp> {
    let start = view.memory.start_time?;
    start.checked_add(SignedDuration::from_secs(spec.active_deadline_seconds?)).ok()
}

/// True when sandbox and volumes are there. Asks for them otherwise, unless the pod has nothing left to run.
fn ground(view: &View<'_>, spec: &PodSpec, plan: &mut Plan) -> bool {
    let sandbox = view.observed.sandbox.as_ref();
    let up = sandbox.is_some_and(|s| s.ready);
    match view.memory.ground {
        Ground::Ready if up => return true,
        Ground::Busy => return false,
        _ => {}
    }
    if !up {
        // The sandbox died under its containers: they go first.
        if view.observed.alive().next().is_some() {
            for c in view.observed.alive().filter(|c| !view.memory.busy.contains(&c.name)) {
                plan.actions.push(Action::Kill {
                    name: c.name.clone(),
                    id: c.id.clone(),
                    message: "Pod sandbox changed, it will be killed and re-created.".into(),
                });
            }
            return false;
        }
        let ran = spec.containers.iter().any(|c| view.observed.latest(&c.name).is_some());
        let more = spec.containers.iter().any(|c| match view.observed.latest(&c.name) {
            None => spec.restart_policy.as_deref() != Some("Never") || !ran,
            Some(st) => restarts(spec, c, st),
        });
        if ran && !more {
            return false;
        }
    }
    if let Some(at) = view.memory.ground_retry.filter(|at| *at > view.now) {
        plan.wake_at(at);
        return false;
    }
    let attempt = match sandbox {
        None => 0,
        Some(s) if s.ready => s.config.attempt,
        Some(s) => s.config.attempt + 1,
    };
    plan.actions.push(Action::Prepare { attempt });
    false
}

/// The policy that holds for one container: its own rules, its own policy, the pod's.
pub fn restarts(spec: &PodSpec, c: &Container, st: &ContainerStatus) -> bool {
    for rule in c.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == st.exit_code);
        let hit = if codes.operator == "NotIn" { !listed } else { listed };
        if hit && rule.action == "Restart" {
            return true;
        }
    }
    match c.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => st.exit_code != 0,
        _ => true,
    }
}

/// Works through the init containers; true when the main ones may run.
fn initialize(view: &View<'_>, spec: &PodSpec, plan: &mut Plan) -> bool {
    let started_mains = spec.containers.iter().any(|c| view.observed.latest(&c.name).is_some());
    let list = spec.init_containers.as_deref().unwrap_or_default();
    for (i, c) in list.iter().enumerate() {
        let latest = view.observed.latest(&c.name);
        // Something after it ran, so it was done once.
        let passed = started_mains || list[i + 1..].iter().any(|n| view.observed.latest(&n.name).is_some());
        if is_sidecar(c) {
            match latest {
                Some(st) if st.state == ContainerState::Running => {
                    if let Some(message) = view.memory.unhealthy.get(&st.id) {
                        kill(view, st, message, plan);
                    }
                    if !passed && !view.memory.is_started(st, c.startup_probe.as_ref()) {
                        return false;
                    }
                }
                Some(st) if st.state == ContainerState::Exited && mains_done(view, spec) => {}
                _ => {
                    restart(view, &c.name, latest, plan);
                    if !passed {
                        return false;
                    }
                }
            }
            continue;
        }
        if started_mains {
            continue;
        }
        match latest {
            Some(st) if st.state == ContainerState::Running => return false,
            Some(st) if st.state == ContainerState::Exited && st.exit_code == 0 => {}
            Some(_) if passed => {}
            Some(st) if st.state == ContainerState::Exited => {
                let again = match c.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
                    Some("Never") => c.restart_policy_rules.is_some() && restarts(spec, c, st),
                    _ => true,
                };
                if again {
                    restart(view, &c.name, latest, plan);
                } else {
                    plan.actions.push(Action::StopPod { grace: grace(view.pod) });
                }
                return false;
            }
            _ => {
                restart(view, &c.name, latest, plan);
                return false;
            }
        }
    }
    true
}

fn mains_done(view: &View<'_>, spec: &PodSpec) -> bool {
    spec.containers.iter().all(|c| {
        view.observed
            .latest(&c.name)
            .is_some_and(|st| st.state == ContainerState::Exited && !restarts(spec, c, st))
    })
}

fn mains(view: &View<'_>, spec: &PodSpec, plan: &mut Plan) {
    if mains_done(view, spec) && view.memory.busy.is_empty() {
        plan.actions.push(Action::StopPod { grace: grace(view.pod) });
        return;
    }
    for c in &spec.containers {
        match view.observed.latest(&c.name) {
            None => start(view, &c.name, plan),
            Some(st) if st.state == ContainerState::Running => {
                let wanted = c.image.as_deref().unwrap_or_default();
                if let Some(message) = view.memory.unhealthy.get(&st.id) {
                    kill(view, st, message, plan);
                } else if !st.image_ref.is_empty() && st.image_ref != wanted {
                    let message = format!("Container {} definition changed, will be restarted", c.name);
                    kill(view, st, &message, plan);
                }
            }
            Some(st) if st.state == ContainerState::Exited && !restarts(spec, c, st) => {}
            latest => restart(view, &c.name, latest, plan),
        }
    }
}

fn kill(view: &View<'_>, st: &ContainerStatus, message: &str, plan: &mut Plan) {
    if !view.memory.busy.contains(&st.name) {
        plan.actions.push(Action::Kill {
            name: st.name.clone(),
            id: st.id.clone(),
            message: message.to_owned(),
        });
    }
}

fn start(view: &View<'_>, name: &str, plan: &mut Plan) {
    restart(view, name, view.observed.latest(name), plan);
}

/// Starts a container for the first time or again, after its back-off.
fn restart(view: &View<'_>, name: &str, latest: Option<&ContainerStatus>, plan: &mut Plan) {
    if view.memory.busy.contains(name) {
        return;
    }
    if let Some(at) = view.memory.retry.get(name).filter(|at| **at > view.now) {
        plan.wake_at(*at);
        return;
    }
    if let Some(st) = latest.filter(|st| st.state == ContainerState::Exited) {
        let failed = time(st.finished_at_ns).unwrap_or(view.now);
        if let Some(end) = view.memory.backoff.until(name, failed, view.now) {
            plan.wake_at(end);
            let meta = &view.pod.metadata;
            plan.waiting.insert(
                name.to_owned(),
                Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message: format!(
                        "back-off {} restarting failed container={name} pod={}_{}({})",
                        go_duration(view.memory.backoff.delay(name)),
                        meta.name.as_deref().unwrap_or_default(),
                        meta.namespace.as_deref().unwrap_or_default(),
                        meta.uid.as_deref().unwrap_or_default(),
                    ),
                },
            );
            return;
        }
    }
    let known = restart_count(view.pod, name);
    let attempt = match (latest, known) {
        (None, None) => 0,
        (None, Some(n)) => n + 1,
        // A container that was made but never ran is replaced, it does not count.
        (Some(st), n) if st.state == ContainerState::Created => st.attempt.max(n.unwrap_or(0)),
        (Some(st), n) => (st.attempt + 1).max(n.unwrap_or(0)),
    };
    plan.actions.push(Action::Start { name: name.to_owned(), attempt });
}

/// What the API says of a container that once ran; the runtime may have lost it.
fn restart_count(pod: &Pod, name: &str) -> Option<u32> {
    let status = pod.status.as_ref()?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let found = all.into_iter().find(|c| c.name == name)?;
    found.container_id.as_ref().filter(|id| !id.is_empty())?;
    u32::try_from(found.restart_count).ok()
}

/// Keeps the newest dead container of each name (its logs are `--previous`).
fn collect(view: &View<'_>, plan: &mut Plan) {
    for list in view.observed.containers.values() {
        let keep = if list.last().is_some_and(is_alive) { 2 } else { 1 };
        for old in list.iter().rev().skip(keep).filter(|c| !is_alive(c)) {
            plan.actions.push(Action::Remove { id: old.id.clone() });
        }
    }
}
