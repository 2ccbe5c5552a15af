//! What every controller is handed, and the supervisor that runs them all.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{EventRecorder, InformerFactory};
use kit::Shutdown;
use kube::Client;
use tracing::{error, info};

/// Why a controller could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot discover the served kinds")]
    Discovery(#[source] kube::Error),
    #[error("bad configuration: {0}")]
    Config(String),
    #[error("request failed")]
    Api(#[source] kube::Error),
    #[error("namespace {0} is not empty yet")]
    NotEmpty(String),
}

/// See [`Config::legacy_token`].
pub type LegacyToken = Arc<dyn Fn(&str, &str, &str, &str) -> Option<String> + Send + Sync>;

/// Settings of the controllers; the default suits one node.
#[derive(Clone)]
pub struct Config {
    /// The client that a controller of this name should use (upstream's `system:serviceaccount:kube-system:<name>`).
    /// `None`: all use the client given to [`run`].
    pub client_for: Option<Arc<dyn Fn(&str) -> Client + Send + Sync>>,
    /// PEM of the CA that signs the API server's certificate, published in every namespace.
    pub root_ca: Option<String>,
    /// Signs approved certificate requests of the built-in signers. `None`: they wait for another signer.
    pub signer: Option<kit::pki::Authority>,
    /// Signs the token of a service account's Secret: namespace, account, the account's uid, secret. `None`: such
    /// Secrets stay empty.
    pub legacy_token: Option<LegacyToken>,
    /// Pod addresses of the cluster, cut into one range a node. `None`: nodes bring their own.
    pub cluster_cidr: Option<String>,
    /// Prefix length of a node's range.
    pub node_cidr_mask: u8,
    /// How long a node may be silent before it is taken for dead.
    pub node_grace: Duration,
    /// Pods that ended, kept in the cluster at most.
    pub terminated_pods: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_for: None,
            root_ca: None,
            signer: None,
            legacy_token: None,
            cluster_cidr: None,
            node_cidr_mask: 24,
            node_grace: Duration::from_secs(50),
            terminated_pods: 12_500,
        }
    }
}

#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub informers: InformerFactory,
    pub config: Arc<Config>,
    pub stop: Shutdown,
}

impl Context {
    pub fn client_for(&self, name: &str) -> Client {
        self.config.client_for.as_ref().map_or_else(|| self.client.clone(), |make| make(name))
    }

    pub fn recorder(&self, name: &str) -> EventRecorder {
        self.recorder_as(name, name)
    }

    /// Events that `identity` writes in the name of `component`.
    pub fn recorder_as(&self, identity: &str, component: &str) -> EventRecorder {
        EventRecorder::new(self.client_for(identity), component, "", self.stop.clone())
    }
}

/// Waits until the informers have their first lists; false when the stop came first.
macro_rules! synced {
    ($cx:expr, $($informer:expr),+ $(,)?) => {
        tokio::select! {
            () = async { $( $informer.synced().await; )+ } => true,
            () = $cx.stop.wait() => false,
        }
    };
}
pub(crate) use synced;

type Task = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Runs every controller until `stop`. One that fails is logged and leaves the others running.
pub async fn run(
    client: Client,
    informers: InformerFactory,
    config: Config,
    stop: Shutdown,
) -> Result<(), Error> {
    let cx = Context { client, informers, config: Arc::new(config), stop };
    // The collector comes last: by then the others have asked for the informers that it shares.
    let all: Vec<(&'static str, Task)> = vec![
        ("deployment", Box::pin(crate::deployment::run(cx.clone()))),
        ("replicaset", Box::pin(crate::replicaset::run(cx.clone()))),
        ("endpointslice", Box::pin(crate::endpoints::run_slices(cx.clone()))),
        ("endpoints", Box::pin(crate::endpoints::run_endpoints(cx.clone()))),
        ("endpointslicemirroring", Box::pin(crate::endpoints::run_mirroring(cx.clone()))),
        ("namespace", Box::pin(crate::namespace::run(cx.clone()))),
        ("serviceaccount", Box::pin(crate::serviceaccount::run(cx.clone()))),
        ("root-ca-cert-publisher", Box::pin(crate::rootca::run(cx.clone()))),
        ("serviceaccount-token", Box::pin(crate::tokens::secrets::run(cx.clone()))),
        ("legacy-serviceaccount-token-cleaner", Box::pin(crate::tokens::clean::run(cx.clone()))),
        ("token-cleaner", Box::pin(crate::tokens::bootstrap::run(cx.clone()))),
        ("csrapproving", Box::pin(crate::certificates::approve::run(cx.clone()))),
        ("csrsigning", Box::pin(crate::certificates::sign::run(cx.clone()))),
        ("csrcleaner", Box::pin(crate::certificates::clean::run(cx.clone()))),
        ("daemonset", Box::pin(crate::daemonset::run(cx.clone()))),
        ("statefulset", Box::pin(crate::statefulset::run(cx.clone()))),
        ("job", Box::pin(crate::job::run(cx.clone()))),
        ("ttl-after-finished", Box::pin(crate::job::run_ttl(cx.clone()))),
        ("cronjob", Box::pin(crate::cronjob::run(cx.clone()))),
        ("disruption", Box::pin(crate::disruption::run(cx.clone()))),
        ("resourcequota", Box::pin(crate::quota::run(cx.clone()))),
        ("nodelifecycle", Box::pin(crate::nodes::run_lifecycle(cx.clone()))),
        ("tainteviction", Box::pin(crate::nodes::run_eviction(cx.clone()))),
        ("podgc", Box::pin(crate::nodes::run_podgc(cx.clone()))),
        ("nodeipam", Box::pin(crate::nodes::run_ipam(cx.clone()))),
        ("replicationcontroller", Box::pin(crate::replicaset::run_replication(cx.clone()))),
        ("garbagecollector", Box::pin(crate::gc::run(cx.clone()))),
    ];
    info!(count = all.len(), "controllers start");
    let mut set = tokio::task::JoinSet::new();
    for (name, task) in all {
        set.spawn(async move { (name, task.await) });
    }
    while let Some(ended) = set.join_next().await {
        match ended {
            Ok((name, Err(error))) => error!(controller = name, %error, "controller failed"),
            Ok((_, Ok(()))) => {}
            Err(error) => error!(%error, "controller task broke"),
        }
    }
    Ok(())
}
