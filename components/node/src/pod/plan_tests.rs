//! The plan, case by case.

use super::observed::{Ground, Memory, Observed};
use super::plan::{Action, DEADLINE_MESSAGE, Plan, View, plan};
use super::status::{Inputs, status};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, SandboxStatus};
use std::collections::BTreeMap;

struct Case {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    now: Timestamp,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn named(name: &str) -> Container {
    Container { name: name.into(), image: Some("i".into()), ..Default::default() }
}

fn sidecar(name: &str) -> Container {
    Container { restart_policy: Some("Always".into()), ..named(name) }
}

impl Case {
    fn new(inits: Vec<Container>, mains: Vec<Container>, policy: &str) -> Self {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                init_containers: (!inits.is_empty()).then_some(inits),
                containers: mains,
                restart_policy: Some(policy.into()),
                termination_grace_period_seconds: Some(30),
                ..Default::default()
            }),
            status: None,
        };
        Self { pod, observed: Observed::default(), memory: Memory::default(), now: at(1000) }
    }

    /// Sandbox, network and volumes are there.
    fn grounded(mut self) -> Self {
        self.observed.sandbox = Some(SandboxStatus { id: "s".into(), ready: true, ..Default::default() });
        self.memory.ground = Ground::Ready;
        self.memory.ips = vec!["10.0.0.1".parse().expect("ip")];
        self
    }

    fn container(mut self, name: &str, attempt: u32, state: ContainerState, code: i32) -> Self {
        self.observed.put(ContainerStatus {
            id: format!("{name}-{attempt}"),
            name: name.into(),
            attempt,
            state,
            exit_code: code,
            started_at_ns: 900_000_000_000,
            finished_at_ns: if state == ContainerState::Exited { 1_000_000_000_000 } else { 0 },
            ..Default::default()
        });
        self
    }

    fn running(self, name: &str) -> Self {
        self.container(name, 0, ContainerState::Running, 0)
    }

    fn exited(self, name: &str, code: i32) -> Self {
        self.container(name, 0, ContainerState::Exited, code)
    }

    fn plan(&self) -> Plan {
        plan(&View { pod: &self.pod, observed: &self.observed, memory: &self.memory, now: self.now })
    }

    fn status(&self) -> PodStatus {
        let waiting = BTreeMap::new();
        status(&Inputs {
            pod: &self.pod,
            observed: &self.observed,
            memory: &self.memory,
            waiting: &waiting,
            host_ips: &["1.2.3.4".parse().expect("ip")],
            now: self.now,
        })
    }

    fn condition(&self, type_: &str) -> (String, Option<String>) {
        let conditions = self.status().conditions.expect("conditions");
        let c = conditions.into_iter().find(|c| c.type_ == type_).expect("condition");
        (c.status, c.reason)
    }
}

fn starts(names: &[(&str, u32)]) -> Vec<Action> {
    names.iter().map(|(n, a)| Action::Start { name: (*n).into(), attempt: *a }).collect()
}

#[test]
fn the_ground_comes_first() {
    let c = Case::new(vec![], vec![named("a")], "Always");
    assert_eq!(c.plan().actions, [Action::Prepare { attempt: 0 }]);
    assert_eq!(c.status().phase.as_deref(), Some("Pending"));
    assert_eq!(c.condition("PodReadyToStartContainers").0, "False");
    let c = c.grounded();
    assert_eq!(c.plan().actions, starts(&[("a", 0)]));
    assert_eq!(c.condition("PodReadyToStartContainers").0, "True");
}

#[test]
fn all_main_containers_start_together() {
    let c = Case::new(vec![], vec![named("a"), named("b")], "Always").grounded();
    assert_eq!(c.plan().actions, starts(&[("a", 0), ("b", 0)]));
    let c = c.running("a").running("b");
    assert_eq!(c.plan(), Plan::default());
    assert_eq!(c.status().phase.as_deref(), Some("Running"));
    assert_eq!(c.condition("Ready").0, "True");
}

