//! The server as a value: configuration, shared state, and the ways in.

use crate::admission::Plugin;
use crate::audit::Audit;
use crate::authentication::{AnonymousAccess, Authenticator, BearerTokens, Chain, UserInfo};
use crate::authorization::Authorizer;
use crate::cache::Cache;
use crate::encryption::Encryption;
use crate::flow::FlowControl;
use crate::http::serve::{self, TlsSource};
use crate::http::service::{ApiService, InProcessService};
use crate::metrics::Metrics;
use crate::resolve::{Index, Parts};
use crate::services::{Allocators, Cidr};
use crate::status::ApiError;
use crate::storage::Storage;
use crate::tokens::TokenRequests;
use arc_swap::ArcSwap;
use kit::Shutdown;
use std::net::IpAddr;
use std::ops::{Deref, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// Client TLS towards kubelets: asked once a connection, so certificates rotate live.
pub type KubeletTls = Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>;

/// Everything the server is made of. Public fields; start from [`Config::new`].
pub struct Config {
    pub cache: Arc<Cache>,
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub authorizer: Arc<dyn Authorizer>,
    /// In upstream's order; each is asked to mutate, then to validate.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// What is recorded of requests, and where.
    pub audit: Option<Arc<Audit>>,
    /// Whose [`wrap`](Encryption::wrap) made the store the cache stands on, if one did.
    pub encryption: Option<Arc<Encryption>>,
    /// Requests served at once, all priority levels together (upstream's `--max-requests-inflight` and
    /// `--max-mutating-requests-inflight`).
    pub max_requests_inflight: u32,
    pub max_mutating_requests_inflight: u32,
    /// How long a request that is neither a watch nor a tunnel may take.
    pub request_timeout: Duration,
    /// How long the server goes on as before once asked to stop, /readyz apart.
    pub shutdown_delay: Duration,
    /// Who may ask without credentials, and for what.
    pub anonymous: AnonymousAccess,
    /// Answers `serviceaccounts/token` and publishes the issuer's keys.
    pub tokens: Option<Arc<TokenRequests>>,
    /// Answers TokenReviews.
    pub bearer: Option<Arc<BearerTokens>>,
    /// Default RBAC, priority classes and flow control are written at start, with this beside them; `None`: not.
    pub published: Option<tokio::sync::watch::Receiver<crate::bootstrap::Published>>,
    /// Uses of Secrets' tokens, recorded beside `published`.
    pub tracking: parking_lot::Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<(String, String)>>>,
    /// Without it, logs, exec and proxies to nodes answer 503.
    pub kubelet: Option<KubeletTls>,
    /// The certificate this server shows to extension servers when it speaks for a user.
    pub front_proxy: Option<Arc<kit::pki::RotatingCertificate>>,
    /// Serve alpha and beta versions too (`--runtime-config=api/all=true`).
    pub all_versions: bool,
    pub service_cidr: Cidr,
    pub node_ports: RangeInclusive<u16>,
    /// Where the `kubernetes` Service points. `None`: it gets no endpoints.
    pub advertise: Option<(IpAddr, u16)>,
    /// `gitVersion` of `/version`.
    pub version: String,
}

impl Config {
    pub fn new(
        cache: Arc<Cache>,
        authenticators: Vec<Arc<dyn Authenticator>>,
        authorizer: Arc<dyn Authorizer>,
        admission: Vec<Arc<dyn Plugin>>,
    ) -> Self {
        Self {
            cache,
            authenticators,
            authorizer,
            admission,
            audit: None,
            anonymous: AnonymousAccess::default(),
            encryption: None,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            shutdown_delay: Duration::ZERO,
            tokens: None,
            bearer: None,
            published: None,
            tracking: parking_lot::Mutex::default(),
            kubelet: None,
            front_proxy: None,
            all_versions: false,
            service_cidr: Cidr::default(),
            node_ports: 30000..=32767,
            advertise: None,
            version: format!("v1.36.0+ironclad.{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{0}")]
    Services(String),
}

/// The server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

pub struct Inner {
    pub config: Config,
    pub storage: Storage,
    pub(crate) authentication: Chain,
    pub(crate) index: ArcSwap<Index>,
    /// What the index was built from.
    pub(crate) parts: parking_lot::Mutex<Parts>,
    /// Told whenever the index was replaced.
    pub(crate) reindexed: tokio::sync::Notify,
    pub metrics: Metrics,
    pub(crate) services: Allocators,
    pub(crate) flow: FlowControl,
    pub(crate) discovery: crate::discovery::Documents,
    pub(crate) shutdown: Shutdown,
    pub(crate) started: AtomicBool,
    /// Asked to stop: /readyz says so, before anything else changes.
    pub(crate) stopping: AtomicBool,
    /// Definitions whose instances are being deleted.
    pub(crate) emptying: parking_lot::Mutex<std::collections::HashSet<String>>,
    pub(crate) checks: parking_lot::Mutex<Vec<(String, Check)>>,
}

/// A further readiness check: `Err` is why not.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Deref for ApiServer {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl ApiServer {
    /// Builds the server over a loaded cache. Nothing runs yet; requests can be answered at once, but /readyz
    /// says no until [`start`](Self::start) is done.
    pub fn new(config: Config) -> Result<Self, BuildError> {
        let parts = Parts::builtin(&config.cache, config.all_versions);
        let services =
            Allocators::new(config.service_cidr, config.node_ports.clone()).map_err(BuildError::Services)?;
        services.rebuild(&config.cache);
        let authentication =
            Chain { authenticators: config.authenticators.clone(), anonymous: config.anonymous.clone() };
        let metrics = Metrics::default();
        Ok(Self(Arc::new(Inner {
            authentication,
            storage: Storage::new(config.cache.clone(), metrics.store.clone()),
            index: ArcSwap::from_pointee(parts.index(0)),
            parts: parking_lot::Mutex::new(parts),
            reindexed: tokio::sync::Notify::new(),
            metrics,
            services,
            flow: FlowControl::new(config.max_requests_inflight + config.max_mutating_requests_inflight),
            discovery: crate::discovery::Documents::default(),
            shutdown: Shutdown::new(),
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            emptying: parking_lot::Mutex::default(),
            checks: parking_lot::Mutex::new(Vec::new()),
            config,
        })))
    }

    /// Creates what a cluster cannot be without (system namespaces, the `kubernetes` Service and its endpoints)
    /// and begins to follow CustomResourceDefinitions. Idempotent; returns once the server is ready.
    pub async fn start(&self) -> Result<(), ApiError> {
        crate::crd::start(self).await?;
        crate::aggregation::start(self);
        crate::admission::policies::status::start(self);
        crate::system::bootstrap(self).await?;
        crate::system::keep(self);
        if let Some(published) = &self.config.published {
            crate::bootstrap::start(self, published).await.map_err(ApiError::internal)?;
        }
        FlowControl::start(self).await?;
        if let Some(encryption) = &self.config.encryption {
            let (cache, shutdown) = (self.config.cache.clone(), self.shutdown.clone());
            tokio::spawn(encryption.clone().run(cache, shutdown));
        }
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// The text of /metrics.
    pub fn metrics_page(&self) -> String {
        let mut page = self.metrics.render();
        crate::aggregation::metrics(self, &mut page);
        crate::metrics::render_webhooks(&mut page);
        self.render_resources(&mut page);
        kit::metrics::process(&mut page);
        self.flow.render(&mut page);
        if let Some(audit) = &self.config.audit {
            audit.render(&mut page);
        }
        if let Some(encryption) = &self.config.encryption {
            encryption.render(&mut page);
        }
        page
    }

    /// Changes what the index is made of, and replaces it.
    pub(crate) fn reindex(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        let generation = self.index.load().generation + 1;
        self.index.store(Arc::new(parts.index(generation)));
        drop(parts);
        self.reindexed.notify_one();
    }

    /// Where this server can be reached by itself.
    pub(crate) fn own_address(&self) -> Option<std::net::SocketAddr> {
        self.config.advertise.map(Into::into)
    }

    /// Figures of each resource.
    fn render_resources(&self, out: &mut String) {
        use crate::metrics::families::head;
        use std::fmt::Write as _;
        let mut all = self.config.cache.resources();
        all.sort_by(|a, b| a.resource().cmp(b.resource()));
        head(
            out,
            "apiserver_storage_objects",
            "gauge",
            "[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        );
        for cache in &all {
            let at = crate::status::group_resource(&cache.resource().group, &cache.resource().resource);
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{at}\"}} {}", cache.len());
        }
        type Figure = (&'static str, &'static str, &'static str, fn(&crate::cache::ResourceCache) -> u64);
        let figures: [Figure; 4] = [
            (
                "apiserver_resource_objects",
                "gauge",
                "Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
                |c| c.len() as u64,
            ),
            (
                "apiserver_storage_decode_errors_total",
                "counter",
                "Number of stored object decode errors split by object type",
                |c| c.undecodable(),
            ),
            (
                "apiserver_storage_events_received_total",
                "counter",
                "Number of etcd events received split by kind.",
                |c| c.received(),
            ),
            ("apiserver_watch_events_total", "counter", "Number of events sent in watch clients", |c| {
                c.delivered()
            }),
        ];
        for (name, kind, help, value) in figures {
            head(out, name, kind, help);
            for cache in &all {
                let (group, resource) = (&cache.resource().group, &cache.resource().resource);
                let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{resource}\"}} {}", value(cache));
            }
        }
    }

    /// Adds a check to /readyz (and its `?verbose` list).
    pub fn add_ready_check(&self, name: &str, check: Check) {
        self.checks.lock().push((name.to_owned(), check));
    }

    /// Ends watches and background work; [`serve`](Self::serve) calls it when its own signal comes.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.shutdown.trigger();
    }

    /// For sockets other than [`serve`](Self::serve)'s.
    pub fn service(&self) -> ApiService {
        ApiService::new(self.clone())
    }

    /// A `tower::Service` for `kube::Client::new`: the whole chain, as this user, without a socket. Watches
    /// stream; upgrades (exec, port-forward) need the socket.
    pub fn in_process(&self, user: UserInfo) -> InProcessService {
        InProcessService::new(self.clone(), user)
    }

    /// Serves the secure port until `shutdown`, then drains; see [`serve::serve`].
    pub async fn serve(&self, listener: TcpListener, tls: TlsSource, shutdown: Shutdown) {
        let ender = async {
            shutdown.wait().await;
            self.stopping.store(true, Ordering::Release);
            // Load balancers have this long to notice.
            tokio::time::sleep(self.config.shutdown_delay).await;
            self.stop();
        };
        tokio::join!(serve::serve(self.clone(), listener, tls), ender);
    }
}
