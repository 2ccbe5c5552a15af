//! The node's own pod conditions.

use super::resources::is_sidecar;
use super::status::Inputs;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

struct Verdict {
    on: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const YES: Self = Self { on: true, reason: None, message: None };

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { on: false, reason: Some(reason), message }
    }
}

/// Upstream's order, then what other writers added.
pub fn conditions(
    i: &Inputs<'_>,
    spec: &PodSpec,
    status: &PodStatus,
    old: &[PodCondition],
) -> Vec<PodCondition> {
    let sandbox = i.observed.sandbox.as_ref().is_some_and(|s| s.ready);
    let network = spec.host_network == Some(true) || !i.memory.ips.is_empty();
    let ground = Verdict { on: sandbox && network, reason: None, message: None };
    let containers = containers_ready(spec, status);
    let ready = ready(spec, old, &containers);
    let mut out: Vec<PodCondition> = [ground, initialized(spec, status), ready, containers]
        .into_iter()
        .zip(OURS)
        .map(|(v, type_)| {
            let value = if v.on { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == type_);
            let since = before.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: type_.into(),
                status: value.into(),
                reason: v.reason.map(Into::into),
                message: v.message,
                last_transition_time: Some(since.unwrap_or(Time(i.now))),
                observed_generation: i.pod.metadata.generation,
                last_probe_time: None,
            }
        })
        .collect();
    out.extend(old.iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned());
    if !out.iter().any(|c| c.type_ == "PodScheduled") {
        out.push(PodCondition {
            type_: "PodScheduled".into(),
            status: "True".into(),
            last_transition_time: Some(Time(i.now)),
            observed_generation: i.pod.metadata.generation,
            ..Default::default()
        });
    }
    out
}

fn initialized(spec: &PodSpec, status: &PodStatus) -> Verdict {
    let specs = spec.init_containers.as_deref().unwrap_or_default();
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { on: true, reason: Some("PodCompleted"), message: None };
    }
    let started = status
        .container_statuses
        .iter()
        .flatten()
        .any(|s| s.container_id.is_some() || s.state.as_ref().is_some_and(|s| s.running.is_some()));
    let empty = Vec::new();
    let statuses = status.init_container_statuses.as_ref().unwrap_or(&empty);
    let incomplete: Vec<&str> = specs
        .iter()
        .zip(statuses)
        .filter(
            |(c, s)| if is_sidecar(c) { s.started != Some(true) && !started } else { !s.ready && !started },
        )
        .map(|(c, _)| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::YES;
    }
    Verdict::no(
        "ContainersNotInitialized",
        Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
    )
}

fn containers_ready(spec: &PodSpec, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no("PodCompleted", None),
        Some("Failed") => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let unready = |s: &&ContainerStatus| !s.ready;
    let names: Vec<&str> = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|s| sidecars.contains(&s.name.as_str()))
        .chain(status.container_statuses.iter().flatten())
        .filter(unready)
        .map(|s| s.name.as_str())
        .collect();
    if names.is_empty() {
        return Verdict::YES;
    }
    Verdict::no("ContainersNotReady", Some(format!("containers with unready status: [{}]", names.join(" "))))
}

fn ready(spec: &PodSpec, old: &[PodCondition], containers: &Verdict) -> Verdict {
    if !containers.on {
        return Verdict { on: false, reason: containers.reason, message: containers.message.clone() };
    }
    let complaints: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| match old.iter().find(|c| c.type_ == gate.condition_type) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => Some(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => None,
        })
        .collect();
    if complaints.is_empty() {
        return Verdict::YES;
    }
    Verdict::no("ReadinessGatesNotReady", Some(complaints.join(", ")))
}