#[test]
fn init_containers_run_in_order() {
    let new = || Case::new(vec![named("i"), named("j")], vec![named("a")], "Always").grounded();
    let c = new();
    assert_eq!(c.plan().actions, starts(&[("i", 0)]));
    assert_eq!(c.condition("Initialized").1.as_deref(), Some("ContainersNotInitialized"));
    let waiting = c.status().container_statuses.expect("statuses")[0].state.clone().expect("state");
    assert_eq!(waiting.waiting.expect("waiting").reason.as_deref(), Some("PodInitializing"));
    assert!(new().running("i").plan().actions.is_empty());
    assert_eq!(new().exited("i", 0).plan().actions, starts(&[("j", 0)]));
    let c = new().exited("i", 0).exited("j", 0);
    assert_eq!(c.plan().actions, starts(&[("a", 0)]));
    assert_eq!(c.condition("Initialized").0, "True");
}

#[test]
fn a_failed_init_container_is_retried_or_fails_the_pod() {
    let c = Case::new(vec![named("i")], vec![named("a")], "Always").grounded().exited("i", 1);
    assert_eq!(c.plan().actions, starts(&[("i", 1)]));
    let c = Case::new(vec![named("i")], vec![named("a")], "Never").grounded().exited("i", 1);
    assert_eq!(c.plan().actions, [Action::StopPod { grace: 30 }]);
    assert_eq!(c.status().phase.as_deref(), Some("Failed"));
}

#[test]
fn sidecars_start_before_and_keep_running() {
    let mut s = sidecar("s");
    s.startup_probe = Some(Probe::default());
    let new = || Case::new(vec![s.clone(), named("i")], vec![named("a")], "Never").grounded();
    assert_eq!(new().plan().actions, starts(&[("s", 0)]));
    let mut c = new().running("s");
    assert!(c.plan().actions.is_empty(), "not started yet");
    c.memory.started.insert("s-0".into(), true);
    assert_eq!(c.plan().actions, starts(&[("i", 0)]));
    let c = c.exited("i", 0).running("a");
    assert!(c.plan().actions.is_empty());
    // Restarted whatever the pod's policy says, while there is work.
    let again = new().exited("s", 1).exited("i", 0).running("a");
    assert_eq!(again.plan().actions, starts(&[("s", 1)]));
    // The work is done: everything is stopped.
    let mut c = new().running("s").exited("i", 0).exited("a", 0);
    c.memory.started.insert("s-0".into(), true);
    assert_eq!(c.plan().actions, [Action::StopPod { grace: 30 }]);
    assert_eq!(c.status().phase.as_deref(), Some("Running"));
}

