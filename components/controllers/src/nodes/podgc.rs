//! Pods that no node looks after: those of nodes that are gone, those that were never placed and are to go, and the
//! oldest of too many that ended.

use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::informer::{BY_NODE, pod_node};
use client::objects::{created, is_deleting, is_terminal, name, node_name};
use client::{Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tracing::info;

use crate::{Context, Error, synced};

const NAME: &str = "pod-garbage-collector";
/// A node that is gone may come back under the same name.
const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// The pods of this node, if it is still gone.
    Node(String),
    /// A pod that waits to be deleted without ever having had a node.
    Unplaced(ObjectKey),
    /// Pods that ended.
    Ended,
}

struct Loop {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<Task>,
    keep: usize,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named("orphaned_pods_nodes"),
        keep: cx.config.terminated_pods,
    });
    let c = &controller;
    c.pods.index(BY_NODE, pod_node);
    if !synced!(cx, c.nodes, c.pods) {
        return Ok(());
    }
    let this = c.clone();
    c.nodes.subscribe(move |change| {
        if change.is_deleted() {
            this.queue.add_after(Task::Node(name(&change.object().metadata).to_owned()), QUARANTINE);
        }
    });
    let this = c.clone();
    c.pods.subscribe(move |change| {
        let pod = change.object();
        if change.is_deleted() {
            return;
        }
        match node_name(pod) {
            None if is_deleting(&pod.metadata) => this.queue.add(Task::Unplaced(ObjectKey::of(&**pod))),
            Some(node) if this.nodes.get(&ObjectKey::cluster(node)).is_none() => {
                this.queue.add_after(Task::Node(node.to_owned()), QUARANTINE);
            }
            _ => {}
        }
        // More pods than may be kept can only be there when there are more pods at all.
        if is_terminal(pod) && this.keep > 0 && this.pods.len() > this.keep {
            this.queue.add_after(Task::Ended, Duration::from_secs(1));
        }
    });
    let this = c.clone();
    client::controller::run(NAME, 1, c.queue.clone(), cx.stop.clone(), move |task| {
        let this = this.clone();
        async move { this.reconcile(task).await }
    })
    .await;
    Ok(())
}

impl Loop {
    async fn reconcile(&self, task: Task) -> Result<Outcome, kube::Error> {
        match task {
            Task::Node(node) => {
                let pods = self.pods.by_index(BY_NODE, &node);
                if pods.is_empty() || self.nodes.get(&ObjectKey::cluster(&node)).is_some() {
                    return Ok(Outcome::DONE);
                }
                let nodes: Api<Node> = Api::all(self.client.clone());
                if client::errors::optional(nodes.get_metadata(&node).await)?.is_some() {
                    return Ok(Outcome::DONE);
                }
                info!(node, pods = pods.len(), "removing the pods of a node that is gone");
                for pod in pods {
                    let words = "PodGC: node no longer exists";
                    self.remove(&pod, Some(words)).await?;
                }
            }
            Task::Unplaced(key) => {
                let pod = self.pods.get(&key);
                if let Some(pod) = pod.filter(|p| is_deleting(&p.metadata) && node_name(p).is_none()) {
                    self.remove(&pod, None).await?;
                }
            }
            Task::Ended => {
                for pod in surplus(self.pods.list(), self.keep) {
                    self.remove(&pod, None).await?;
                }
            }
        }
        Ok(Outcome::DONE)
    }

    /// Deletes at once. A pod that has not ended is first marked failed, with the words as reason when there are some.
    async fn remove(&self, pod: &Pod, words: Option<&str>) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), client::objects::namespace(&pod.metadata));
        let pod_name = name(&pod.metadata);
        if !is_terminal(pod) {
            let mut status = json!({"phase": "Failed"});
            if let Some(words) = words {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": words,
                    "lastTransitionTime": Time(Timestamp::now()),
                }]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let done = api.patch_status(pod_name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            client::errors::ignore_not_found(done)?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..Default::default()
        };
        client::errors::ignore_not_found(api.delete(pod_name, &params).await)
    }
}

/// The oldest of the pods that ended, beyond those that may be kept.
fn surplus(pods: Vec<Arc<Pod>>, keep: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<Arc<Pod>> =
        pods.into_iter().filter(|p| is_terminal(p) && !is_deleting(&p.metadata)).collect();
    let over = ended.len().saturating_sub(keep);
    ended.sort_by_key(|p| created(&p.metadata));
    ended.truncate(over);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn the_oldest_go_and_living_ones_do_not_count() {
        let pod = |at: i64, phase: &str| {
            Arc::new(Pod {
                metadata: ObjectMeta {
                    creation_timestamp: Timestamp::from_second(at).ok().map(Time),
                    ..Default::default()
                },
                status: Some(PodStatus { phase: Some(phase.into()), ..Default::default() }),
                ..Default::default()
            })
        };
        let pods = vec![pod(3, "Failed"), pod(1, "Succeeded"), pod(0, "Running"), pod(2, "Failed")];
        let gone: Vec<i64> = surplus(pods, 1).iter().map(|p| created(&p.metadata).as_second()).collect();
        assert_eq!(gone, [1, 2]);
    }
}
