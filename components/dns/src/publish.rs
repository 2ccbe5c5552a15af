//! Makes the resolver known: the `kube-dns` Service, and this node's EndpointSlice of it.

use crate::{Config, DnsError};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const MANAGER: &str = "ironclad-dns";

/// Applies both, then waits for ever. Tries again while the API or the namespace is not there yet.
pub(crate) async fn keep(client: &kube::Client, config: &Config) -> Result<(), DnsError> {
    let mut backoff = kit::backoff::Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    while let Err(error) = publish(client, config).await {
        match &error {
            // Said once and for all: waiting does not help.
            kube::Error::Api(status) if status.code == 422 => return Err(DnsError::Publish(Box::new(error))),
            _ => tracing::debug!(%error, "kube-dns could not be published yet"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    std::future::pending().await
}

async fn publish(client: &kube::Client, config: &Config) -> Result<(), kube::Error> {
    let params = PatchParams::apply(MANAGER).force();
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    let ip = config.cluster_ip;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        ]},
    });
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    services.patch("kube-dns", &params, &Patch::Apply(&service)).await?;

    let name = format!("kube-dns-{}", config.node_name);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": MANAGER,
        }},
        "addressType": "IPv4",
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        "endpoints": [{
            "addresses": [config.listen], "nodeName": config.node_name,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    });
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    slices.patch(&name, &params, &Patch::Apply(&slice)).await?;
    Ok(())
}
