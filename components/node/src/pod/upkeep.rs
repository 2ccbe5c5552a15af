//! Small things around an actor: merging statuses, naming, and removing the last traces of a pod.

use super::observed::as_container;
use super::{identity, labels};
use crate::shared::Shared;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// Removes every container and sandbox that carries the uid; what still runs must be stopped before.
pub async fn remove_everything(shared: &Shared, uid: &str) {
    for c in shared.runtime.list_containers().await.unwrap_or_default() {
        if c.labels.get(labels::POD_UID).is_some_and(|u| u == uid)
            && let Err(error) = shared.runtime.remove_container(&c.id).await
        {
            tracing::warn!(%error, id = c.id, "container not removed");
        }
    }
    for s in shared.runtime.list_pod_sandboxes().await.unwrap_or_default() {
        if s.config.pod_uid == uid {
            let _ = shared.runtime.stop_pod_sandbox(&s.id).await;
            if let Err(error) = shared.runtime.remove_pod_sandbox(&s.id).await {
                tracing::warn!(%error, id = s.id, "sandbox not removed");
            }
        }
    }
}

/// Ours is newer than the API's echo of it; everybody else's part is taken from there.
pub fn merged(mine: PodStatus, foreign: PodStatus) -> PodStatus {
    let ours = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let is_ours = |t: &str| ours.contains(&t);
    let mut conditions = mine.conditions.clone().unwrap_or_default();
    conditions.retain(|c| is_ours(&c.type_));
    conditions.extend(foreign.conditions.iter().flatten().filter(|c| !is_ours(&c.type_)).cloned());
    PodStatus {
        conditions: Some(conditions),
        resize: foreign.resize,
        resource_claim_statuses: foreign.resource_claim_statuses,
        nominated_node_name: foreign.nominated_node_name,
        ..mine
    }
}

pub fn pod_key(pod: &Pod) -> String {
    let (name, namespace, uid) = identity(pod);
    format!("{name}_{namespace}({uid})")
}

/// The grace of a kill by a probe may be set on the probe.
pub fn probe_grace(pod: &Pod, name: &str) -> Option<i64> {
    let c = as_container(pod, name)?;
    let of =
        |p: Option<&k8s_openapi::api::core::v1::Probe>| p.and_then(|p| p.termination_grace_period_seconds);
    of(c.liveness_probe.as_ref()).or_else(|| of(c.startup_probe.as_ref()))
}
