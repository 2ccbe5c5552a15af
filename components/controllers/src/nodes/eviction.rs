//! Taint eviction: pods leave a node with NoExecute taints that they do not tolerate, or not for ever.

use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_NODE, pod_node};
use client::objects::{is_deleting, is_terminal, name, node_name};
use client::{Change, EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::common::until;
use crate::{Context, Error, synced};

const NAME: &str = "taint-eviction-controller";
/// Upstream runs this loop with the node controller's credentials.
const IDENTITY: &str = "node-controller";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(IDENTITY),
        recorder: cx.recorder_as(IDENTITY, NAME),
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named("noexec_taint_pod"),
    });
    let c = &controller;
    c.pods.index(BY_NODE, pod_node);
    if !synced!(cx, c.nodes, c.pods) {
        return Ok(());
    }
    let this = c.clone();
    c.nodes.subscribe(move |change| {
        let node = change.object();
        let before = match change {
            Change::Updated { old, .. } => no_execute(old),
            _ => Vec::new(),
        };
        if before != no_execute(node) {
            for pod in this.pods.by_index(BY_NODE, name(&node.metadata)) {
                this.queue.add(ObjectKey::of(&*pod));
            }
        }
    });
    let this = c.clone();
    c.pods.subscribe(move |change| {
        let pod = change.object();
        let tolerations = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.clone());
        let relevant = match change {
            Change::Added(_) => node_name(pod).is_some(),
            Change::Updated { old, .. } => {
                node_name(old) != node_name(pod) || tolerations(old) != tolerations(pod)
            }
            Change::Deleted(_) => false,
        };
        if relevant
            && let Some(node) = node_name(pod).and_then(|n| this.nodes.get(&ObjectKey::cluster(n)))
            && !no_execute(&node).is_empty()
        {
            this.queue.add(ObjectKey::of(&**pod));
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

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key).filter(|p| !is_deleting(&p.metadata) && !is_terminal(p)) else {
            return Ok(Outcome::DONE);
        };
        let node = node_name(&pod).and_then(|n| self.nodes.get(&ObjectKey::cluster(n)));
        let Some(node) = node else { return Ok(Outcome::DONE) };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
        let now = Timestamp::now();
        match plan(&no_execute(&node), tolerations, now) {
            Stay::Forever => Ok(Outcome::DONE),
            Stay::Until(at) if at > now => Ok(Outcome::after(until(at, now))),
            Stay::Until(_) => self.evict(key, &pod).await.map(|()| Outcome::DONE),
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), kube::Error> {
        self.recorder.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(Timestamp::now()),
        }]}});
        let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        client::errors::ignore_not_found(patched)?;
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..Default::default()
        };
        client::errors::ignore_not_found(api.delete(&key.name, &params).await)
    }
}

#[derive(Debug, PartialEq)]
pub enum Stay {
    Forever,
    Until(Timestamp),
}

/// How long a pod with these tolerations may stay under these taints.
pub fn plan(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut end: Option<Timestamp> = None;
    for taint in taints {
        let covering: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if covering.is_empty() {
            return Stay::Until(now);
        }
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let limits = covering.iter().filter_map(|t| t.toleration_seconds);
        if let Some(seconds) = limits.min() {
            let at = Timestamp::from_second(since.as_second().saturating_add(seconds.max(0))).unwrap_or(now);
            end = Some(end.map_or(at, |e| e.min(at)));
        }
    }
    end.map_or(Stay::Forever, Stay::Until)
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |o: &Option<String>| o.clone().filter(|s| !s.is_empty());
    if given(&toleration.effect).is_some_and(|e| e != taint.effect) {
        return false;
    }
    if given(&toleration.key).is_some_and(|k| k != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => given(&toleration.value) == given(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taint(key: &str, at: i64) -> Taint {
        Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            value: None,
            time_added: Timestamp::from_second(at).ok().map(Time),
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn the_shortest_toleration_counts_from_the_taint() {
        let now = Timestamp::from_second(1000).unwrap();
        let at = |s| Stay::Until(Timestamp::from_second(s).unwrap());
        assert_eq!(plan(&[], &[], now), Stay::Forever);
        assert_eq!(plan(&[taint("a", 900)], &[], now), at(1000));
        assert_eq!(plan(&[taint("a", 900)], &[toleration("a", None)], now), Stay::Forever);
        assert_eq!(plan(&[taint("a", 900)], &[toleration("a", Some(300))], now), at(1200));
        let two = [toleration("a", Some(300)), toleration("b", Some(10))];
        assert_eq!(plan(&[taint("a", 900), taint("b", 995)], &two, now), at(1005));
    }

    proptest! {
        /// One more toleration never shortens the stay unless it has a limit of its own.
        #[test]
        fn a_boundless_toleration_never_hurts(limits in prop::collection::vec(prop::option::of(0i64..500), 0..4)) {
            let now = Timestamp::from_second(1000).unwrap();
            let mut list: Vec<Toleration> = limits.into_iter().map(|l| toleration("a", l)).collect();
            let before = plan(&[taint("a", 900)], &list, now);
            list.push(toleration("a", None));
            let after = plan(&[taint("a", 900)], &list, now);
            if list.len() > 1 { prop_assert_eq!(before, after); } else { prop_assert_eq!(after, Stay::Forever); }
        }
    }
}
