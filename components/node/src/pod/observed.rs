//! What the actor knows of its pod: what the runtime says, and what only the actor remembers.

use super::backoff::Backoff;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, SandboxStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The runtime's side: the pod's sandbox and every container it still knows, oldest attempt first.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandbox: Option<SandboxStatus>,
    pub containers: BTreeMap<String, Vec<ContainerStatus>>,
}

impl Observed {
    /// Whether any container was ever made.
    pub fn has_runs(&self) -> bool {
        self.containers.values().any(|runs| !runs.is_empty())
    }

    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.get(name)?.last()
    }

    /// The run before the latest one.
    pub fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.get(name)?.iter().rev().nth(1)
    }

    pub fn by_id(&self, id: &str) -> Option<&ContainerStatus> {
        self.containers.values().flatten().find(|c| c.id == id)
    }

    pub fn put(&mut self, status: ContainerStatus) {
        let list = self.containers.entry(status.name.clone()).or_default();
        match list.iter_mut().find(|c| c.id == status.id) {
            Some(slot) => *slot = status,
            None => {
                list.push(status);
                list.sort_by_key(|c| (c.attempt, c.created_at_ns));
            }
        }
    }

    pub fn remove(&mut self, id: &str) {
        for list in self.containers.values_mut() {
            list.retain(|c| c.id != id);
        }
        self.containers.retain(|_, l| !l.is_empty());
    }

    pub fn alive(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.values().flatten().filter(|c| is_alive(c))
    }
}

pub fn is_alive(c: &ContainerStatus) -> bool {
    matches!(c.state, ContainerState::Running | ContainerState::Created)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// Where the pod's common ground (volumes, sandbox, network) stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    #[default]
    Missing,
    Busy,
    Ready,
}

/// The actor's side.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub ground: Ground,
    /// Not before this is the ground tried again.
    pub ground_retry: Option<Timestamp>,
    pub ips: Vec<IpAddr>,
    pub start_time: Option<Timestamp>,
    /// Containers with an operation under way.
    pub busy: BTreeSet<String>,
    /// Why a container is not running, where an attempt said so.
    pub waiting: BTreeMap<String, Waiting>,
    /// Not before this is the container tried again.
    pub retry: BTreeMap<String, Timestamp>,
    pub backoff: Backoff,
    /// Containers (ids) whose startup probe failed or passed.
    pub started: BTreeMap<String, bool>,
    /// Readiness by container id.
    pub ready: BTreeMap<String, bool>,
    /// Containers (ids) to be killed, and what the event says.
    pub unhealthy: BTreeMap<String, String>,
    /// A verdict on the whole pod: reason and message of phase Failed.
    pub failed: Option<(String, String)>,
    /// The last computed phase was a final one.
    pub done: bool,
    /// Everything is stopped and given back; only dead containers' logs are left.
    pub clean: bool,
    pub cleaning: bool,
}

/// A container of any of the three lists, seen the same way.
#[derive(Clone, Copy, Debug)]
pub enum Spec<'a> {
    Init(&'a Container),
    Main(&'a Container),
    Ephemeral(&'a EphemeralContainer),
}

pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<Spec<'a>> {
    let spec = pod.spec.as_ref()?;
    if let Some(c) = spec.containers.iter().find(|c| c.name == name) {
        return Some(Spec::Main(c));
    }
    if let Some(c) = spec.init_containers.iter().flatten().find(|c| c.name == name) {
        return Some(Spec::Init(c));
    }
    spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(Spec::Ephemeral)
}

/// One shape for all: an ephemeral container becomes a container without the fields it cannot have.
pub fn as_container(pod: &Pod, name: &str) -> Option<Container> {
    Some(match find(pod, name)? {
        Spec::Init(c) | Spec::Main(c) => c.clone(),
        Spec::Ephemeral(e) => Container {
            name: e.name.clone(),
            image: e.image.clone(),
            image_pull_policy: e.image_pull_policy.clone(),
            command: e.command.clone(),
            args: e.args.clone(),
            working_dir: e.working_dir.clone(),
            env: e.env.clone(),
            env_from: e.env_from.clone(),
            volume_mounts: e.volume_mounts.clone(),
            volume_devices: e.volume_devices.clone(),
            security_context: e.security_context.clone(),
            stdin: e.stdin,
            stdin_once: e.stdin_once,
            tty: e.tty,
            termination_message_path: e.termination_message_path.clone(),
            termination_message_policy: e.termination_message_policy.clone(),
            resources: e.resources.clone(),
            ..Default::default()
        },
    })
}

impl Memory {
    /// Takes over what ran before the agent came back: probe verdicts and addresses as the API last heard them.
    pub fn adopt(&mut self, pod: &Pod, observed: &Observed) {
        let Some(status) = &pod.status else { return };
        let all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        for s in all {
            let Some(run) = observed.latest(&s.name).filter(|r| r.state == ContainerState::Running) else {
                continue;
            };
            if s.container_id.as_deref() != Some(&format!("{}{}", super::status::ID_PREFIX, run.id)) {
                continue;
            }
            if s.started == Some(true) {
                self.started.insert(run.id.clone(), true);
            }
            self.ready.insert(run.id.clone(), s.ready);
        }
        if observed.sandbox.as_ref().is_some_and(|s| s.ready) {
            self.ips = status.pod_ips.iter().flatten().filter_map(|p| p.ip.parse().ok()).collect();
        }
    }

    /// Whether a running container counts as started: its start is complete and its startup probe, if any, passed.
    pub fn is_started(&self, c: &ContainerStatus, startup_probe: Option<&Probe>) -> bool {
        c.state == ContainerState::Running
            && !self.busy.contains(&c.name)
            && (startup_probe.is_none() || self.started.get(&c.id) == Some(&true))
    }

    pub fn is_ready(&self, c: &ContainerStatus, spec: &Container) -> bool {
        self.is_started(c, spec.startup_probe.as_ref())
            && (spec.readiness_probe.is_none() || self.ready.get(&c.id) == Some(&true))
    }
}

pub fn time(ns: i64) -> Option<Timestamp> {
    (ns > 0).then(|| Timestamp::from_nanosecond(i128::from(ns)).ok()).flatten()
}
