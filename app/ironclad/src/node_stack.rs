//! Wires one machine: container runtime, pod network, node agent, service proxy, cluster DNS.

use crate::cli::Node as Flags;
use anyhow::{Context, Result};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use client::InformerFactory;
use k8s_openapi::api::core::v1::Node;
use kit::Shutdown;
use network::dataplane::{Cidr, Dataplane};
use network::machine::Machine;
use network::pods::{Attach, Pods, WantedPort};
use node::network::{NetworkError, PodIps, PodNetRequest, PodNetwork};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::sync::watch;

/// The pod network of this machine, usable once the control plane has given the node its block.
pub struct Network {
    pods: watch::Receiver<Option<Arc<Pods>>>,
}

impl Network {
    /// The other half is filled once, when the block is known.
    pub fn pending() -> (watch::Sender<Option<Arc<Pods>>>, Self) {
        let (sender, pods) = watch::channel(None);
        (sender, Self { pods })
    }

    async fn pods(&self) -> Result<Arc<Pods>, NetworkError> {
        let mut pods = self.pods.clone();
        let ready = pods.wait_for(Option::is_some).await;
        let gone = || NetworkError("the pod network was not set up".into());
        ready.map_err(|_| gone())?.clone().ok_or_else(gone)
    }

    /// Runs blocking netlink work off the async threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Pods) -> Result<T, network::NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let pods = self.pods().await?;
        let done = tokio::task::spawn_blocking(move || work(&pods)).await;
        done.map_err(|e| NetworkError(e.to_string()))?.map_err(|e| NetworkError(chain(&e)))
    }
}

/// An error with everything behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(&self, pod: &PodNetRequest) -> Result<PodIps, NetworkError> {
        let v4 = |ip: Option<IpAddr>| match ip {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        let host_ports = pod.host_ports.iter().map(|p| WantedPort {
            address: v4(p.host_ip),
            protocol: match p.protocol.as_str() {
                "UDP" => 17,
                "SCTP" => 132,
                _ => 6,
            },
            host_port: p.host_port,
            container_port: p.container_port,
        });
        let attach = Attach {
            uid: pod.uid.clone(),
            name: format!("{}/{}", pod.namespace, pod.name),
            netns: pod.netns.clone(),
            host_ports: host_ports.collect(),
        };
        let address = self.with(move |pods| pods.attach(&attach)).await?;
        Ok(PodIps(vec![address.into()]))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let uid = uid.to_owned();
        self.with(move |pods| pods.detach(&uid)).await
    }

    async fn release_all_except(&self, uids: &BTreeSet<String>) -> Result<(), NetworkError> {
        let uids = uids.clone();
        self.with(move |pods| pods.detach_all_except(&uids)).await
    }

    async fn ready(&self) -> Result<(), NetworkError> {
        self.pods().await.map(|_| ())
    }
}
