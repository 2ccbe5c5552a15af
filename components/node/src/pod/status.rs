//! From what is known of a pod to its `status`. Pure.

use super::observed::{Memory, Observed, time};
use super::plan::restarts;
use super::resources::{is_sidecar, qos};
use crate::pod::conditions::conditions;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus, VolumeMount,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus as Run};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub const ID_PREFIX: &str = "ironclad://";

pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    /// Reasons the plan found just now.
    pub waiting: &'a BTreeMap<String, super::observed::Waiting>,
    pub host_ips: &'a [IpAddr],
    pub now: Timestamp,
}

/// The whole status, keeping from the last one what is not the node's: other writers' conditions, resize and claim
/// statuses, and every transition time that still holds.
pub fn status(i: &Inputs<'_>) -> PodStatus {
    let old = i.pod.status.clone().unwrap_or_default();
    let Some(spec) = &i.pod.spec else { return old };
    if let Some((reason, message)) = &i.memory.failed
        && !i.observed.has_runs()
        && old.container_statuses.is_none()
    {
        // Never begun: there is nothing to say of its containers, and `kubectl get` shows the reason.
        return PodStatus {
            phase: Some("Failed".into()),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            observed_generation: i.pod.metadata.generation,
            start_time: i.memory.start_time.map(Time).or_else(|| old.start_time.clone()),
            qos_class: Some(qos(i.pod).as_str().into()),
            ..old
        };
    }
    let initialized = has_started_mains(i, spec) || init_done(i, spec);
    let inits: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| {
            let s = container(i, c, "PodInitializing");
            ContainerStatus { ready: if is_sidecar(c) { s.ready } else { init_succeeded(&s) }, ..s }
        })
        .collect();
    let default = if spec.init_containers.as_ref().is_some_and(|l| !l.is_empty()) && !initialized {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let mains: Vec<ContainerStatus> = spec.containers.iter().map(|c| container(i, c, default)).collect();
    let ephemerals: Vec<ContainerStatus> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .filter_map(|e| super::observed::as_container(i.pod, &e.name))
        .map(|c| ContainerStatus { ready: false, ..container(i, &c, "ContainerCreating") })
        .collect();
    let phase = final_phase(&old).unwrap_or_else(|| phase(i, spec, &inits, &mains, initialized));
    let (reason, message) = match &i.memory.failed {
        Some((r, m)) => (Some(r.clone()), Some(m.clone())),
        None if matches!(phase.as_str(), "Failed" | "Succeeded") => (old.reason.clone(), old.message.clone()),
        None => (None, None),
    };
    let mut out = PodStatus {
        phase: Some(phase),
        reason,
        message,
        observed_generation: i.pod.metadata.generation,
        start_time: i.memory.start_time.map(Time).or_else(|| old.start_time.clone()),
        host_ip: i.host_ips.first().map(ToString::to_string),
        host_ips: Some(i.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        qos_class: Some(qos(i.pod).as_str().into()),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(mains),
        ephemeral_container_statuses: (!ephemerals.is_empty()).then_some(ephemerals),
        ..old.clone()
    };
    let ips = if spec.host_network == Some(true) { i.host_ips } else { &i.memory.ips[..] };
    if !ips.is_empty() && (spec.host_network == Some(true) || i.observed.sandbox.is_some()) {
        out.pod_ip = Some(ips[0].to_string());
        out.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
    out.conditions = Some(conditions(i, spec, &out, old.conditions.as_deref().unwrap_or_default()));
    out
}

fn final_phase(old: &PodStatus) -> Option<String> {
    old.phase.clone().filter(|p| p == "Failed" || p == "Succeeded")
}

fn has_started_mains(i: &Inputs<'_>, spec: &PodSpec) -> bool {
    spec.containers.iter().any(|c| i.observed.latest(&c.name).is_some())
}

fn init_done(i: &Inputs<'_>, spec: &PodSpec) -> bool {
    spec.init_containers.iter().flatten().all(|c| {
        i.observed.latest(&c.name).is_some_and(|st| {
            if is_sidecar(c) {
                i.memory.is_started(st, c.startup_probe.as_ref())
            } else {
                st.state == ContainerState::Exited && st.exit_code == 0
            }
        })
    })
}

fn init_succeeded(s: &ContainerStatus) -> bool {
    s.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
}

fn terminated(run: &Run) -> ContainerStateTerminated {
    let reason = match (&run.reason, run.exit_code) {
        (r, _) if !r.is_empty() => r.clone(),
        (_, 0) => "Completed".into(),
        _ => "Error".into(),
    };
    ContainerStateTerminated {
        container_id: Some(format!("{ID_PREFIX}{}", run.id)),
        exit_code: run.exit_code,
        signal: (run.signal != 0).then_some(run.signal),
        reason: Some(reason),
        message: (!run.message.is_empty()).then(|| run.message.clone()),
        started_at: time(run.started_at_ns).or_else(|| time(run.created_at_ns)).map(Time),
        finished_at: time(run.finished_at_ns).map(Time),
    }
}

fn container(i: &Inputs<'_>, c: &Container, default_waiting: &str) -> ContainerStatus {
    let latest = i.observed.latest(&c.name);
    let old = old_status(i.pod, &c.name);
    let image = c.image.clone().unwrap_or_default();
    let waiting = i.waiting.get(&c.name).or_else(|| i.memory.waiting.get(&c.name));
    let mut out = ContainerStatus {
        name: c.name.clone(),
        image,
        image_id: String::new(),
        started: Some(false),
        allocated_resources: c.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty()),
        resources: c.resources.clone().or_else(|| Some(Default::default())),
        volume_mounts: mounts(c.volume_mounts.as_deref().unwrap_or_default()),
        ..Default::default()
    };
    let wait = |reason: &str, message: Option<String>| {
        Some(State {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
            ..Default::default()
        })
    };
    let waiting_state = || match waiting {
        Some(w) => wait(&w.reason, (!w.message.is_empty()).then(|| w.message.clone())),
        None => wait(default_waiting, None),
    };
    let done = |run: &Run| Some(State { terminated: Some(terminated(run)), ..Default::default() });
    let Some(run) = latest else {
        if let Some(old) = old.filter(|o| o.container_id.as_ref().is_some_and(|id| !id.is_empty())) {
            return lost(i, c, old, out, waiting_state());
        }
        out.state = waiting_state();
        return out;
    };
    out.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
    if !run.image_ref.is_empty() {
        out.image.clone_from(&run.image_ref);
    }
    out.image_id.clone_from(&run.image_id);
    let previous = i.observed.previous(&c.name).filter(|p| p.state == ContainerState::Exited);
    out.last_state = Some(previous.and_then(done).unwrap_or_default());
    match run.state {
        ContainerState::Running => {
            out.container_id = Some(format!("{ID_PREFIX}{}", run.id));
            out.state = Some(State {
                running: Some(ContainerStateRunning { started_at: time(run.started_at_ns).map(Time) }),
                ..Default::default()
            });
            out.started = Some(i.memory.is_started(run, c.startup_probe.as_ref()));
            out.ready = i.memory.is_ready(run, c);
        }
        ContainerState::Exited | ContainerState::Unknown => {
            out.container_id = Some(format!("{ID_PREFIX}{}", run.id));
            let spec = i.pod.spec.as_ref();
            let again = spec.is_some_and(|s| restarts(s, c, run)) && !super::plan::must_stop(&view(i));
            match waiting.filter(|_| again) {
                Some(_) => {
                    out.state = waiting_state();
                    out.last_state = done(run);
                }
                None => out.state = done(run),
            }
        }
        ContainerState::Created => {
            out.state = waiting_state();
            if let Some(p) = previous {
                out.container_id = Some(format!("{ID_PREFIX}{}", p.id));
                out.restart_count = i32::try_from(p.attempt).unwrap_or(i32::MAX);
            }
        }
    }
    out
}

fn view<'a>(i: &'a Inputs<'a>) -> super::plan::View<'a> {
    super::plan::View { pod: i.pod, observed: i.observed, memory: i.memory, now: i.now }
}

/// The API knows a run of it, the runtime does not: say so once, as upstream does.
fn lost(
    i: &Inputs<'_>,
    c: &Container,
    old: &ContainerStatus,
    out: ContainerStatus,
    waiting: Option<State>,
) -> ContainerStatus {
    let gone = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..Default::default()
    };
    let was_done = old.state.as_ref().is_some_and(|s| s.terminated.is_some());
    if super::plan::must_stop(&view(i)) {
        if was_done {
            return ContainerStatus { ready: false, started: Some(false), ..old.clone() };
        }
        return ContainerStatus {
            state: Some(State { terminated: Some(gone), ..Default::default() }),
            restart_count: old.restart_count,
            ..out
        };
    }
    if was_done && !is_always(i, c) {
        return old.clone();
    }
    let last = old
        .state
        .as_ref()
        .filter(|s| s.terminated.is_some())
        .or(old.last_state.as_ref().filter(|s| s.terminated.is_some()))
        .cloned()
        .unwrap_or(State { terminated: Some(gone), ..Default::default() });
    ContainerStatus { state: waiting, last_state: Some(last), restart_count: old.restart_count, ..out }
}

