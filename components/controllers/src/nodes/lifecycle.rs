//! Node lifecycle: a silent node is marked Unknown, tainted, and its pods marked not ready.
//!
//! A heartbeat only notes the time; each node is looked at when its silence would become too long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::informer::{BY_NODE, pod_node};
use client::objects::{is_ready, name, uid};
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Scope, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::{Context, Error, synced};

const NAME: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CORDON: &str = "node.kubernetes.io/unschedulable";
/// A new node may take this long until its first heartbeat.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

struct Loop {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<String>,
    heard: Mutex<HashMap<String, Instant>>,
    grace: Duration,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let scope = Scope { namespace: Some(LEASES.into()), ..Default::default() };
    let leases = cx.informers.scoped::<Lease>(scope);
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named("node_lifecycle_controller"),
        heard: Mutex::default(),
        grace: cx.config.node_grace,
    });
    let c = &controller;
    c.pods.index(BY_NODE, pod_node);
    if !synced!(cx, c.nodes, c.pods, leases) {
        return Ok(());
    }
    let this = c.clone();
    c.nodes.subscribe(move |change| this.node_changed(change));
    let this = c.clone();
    leases.subscribe(move |change| {
        if !change.is_deleted() {
            this.hear(name(&change.object().metadata));
        }
    });
    let this = c.clone();
    client::controller::run(NAME, 4, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

impl Loop {
    fn hear(&self, node: &str) {
        let now = Instant::now();
        let mut heard = self.heard.lock();
        match heard.get_mut(node) {
            Some(at) => *at = now,
            None => {
                heard.insert(node.to_owned(), now);
            }
        }
    }

    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        let key = name(&node.metadata);
        match change {
            Change::Deleted(_) => {
                self.heard.lock().remove(key);
                self.event(
                    node,
                    "RemovingNode",
                    format!("Node {key} event: Removing Node {key} from Controller"),
                );
                // Whether all are silent may have changed for the others.
                self.wake_all();
                return;
            }
            Change::Added(_) => {
                self.hear(key);
                self.event(
                    node,
                    "RegisteredNode",
                    format!("Node {key} event: Registered Node {key} in Controller"),
                );
            }
            Change::Updated { old, new } => {
                let beat = |n: &Node| ready(n).and_then(|c| c.last_heartbeat_time.clone());
                if beat(old) != beat(new) {
                    self.hear(key);
                }
                let state = |n: &Node| ready(n).map(|c| c.status.clone());
                if state(old) != state(new) {
                    self.wake_all();
                }
                if plan_taints(new, self.all_silent()).is_none() && state(old) == state(new) {
                    return;
                }
            }
        }
        self.queue.add(key.to_owned());
    }

    fn wake_all(&self) {
        self.nodes.for_each(|key, _| self.queue.add(key.name.clone()));
    }

    fn event(&self, node: &Node, reason: &str, words: String) {
        // Upstream's events about nodes name the node as uid too.
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: node.metadata.name.clone(),
            uid: Some(uid(&node.metadata).to_owned()),
            ..Default::default()
        };
        self.recorder.event(&about, EventType::Normal, reason, words);
    }

    /// No node is ready: then it is rather us who are cut off, and nothing is evicted.
    fn all_silent(&self) -> bool {
        let mut any = false;
        self.nodes.for_each(|_, n| any |= ready(n).is_some_and(|c| c.status == "True"));
        !any
    }

    async fn reconcile(&self, key: &str) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(key)) else { return Ok(Outcome::DONE) };
        let heard = *self.heard.lock().entry(key.to_owned()).or_insert_with(Instant::now);
        let grace = if ready(&node).is_some() { self.grace } else { STARTUP_GRACE.max(self.grace) };
        let silent = heard.elapsed() >= grace;
        let api: Api<Node> = Api::all(self.client.clone());
        let mut current = (*node).clone();
        if silent && let Some(conditions) = unknown_conditions(&node, Timestamp::now()) {
            info!(node = key, seconds = heard.elapsed().as_secs(), "node is silent");
            let patch = json!({"status": {"conditions": conditions}});
            match api.patch_status(key, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(written) => current = written,
                Err(e) if client::errors::is_not_found(&e) => return Ok(Outcome::DONE),
                Err(e) => return Err(e),
            }
        }
        let is_ready_now = ready(&current).is_some_and(|c| c.status == "True");
        if let Some(taints) = plan_taints(&current, self.all_silent() && !is_ready_now) {
            let patch = json!({"metadata": {"resourceVersion": current.metadata.resource_version}, "spec": {"taints": taints}});
            let done = api.patch(key, &PatchParams::default(), &Patch::Merge(patch)).await;
            client::errors::ignore_not_found(done)?;
        }
        if !is_ready_now && ready(&current).is_some() {
            self.mark_pods(&current).await?;
        }
        // A silent node that speaks again changes its status, and that wakes us.
        Ok(if silent { Outcome::DONE } else { Outcome::after(grace.saturating_sub(heard.elapsed())) })
    }

    /// A pod on a node that is not ready is not ready.
    async fn mark_pods(&self, node: &Node) -> Result<(), kube::Error> {
        let key = name(&node.metadata);
        let pods = self.pods.by_index(BY_NODE, key);
        let marked: Vec<_> = pods.iter().filter(|p| is_ready(p)).collect();
        if marked.is_empty() {
            return Ok(());
        }
        self.event(node, "NodeNotReady", format!("Node {key} status is now: NodeNotReady"));
        for pod in marked {
            let api: Api<Pod> =
                Api::namespaced(self.client.clone(), client::objects::namespace(&pod.metadata));
            let now = Time(Timestamp::now());
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": now,
            }]}});
            let name = name(&pod.metadata);
            let done = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            client::errors::ignore_not_found(done)?;
            self.recorder.warning(&**pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// The conditions of a silent node, or `None` when they say so already.
pub fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut changed = Vec::new();
    for kind in WATCHED {
        let made = |reason: &str, words: &str, old: Option<&NodeCondition>| NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(words.into()),
            last_heartbeat_time: old
                .map_or_else(|| node.metadata.creation_timestamp.clone(), |c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match condition(node, kind) {
            None => changed.push(made("NodeStatusNeverUpdated", "Kubelet never posted node status.", None)),
            Some(c) if c.status != "Unknown" => {
                changed.push(made("NodeStatusUnknown", "Kubelet stopped posting node status.", Some(c)));
            }
            Some(_) => {}
        }
    }
    (!changed.is_empty()).then_some(changed)
}

/// The taints that the node's state calls for, or `None` when it has exactly these. Taints of others are kept.
/// `calm`: nothing may be evicted now.
pub fn plan_taints(node: &Node, calm: bool) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let current = spec.taints.unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready(node).map(|c| c.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // A node that registers itself brings the taint; until its first report it stays.
        None => wanted.extend(
            current
                .iter()
                .filter(|t| t.key == NOT_READY && t.effect == "NoSchedule")
                .map(|_| (NOT_READY, "NoSchedule")),
        ),
        Some(_) => {}
    }
    wanted.retain(|(_, effect)| !(calm && *effect == "NoExecute"));
    let pressures = [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ];
    for (kind, key) in pressures {
        if condition(node, kind).is_some_and(|c| c.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((CORDON, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        let by_condition = pressures.iter().any(|(_, key)| t.key == *key) || t.key == CORDON;
        let by_ready = t.key == NOT_READY || t.key == UNREACHABLE;
        (by_condition && t.effect == "NoSchedule")
            || (by_ready && matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
    };
    let is_wanted = |t: &Taint| wanted.iter().any(|(k, e)| t.key == *k && t.effect == *e);
    let mut result: Vec<Taint> = current.iter().filter(|t| !ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !result.iter().any(|t| t.key == key && t.effect == effect) {
            result.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(Timestamp::now())),
            });
        }
    }
    (result != current).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        Node {
            spec: Some(NodeSpec {
                taints: Some(
                    taints
                        .iter()
                        .map(|(k, e)| Taint { key: (*k).into(), effect: (*e).into(), ..Default::default() })
                        .collect(),
                ),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn keys(taints: Option<Vec<Taint>>) -> Vec<String> {
        taints
            .unwrap()
            .iter()
            .map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect))
            .collect()
    }

    #[test]
    fn taints_follow_the_state_and_others_are_kept() {
        let n = node("Unknown", &[("mine", "NoSchedule")]);
        assert_eq!(
            keys(plan_taints(&n, false)),
            ["mine:NoSchedule", "unreachable:NoSchedule", "unreachable:NoExecute"]
        );
        assert_eq!(keys(plan_taints(&n, true)), ["mine:NoSchedule", "unreachable:NoSchedule"]);
        let back = node(
            "True",
            &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute"), (NOT_READY, "NoSchedule")],
        );
        assert_eq!(plan_taints(&back, false), Some(vec![]));
        assert_eq!(plan_taints(&node("True", &[]), false), None);
        let mut cordoned = node("True", &[]);
        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(keys(plan_taints(&cordoned, false)), ["unschedulable:NoSchedule"]);
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let n = node("True", &[]);
        let changed = unknown_conditions(&n, Timestamp::now()).unwrap();
        assert_eq!(changed.len(), 4);
        assert_eq!(changed[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(changed[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let mut after = n.clone();
        after.status.as_mut().unwrap().conditions = Some(changed);
        assert!(unknown_conditions(&after, Timestamp::now()).is_none());
    }
}
