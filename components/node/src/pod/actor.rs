//! The loop of one pod: take in what happened, plan, start what the plan asks for, report the status.
//!
//! The actor owns everything it knows; operations run beside it and come back as [`Done`]. It ends when the pod is gone
//! from the API and everything of it is removed here.

use super::act::{self, Ground as Made, GroundError};
use super::observed::{self, Ground, Memory, Observed, Waiting, as_container};
use super::plan::{Action, View, plan};
use super::start::{self, Place, StartError};
use super::status::{self, Inputs};
use super::upkeep::{merged, pod_key, probe_grace, remove_everything};
use super::{identity, stop};
use crate::events::Kind;
use crate::probes::{Report, Subject, Type};
use crate::shared::Shared;
use crate::volumes::{self, PodVolumes};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

pub enum Msg {
    /// The pod as the API has it now.
    Pod(Box<Pod>),
    /// It is gone from the API.
    Gone,
    Container(ContainerEvent),
    /// Events were missed: look at everything again.
    Resync,
    Probe(Report),
    /// A container runs, though its start (a hook) is not complete.
    Running(ContainerStatus),
    /// Nothing happened, but look again.
    Look,
}

enum Done {
    Ground(Result<Made, GroundError>),
    Started(String, Result<String, StartError>),
    Killed(String),
    Stopped,
    Cleaned,
    Removed(String),
}

pub struct Actor {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    observed: Observed,
    memory: Memory,
    mailbox: mpsc::UnboundedReceiver<Msg>,
    back: mpsc::UnboundedSender<Msg>,
    ops: JoinSet<Done>,
    stopping: Option<(AbortHandle, i64)>,
    volumes: Option<volumes::Map>,
    refresher: Option<AbortHandle>,
    latest: watch::Sender<Arc<Pod>>,
    probed: BTreeSet<String>,
    removing: BTreeSet<String>,
    ground_failures: u32,
    gone: bool,
    reported: bool,
    /// The API had a final phase when we took over; its status stands.
    frozen: bool,
}

pub type Mailbox = mpsc::UnboundedSender<Msg>;

/// Starts the actor of a pod. `observed` is what the runtime already has of it; `failed` a verdict of admission.
pub fn spawn(
    shared: Arc<Shared>,
    pod: Pod,
    observed: Observed,
    failed: Option<(String, String)>,
) -> (Mailbox, tokio::task::JoinHandle<()>) {
    let (back, mailbox) = mpsc::unbounded_channel();
    let pod = Arc::new(pod);
    let mut memory = Memory { failed, ..Memory::default() };
    memory.start_time = pod
        .status
        .as_ref()
        .and_then(|s| s.start_time.as_ref())
        .map(|t| t.0)
        .or_else(|| Some(Timestamp::now()));
    memory.adopt(&pod, &observed);
    let frozen = super::plan::is_terminal(&pod);
    let actor = Actor {
        shared,
        latest: watch::Sender::new(pod.clone()),
        pod,
        observed,
        memory,
        mailbox,
        back: back.clone(),
        ops: JoinSet::new(),
        stopping: None,
        volumes: None,
        refresher: None,
        probed: BTreeSet::new(),
        removing: BTreeSet::new(),
        ground_failures: 0,
        gone: false,
        reported: false,
        frozen,
    };
    (back, tokio::spawn(actor.run()))
}

