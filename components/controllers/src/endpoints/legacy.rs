//! The Endpoints controller: one object a Service, as clients before EndpointSlices read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::controller::Outcome;
use client::objects::{entry, is_ready, node_name};
use client::{EventRecorder, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};

use super::desired::{Family, hostname, is_headless, is_included, pod_ip, port_number, target};
use super::{selected, selector, wake_services};
use crate::common::podctl::message;
use crate::{Context, Error, synced};

const NAME: &str = "endpoint-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

struct Loop {
    client: Client,
    recorder: EventRecorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    queue: WorkQueue<ObjectKey>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        services: cx.informers.informer(),
        pods: cx.informers.informer(),
        endpoints: cx.informers.informer(),
        queue: WorkQueue::new().named("endpoint"),
    });
    let c = &controller;
    if !synced!(cx, c.services, c.pods, c.endpoints) {
        return Ok(());
    }
    let this = c.clone();
    c.services.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.pods.subscribe(move |change| wake_services(&this.services, change, |key| this.queue.add(key)));
    let this = c.clone();
    c.endpoints.subscribe(move |change| {
        // An object that lost its Service while we were away, or that someone else changed.
        this.queue.add(ObjectKey::of(&**change.object()));
    });
    let this = c.clone();
    client::controller::run(NAME, 5, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            let ours = existing.is_some_and(|e| entry(e.metadata.labels.as_ref(), MANAGED_BY).is_some());
            if ours {
                client::errors::ignore_not_found(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            return Ok(Outcome::DONE);
        };
        let Some(selector) = selector(&service) else { return Ok(Outcome::DONE) };
        let pods = selected(&self.pods, &service, selector);
        let current = existing.as_deref();
        let Some(wanted) = plan(&service, &pods, current) else { return Ok(Outcome::DONE) };
        let result = match current {
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Ok(_) => Ok(Outcome::DONE),
            Err(e) if client::errors::is_namespace_terminating(&e) => Ok(Outcome::DONE),
            // The event of the one that is there wakes us.
            Err(e) if current.is_none() && client::errors::is_already_exists(&e) => Ok(Outcome::DONE),
            Err(e) if client::errors::is_conflict(&e) => Err(e),
            Err(e) => {
                let (verb, reason) = match current {
                    Some(_) => ("update endpoint", "FailedToUpdateEndpoint"),
                    None => ("create endpoint for service", "FailedToCreateEndpoint"),
                };
                let words = format!("Failed to {verb} {key}: {}", message(&e));
                self.recorder.warning(&*service, reason, words);
                Err(e)
            }
        }
    }
}

/// The object to write, or `None` when the current one is right.
pub fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = truncate(repack(addresses(service, pods)));
    let mut object = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        subsets: None,
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    object.metadata.labels = Some(labels);
    let mut annotations = object.metadata.annotations.take().unwrap_or_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    object.metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    if object.subsets.as_deref().unwrap_or(&[]) != subsets {
        object.subsets = Some(subsets);
    }
    (current != Some(&object)).then_some(object)
}

/// A port by its parts, in the order in which ports are sorted.
type PortId = (String, i32, String, Option<String>);

struct Entry {
    address: EndpointAddress,
    ready: bool,
    port: Option<PortId>,
}

fn addresses(service: &Service, pods: &[Arc<Pod>]) -> Vec<Entry> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let family = match spec.ip_families.as_ref().and_then(|f| f.first()).map(String::as_str) {
        Some("IPv6") => Family::V6,
        Some(_) => Family::V4,
        None => super::desired::families(service, pods).first().copied().unwrap_or(Family::V4),
    };
    let mut entries = Vec::new();
    for pod in pods.iter().filter(|p| is_included(p, publish)) {
        let Some(ip) = pod_ip(pod, family) else { continue };
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: node_name(pod).map(str::to_owned),
            target_ref: Some(target(pod)),
        };
        let ready = publish || is_ready(pod);
        let ports = spec.ports.clone().unwrap_or_default();
        if ports.is_empty() && is_headless(service) {
            entries.push(Entry { address: address.clone(), ready, port: None });
        }
        for p in &ports {
            let protocol = p.protocol.as_deref().unwrap_or("TCP");
            let Some(number) = port_number(p.target_port.as_ref(), p.port, protocol, pod) else { continue };
            let id =
                (p.name.clone().unwrap_or_default(), number, protocol.to_owned(), p.app_protocol.clone());
            entries.push(Entry { address: address.clone(), ready, port: Some(id) });
        }
    }
    entries
}

