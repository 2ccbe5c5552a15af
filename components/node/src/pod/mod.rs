//! Pods: one actor each, which looks, plans, acts and reports.
//!
//! [`plan`] and [`status`] are pure; [`act`] holds the operations; [`actor`] is the loop between them.

pub mod act;
pub mod actor;
pub mod backoff;
pub mod conditions;
pub mod observed;
pub mod plan;
#[cfg(test)]
mod plan_tests;
mod refresher;
pub mod resources;
pub mod start;
pub mod status;
pub mod stop;
pub mod upkeep;

use k8s_openapi::api::core::v1::Pod;

/// Name, namespace and uid, which every API object has.
pub fn identity(pod: &Pod) -> (&str, &str, &str) {
    let m = &pod.metadata;
    (
        m.name.as_deref().unwrap_or_default(),
        m.namespace.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default(),
    )
}

pub mod labels {
    //! The labels and annotations by which sandboxes and containers are recognised as ours after a restart.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
}
