//! Wires the control plane: PKI, store, watch cache, API server, controllers, scheduler.

use crate::cli::{ControlPlane as Flags, StoreChoice};
use crate::data_dir::DataDir;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use apiserver::cache::Cache;
use arc_swap::ArcSwap;
use client::InformerFactory;
use kit::Shutdown;
use kit::pki::{Credentials, Kubeconfig, LeafSpec, Pki, RotatingCertificate, Sans};
use network::dataplane::Cidr;
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use store::Store;
use tokio::task::JoinSet;

/// A running control plane.
pub struct ControlPlane {
    pub server: ApiServer,
    pub pki: Pki,
    pub port: u16,
    pub advertise: Ipv4Addr,
    /// Signs service-account tokens.
    issuer: Arc<apiserver::tokens::Issuer>,
}

/// What upstream's controllers call themselves.
pub const MANAGER: &str = "kube-controller-manager";

/// The service CIDR's n-th address.
pub fn service_address(cidr: Cidr, n: u32) -> Result<Ipv4Addr> {
    cidr.nth(n).with_context(|| format!("--service-cidr {cidr} is too small"))
}

/// Starts everything and returns once /readyz says ok. Tasks end with `stop` and are in `tasks`.
pub async fn start(
    flags: &Flags,
    data: &DataDir,
    listener: std::net::TcpListener,
    progress: &Progress,
    stop: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<ControlPlane> {
    let port = listener.local_addr().context("read the listener's address")?.port();
    let advertise = match flags.advertise_address {
        Some(address) => address,
        // A machine with no address of its own is reached at its gateway among the pods of its first block.
        None => match network::machine::primary_address()? {
            Some((address, _)) => address,
            None => flags.pod_cidr.nth(1).context("--pod-cidr is too small")?,
        },
    };
    let pki = Pki::open(data.root().as_std_path()).context("open the certificates")?;
    let server_leaf = server_spec(flags, advertise)?;
    let kubelet_client = pki.leaf(
        "apiserver-kubelet-client",
        &LeafSpec::client("kube-apiserver-kubelet-client", &["system:masters"]),
    )?;
    write_kubeconfig(&pki, data, port)?;
    progress.step("certificates ready");

    let (security, followed) = flags.identity.prepare()?.split();
    let encryption = flags.api.encryption().await?;
    let store = open_store(flags, data).await?;
    let store = match &encryption {
        Some(encryption) => encryption.wrap(store),
        None => store,
    };
    let mut options = apiserver::cache::Options::new(apiserver::selectable_fields());
    options.window.exact = flags.etcd_compaction_interval;
    let cache = Cache::start(store, options).await.context("load the state")?;
    progress.step(&format!("state loaded (revision {})", cache.revision()));

    let slot = RotatingCertificate::new(&pki.leaf("apiserver", &server_leaf)?)?;
    let shown = [security.client_authorities.as_slice(), &security.front_proxy_authorities].concat();
    let tls = Arc::new(ArcSwap::from(listener_tls(&pki, &slot, &shown)?));
    // Extension servers are told which names to believe; ours is one of them.
    let proxy_name = security.front_proxy.allowed.first().map_or("front-proxy-client", String::as_str);
    let front_proxy = LeafSpec::client(proxy_name, &[]);
    let security = apiserver::security::build(&pki, cache.clone(), security)
        .map_err(|e| anyhow::anyhow!("set up authentication: {e}"))?;
    let (swap, sign, own) = (tls.clone(), slot.clone(), pki.clone());
    let listener_authorities =
        Arc::new(move |all: &[CertificateDer<'static>]| match listener_tls(&own, &sign, all) {
            Ok(next) => swap.store(next),
            Err(error) => tracing::error!(%error, "the listener keeps the authorities it had"),
        });
    followed.start(&pki, &security, listener_authorities, stop, tasks);
    let issuer = security.token_issuer.clone();
    let mut config = apiserver::Config::secure(cache, security);
    config.advertise = Some((IpAddr::V4(advertise), port));
    config.service_cidr = flags.service_cidr.to_string().parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let kubelet_tls = kubelet_tls(&pki, &kubelet_client)?;
    config.kubelet = Some(Arc::new(move || kubelet_tls.clone()));
    flags.api.apply(&mut config)?;
    let proxy_leaf = pki.leaf_of(&pki.front_proxy_ca, "front-proxy-client", &front_proxy)?;
    let proxy_slot = RotatingCertificate::new(&proxy_leaf)?;
    config.front_proxy = Some(proxy_slot.clone());
    config.encryption = encryption;
    let server = ApiServer::new(config)?;
    server.metrics.register(client::queue_stats::render);
    server.start().await.map_err(|e| anyhow::anyhow!("start the API server: {e}"))?;

    tasks.spawn(pki.clone().keep_fresh("apiserver".into(), server_leaf, slot, stop.clone()));
    let authority = pki.front_proxy_ca.clone();
    let name = "front-proxy-client".into();
    tasks.spawn(pki.clone().keep_fresh_of(authority, name, front_proxy, proxy_slot, stop.clone()));
    let listener = tokio::net::TcpListener::from_std(listener).context("listen")?;
    let serving = server.clone();
    let until = stop.clone();
    tasks.spawn(async move {
        serving.serve(listener, Arc::new(move || tls.load_full()), until).await;
        if let Some(audit) = &serving.config.audit {
            audit.flush().await;
        }
    });
    progress.step(&format!("API server ready on port {port}"));

    Ok(ControlPlane { server, pki, port, advertise, issuer })
}

impl ControlPlane {
    /// A client that runs as `user`, through the whole chain, without a socket, and calls itself `component`. Must be
    /// called inside the runtime.
    pub fn client(&self, user: &str, groups: &[&str], component: &str) -> kube::Client {
        let user = UserInfo::new(user, groups);
        client::in_process(self.server.in_process(user).with_agent(&client::user_agent(component, "")))
    }

    /// [`client`](Self::client) for a service account of kube-system.
    pub fn account_client(&self, name: &str, component: &str) -> kube::Client {
        account_client(&self.server, name, component)
    }

    /// Controllers and scheduler, each under upstream's identity, unless the flags say that others run them.
    pub fn start_components(
        &self,
        flags: &Flags,
        informers: &InformerFactory,
        stop: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) {
        if !flags.disable_controller_manager {
            self.start_controllers(flags, informers, stop, tasks);
        }
        if flags.disable_scheduler {
            return;
        }
        let scheduler = self.client("system:kube-scheduler", &[], "kube-scheduler");
        let (factory, until) = (informers.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = scheduler::run(scheduler, factory, scheduler::Config::default(), until).await
            {
                tracing::error!(%error, "scheduler ended");
            }
        });
    }

    fn start_controllers(
        &self,
        flags: &Flags,
        informers: &InformerFactory,
        stop: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) {
        let server = self.server.clone();
        let issuer = self.issuer.clone();
        let controllers = controllers::Config {
            client_for: Some(Arc::new(move |name: &str| account_client(&server, name, MANAGER))),
            root_ca: Some(self.pki.ca.certificate_pem().to_owned()),
            signer: Some(self.pki.ca.clone()),
            legacy_token: Some(Arc::new(move |namespace: &str, name: &str, uid: &str, secret: &str| {
                issuer.sign_legacy(namespace, name, uid, secret).ok()
            })),
            cluster_cidr: Some(flags.pod_cidr.to_string()),
            ..controllers::Config::default()
        };
        let manager = self.client("system:kube-controller-manager", &[], MANAGER);
        let (factory, until) = (informers.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = controllers::run(manager, factory, controllers, until).await {
                tracing::error!(%error, "controllers ended");
            }
        });
    }
}

