//! Probes of every container on the node, run by one task: a heap of due times, a short future per run.

pub mod judge;

use crate::events::{Kind, Recorder};
use crate::handler::{self, Outcome};
use judge::Judge;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use runtime::Runtime;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    Startup,
    Liveness,
    Readiness,
}

impl Type {
    pub fn word(self) -> &'static str {
        match self {
            Type::Startup => "Startup",
            Type::Liveness => "Liveness",
            Type::Readiness => "Readiness",
        }
    }
}

/// A verdict that changed.
#[derive(Clone, Debug)]
pub struct Report {
    pub container_id: String,
    pub container: String,
    pub kind: Type,
    pub success: bool,
}

pub type Tell = Arc<dyn Fn(Report) + Send + Sync>;

/// A running container with probes.
pub struct Subject {
    pub pod: Arc<Pod>,
    pub spec: Container,
    pub id: String,
    pub ip: IpAddr,
    /// How long it has been running.
    pub age: Duration,
    /// It was started before (the node agent came back).
    pub started: bool,
    pub ready: bool,
    pub tell: Tell,
}

enum Command {
    Add(Box<Subject>),
    Remove(String),
    /// Only readiness goes on: the pod is being deleted.
    Ending(String),
}

#[derive(Clone)]
pub struct Prober(mpsc::UnboundedSender<Command>);

impl Prober {
    /// The task ends when the last handle is dropped.
    pub fn start(runtime: Arc<dyn Runtime>, recorder: Recorder) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        let wheel = Wheel {
            runtime,
            recorder,
            heap: BinaryHeap::new(),
            runs: HashMap::new(),
            subjects: HashMap::new(),
            active: JoinSet::new(),
        };
        tokio::spawn(wheel.turn(rx));
        Self(tx)
    }

    pub fn add(&self, subject: Subject) {
        let _ = self.0.send(Command::Add(Box::new(subject)));
    }

    pub fn remove(&self, id: &str) {
        let _ = self.0.send(Command::Remove(id.to_owned()));
    }

    pub fn ending(&self, id: &str) {
        let _ = self.0.send(Command::Ending(id.to_owned()));
    }
}

type Key = (String, Type);

struct Run {
    probe: Probe,
    judge: Judge,
    period: Duration,
    first: Instant,
    /// Extra looks at a container that has not come up yet; they never count as failures.
    early: Option<Duration>,
}

struct Wheel {
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
    runs: HashMap<Key, Run>,
    subjects: HashMap<String, Arc<Subject>>,
    active: JoinSet<(Key, bool, Outcome)>,
}

fn seconds(n: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
}