fn is_always(i: &Inputs<'_>, c: &Container) -> bool {
    let pod = i.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    c.restart_policy.as_deref().or(pod).unwrap_or("Always") == "Always"
}

fn old_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let s = pod.status.as_ref()?;
    s.container_statuses
        .iter()
        .flatten()
        .chain(s.init_container_statuses.iter().flatten())
        .chain(s.ephemeral_container_statuses.iter().flatten())
        .find(|c| c.name == name)
}

fn mounts(list: &[VolumeMount]) -> Option<Vec<VolumeMountStatus>> {
    let out: Vec<VolumeMountStatus> = list
        .iter()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: m
                .read_only
                .filter(|r| *r)
                .map(|_| m.recursive_read_only.as_ref().map_or("Disabled", |v| v.as_str()).to_owned())
                .map(|v| if v == "IfPossible" { "Enabled".into() } else { v }),
            ..Default::default()
        })
        .collect();
    (!out.is_empty()).then_some(out)
}

#[derive(Default)]
struct Count {
    unknown: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

fn tally(list: &[ContainerStatus]) -> Count {
    let mut n = Count::default();
    for s in list {
        let state = s.state.clone().unwrap_or_default();
        let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref());
        if state.running.is_some() {
            n.running += 1;
        } else if let Some(t) = state.terminated {
            n.stopped += 1;
            n.succeeded += usize::from(t.exit_code == 0);
        } else if state.waiting.is_some() {
            if last.is_some() { n.stopped += 1 } else { n.waiting += 1 }
        } else {
            n.unknown += 1;
        }
    }
    n
}

