//! The EndpointSlice controller.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::controller::Outcome;
use client::objects::{entry, name};
use client::{EventRecorder, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};

use super::desired::{families, wanted};
use super::slices::{MANAGED_BY, SERVICE_NAME, Template, Writes, reconcile};
use super::{selected, selector, wake_services};
use crate::common::podctl::message;
use crate::common::written::{PATIENCE, Written};
use crate::{Context, Error, synced};

const NAME: &str = "endpointslice-controller";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Index of slices by the Service they belong to.
pub(super) const BY_SERVICE: &str = "service";

pub(super) fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let service = entry(slice.metadata.labels.as_ref(), SERVICE_NAME);
    service.map(|s| format!("{}/{s}", client::objects::namespace(&slice.metadata))).into_iter().collect()
}

struct Loop {
    client: Client,
    recorder: EventRecorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    queue: WorkQueue<ObjectKey>,
    written: Written,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        services: cx.informers.informer(),
        pods: cx.informers.informer(),
        nodes: cx.informers.informer(),
        slices: cx.informers.informer(),
        queue: WorkQueue::new().named("endpoint_slice"),
        written: Written::default(),
    });
    let c = &controller;
    c.slices.index(BY_SERVICE, service_of);
    if !synced!(cx, c.services, c.pods, c.nodes, c.slices) {
        return Ok(());
    }
    let this = c.clone();
    c.services.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.pods.subscribe(move |change| wake_services(&this.services, change, |key| this.queue.add(key)));
    let this = c.clone();
    c.slices.subscribe(move |change| {
        let slice = change.object();
        if is_ours(slice)
            && let Some(service) = entry(slice.metadata.labels.as_ref(), SERVICE_NAME)
        {
            this.queue.add(ObjectKey::new(client::objects::namespace(&slice.metadata), service));
        }
    });
    let this = c.clone();
    client::controller::run(NAME, 5, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

fn is_ours(slice: &EndpointSlice) -> bool {
    entry(slice.metadata.labels.as_ref(), MANAGED_BY) == Some(MANAGER)
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(service) = self.services.get(key) else {
            // What it leaves is the garbage collector's.
            self.written.forget(key);
            return Ok(Outcome::DONE);
        };
        if client::objects::is_deleting(&service.metadata) {
            return Ok(Outcome::DONE);
        }
        if !self.written.visible(key, |k| self.slices.get(k)) {
            // The events of the writes wake us; the delay is for the case that they never come.
            return Ok(Outcome::after(PATIENCE));
        }
        let Some(selector) = selector(&service) else { return Ok(Outcome::DONE) };
        let mut existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|s| is_ours(s) && !client::objects::is_deleting(&s.metadata));
        let pods = selected(&self.pods, &service, selector);
        let zone = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            entry(node.metadata.labels.as_ref(), "topology.kubernetes.io/zone").map(str::to_owned)
        };
        let wanted: BTreeMap<_, _> =
            families(&service, &pods).into_iter().map(|f| (f, wanted(&service, &pods, f, zone))).collect();
        let writes = reconcile(&Template::of_service(&service, MANAGER), &existing, wanted);
        if let Err(error) = write(&self.client, &self.written, key, writes).await {
            if client::errors::is_namespace_terminating(&error) || client::errors::is_not_found(&error) {
                return Ok(Outcome::DONE);
            }
            if !client::errors::is_conflict(&error) {
                let words = format!(
                    "Error updating Endpoint Slices for Service {}/{}: {}",
                    key.namespace,
                    key.name,
                    message(&error)
                );
                self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", words);
            }
            return Err(error);
        }
        Ok(Outcome::DONE)
    }
}

/// Carries the writes out, noting each so that the cache is not believed before it shows them.
pub(super) async fn write(
    client: &Client,
    written: &Written,
    owner: &ObjectKey,
    writes: Writes,
) -> Result<(), kube::Error> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &owner.namespace);
    for slice in &writes.create {
        written.wrote(owner, &api.create(&PostParams::default(), slice).await?);
    }
    for slice in &writes.update {
        written.wrote(owner, &api.replace(name(&slice.metadata), &PostParams::default(), slice).await?);
    }
    for slice in &writes.delete {
        client::errors::ignore_not_found(api.delete(name(&slice.metadata), &DeleteParams::default()).await)?;
        written.deleted(owner, &**slice);
    }
    Ok(())
}
