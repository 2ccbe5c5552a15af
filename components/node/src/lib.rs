//! The node agent: what upstream calls the kubelet.
//!
//! [`run`] registers the node, takes over the pods the runtime already holds, and runs one actor for each pod that the
//! API binds here. It talks to the API through the client it is handed, to containers through [`runtime::Runtime`], to
//! the pod network through [`PodNetwork`], and to nothing else. Pods outlive it.

mod admit;
pub mod config;
mod env;
pub mod events;
mod expand;
mod fields;
mod files;
mod handler;
mod images;
mod kubelet;
mod machine;
pub mod network;
mod objects;
pub mod pod;
mod probes;
mod quantity;
mod register;
mod rotate;
mod security;
pub mod server;
mod shared;
mod statuses;
pub mod streaming;
mod volumes;

pub use config::Config;
pub use kubelet::run;
pub use network::{HostPort, NetworkError, PodIps, PodNetRequest, PodNetwork};
pub use server::tls_config;

use camino::Utf8PathBuf;
use std::net::SocketAddr;

/// Why the node agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the folder {path}")]
    DataDir {
        path: Utf8PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen on {address} for the kubelet API")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the container runtime does not answer")]
    Runtime(#[source] runtime::RuntimeError),
}

/// What the API said, without the client's own wrapping.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
fn test_config(dir: &str) -> Config {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    Config::new("n1", dir, std::sync::Arc::new(tls))
}
