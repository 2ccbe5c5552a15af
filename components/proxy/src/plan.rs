//! From Services and EndpointSlices to balanced ports.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use network::dataplane::{Backend, Protocol, Service as Balanced};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Upstream's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// `namespace/name` of the service a slice belongs to.
pub fn service_key(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

/// What this node should balance. The result is ordered and depends on nothing but the arguments.
pub fn plan(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Balanced> {
    let mut by_service: HashMap<String, Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        if let Some(key) = service_key(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut planned = BTreeMap::new();
    for service in services {
        let Some(spec) = service.spec.as_ref().filter(|spec| is_ours(service, spec)) else { continue };
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = by_service.get(&format!("{namespace}/{name}")).map_or(&[][..], Vec::as_slice);
        for port in spec.ports.iter().flatten() {
            if let Some(balanced) = balance(service, spec, port, slices, namespace, name, node) {
                planned.insert((namespace.to_owned(), name.to_owned(), balanced.id.clone()), balanced);
            }
        }
    }
    planned.into_values().collect()
}

/// Headless services and those of another proxy are left alone; ExternalName is for DNS.
fn is_ours(service: &Service, spec: &ServiceSpec) -> bool {
    let labelled = |l: &str| service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(l));
    let has_ip = spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None");
    has_ip && spec.type_.as_deref() != Some("ExternalName") && !labelled(PROXY_NAME) && !labelled(HEADLESS)
}

fn balance(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    namespace: &str,
    name: &str,
    node: &str,
) -> Option<Balanced> {
    let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let all = endpoints(slices, port, protocol);
    let everywhere = usable(&all, |_| true);
    let here = || usable(&all, |e| e.node_name.as_deref() == Some(node));
    let inside_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let outside_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let v4 = |ips: &mut dyn Iterator<Item = &String>| {
        ips.filter_map(|ip| ip.parse().ok()).collect::<Vec<Ipv4Addr>>()
    };

    let cluster_ips = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => v4(&mut ips.iter()),
        _ => v4(&mut spec.cluster_ip.iter()),
    };
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let ingress = ingress
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref());
    let external_ips = v4(&mut spec.external_ips.iter().flatten().chain(ingress));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let timeout =
            spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        timeout.unwrap_or(AFFINITY_SECONDS).max(1) as u32
    });
    Some(Balanced {
        id: chain_id(namespace, name, port.name.as_deref().unwrap_or_default(), protocol, port.port),
        protocol,
        port: u16::try_from(port.port).ok()?,
        cluster_ips,
        external_ips,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0),
        backends: if inside_local { here() } else { everywhere },
        local_backends: outside_local.then(here),
        affinity_seconds: affinity,
    })
}

/// The endpoints of a service port, with the number it has in their slice.
fn endpoints<'s>(
    slices: &[&'s EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
) -> Vec<(&'s Endpoint, u16)> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices {
        let number = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == wanted
                && p.protocol.as_deref().unwrap_or("TCP") == protocol.name()
        });
        if let Some(number) = number.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) {
            found.extend(slice.endpoints.iter().flatten().map(|e| (e, number)));
        }
    }
    found
}

/// Ready ones; when there are none, those that still serve while they terminate (KEP-1669).
fn usable(all: &[(&Endpoint, u16)], wanted: impl Fn(&Endpoint) -> bool) -> Vec<Backend> {
    let pick = |fit: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<Backend> {
        let fitting = all.iter().filter(|(e, _)| wanted(e) && fit(e));
        fitting
            .filter_map(|(e, port)| {
                Some(Backend { address: e.addresses.first()?.parse().ok()?, port: *port })
            })
            .collect()
    };
    let condition = |value: Option<bool>, unset: bool| value.unwrap_or(unset);
    let ready = pick(&|e| e.conditions.as_ref().is_none_or(|c| condition(c.ready, true)));
    if !ready.is_empty() {
        return ready.into_iter().collect();
    }
    let draining = |e: &Endpoint| {
        e.conditions.as_ref().is_some_and(|c| {
            condition(c.serving, condition(c.ready, true)) && condition(c.terminating, false)
        })
    };
    pick(&draining).into_iter().collect()
}

/// Short, unique and readable in a listing: nf_tables names end at 255 bytes.
fn chain_id(namespace: &str, name: &str, port_name: &str, protocol: Protocol, port: i32) -> String {
    let full = format!("{namespace}/{name}/{}/{port}/{port_name}", protocol.name());
    let hash =
        full.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let readable: String = format!("{namespace}-{name}").chars().take(80).collect();
    format!("{hash:016x}-{readable}-{}-{port}", protocol.name().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}))
                .unwrap(),
        )
    }

    fn slice(endpoints: serde_json::Value) -> Arc<EndpointSlice> {
        let value = json!({
            "metadata": {"name": "web-1", "namespace": "ns", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn spec() -> serde_json::Value {
        json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "NodePort",
               "ports": [{"name": "http", "port": 80, "nodePort": 30001, "protocol": "TCP"}]})
    }

    fn addresses(backends: &[Backend]) -> Vec<String> {
        backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect()
    }

    #[test]
    fn ready_endpoints_are_balanced() {
        let slices = [slice(json!([
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]))];
        let planned = plan(&[service(spec())], &slices, "n1");
        assert_eq!(planned.len(), 1);
        assert_eq!(addresses(&planned[0].backends), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!((planned[0].port, planned[0].node_port), (80, Some(30001)));
        assert_eq!(planned[0].local_backends, None);
    }

    #[test]
    fn terminating_ones_serve_when_nobody_is_ready() {
        let slices = [slice(json!([
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": true, "terminating": false}},
        ]))];
        assert_eq!(addresses(&plan(&[service(spec())], &slices, "n1")[0].backends), ["10.0.0.3:8080"]);
    }

    #[test]
    fn local_policy_keeps_to_this_node() {
        let mut s = spec();
        s["externalTrafficPolicy"] = json!("Local");
        let slices = [slice(json!([
            {"addresses": ["10.0.0.1"], "nodeName": "n1"}, {"addresses": ["10.0.0.2"], "nodeName": "n2"},
        ]))];
        let planned = plan(&[service(s)], &slices, "n1");
        assert_eq!(planned[0].backends.len(), 2);
        assert_eq!(addresses(planned[0].local_backends.as_ref().unwrap()), ["10.0.0.1:8080"]);
    }

    #[test]
    fn headless_and_external_names_are_left_alone() {
        for changed in
            [json!({"clusterIP": "None"}), json!({"type": "ExternalName"}), json!({"clusterIP": ""})]
        {
            let mut s = spec();
            s.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
            assert!(plan(&[service(s)], &[], "n1").is_empty());
        }
    }

    #[test]
    fn a_port_of_another_protocol_does_not_match() {
        let mut s = spec();
        s["ports"][0]["protocol"] = json!("UDP");
        let planned = plan(&[service(s)], &[slice(json!([{"addresses": ["10.0.0.1"]}]))], "n1");
        assert!(planned[0].backends.is_empty());
    }
}