impl Actor {
    async fn run(mut self) {
        if self.observed.sandbox.is_some() || !self.observed.containers.is_empty() {
            // What happened between the inventory and now came as no event.
            self.refresh_all().await;
        }
        let mut wake = self.step();
        while !(self.gone && self.finished()) {
            tokio::select! {
                biased;
                Some(done) = self.ops.join_next() => {
                    if let Ok(done) = done {
                        self.done(done).await;
                    }
                }
                message = self.mailbox.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => return,
                },
                () = sleep(wake) => {}
            }
            // Whatever else is waiting belongs to the same step.
            while let Some(done) = self.ops.try_join_next() {
                if let Ok(done) = done {
                    self.done(done).await;
                }
            }
            while let Ok(message) = self.mailbox.try_recv() {
                self.take(message).await;
            }
            wake = self.step();
        }
        self.bury().await;
    }

    fn finished(&self) -> bool {
        self.memory.clean && self.ops.is_empty()
    }

    async fn take(&mut self, message: Msg) {
        match message {
            Msg::Pod(pod) => self.update(*pod),
            Msg::Gone => {
                self.gone = true;
                self.shared.statuses.forget(identity(&self.pod).2);
                let pod = Arc::make_mut(&mut self.pod);
                if pod.metadata.deletion_timestamp.is_none() {
                    pod.metadata.deletion_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
                    pod.metadata.deletion_grace_period_seconds = Some(0);
                }
            }
            Msg::Container(event) => match event.kind {
                ContainerEventKind::SandboxLost => self.refresh_all().await,
                _ => self.refresh(&event.container_id).await,
            },
            Msg::Resync => self.refresh_all().await,
            Msg::Probe(report) => self.probe(report),
            Msg::Running(st) => self.observed.put(st),
            Msg::Look => {}
        }
    }

    fn update(&mut self, mut pod: Pod) {
        let foreign = pod.status.take().unwrap_or_default();
        if matches!(foreign.phase.as_deref(), Some("Failed" | "Succeeded")) && !self.memory.done {
            self.memory.done = true;
            self.frozen = true;
        }
        let mine = self.pod.status.clone().unwrap_or_default();
        pod.status = Some(if self.frozen { foreign } else { merged(mine, foreign) });
        self.pod = Arc::new(pod);
        self.latest.send_replace(self.pod.clone());
    }

    fn probe(&mut self, report: Report) {
        let id = report.container_id;
        if self.observed.by_id(&id).is_none_or(|st| st.state != ContainerState::Running) {
            return;
        }
        match (report.kind, report.success) {
            (Type::Readiness, ready) => {
                self.memory.ready.insert(id, ready);
            }
            (Type::Startup, true) => {
                self.memory.started.insert(id, true);
            }
            (kind, false) => {
                let word = if kind == Type::Startup { "startup" } else { "liveness" };
                let message =
                    format!("Container {} failed {word} probe, will be restarted", report.container);
                self.memory.unhealthy.insert(id, message);
            }
            (Type::Liveness, true) => {}
        }
    }

    async fn refresh(&mut self, id: &str) {
        match self.shared.runtime.container_status(id).await {
            Ok(st) => self.note(st),
            Err(runtime::RuntimeError::NotFound { .. }) => self.observed.remove(id),
            Err(error) => tracing::warn!(%error, id, "container status not read"),
        }
    }

    async fn refresh_all(&mut self) {
        let uid = identity(&self.pod).2.to_owned();
        if let Ok(all) = self.shared.runtime.list_containers().await {
            self.observed.containers.clear();
            for st in all.into_iter().filter(|c| c.labels.get(super::labels::POD_UID) == Some(&uid)) {
                self.note(st);
            }
        }
        if let Ok(all) = self.shared.runtime.list_pod_sandboxes().await {
            self.observed.sandbox = all
                .into_iter()
                .filter(|s| s.config.pod_uid == uid)
                .max_by_key(|s| (s.ready, s.config.attempt));
        }
    }

    fn note(&mut self, mut st: ContainerStatus) {
        if st.state == ContainerState::Exited {
            self.shared.prober.remove(&st.id);
            self.probed.remove(&st.id);
            self.memory.unhealthy.remove(&st.id);
            self.memory.ready.remove(&st.id);
            if let Some(c) = as_container(&self.pod, &st.name) {
                let dir = self.shared.config.pod_dir(identity(&self.pod).2);
                if let Some(text) = start::last_words(&dir, &c, &st) {
                    st.message = text;
                }
            }
        }
        self.observed.put(st);
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Ground(Ok(made)) => {
                self.ground_failures = 0;
                self.memory.ground = Ground::Ready;
                self.memory.ground_retry = None;
                self.memory.ips = made.ips;
                self.observed.sandbox = Some(made.sandbox);
                self.volumes = Some(made.volumes);
                if let Some(fresh) = made.fresh {
                    self.refresh_volumes(fresh);
                }
            }
            Done::Ground(Err(GroundError)) => {
                self.memory.ground = Ground::Missing;
                let wait =
                    Duration::from_millis(500 << self.ground_failures.min(7)).min(Duration::from_secs(60));
                self.ground_failures += 1;
                let wait = SignedDuration::try_from(wait).unwrap_or_default();
                self.memory.ground_retry = Timestamp::now().checked_add(wait).ok();
                self.refresh_all().await;
            }
            Done::Started(name, outcome) => {
                self.memory.busy.remove(&name);
                match outcome {
                    Ok(id) => {
                        self.memory.waiting.remove(&name);
                        self.memory.retry.remove(&name);
                        self.refresh(&id).await;
                    }
                    Err(error) => {
                        match error.retry {
                            Some(at) => self.memory.retry.insert(name.clone(), at),
                            None => self.memory.retry.remove(&name),
                        };
                        let waiting = Waiting { reason: error.reason.into(), message: error.message };
                        self.memory.waiting.insert(name, waiting);
                        if let Some(id) = error.created {
                            self.refresh(&id).await;
                        }
                    }
                }
            }
            Done::Killed(name) => {
                self.memory.busy.remove(&name);
                self.refresh_name(&name).await;
            }
            Done::Stopped => {
                self.stopping = None;
                self.refresh_all().await;
            }
            Done::Cleaned => {
                self.memory.cleaning = false;
                self.memory.clean = true;
            }
            Done::Removed(id) => {
                self.removing.remove(&id);
                self.observed.remove(&id);
            }
        }
    }

    async fn refresh_name(&mut self, name: &str) {
        let ids: Vec<String> =
            self.observed.containers.get(name).into_iter().flatten().map(|c| c.id.clone()).collect();
        for id in ids {
            self.refresh(&id).await;
        }
    }

    /// Plans, acts, reports. Answers when to look again.
    fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let plan = plan(&View { pod: &self.pod, observed: &self.observed, memory: &self.memory, now });
        for (name, waiting) in &plan.waiting {
            if self.memory.waiting.get(name) != Some(waiting) {
                let text =
                    format!("Back-off restarting failed container {name} in pod {}", pod_key(&self.pod));
                self.shared.recorder.container(&self.pod, name, Kind::Warning, "BackOff", text);
            }
        }
        self.memory.waiting.extend(plan.waiting.clone());
        let mut again = false;
        for action in plan.actions {
            again |= self.act(action);
        }
        if again {
            return self.step();
        }
        self.probes();
        self.report(now);
        plan.wake
    }

    /// Starts an action unless it is under way. True when it changed the picture at once.
    fn act(&mut self, action: Action) -> bool {
        let shared = self.shared.clone();
        let pod = self.pod.clone();
        match action {
            Action::Fail { reason, message } => {
                let kind = if reason == "DeadlineExceeded" { Kind::Normal } else { Kind::Warning };
                if reason == "DeadlineExceeded" {
                    self.shared.recorder.pod(&self.pod, kind, "DeadlineExceeded", message.clone());
                }
                self.memory.failed = Some((reason, message));
                return true;
            }
            Action::Prepare { attempt } => {
                self.memory.ground = Ground::Busy;
                let (have, map) = (self.observed.sandbox.clone(), self.volumes.clone());
                self.ops.spawn(
                    async move { Done::Ground(act::prepare(&shared, &pod, have, attempt, map).await) },
                );
            }
            Action::Start { name, attempt } => self.start(name, attempt),
            Action::Kill { name, id, message } => {
                self.memory.busy.insert(name.clone());
                let ips = self.ips();
                let grace = probe_grace(&pod, &name).unwrap_or_else(|| stop::grace_of(&pod));
                self.ops.spawn(async move {
                    stop::stop_container(&shared, &pod, &name, &id, grace, &message, &ips).await;
                    Done::Killed(name)
                });
            }
            Action::StopPod { grace } => self.stop(grace),
            Action::Clean => {
                self.memory.cleaning = true;
                if let Some(task) = self.refresher.take() {
                    task.abort();
                }
                self.ops.spawn(async move {
                    let uid = identity(&pod).2;
                    if pod.spec.as_ref().and_then(|s| s.host_network) != Some(true)
                        && let Err(error) = shared.network.detach(uid).await
                    {
                        tracing::warn!(%error, pod = uid, "network not released");
                    }
                    let dir = shared.config.pod_dir(uid);
                    let _ = tokio::task::spawn_blocking(move || volumes::remove_volumes(&dir)).await;
                    Done::Cleaned
                });
            }
            Action::Remove { id } => {
                if self.removing.insert(id.clone()) {
                    self.ops.spawn(async move {
                        if let Err(error) = shared.runtime.remove_container(&id).await {
                            tracing::warn!(%error, id, "dead container not removed");
                        }
                        Done::Removed(id)
                    });
                }
            }
            Action::Delete => {
                if !self.gone && !self.reported {
                    self.reported = true;
                    self.report(Timestamp::now());
                    self.shared.statuses.delete(&self.pod);
                }
            }
        }
        false
    }

    fn ips(&self) -> Vec<IpAddr> {
        if self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            self.shared.config.addresses.clone()
        } else {
            self.memory.ips.clone()
        }
    }

    fn start(&mut self, name: String, attempt: u32) {
        let (Some(sandbox), Some(volumes)) = (&self.observed.sandbox, &self.volumes) else { return };
        let place = Place { sandbox: sandbox.id.clone(), ips: self.ips(), volumes: volumes.clone() };
        let latest = self.observed.latest(&name);
        if let Some(st) = latest.filter(|st| st.state == ContainerState::Exited) {
            let now = Timestamp::now();
            self.memory.backoff.next(&name, observed::time(st.finished_at_ns).unwrap_or(now), now);
        }
        let leftover = latest.filter(|st| st.state == ContainerState::Created).map(|st| st.id.clone());
        if let Some(id) = &leftover {
            self.observed.remove(&id.clone());
        }
        self.memory.busy.insert(name.clone());
        let (shared, pod, back) = (self.shared.clone(), self.pod.clone(), self.back.clone());
        self.ops.spawn(async move {
            let running = move |st| {
                let _ = back.send(Msg::Running(st));
            };
            let outcome = start::start(&shared, &pod, &name, attempt, &place, leftover, running).await;
            Done::Started(name, outcome)
        });
    }

    fn stop(&mut self, grace: i64) {
        match &self.stopping {
            Some((_, under_way)) if *under_way <= grace => return,
            Some((task, _)) => task.abort(),
            None => {}
        }
        let alive: Vec<ContainerStatus> = self.observed.alive().cloned().collect();
        let sandbox = self.observed.sandbox.clone().filter(|s| s.ready);
        if alive.is_empty() && sandbox.is_none() {
            return;
        }
        // While something is still being started the sandbox stays: it is stopped in the next round.
        let sandbox = sandbox.filter(|_| self.memory.busy.is_empty() && self.memory.ground != Ground::Busy);
        if alive.is_empty() && sandbox.is_none() {
            return;
        }
        for st in &alive {
            self.shared.prober.ending(&st.id);
        }
        let (shared, pod, ips) = (self.shared.clone(), self.pod.clone(), self.ips());
        let task = self.ops.spawn(async move {
            stop::stop_pod(&shared, &pod, alive, sandbox, grace, &ips).await;
            Done::Stopped
        });
        self.stopping = Some((task, grace));
    }

    /// Hands running containers with probes to the prober.
    fn probes(&mut self) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let ip = self.ips().first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let now = Timestamp::now();
        for st in self.observed.containers.values().filter_map(|l| l.last()) {
            if st.state != ContainerState::Running || self.probed.contains(&st.id) {
                continue;
            }
            let Some(spec) = as_container(&self.pod, &st.name) else { continue };
            if spec.startup_probe.is_none() && spec.liveness_probe.is_none() && spec.readiness_probe.is_none()
            {
                continue;
            }
            self.probed.insert(st.id.clone());
            let back = self.back.clone();
            let age = observed::time(st.started_at_ns).map(|t| now.duration_since(t)).unwrap_or_default();
            self.shared.prober.add(Subject {
                pod: self.pod.clone(),
                spec,
                id: st.id.clone(),
                ip,
                age: age.try_into().unwrap_or_default(),
                started: self.memory.started.get(&st.id) == Some(&true),
                ready: self.memory.ready.get(&st.id) == Some(&true),
                tell: Arc::new(move |report| {
                    let _ = back.send(Msg::Probe(report));
                }),
            });
        }
    }

    fn report(&mut self, now: Timestamp) {
        if self.gone || (self.frozen && self.observed.alive().next().is_none()) {
            return;
        }
        let status = status::status(&Inputs {
            pod: &self.pod,
            observed: &self.observed,
            memory: &self.memory,
            waiting: &BTreeMap::new(),
            host_ips: &self.shared.config.addresses,
            now,
        });
        if self.pod.status.as_ref() == Some(&status) {
            return;
        }
        let known = self.pod.status.clone();
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) && !self.memory.done {
            self.memory.done = true;
            let _ = self.back.send(Msg::Look);
        }
        let fresh = known.as_ref().is_none_or(|k| k.container_statuses.is_none() || k.phase == status.phase);
        let idle = fresh && status.phase.as_deref() == Some("Pending") && self.memory.waiting.is_empty();
        self.shared.statuses.set(&self.pod, known.as_ref(), &status, idle);
        Arc::make_mut(&mut self.pod).status = Some(status);
    }

    /// Keeps volume content fresh until aborted.
    fn refresh_volumes(&mut self, made: PodVolumes) {
        let watched =
            self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(volumes::payload::is_payload);
        if !watched {
            return;
        }
        let task = tokio::spawn(super::refresher::run(
            self.shared.clone(),
            self.latest.subscribe(),
            made,
            self.ips(),
        ));
        if let Some(old) = self.refresher.replace(task.abort_handle()) {
            old.abort();
        }
    }

    /// Removes the last traces: dead containers, sandboxes, folders, logs.
    async fn bury(&mut self) {
        let (name, namespace, uid) = identity(&self.pod);
        remove_everything(&self.shared, uid).await;
        let logs = self.shared.config.pod_logs_dir(namespace, name, uid);
        let dir = self.shared.config.pod_dir(uid);
        let _ = tokio::task::spawn_blocking(move || {
            volumes::remove(&dir);
            let _ = std::fs::remove_dir_all(logs);
        })
        .await;
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(task) = self.refresher.take() {
            task.abort();
        }
        for id in &self.probed {
            self.shared.prober.remove(id);
        }
    }
}

async fn sleep(until: Option<Timestamp>) {
    match until {
        None => std::future::pending().await,
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            tokio::time::sleep(wait.try_into().unwrap_or_default()).await;
        }
    }
}
