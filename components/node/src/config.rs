//! What the node agent is told at start. Built by the app; never read from files here.

use camino::Utf8PathBuf;
use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The Kubernetes version the node says it speaks.
pub const KUBELET_VERSION: &str = "v1.36.0";

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// `status.addresses` of type Hostname; usually the node name.
    pub hostname: String,
    /// The node's own folder (`<data-dir>/node`): volumes, pod folders, logs.
    pub data_dir: Utf8PathBuf,
    /// Internal addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Where the kubelet API listens; port 0 takes a free one, which is what the Node reports.
    pub listen: SocketAddr,
    /// Certificate of the kubelet API, with a client verifier for the cluster CA that lets callers without a
    /// certificate through (they need a bearer token). See [`crate::server::tls_config`].
    pub tls: Arc<rustls::ServerConfig>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub max_pods: u32,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Taints of a Node that is registered for the first time.
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    /// Kept back from allocatable, as quantities of `cpu`, `memory`, `ephemeral-storage`.
    pub reserved: BTreeMap<String, String>,
    /// The host's resolver configuration, for `dnsPolicy: Default`.
    pub resolv_conf: Utf8PathBuf,
    /// A container log is rotated when it grows beyond this.
    pub log_max_bytes: u64,
    /// Log files kept for one container, the live one included.
    pub log_max_files: usize,
    /// Images pulled at the same time.
    pub parallel_pulls: usize,
}

impl Config {
    /// The defaults of everything that has one.
    pub fn new(
        node_name: impl Into<String>,
        data_dir: impl Into<Utf8PathBuf>,
        tls: Arc<rustls::ServerConfig>,
    ) -> Self {
        let node_name = node_name.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            data_dir: data_dir.into(),
            addresses: Vec::new(),
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            tls,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            max_pods: 110,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            reserved: BTreeMap::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            parallel_pulls: 4,
        }
    }

    pub fn pods_dir(&self) -> Utf8PathBuf {
        self.data_dir.join("pods")
    }

    pub fn pod_dir(&self, uid: &str) -> Utf8PathBuf {
        self.pods_dir().join(uid)
    }

    pub fn logs_dir(&self) -> Utf8PathBuf {
        self.data_dir.join("logs")
    }

    /// `<logs>/<namespace>_<name>_<uid>`, as upstream names it.
    pub fn pod_logs_dir(&self, namespace: &str, name: &str, uid: &str) -> Utf8PathBuf {
        self.logs_dir().join(format!("{namespace}_{name}_{uid}"))
    }
}
