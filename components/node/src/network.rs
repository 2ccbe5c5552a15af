//! The seam to the pod network. The app implements it with the `network` crate.

use async_trait::async_trait;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Wires pods up. Every method is idempotent; `attach` of an attached pod answers what it has.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the network namespace an address, routes, and the pod's host ports.
    async fn attach(&self, pod: &PodNetRequest) -> Result<PodIps, NetworkError>;
    /// Takes all of it back. Succeeds when there is nothing, also without the namespace.
    async fn detach(&self, uid: &str) -> Result<(), NetworkError>;
    /// Takes back what belongs to no pod named here; run once at start.
    async fn release_all_except(&self, uids: &BTreeSet<String>) -> Result<(), NetworkError>;
    /// Whether pods can be wired up now; the reason goes into the Node's Ready condition.
    async fn ready(&self) -> Result<(), NetworkError> {
        Ok(())
    }
    /// Resolves once [`ready`](Self::ready) says yes, so that the node becomes Ready at that moment.
    async fn became_ready(&self) {}
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Path of the network namespace.
    pub netns: String,
    pub host_ports: Vec<HostPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// The pod's addresses, the primary one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIps(pub Vec<IpAddr>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);
