//! Wires one machine: container runtime, pod network, node agent, service proxy, cluster DNS.

use crate::cli::Node as Flags;
use crate::control;
use crate::place::Place;
use crate::progress::Progress;
use anyhow::{Context, Result};
use async_trait::async_trait;
use client::InformerFactory;
use k8s_openapi::api::core::v1::Node;
use kit::Shutdown;
use kit::pki::{LeafSpec, Pki, RotatingCertificate, Sans};
use kube::Api;
use network::dataplane::{Cidr, Dataplane};
use network::machine::Machine;
use network::pods::{Attach, Pods, WantedPort};
use node::{NetworkError, PodIps, PodNetRequest, PodNetwork};
use runtime::builtin::Builtin;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the node proves itself to those who call its API, and whom it listens to.
pub struct Serving {
    /// Renewed in its slot by whoever made it.
    pub certificate: Arc<RotatingCertificate>,
    /// Signs the clients, the API server among them.
    pub client_ca: Vec<rustls::pki_types::CertificateDer<'static>>,
}

impl Serving {
    /// Beside a control plane, the cluster's authority is at hand; it renews the certificate until `stop`.
    pub fn local(
        pki: &Pki,
        node: &str,
        address: Ipv4Addr,
        stop: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let spec = LeafSpec::server(user_of(node), sans_of(node, address));
        let leaf = pki.leaf("kubelet", &spec).context("issue the node's certificate")?;
        let certificate = RotatingCertificate::new(&leaf)?;
        tasks.spawn(pki.clone().keep_fresh("kubelet".into(), spec, certificate.clone(), stop.clone()));
        Ok(Self { certificate, client_ca: vec![pki.ca.certificate().clone()] })
    }
}

/// `system:node:<name>`, the user every node agent is.
pub fn user_of(node: &str) -> String {
    format!("system:node:{node}")
}

/// The names a node's API is reached by.
pub fn sans_of(node: &str, address: Ipv4Addr) -> Sans {
    Sans::new([node.to_owned()], [IpAddr::V4(address), IpAddr::from([127, 0, 0, 1])])
}

/// What one machine's node is made of.
pub struct NodeConfig {
    pub place: Place,
    pub serving: Serving,
    pub flags: Flags,
    pub name: String,
    pub service_cidr: Cidr,
    pub pod_cidr: Cidr,
    /// The machine's own address.
    pub address: Ipv4Addr,
    /// The node agent's client, as `system:node:<name>`.
    pub agent: kube::Client,
    /// cluster DNS publishes itself through this one.
    pub dns: kube::Client,
    /// Shared with whatever else runs in this process.
    pub informers: InformerFactory,
}

/// Takes the container runtime over from an earlier run.
pub async fn open_runtime(place: &Place, flags: &Flags) -> Result<Arc<Builtin>> {
    Builtin::open(place.runtime_options(&flags.insecure_registry)).await.context("open the container runtime")
}

/// Starts everything and returns once the node is Ready.
pub async fn start(
    config: NodeConfig,
    runtime: Arc<Builtin>,
    progress: &Progress,
    stop: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let (socket, images) = (config.place.control_socket(), runtime.clone());
    let until = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = until.wait() => {}
            ended = control::serve(socket, images) => report("control socket", ended),
        }
    });

    let (network_up, network) = Network::pending();
    let agent = agent_config(&config)?;
    let (client, until) = (config.agent.clone(), stop.clone());
    tasks.spawn(async move {
        report("node agent", node::run(client, runtime, Arc::new(network), agent, until).await);
    });

    let nodes: Api<Node> = Api::all(config.agent.clone());
    let has_block = |node: Option<&Node>| {
        node.and_then(|n| n.spec.as_ref()).is_some_and(|s| s.pod_cidr.as_ref().is_some_and(|c| !c.is_empty()))
    };
    let node =
        client::until(nodes.clone(), &config.name, has_block).await.context("wait for the pod block")?;
    let block: Cidr = node.and_then(|n| n.spec?.pod_cidr).context("the node has no pod block")?.parse()?;
    progress.step(&format!("node registered, pods are in {block}"));

    let machine =
        Machine { tag: config.place.tag.clone(), pod_cidr: block, service_cidr: config.service_cidr };
    let (folder, table, cluster) = (config.place.data.join("network"), machine.table(), config.pod_cidr);
    let wired = machine.clone();
    let (dataplane, pods) = tokio::task::spawn_blocking(move || -> Result<_> {
        wired.set_up().context("set up the pod network")?;
        let dataplane = Dataplane::open(&table, cluster)?;
        let mtu = network::machine::primary_address()?.map_or(1500, |(_, mtu)| mtu);
        let pods = Pods::open(&folder, &wired, mtu, dataplane.clone()).context("open the pod network")?;
        Ok((dataplane, pods))
    })
    .await
    .context("set up the pod network")??;
    network_up.send_replace(Some(Arc::new(pods)));
    progress.step("pod network ready");

    let proxy = proxy::Config { node_name: config.name.clone() };
    let (informers, until) = (config.informers.clone(), stop.clone());
    tasks.spawn(async move { report("service proxy", proxy::run(informers, dataplane, proxy, until).await) });

    let cluster_ip = config.service_cidr.nth(10).context("--service-cidr is too small")?;
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns = dns::Config {
        domain: config.flags.cluster_domain.clone(),
        listen: machine.gateway(),
        cluster_ip,
        node_name: config.name.clone(),
        upstreams: dns::upstreams_of(&resolv_conf, &[cluster_ip.into(), machine.gateway().into()]),
    };
    let (informers, publisher, until) = (config.informers.clone(), config.dns.clone(), stop.clone());
    tasks.spawn(async move { report("cluster DNS", dns::run(informers, publisher, dns, until).await) });

    let is_ready = |node: Option<&Node>| {
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    client::until(nodes, &config.name, is_ready).await.context("wait for the node to be Ready")?;
    // Kept until the end: a dropped sender would say that the network is gone.
    let until = stop.clone();
    tasks.spawn(async move {
        until.wait().await;
        drop(network_up);
    });
    progress.step(&format!("node {} is Ready", config.name));
    Ok(())
}

fn agent_config(config: &NodeConfig) -> Result<node::Config> {
    let Serving { certificate, client_ca } = &config.serving;
    let tls = node::tls_config(certificate.clone(), client_ca.clone());
    let tls = tls.context("set up the kubelet's TLS")?;
    let mut agent = node::Config::new(&config.name, config.place.data.join("node"), Arc::new(tls));
    agent.addresses = vec![config.address.into()];
    agent.cluster_dns = config.service_cidr.nth(10).map(IpAddr::V4).into_iter().collect();
    agent.cluster_domain = config.flags.cluster_domain.clone();
    agent.max_pods = config.flags.max_pods;
    Ok(agent)
}

fn report<E: std::fmt::Display>(what: &str, ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::error!(%error, "{what} ended");
        eprintln!("ironclad: {what} ended: {error:#}");
    }
}

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
        let waiting = || NetworkError("the node has no pod addresses (spec.podCIDR) yet".into());
        self.pods.borrow().as_ref().map(|_| ()).ok_or_else(waiting)
    }

    async fn became_ready(&self) {
        if self.pods().await.is_err() {
            std::future::pending().await
        }
    }
}