/// Subsets in upstream's canonical form: addresses with the same ports share one, everything is sorted.
fn repack(entries: Vec<Entry>) -> Vec<EndpointSubset> {
    let mut by_address: BTreeMap<(String, String, bool), (EndpointAddress, BTreeSet<PortId>)> =
        BTreeMap::new();
    for e in entries {
        let uid = e.address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
        let slot =
            by_address.entry((e.address.ip.clone(), uid, e.ready)).or_insert((e.address, BTreeSet::new()));
        slot.1.extend(e.port);
    }
    let mut by_ports: BTreeMap<BTreeSet<PortId>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    for ((_, _, ready), (address, ports)) in by_address {
        let slot = by_ports.entry(ports).or_default();
        if ready { slot.0.push(address) } else { slot.1.push(address) }
    }
    let subset = |(ports, (ready, not_ready)): (BTreeSet<PortId>, (Vec<_>, Vec<_>))| EndpointSubset {
        addresses: Some(ready).filter(|l: &Vec<_>| !l.is_empty()),
        not_ready_addresses: Some(not_ready).filter(|l: &Vec<_>| !l.is_empty()),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|l| !l.is_empty()),
    };
    by_ports.into_iter().map(subset).collect()
}

fn port((name, number, protocol, app_protocol): PortId) -> EndpointPort {
    EndpointPort {
        name: Some(name).filter(|n| !n.is_empty()),
        port: number,
        protocol: Some(protocol),
        app_protocol,
    }
}

/// At most 1000 addresses, ready ones first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |l: &Option<Vec<EndpointAddress>>| l.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    if total <= MAX_ADDRESSES {
        return (subsets, false);
    }
    let mut room = MAX_ADDRESSES;
    for ready in [true, false] {
        for subset in &mut subsets {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            if let Some(addresses) = list {
                addresses.truncate(room);
                room -= addresses.len();
            }
            if count(list) == 0 {
                *list = None;
            }
        }
    }
    subsets.retain(|s| count(&s.addresses) + count(&s.not_ready_addresses) > 0);
    (subsets, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{
        Container, ContainerPort, PodCondition, PodSpec, PodStatus, ServicePort, ServiceSpec,
    };
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn pod(id: u8, ready: bool, named_port: Option<i32>) -> Arc<Pod> {
        let ports = named_port.map(|n| {
            vec![ContainerPort { name: Some("http".into()), container_port: n, ..Default::default() }]
        });
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(format!("p{id}")),
                uid: Some(id.to_string()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                containers: vec![Container { ports, ..Default::default() }],
                ..Default::default()
            }),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                pod_ip: Some(format!("10.0.0.{id}")),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
        })
    }

    fn service() -> Service {
        Service {
            metadata: ObjectMeta { name: Some("s".into()), ..Default::default() },
            spec: Some(ServiceSpec {
                cluster_ip: Some("10.96.0.9".into()),
                ports: Some(vec![ServicePort {
                    port: 80,
                    target_port: Some(IntOrString::String("http".into())),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn addresses_with_the_same_ports_share_a_subset() {
        let pods = [
            pod(3, true, Some(8080)),
            pod(1, false, Some(8080)),
            pod(2, true, Some(9090)),
            pod(4, true, None),
        ];
        let made = plan(&service(), &pods, None).unwrap();
        let subsets = made.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 2);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.3");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subsets[1].ports.as_ref().unwrap()[0].port, 9090);
        assert!(plan(&service(), &pods, Some(&made)).is_none());
    }

    #[test]
    fn not_ready_addresses_can_be_published() {
        let mut s = service();
        s.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let made = plan(&s, &[pod(1, false, Some(1))], None).unwrap();
        assert_eq!(made.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn a_headless_service_without_ports_still_has_addresses() {
        let mut s = service();
        let spec = s.spec.as_mut().unwrap();
        spec.cluster_ip = Some("None".into());
        spec.ports = None;
        let made = plan(&s, &[pod(1, true, None)], None).unwrap();
        let subsets = made.subsets.unwrap();
        assert!(subsets[0].ports.is_none());
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 1);
        assert!(made.metadata.labels.unwrap().contains_key(HEADLESS));
    }

    #[test]
    fn too_many_addresses_are_cut_and_said_so() {
        let pods: Vec<_> = (0..1200u32)
            .map(|i| {
                let mut p = (*pod(1, i % 2 == 0, Some(80))).clone();
                p.metadata.uid = Some(i.to_string());
                p.status.as_mut().unwrap().pod_ip = Some(format!("10.1.{}.{}", i / 256, i % 256));
                Arc::new(p)
            })
            .collect();
        let made = plan(&service(), &pods, None).unwrap();
        let subsets = made.subsets.unwrap();
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 600);
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap().len(), 400);
        assert_eq!(made.metadata.annotations.unwrap().get(OVER_CAPACITY).unwrap(), "truncated");
    }
}