impl Wheel {
    async fn turn(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let due = self.heap.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Add(subject)) => self.add(*subject),
                    Some(Command::Remove(id)) => self.remove(&id),
                    Some(Command::Ending(id)) => {
                        self.runs.remove(&(id.clone(), Type::Liveness));
                        self.runs.remove(&(id, Type::Startup));
                    }
                },
                Some(done) = self.active.join_next() => {
                    if let Ok((key, early, outcome)) = done {
                        self.done(key, early, outcome);
                    }
                }
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    self.fire();
                }
            }
        }
    }

    fn add(&mut self, subject: Subject) {
        let subject = Arc::new(subject);
        let id = subject.id.clone();
        if self.subjects.insert(id.clone(), subject.clone()).is_some() {
            return;
        }
        let startup = subject.spec.startup_probe.clone().filter(|_| !subject.started);
        match startup {
            Some(p) => self.schedule(&subject, Type::Startup, p),
            None => self.rest(&subject),
        }
    }

    fn rest(&mut self, subject: &Arc<Subject>) {
        if let Some(p) = subject.spec.liveness_probe.clone() {
            self.schedule(subject, Type::Liveness, p);
        }
        if let Some(p) = subject.spec.readiness_probe.clone() {
            self.schedule(subject, Type::Readiness, p);
        }
    }

    fn schedule(&mut self, subject: &Arc<Subject>, kind: Type, probe: Probe) {
        let delay = seconds(probe.initial_delay_seconds, 0).saturating_sub(subject.age);
        let first = Instant::now() + delay;
        let initial = match kind {
            Type::Liveness => Some(true),
            Type::Readiness => Some(subject.ready),
            Type::Startup => None,
        };
        let eager = kind != Type::Liveness && probe.exec.is_none() && initial != Some(true);
        let run = Run {
            period: seconds(probe.period_seconds, 10),
            judge: Judge::new(initial),
            first,
            early: eager.then_some(Duration::from_millis(20)),
            probe,
        };
        let key = (subject.id.clone(), kind);
        self.runs.insert(key.clone(), run);
        self.heap.push(Reverse((first, key)));
    }

    fn remove(&mut self, id: &str) {
        self.subjects.remove(id);
        for kind in [Type::Startup, Type::Liveness, Type::Readiness] {
            self.runs.remove(&(id.to_owned(), kind));
        }
    }

    fn fire(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, _))) = self.heap.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((_, key))) = self.heap.pop() else { return };
            let (Some(run), Some(subject)) = (self.runs.get(&key), self.subjects.get(&key.0)) else {
                continue;
            };
            // A regular look is due at each whole period after the first; what lies between is an extra one.
            let early = run.early.is_some() && now > run.first && now < run.first + run.period;
            let (probe, subject, runtime) = (run.probe.clone(), subject.clone(), self.runtime.clone());
            self.active.spawn(async move {
                let outcome = once(&*runtime, &subject, &probe).await;
                (key, early, outcome)
            });
        }
    }

    fn done(&mut self, key: Key, early: bool, outcome: Outcome) {
        let (Some(run), Some(subject)) = (self.runs.get_mut(&key), self.subjects.get(&key.0).cloned()) else {
            return;
        };
        let now = Instant::now();
        let success = outcome == Outcome::Success;
        let mut next = now + run.period;
        if success {
            run.early = None;
        } else if let Some(step) = run.early {
            if now + step < run.first + run.period {
                next = now + step;
                run.early = Some(step * 2);
            } else {
                next = (run.first + run.period).max(now);
                run.early = None;
            }
        }
        if !early || success {
            let kind = key.1;
            match &outcome {
                Outcome::Success => {}
                Outcome::Failure(why) => self.recorder.container(
                    &subject.pod,
                    &subject.spec.name,
                    Kind::Warning,
                    "Unhealthy",
                    format!("{} probe failed: {why}", kind.word()),
                ),
                Outcome::Unknown(why) => self.recorder.container(
                    &subject.pod,
                    &subject.spec.name,
                    Kind::Warning,
                    "Unhealthy",
                    format!("{} probe errored and resulted in unknown state: {why}", kind.word()),
                ),
            }
            let run_probe = &run.probe;
            let (need_ok, need_bad) =
                (run_probe.success_threshold.unwrap_or(1), run_probe.failure_threshold.unwrap_or(3));
            let changed = match outcome {
                Outcome::Unknown(_) => None,
                _ => run.judge.see(success, need_ok, need_bad),
            };
            if let Some(success) = changed {
                (subject.tell)(Report {
                    container_id: subject.id.clone(),
                    container: subject.spec.name.clone(),
                    kind,
                    success,
                });
                // A verdict that ends a container, or its start, is given once.
                if kind == Type::Startup || (kind == Type::Liveness && !success) {
                    self.runs.remove(&key);
                    if kind == Type::Startup && success {
                        self.rest(&subject);
                    }
                    return;
                }
            }
        }
        self.heap.push(Reverse((next, key)));
    }
}

async fn once(runtime: &dyn Runtime, subject: &Subject, probe: &Probe) -> Outcome {
    let timeout = seconds(probe.timeout_seconds, 1);
    let at = |port| match handler::port(port, &subject.spec) {
        Ok(p) => Ok(p),
        Err(why) => Err(Outcome::Unknown(why)),
    };
    if let Some(exec) = &probe.exec {
        return handler::exec(runtime, &subject.id, exec.command.as_deref().unwrap_or_default(), timeout)
            .await;
    }
    if let Some(get) = &probe.http_get {
        return handler::http(get, &subject.spec, subject.ip, "kube-probe/1.36", timeout).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = match at(&tcp.port) {
            Ok(p) => p,
            Err(outcome) => return outcome,
        };
        let host = tcp.host.as_deref().filter(|h| !h.is_empty());
        let address = match host.map(|h| format!("{h}:{port}")) {
            None => (subject.ip, port).into(),
            Some(h) => match tokio::net::lookup_host(&h).await.ok().and_then(|mut l| l.next()) {
                Some(a) => a,
                None => return Outcome::Failure(format!("dial tcp: lookup {h}: no such host")),
            },
        };
        return handler::tcp(address, timeout).await;
    }
    if let Some(grpc) = &probe.grpc {
        let Ok(port) = u16::try_from(grpc.port) else {
            return Outcome::Unknown(format!("invalid port number: {}", grpc.port));
        };
        return handler::grpc(
            (subject.ip, port).into(),
            grpc.service.as_deref().unwrap_or_default(),
            timeout,
        )
        .await;
    }
    Outcome::Unknown("missing probe handler".into())
}
