//! Slices for Endpoints that a person wrote for a Service without selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::controller::Outcome;
use client::objects::{StringMap, controller_of, controller_ref, entry, name, namespace};
use client::{Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Client;

use super::desired::{Family, Ports, port_key};
use super::slice_loop::{BY_SERVICE, service_of, write};
use super::slices::{MANAGED_BY, SERVICE_NAME, Template, Writes, labels, reconcile};
use crate::common::written::{PATIENCE, Written};
use crate::{Context, Error, synced};

const NAME: &str = "endpointslicemirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const MAX_PER_SUBSET: usize = 1000;

struct Loop {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    queue: WorkQueue<ObjectKey>,
    written: Written,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        services: cx.informers.informer(),
        endpoints: cx.informers.informer(),
        slices: cx.informers.informer(),
        queue: WorkQueue::new().named("endpoint_slice_mirroring"),
        written: Written::default(),
    });
    let c = &controller;
    c.slices.index(BY_SERVICE, service_of);
    if !synced!(cx, c.services, c.endpoints, c.slices) {
        return Ok(());
    }
    let this = c.clone();
    c.endpoints.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.services.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.slices.subscribe(move |change| {
        let slice = change.object();
        if is_ours(slice)
            && let Some(service) = entry(slice.metadata.labels.as_ref(), SERVICE_NAME)
        {
            this.queue.add(ObjectKey::new(namespace(&slice.metadata), service));
        }
    });
    let this = c.clone();
    client::controller::run(NAME, 2, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

fn is_ours(slice: &EndpointSlice) -> bool {
    entry(slice.metadata.labels.as_ref(), MANAGED_BY) == Some(MANAGER)
}

/// Whether these Endpoints are to be mirrored at all.
pub fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let annotations = endpoints.metadata.annotations.as_ref();
    entry(labels, SKIP) != Some("true")
        && entry(annotations, "control-plane.alpha.kubernetes.io/leader").is_none()
        && controller_of(&endpoints.metadata).is_none()
        && service
            .is_some_and(|s| s.spec.as_ref().and_then(|s| s.selector.as_ref()).is_none_or(BTreeMap::is_empty))
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        if !self.written.visible(key, |k| self.slices.get(k)) {
            return Ok(Outcome::after(PATIENCE));
        }
        let mut existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|s| is_ours(s) && !client::objects::is_deleting(&s.metadata));
        let endpoints = self.endpoints.get(key);
        let service = self.services.get(key);
        let writes = match endpoints.filter(|e| is_mirrored(e, service.as_deref())) {
            Some(endpoints) => plan(&endpoints, &existing),
            None => Writes { delete: existing, ..Default::default() },
        };
        match write(&self.client, &self.written, key, writes).await {
            Err(e) if client::errors::is_namespace_terminating(&e) || client::errors::is_not_found(&e) => {
                Ok(Outcome::DONE)
            }
            Err(e) => Err(e),
            Ok(()) => Ok(Outcome::DONE),
        }
    }
}

/// The writes that make the slices mirror `endpoints`.
pub fn plan(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Writes {
    let mut wanted: BTreeMap<Family, BTreeMap<String, (Ports, Vec<Endpoint>)>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Ports = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready).take(MAX_PER_SUBSET) {
            let family = Family::of(&address.ip);
            let group = wanted.entry(family).or_default().entry(port_key(&ports));
            group.or_insert_with(|| (ports.clone(), Vec::new())).1.push(mirrored(address, ready));
        }
    }
    let service_name = name(&endpoints.metadata);
    let own: StringMap = labels(&endpoints.metadata, service_name, false, MANAGER);
    let template = Template {
        labels: own.into_iter().filter(|(k, _)| k != "endpoints.kubernetes.io/managed-by").collect(),
        owner: controller_ref(endpoints),
        namespace: namespace(&endpoints.metadata).to_owned(),
        prefix: format!("{service_name}-"),
    };
    reconcile(&template, existing, wanted)
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EndpointPort as OldPort, EndpointSubset, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn endpoints() -> Endpoints {
        let address = |ip: &str| EndpointAddress { ip: ip.into(), ..Default::default() };
        Endpoints {
            metadata: ObjectMeta {
                name: Some("db".into()),
                namespace: Some("ns".into()),
                ..Default::default()
            },
            subsets: Some(vec![EndpointSubset {
                addresses: Some(vec![address("1.2.3.4"), address("fd00::1")]),
                not_ready_addresses: Some(vec![address("1.2.3.5")]),
                ports: Some(vec![OldPort { port: 5432, ..Default::default() }]),
            }]),
        }
    }

    #[test]
    fn each_family_has_its_slice() {
        let writes = plan(&endpoints(), &[]);
        assert_eq!(writes.create.len(), 2);
        let v4 = writes.create.iter().find(|s| s.address_type == "IPv4").unwrap();
        let ready: Vec<_> =
            v4.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert_eq!(entry(v4.metadata.labels.as_ref(), MANAGED_BY), Some(MANAGER));
        assert_eq!(entry(v4.metadata.labels.as_ref(), SERVICE_NAME), Some("db"));
    }

    #[test]
    fn only_services_without_selector_are_mirrored() {
        let plain = Service::default();
        let selecting = Service {
            spec: Some(ServiceSpec {
                selector: Some([("a".to_owned(), "b".to_owned())].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut e = endpoints();
        assert!(is_mirrored(&e, Some(&plain)));
        assert!(!is_mirrored(&e, Some(&selecting)));
        assert!(!is_mirrored(&e, None));
        e.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(!is_mirrored(&e, Some(&plain)));
    }
}