/// As `system:serviceaccount:kube-system:<name>`: upstream's controller manager has its own credentials per loop.
fn account_client(server: &ApiServer, name: &str, component: &str) -> kube::Client {
    let user = UserInfo::service_account("kube-system", name, "");
    let agent = client::user_agent(component, &user.name);
    client::in_process(server.in_process(user).with_agent(&agent))
}

fn server_spec(flags: &Flags, advertise: Ipv4Addr) -> Result<LeafSpec> {
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .iter()
        .map(|n| (*n).to_owned())
        .collect();
    names.push("kubernetes.default.svc.cluster.local".into());
    if let Ok(host) = hostname() {
        names.push(host);
    }
    let mut addresses =
        vec![IpAddr::from([127, 0, 0, 1]), advertise.into(), service_address(flags.service_cidr, 1)?.into()];
    for extra in &flags.tls_san {
        match extra.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(extra.clone()),
        }
    }
    Ok(LeafSpec::server("kube-apiserver", Sans::new(names, addresses)))
}

/// The machine's host name, in the form a Node's name may have.
pub fn hostname() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("read the host name")?
        .trim()
        .to_lowercase();
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) {
        bail!("the host name {name:?} cannot name a Node; pass --node-name");
    }
    Ok(name)
}

/// The secure port's TLS: `others` are authorities whose clients are asked for their certificates besides the
/// cluster's own.
fn listener_tls(
    pki: &Pki,
    slot: &Arc<RotatingCertificate>,
    others: &[CertificateDer<'static>],
) -> Result<Arc<rustls::ServerConfig>> {
    let own = [pki.ca.certificate(), pki.front_proxy_ca.certificate()];
    let all: Vec<_> = own.into_iter().chain(others).collect();
    let verifier = kit::pki::ClientVerifier::new(&all)?;
    Ok(Arc::new(kit::pki::server_config(slot.clone(), Some(verifier))?))
}

fn kubelet_tls(pki: &Pki, leaf: &kit::pki::Leaf) -> Result<Arc<rustls::ClientConfig>> {
    let slot = RotatingCertificate::new(leaf)?;
    Ok(Arc::new(kit::pki::client_config(&[pki.ca.certificate().clone()], Some(slot))?))
}

fn write_kubeconfig(pki: &Pki, data: &DataDir, port: u16) -> Result<()> {
    let admin = pki.leaf("admin", &LeafSpec::client("kubernetes-admin", &["system:masters"]))?;
    let server = format!("https://127.0.0.1:{port}");
    Kubeconfig {
        server: &server,
        cluster: "ironclad",
        user: "kubernetes-admin",
        ca_pem: pki.ca.certificate_pem(),
        credentials: Credentials::Certificate(&admin),
    }
    .write(data.kubeconfig().as_std_path())?;
    Ok(())
}

async fn open_store(flags: &Flags, data: &DataDir) -> Result<Arc<dyn Store>> {
    match &flags.store {
        StoreChoice::Embedded => {
            let folder = data.folder("store")?;
            let open =
                move || store::embedded::open(folder.as_std_path(), store::embedded::Options::default());
            Ok(tokio::task::spawn_blocking(open).await.context("open the store")??)
        }
        StoreChoice::Etcd(urls) => {
            let read = |path: &camino::Utf8Path| std::fs::read(path).with_context(|| format!("read {path}"));
            let identity = match flags.etcd_certfile.as_deref().zip(flags.etcd_keyfile.as_deref()) {
                Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
                None => None,
            };
            let tls = match flags.etcd_cafile.as_deref() {
                Some(ca) => Some(store::etcd::Tls { ca: read(ca)?, identity }),
                None if urls.iter().any(|u| u.starts_with("https://")) => {
                    bail!(
                        "--store etcd=https://... needs --etcd-cafile, the CA that signed the servers' certificates"
                    )
                }
                None => None,
            };
            let mut options = store::etcd::Options::new(urls, tls, "");
            let every = flags.etcd_compaction_interval;
            options.compaction = (!every.is_zero()).then_some(every);
            Ok(Arc::new(store::etcd::Etcd::connect(options).await.context("connect to etcd")?))
        }
    }
}
