//! Cluster DNS: Services and EndpointSlices answered as the Kubernetes DNS specification 1.1.0 says, everything else
//! forwarded to the machine's own resolvers and cached.
//!
//! There is no zone file: [`zone::Zone`] answers from the shared informers, so a change is visible as soon as the
//! watch delivers it, and nothing is held twice. When the API is away it keeps answering from what it knows.

mod forward;
mod publish;
mod server;
pub mod zone;

use client::InformerFactory;
use kit::Shutdown;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use forward::upstreams_of;

/// TTL of everything in the cluster domain, in seconds.
pub const TTL: u32 = 5;

#[derive(Clone, Debug)]
pub struct Config {
    /// Without a trailing dot, as `cluster.local`.
    pub domain: String,
    /// This node's listen address; port 53 over UDP and TCP.
    pub listen: Ipv4Addr,
    /// The `kube-dns` Service's address, the tenth of the service CIDR.
    pub cluster_ip: Ipv4Addr,
    /// Names this node's EndpointSlice.
    pub node_name: String,
    /// Resolvers for all other names; empty: they are refused.
    pub upstreams: Vec<std::net::SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("listen on {address} for DNS")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("publish the kube-dns service")]
    Publish(#[source] Box<kube::Error>),
}

/// Runs until `stop`. `publisher` may write the Service and EndpointSlices of `kube-system`; reads go through the
/// informers.
pub async fn run(
    informers: InformerFactory,
    publisher: kube::Client,
    config: Config,
    stop: Shutdown,
) -> Result<(), DnsError> {
    let zone = zone::Zone::new(&config.domain, informers.informer(), informers.informer());
    let forwarder = forward::Forwarder::new(config.upstreams.clone());
    let server = server::Server::bind(config.listen, Arc::new(zone), Arc::new(forwarder)).await?;
    let publish = publish::keep(&publisher, &config);
    tokio::select! {
        () = stop.wait() => Ok(()),
        () = server.serve() => Ok(()),
        ended = publish => ended,
    }
}
