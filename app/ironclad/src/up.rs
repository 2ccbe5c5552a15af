//! `ironclad up`, `server` and `agent`: start in order, wait for a signal, drain.

use crate::cli::{Agent, Node as NodeFlags, Output, Server, Up};
use crate::control_plane::{self, ControlPlane};
use crate::data_dir::DataDir;
use crate::join::{self, Credentials};
use crate::node_stack::{self, NodeConfig, Serving};
use crate::place::Place;
use crate::preflight;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use client::InformerFactory;
use kit::Shutdown;
use serde_json::json;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How long everything together may take to stop, requests that are still under way apart.
const DRAIN: Duration = Duration::from_secs(15);

/// Control plane and node.
pub async fn up(flags: Up) -> Result<()> {
    preflight::require_root("up")?;
    preflight::require_kernel()?;
    let progress = Progress::new(flags.output);
    let listener = preflight::bind(flags.control_plane.port)?;
    // What can be refused is refused before anything is made.
    preflight::require_room(&flags.data_dir.data_dir)?;
    preflight::require_free_blocks(&Place::of(&flags.data_dir.data_dir), &flags.control_plane)?;
    let data = DataDir::open(&flags.data_dir.data_dir)?;
    let place = Place::of(data.root());
    place.claim()?;

    let mut run = Run::new()?;
    let runtime = node_stack::open_runtime(&place, &flags.node);
    let started =
        control_plane::start(&flags.control_plane, &data, listener, &progress, &run.stop, &mut run.tasks);
    let (runtime, control_plane) = tokio::try_join!(runtime, started)?;
    let informers = run.components(&control_plane, &flags.control_plane);
    let name = node_name(&flags.node)?;
    let user = format!("system:node:{name}");
    let (pki, address) = (&control_plane.pki, control_plane.advertise);
    let serving = Serving::local(pki, &name, address, &run.stop, &mut run.tasks)?;
    let node = NodeConfig {
        place,
        serving,
        flags: flags.node,
        name,
        service_cidr: flags.control_plane.service_cidr,
        pod_cidr: flags.control_plane.pod_cidr,
        address: control_plane.advertise,
        agent: control_plane.client(&user, &["system:nodes"], "kubelet"),
        dns: control_plane.account_client("coredns", "coredns"),
        informers,
    };
    node_stack::start(node, runtime, &progress, &run.stop, &mut run.tasks).await?;
    announce(&progress, &data, control_plane.port, flags.output, true);
    run.until_signal(&progress).await
}

/// The control plane alone.
pub async fn server(flags: Server) -> Result<()> {
    let progress = Progress::new(flags.output);
    let listener = preflight::bind(flags.control_plane.port)?;
    preflight::require_room(&flags.data_dir.data_dir)?;
    let data = DataDir::open(&flags.data_dir.data_dir)?;
    let mut run = Run::new()?;
    let control_plane =
        control_plane::start(&flags.control_plane, &data, listener, &progress, &run.stop, &mut run.tasks)
            .await?;
    run.components(&control_plane, &flags.control_plane);
    announce(&progress, &data, control_plane.port, flags.output, false);
    run.until_signal(&progress).await
}

/// The node alone.
pub async fn agent(flags: Agent) -> Result<()> {
    preflight::require_root("agent")?;
    preflight::require_kernel()?;
    let progress = Progress::new(flags.output);
    if let Err(error) = std::fs::File::open(&flags.kubeconfig) {
        bail!("cannot read kubeconfig {}: {error}; give --kubeconfig the node's", flags.kubeconfig);
    }
    let name = node_name(&flags.node)?;
    let credentials = Credentials::find(&flags.kubeconfig, &flags.data_dir.data_dir, &name).await?;
    credentials.client().apiserver_version().await.with_context(|| {
        format!("the cluster of {} cannot be reached; is its control plane running?", flags.kubeconfig)
    })?;
    progress.step("cluster reached");
    preflight::require_room(&flags.data_dir.data_dir)?;
    let data = DataDir::open(&flags.data_dir.data_dir)?;
    let place = Place::of(data.root());
    place.claim()?;
    let mut run = Run::new()?;
    let runtime = node_stack::open_runtime(&place, &flags.node).await?;
    let client = credentials.become_node(&data, &progress, &run.stop, &mut run.tasks).await?;
    let address = network::machine::primary_address()?.map(|(address, _)| address);
    let address = address.context("this machine has no address that others could reach it at")?;
    let (stop, tasks) = (&run.stop, &mut run.tasks);
    let serving =
        join::serving(&client, &data, &flags.kubeconfig, &name, address, &progress, stop, tasks).await?;
    let node = NodeConfig {
        serving,
        place,
        flags: flags.node,
        name,
        service_cidr: flags.service_cidr,
        pod_cidr: flags.pod_cidr,
        address,
        agent: client.clone(),
        dns: client.clone(),
        informers: InformerFactory::new(client, run.stop.clone()),
    };
    node_stack::start(node, runtime, &progress, &run.stop, &mut run.tasks).await?;
    run.until_signal(&progress).await
}

fn node_name(flags: &NodeFlags) -> Result<String> {
    flags.node_name.clone().map_or_else(control_plane::hostname, Ok)
}

/// Where the cluster is and what to type next; `nodes`: this process runs pods, too.
fn announce(progress: &Progress, data: &DataDir, port: u16, output: Output, nodes: bool) {
    let kubeconfig = data.kubeconfig();
    progress.event("ready", json!({"kubeconfig": kubeconfig, "server": format!("https://127.0.0.1:{port}")}));
    if output == Output::Text {
        let next = match nodes {
            true => format!(
                "    kubectl get nodes\n    ironclad demo --data-dir {}\n\nCtrl-C stops it and leaves pods running; \
                 `ironclad down` ends them too.",
                data.root()
            ),
            false => {
                "    kubectl get namespaces\n\nNodes join with `ironclad agent`. Ctrl-C stops it.".to_owned()
            }
        };
        progress.say(&format!(
            "\nThe cluster is ready. In another shell:\n\n    export KUBECONFIG={kubeconfig}\n{next}"
        ));
    }
}

/// The tasks of this process and the one signal that ends them.
struct Run {
    stop: Shutdown,
    tasks: JoinSet<()>,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// The longest it may take to stop.
    drain: Duration,
}

impl Run {
    fn new() -> Result<Self> {
        Ok(Self {
            stop: Shutdown::new(),
            tasks: JoinSet::new(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: DRAIN,
        })
    }

    /// Controllers and scheduler on one set of informers.
    fn components(
        &mut self,
        control_plane: &ControlPlane,
        flags: &crate::cli::ControlPlane,
    ) -> InformerFactory {
        // Requests under way are finished, each in its time.
        self.drain = DRAIN.max(flags.api.shutdown_delay_duration + flags.api.request_timeout + DRAIN / 3);
        let reader = control_plane.client("system:kube-controller-manager", &[], control_plane::MANAGER);
        let informers = InformerFactory::new(reader, self.stop.clone());
        control_plane.start_components(flags, &informers, &self.stop, &mut self.tasks);
        informers
    }

    async fn until_signal(mut self, progress: &Progress) -> Result<()> {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        progress.say("");
        progress.step("stopping; pods stay");
        self.stop.trigger();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        let second = async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        };
        tokio::select! {
            () = drained => {}
            () = second => progress.step("stopping at once"),
            () = tokio::time::sleep(self.drain) => tracing::warn!("some tasks did not stop in time"),
        }
        progress.step("stopped");
        Ok(())
    }
}