fn phase(
    i: &Inputs<'_>,
    spec: &PodSpec,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    initialized: bool,
) -> String {
    if i.memory.failed.is_some() {
        return "Failed".into();
    }
    let never = spec.restart_policy.as_deref() == Some("Never");
    let n = tally(mains);
    let specs = spec.init_containers.as_deref().unwrap_or_default();
    let init_failed = specs.iter().zip(inits).any(|(c, s)| {
        !is_sidecar(c)
            && s.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code != 0)
            && i.observed.latest(&c.name).is_none_or(|run| match c.restart_policy.as_deref() {
                Some("Never") => !restarts(spec, c, run),
                _ => never,
            })
    });
    let sidecars_running = specs
        .iter()
        .zip(inits)
        .any(|(c, s)| is_sidecar(c) && s.state.as_ref().is_some_and(|s| s.running.is_some()));
    let gone = i.pod.metadata.deletion_timestamp.is_some()
        && i.memory.busy.is_empty()
        && i.observed.alive().next().is_none()
        && !i.observed.sandbox.as_ref().is_some_and(|s| s.ready);
    let was_running = i.pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let phase = if init_failed {
        "Failed"
    } else if gone {
        let all = n.succeeded == mains.len() && !mains.is_empty();
        // What never ran did not succeed.
        if all { "Succeeded" } else { "Failed" }
    } else if !initialized || n.waiting > 0 && !was_running {
        "Pending"
    } else if n.running > 0 && n.unknown == 0 || n.waiting > 0 {
        "Running"
    } else if n.stopped > 0 && n.unknown == 0 {
        let policy = |c: &Container| i.observed.latest(&c.name).is_some_and(|run| restarts(spec, c, run));
        if sidecars_running || spec.containers.iter().any(policy) || any_restarting(mains) {
            "Running"
        } else if n.stopped == n.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    } else {
        "Pending"
    };
    phase.into()
}

fn any_restarting(mains: &[ContainerStatus]) -> bool {
    mains.iter().any(|s| s.state.as_ref().is_some_and(|s| s.waiting.is_some()))
}
