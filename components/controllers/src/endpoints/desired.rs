//! The endpoints that a Service should have, from its pods. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::objects::{is_deleting, is_ready, is_terminal, name, namespace, node_name};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A port list, in the Service's order.
pub type Ports = Vec<EndpointPort>;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub fn of(ip: &str) -> Self {
        if ip.contains(':') { Self::V6 } else { Self::V4 }
    }
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The families that the Service wants endpoints for.
pub fn families(service: &Service, pods: &[Arc<Pod>]) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named: Vec<Family> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .map(|f| if f == "IPv6" { Family::V6 } else { Family::V4 })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let cluster_ip = spec.and_then(|s| s.cluster_ip.as_deref()).filter(|ip| !ip.is_empty() && *ip != "None");
    if let Some(ip) = cluster_ip {
        return vec![Family::of(ip)];
    }
    let first = pods.iter().find_map(|p| p.status.as_ref()?.pod_ip.as_deref());
    vec![first.map_or(Family::V4, Family::of)]
}

/// The pod's address in a family.
pub fn pod_ip(pod: &Pod, family: Family) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    listed.chain(status.pod_ip.as_deref()).find(|ip| !ip.is_empty() && Family::of(ip) == family)
}

/// Whether the pod is to be an endpoint at all.
pub fn is_included(pod: &Pod, include_terminating: bool) -> bool {
    let has_ip = pod.status.as_ref().is_some_and(|s| {
        s.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty())
            || s.pod_ips.as_ref().is_some_and(|l| !l.is_empty())
    });
    has_ip && !is_terminal(pod) && (include_terminating || !is_deleting(&pod.metadata))
}

/// The number that a Service port has on this pod.
pub fn port_number(target: Option<&IntOrString>, port: i32, protocol: &str, pod: &Pod) -> Option<i32> {
    let wanted = match target {
        None => return Some(port),
        Some(IntOrString::Int(0)) => return Some(port),
        Some(IntOrString::Int(n)) => return Some(*n),
        Some(IntOrString::String(text)) => text,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_ref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
}

/// The ports of the Service as this pod serves them; a named port that it lacks is left out.
pub fn ports(service: &Service, pod: &Pod) -> Ports {
    let mut ports = Vec::new();
    for p in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let Some(number) = port_number(p.target_port.as_ref(), p.port, protocol, pod) else { continue };
        ports.push(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol.to_owned()),
            app_protocol: p.app_protocol.clone(),
        });
    }
    ports
}

/// The endpoint of a pod.
pub fn endpoint(service: &Service, pod: &Pod, ip: &str, zone: Option<&str>) -> Endpoint {
    let terminating = is_deleting(&pod.metadata);
    let serving = is_ready(pod);
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node_name(pod).map(str::to_owned),
        zone: zone.map(str::to_owned),
        target_ref: Some(target(pod)),
        deprecated_topology: None,
        hints: None,
    }
}

/// A pod has a name of its own when it says so and asks for this Service's subdomain.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let asks = spec.subdomain.as_deref() == Some(name(&service.metadata))
        && namespace(&pod.metadata) == namespace(&service.metadata);
    spec.hostname.clone().filter(|h| asks && !h.is_empty())
}

pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The wanted endpoints of one family, grouped by the ports they share.
pub fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    family: Family,
    zone: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, (Ports, Vec<Endpoint>)> {
    let mut groups: BTreeMap<String, (Ports, Vec<Endpoint>)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_included(p, true)) {
        let Some(ip) = pod_ip(pod, family) else { continue };
        let ports = ports(service, pod);
        let zone = node_name(pod).and_then(&zone);
        let made = endpoint(service, pod, ip, zone.as_deref());
        groups.entry(port_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(made);
    }
    groups
}

/// Equal for port lists that are equal as sets.
pub fn port_key(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|p| {
            let text = |o: &Option<String>| o.clone().unwrap_or_default();
            format!(
                "{}/{}/{}/{}",
                text(&p.name),
                text(&p.protocol),
                p.port.unwrap_or(0),
                text(&p.app_protocol)
            )
        })
        .collect();
    parts.sort();
    parts.join(",")
}