#[test]
fn crashes_back_off() {
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().exited("a", 1);
    assert_eq!(c.plan().actions, starts(&[("a", 1)]));
    c.memory.backoff.next("a", c.now, c.now);
    let p = c.plan();
    assert!(p.actions.is_empty());
    assert_eq!(p.wake, Some(at(1010)));
    assert_eq!(p.waiting["a"].reason, "CrashLoopBackOff");
    assert_eq!(p.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_ns(u)");
    c.memory.waiting.extend(p.waiting);
    let s = c.status().container_statuses.expect("statuses").remove(0);
    assert_eq!(s.state.expect("state").waiting.expect("waiting").reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(s.last_state.expect("last").terminated.expect("terminated").exit_code, 1);
    c.now = at(1011);
    assert_eq!(c.plan().actions, starts(&[("a", 1)]));
}

#[test]
fn restart_policies_and_phases() {
    for (policy, code, again, phase) in [
        ("Always", 0, true, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, true, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
    ] {
        let c = Case::new(vec![], vec![named("a")], policy).grounded().exited("a", code);
        let expected = if again { starts(&[("a", 1)]) } else { vec![Action::StopPod { grace: 30 }] };
        assert_eq!(c.plan().actions, expected, "{policy} {code}");
        assert_eq!(c.status().phase.as_deref(), Some(phase), "{policy} {code}");
    }
}

#[test]
fn deletion_stops_cleans_and_removes() {
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().running("a");
    c.pod.metadata.deletion_timestamp = Some(Time(at(1000)));
    c.pod.metadata.deletion_grace_period_seconds = Some(5);
    assert_eq!(c.plan().actions, [Action::StopPod { grace: 5 }]);
    let mut c = c.exited("a", 0);
    c.observed.sandbox.as_mut().expect("sandbox").ready = false;
    c.observed.containers.get_mut("a").expect("runs").retain(|r| r.state == ContainerState::Exited);
    assert_eq!(c.plan().actions, [Action::Clean]);
    c.memory.clean = true;
    assert_eq!(c.plan().actions, [Action::Delete]);
    assert_eq!(c.status().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_deadline_fails_the_pod() {
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().running("a");
    c.pod.spec.as_mut().expect("spec").active_deadline_seconds = Some(60);
    c.memory.start_time = Some(at(950));
    assert_eq!(c.plan().wake, Some(at(1010)));
    c.now = at(1010);
    let fail = Action::Fail { reason: "DeadlineExceeded".into(), message: DEADLINE_MESSAGE.into() };
    assert_eq!(c.plan().actions, [fail]);
    c.memory.failed = Some(("DeadlineExceeded".into(), DEADLINE_MESSAGE.into()));
    assert_eq!(c.plan().actions, [Action::StopPod { grace: 30 }]);
    assert_eq!(c.status().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_lost_sandbox_is_made_anew() {
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().running("a");
    c.observed.sandbox.as_mut().expect("sandbox").ready = false;
    assert!(matches!(c.plan().actions[..], [Action::Kill { .. }]));
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().exited("a", 137);
    c.observed.sandbox.as_mut().expect("sandbox").ready = false;
    assert_eq!(c.plan().actions, [Action::Prepare { attempt: 1 }]);
    c.pod.spec.as_mut().expect("spec").restart_policy = Some("Never".into());
    assert!(c.plan().actions.is_empty());
}

#[test]
fn probes_decide() {
    let mut a = named("a");
    a.readiness_probe = Some(Probe::default());
    let mut c = Case::new(vec![], vec![a], "Always").grounded().running("a");
    assert_eq!(c.condition("Ready").1.as_deref(), Some("ContainersNotReady"));
    c.memory.ready.insert("a-0".into(), true);
    assert_eq!(c.condition("Ready").0, "True");
    c.memory.unhealthy.insert("a-0".into(), "failed".into());
    let kill = Action::Kill { name: "a".into(), id: "a-0".into(), message: "failed".into() };
    assert_eq!(c.plan().actions, [kill]);
    c.memory.busy.insert("a".into());
    assert!(c.plan().actions.is_empty());
}

#[test]
fn only_the_newest_dead_run_is_kept() {
    let c = Case::new(vec![], vec![named("a")], "Always")
        .grounded()
        .container("a", 0, ContainerState::Exited, 1)
        .container("a", 1, ContainerState::Exited, 1)
        .container("a", 2, ContainerState::Running, 0);
    assert_eq!(c.plan().actions, [Action::Remove { id: "a-0".into() }]);
    let s = c.status().container_statuses.expect("statuses").remove(0);
    assert_eq!((s.restart_count, s.container_id.as_deref()), (2, Some("ironclad://a-2")));
    assert_eq!(
        s.last_state.expect("last").terminated.expect("dead").container_id.as_deref(),
        Some("ironclad://a-1")
    );
}

#[test]
fn computing_again_changes_nothing() {
    let mut c =
        Case::new(vec![named("i")], vec![named("a")], "Always").grounded().exited("i", 0).running("a");
    let first = c.status();
    c.pod.status = Some(first.clone());
    c.now = at(5000);
    assert_eq!(c.status(), first);
}

#[test]
fn readiness_gates() {
    use k8s_openapi::api::core::v1::{PodCondition, PodReadinessGate};
    let mut c = Case::new(vec![], vec![named("a")], "Always").grounded().running("a");
    c.pod.spec.as_mut().expect("spec").readiness_gates =
        Some(vec![PodReadinessGate { condition_type: "x/y".into() }]);
    assert_eq!(c.condition("Ready").1.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(c.condition("ContainersReady").0, "True");
    let gate = PodCondition { type_: "x/y".into(), status: "True".into(), ..Default::default() };
    c.pod.status = Some(PodStatus { conditions: Some(vec![gate]), ..Default::default() });
    assert_eq!(c.condition("Ready").0, "True");
}
