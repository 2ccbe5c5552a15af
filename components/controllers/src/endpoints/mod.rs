//! Where a Service leads: EndpointSlices, the older Endpoints, and slices that mirror hand-made Endpoints.

pub mod desired;
pub mod legacy;
pub mod mirror;
mod slice_loop;
pub mod slices;

use std::sync::Arc;

use client::objects::{StringMap, is_deleting, is_ready, map_matches, namespace};
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Pod, Service};

pub use legacy::run as run_endpoints;
pub use mirror::run as run_mirroring;
pub use slice_loop::run as run_slices;

/// The Service's selector, when it has one and leads to pods.
fn selector(service: &Service) -> Option<&StringMap> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// Calls `wake` for each Service that a change of a pod may matter to.
fn wake_services(services: &Informer<Service>, change: &Change<Pod>, wake: impl Fn(ObjectKey)) {
    let new = change.object();
    let old = match change {
        Change::Updated { old, .. } => {
            if !matters(old, new) {
                return;
            }
            old.metadata.labels.as_ref()
        }
        _ => None,
    };
    let labels = new.metadata.labels.as_ref();
    services.for_each(|key, service| {
        if key.namespace == namespace(&new.metadata)
            && let Some(selector) = selector(service)
            && (map_matches(selector, labels) || (old.is_some() && map_matches(selector, old)))
        {
            wake(key.clone());
        }
    });
}

/// Whether an update changes anything that an endpoint shows.
fn matters(old: &Pod, new: &Pod) -> bool {
    let shown = |p: &Pod| {
        let spec = p.spec.as_ref();
        let status = p.status.as_ref();
        (
            is_ready(p),
            is_deleting(&p.metadata),
            client::objects::is_terminal(p),
            status.and_then(|s| s.pod_ip.clone()),
            status.and_then(|s| s.pod_ips.clone()),
            spec.and_then(|s| s.node_name.clone()),
            spec.and_then(|s| s.hostname.clone()),
        )
    };
    old.metadata.labels != new.metadata.labels || shown(old) != shown(new)
}

/// The pods that the Service selects.
fn selected(pods: &Informer<Pod>, service: &Service, selector: &StringMap) -> Vec<Arc<Pod>> {
    let mut all = pods.namespace(namespace(&service.metadata));
    all.retain(|p| map_matches(selector, p.metadata.labels.as_ref()));
    all
}
