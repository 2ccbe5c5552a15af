//! The node agent's life: register, take over what runs, then one actor a pod, fed by the watch of the node's pods.

use crate::admit::{self, Use};
use crate::config::Config;
use crate::events::{Kind, Recorder};
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::objects::Objects;
use crate::pod::actor::{self, Mailbox, Msg};
use crate::pod::observed::{Observed, is_alive};
use crate::pod::{identity, labels, plan, stop, upkeep};
use crate::probes::Prober;
use crate::register::NodeKeeper;
use crate::shared::Shared;
use crate::statuses::Statuses;
use crate::{Error, rotate, server, volumes};
use camino::Utf8PathBuf;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use parking_lot::Mutex;
use runtime::{ContainerStatus, Runtime, SandboxStatus};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, broadcast, watch};

/// The pods of this node, for the kubelet API.
#[derive(Default)]
pub struct Pods {
    known: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    mailbox: Mailbox,
    task: tokio::task::JoinHandle<()>,
    pod: Arc<Pod>,
    needs: Use,
    /// No longer in the API: what it holds is promised to others already.
    gone: bool,
}

impl Pods {
    /// Those the API knows. Of two with one name the other is on its way out.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.known
            .lock()
            .values()
            .filter(|e| !e.gone && !e.task.is_finished())
            .map(|e| e.pod.clone())
            .collect()
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.all().into_iter().find(|p| identity(p).0 == name && identity(p).1 == namespace)
    }

    fn send(&self, uid: &str, message: Msg) -> bool {
        self.known.lock().get(uid).is_some_and(|e| e.mailbox.send(message).is_ok())
    }

    /// The pod left the API.
    fn gone(&self, uid: &str) {
        if let Some(entry) = self.known.lock().get_mut(uid) {
            entry.gone = true;
            let _ = entry.mailbox.send(Msg::Gone);
        }
    }

    fn used(&self) -> Use {
        let known = self.known.lock();
        known
            .values()
            .filter(|e| !e.gone && !plan::is_terminal(&e.pod))
            .fold(Use::default(), |sum, e| sum.plus(e.needs))
    }
}

/// Runs the node agent until `stop` is triggered. Pods keep running when it returns; the next run takes them over.
///
/// Returns an error only when it cannot begin: the kubelet API's address is taken, the data folder cannot be made, or
/// the runtime does not answer.
pub async fn run(
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn PodNetwork>,
    config: Config,
    stop: kit::Shutdown,
) -> Result<(), Error> {
    let config = Arc::new(config);
    for dir in [config.pods_dir(), config.logs_dir()] {
        std::fs::create_dir_all(&dir).map_err(|source| Error::DataDir { path: dir.clone(), source })?;
    }
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Listen { address: config.listen, source })?;
    let port =
        listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?.port();
    let runtime_version = runtime.version().await.map_err(Error::Runtime)?;
    let machine = Arc::new(Machine::read(&config.data_dir));
    let recorder = Recorder::start(client.clone(), "kubelet", config.node_name.clone());
    let objects = Arc::new(Objects::new(client.clone()));
    let images_changed = Arc::new(Notify::new());
    let (node_tx, node) = watch::channel(None);
    let (services, writer) = reflector::store();
    let keeper = Arc::new(NodeKeeper {
        client: client.clone(),
        runtime: runtime.clone(),
        network: network.clone(),
        config: config.clone(),
        machine: machine.clone(),
        runtime_version,
        port,
        recorder: recorder.clone(),
        images_changed: images_changed.clone(),
        node: node_tx,
    });
    let shared = Arc::new(Shared {
        images: Images {
            runtime: runtime.clone(),
            objects: objects.clone(),
            recorder: recorder.clone(),
            pulls: Semaphore::new(config.parallel_pulls.max(1)),
            backoff: Mutex::default(),
            changed: images_changed,
        },
        prober: Prober::start(runtime.clone(), recorder.clone()),
        statuses: Statuses::new(client.clone()),
        volumes: volumes::Context {
            client: client.clone(),
            objects: objects.clone(),
            config: config.clone(),
        },
        client: client.clone(),
        runtime: runtime.clone(),
        network,
        config: config.clone(),
        machine,
        objects,
        recorder,
        services,
        node,
    });
    let pods = Arc::new(Pods::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server::serve(listener, shared.clone(), pods.clone(), stop.child()));
    let events = runtime.events();
    tasks.spawn(watch_services(client.clone(), writer));
    let begin = {
        let (keeper, shared) = (keeper.clone(), shared.clone());
        async move {
            let services = shared.services.clone();
            tokio::join!(keeper.register(), async {
                let _ = services.wait_until_ready().await;
            });
            keeper.announce();
        }
    };
    tokio::select! {
        () = stop.wait() => return Ok(()),
        () = begin => {}
    }
    tracing::info!(node = config.node_name, port, "node registered");
    tasks.spawn(route(events, pods.clone()));
    tasks.spawn(rotate::run(shared.clone()));
    {
        let keeper = keeper.clone();
        tasks.spawn(async move { keeper.keep().await });
    }
    tasks.spawn(watch_node(client.clone(), keeper.clone()));
    tasks.spawn(watch_pods(client, shared.clone(), pods.clone()));
    stop.wait().await;
    tasks.shutdown().await;
    let known = std::mem::take(&mut *pods.known.lock());
    for entry in known.into_values() {
        entry.task.abort();
    }
    Ok(())
}

async fn watch_services(client: kube::Client, writer: reflector::store::Writer<Service>) {
    let stream = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
    let slim = stream.map_ok(|event| {
        event.modify(|s| {
            s.metadata.managed_fields = None;
            s.status = None;
        })
    });
    let mut stream = std::pin::pin!(reflector(writer, slim));
    while let Some(item) = stream.next().await {
        if let Err(error) = item {
            tracing::debug!(%error, "watch of services interrupted");
        }
    }
}

async fn watch_node(client: kube::Client, keeper: Arc<NodeKeeper>) {
    let name = keeper.config.node_name.clone();
    let mut stream = std::pin::pin!(watcher::watch_object(Api::<Node>::all(client), &name));
    while let Some(item) = stream.next().await {
        match item {
            Ok(found) => {
                keeper.node.send_replace(found.map(Arc::new));
            }
            Err(error) => {
                tracing::debug!(%error, "watch of the node interrupted");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Hands runtime events to the pods they are about.
async fn route(mut events: broadcast::Receiver<runtime::ContainerEvent>, pods: Arc<Pods>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                let uid = event.pod_uid.clone();
                pods.send(&uid, Msg::Container(event));
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "runtime events missed, looking at every pod");
                for e in pods.known.lock().values() {
                    let _ = e.mailbox.send(Msg::Resync);
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// What earlier runs left, by pod uid.
#[derive(Default)]
struct Inventory {
    sandboxes: Vec<SandboxStatus>,
    containers: Vec<ContainerStatus>,
    pod_dirs: Vec<Utf8PathBuf>,
    log_dirs: Vec<Utf8PathBuf>,
}

impl Inventory {
    /// Must be taken before any pod that the runs before did not know is begun: what is swept later is only what is
    /// listed here.
    async fn take(runtime: &dyn Runtime, config: &Config) -> Self {
        let entries = |dir: Utf8PathBuf| -> Vec<Utf8PathBuf> {
            dir.read_dir_utf8().into_iter().flatten().flatten().map(|e| e.into_path()).collect()
        };
        Self {
            sandboxes: runtime.list_pod_sandboxes().await.unwrap_or_default(),
            containers: runtime.list_containers().await.unwrap_or_default(),
            pod_dirs: entries(config.pods_dir()),
            log_dirs: entries(config.logs_dir()),
        }
    }

    fn of(&self, uid: &str) -> Observed {
        let mut observed = Observed {
            sandbox: self
                .sandboxes
                .iter()
                .filter(|s| s.config.pod_uid == uid)
                .max_by_key(|s| (s.ready, s.config.attempt))
                .cloned(),
            ..Observed::default()
        };
        for c in self.containers.iter().filter(|c| c.labels.get(labels::POD_UID).is_some_and(|u| u == uid)) {
            observed.put(c.clone());
        }
        observed
    }

    fn uids(&self) -> BTreeSet<String> {
        let of_sandboxes = self.sandboxes.iter().map(|s| s.config.pod_uid.clone());
        of_sandboxes
            .chain(self.containers.iter().filter_map(|c| c.labels.get(labels::POD_UID).cloned()))
            .collect()
    }
}

async fn watch_pods(client: kube::Client, shared: Arc<Shared>, pods: Arc<Pods>) {
    let selector = format!("spec.nodeName={}", shared.config.node_name);
    let stream =
        watcher(Api::<Pod>::all(client), watcher::Config::default().fields(&selector)).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: Vec<Pod> = Vec::new();
    let mut first = true;
    while let Some(item) = stream.next().await {
        match item {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => listed.push(pod),
            Ok(watcher::Event::InitDone) => {
                let list = std::mem::take(&mut listed);
                let uids: BTreeSet<String> = list.iter().map(|p| identity(p).2.to_owned()).collect();
                let inventory = if first {
                    Inventory::take(&*shared.runtime, &shared.config).await
                } else {
                    Inventory::default()
                };
                for pod in list {
                    apply(&shared, &pods, pod, Some(&inventory));
                }
                let lost: Vec<String> =
                    pods.known.lock().keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
                lost.iter().for_each(|uid| pods.gone(uid));
                if first {
                    first = false;
                    // Before the next event: a pod that comes later must not find its address released.
                    if let Err(error) = shared.network.release_all_except(&uids).await {
                        tracing::warn!(%error, "network of pods that are gone not released");
                    }
                    tokio::spawn(sweep(shared.clone(), inventory, uids));
                }
            }
            Ok(watcher::Event::Apply(pod)) => apply(&shared, &pods, pod, None),
            Ok(watcher::Event::Delete(pod)) => pods.gone(identity(&pod).2),
            Err(error) => tracing::debug!(%error, "watch of pods interrupted"),
        }
    }
}

fn apply(shared: &Arc<Shared>, pods: &Pods, mut pod: Pod, inventory: Option<&Inventory>) {
    pod.metadata.managed_fields = None;
    let uid = identity(&pod).2.to_owned();
    {
        let mut known = pods.known.lock();
        if let Some(entry) = known.get_mut(&uid) {
            entry.pod = Arc::new(pod.clone());
            if entry.mailbox.send(Msg::Pod(Box::new(pod))).is_ok() {
                return;
            }
            known.remove(&uid);
            return;
        }
        known.retain(|_, e| !e.task.is_finished());
    }
    let observed = inventory.map(|i| i.of(&uid)).unwrap_or_default();
    let fresh = observed.sandbox.is_none()
        && observed.containers.is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !plan::is_terminal(&pod);
    let node = shared.node.borrow().clone();
    let verdict = match node.filter(|_| fresh) {
        Some(node) => admit::admit(&node, pods.used(), &pod).err(),
        None => None,
    };
    if let Some((reason, message)) = &verdict {
        tracing::info!(pod = identity(&pod).0, reason, message, "pod not admitted");
        shared.recorder.pod(&pod, Kind::Warning, event_reason(reason), message.clone());
    }
    let needs = pod.spec.as_ref().map(Use::of).unwrap_or_default();
    let kept = Arc::new(pod.clone());
    let (mailbox, task) = actor::spawn(shared.clone(), pod, observed, verdict);
    pods.known.lock().insert(uid, Entry { mailbox, task, pod: kept, needs, gone: false });
}

/// Event reasons are static words.
fn event_reason(reason: &str) -> &'static str {
    match reason {
        "NodeAffinity" => "NodeAffinity",
        "TaintToleration" => "TaintToleration",
        "OutOfpods" => "OutOfpods",
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfephemeral-storage" => "OutOfephemeral-storage",
        _ => "UnexpectedAdmissionError",
    }
}

/// Stops and removes what of the inventory belongs to no pod of the API, once at start. Takes as long as those pods take
/// to stop; pods that are begun meanwhile are not in the inventory, so it cannot touch them.
async fn sweep(shared: Arc<Shared>, inventory: Inventory, uids: BTreeSet<String>) {
    let orphans: Vec<String> = inventory.uids().difference(&uids).cloned().collect();
    let graces: BTreeMap<String, i64> = inventory
        .containers
        .iter()
        .filter_map(|c| Some((c.id.clone(), c.annotations.get(labels::GRACE)?.parse().ok()?)))
        .collect();
    let work = orphans.into_iter().map(|uid| {
        let (shared, inventory, graces) = (&shared, &inventory, &graces);
        async move {
            tracing::info!(uid, "stopping a pod the API does not know");
            let observed = inventory.of(&uid);
            let alive: Vec<_> =
                observed.containers.values().flatten().filter(|c| is_alive(c)).cloned().collect();
            let grace = alive.iter().filter_map(|c| graces.get(&c.id)).max().copied().unwrap_or(30);
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid.clone());
            if let Some(s) = &observed.sandbox {
                pod.metadata.name = Some(s.config.pod_name.clone());
                pod.metadata.namespace = Some(s.config.pod_namespace.clone());
            }
            stop::stop_pod(shared, &pod, alive, observed.sandbox, grace, &[]).await;
            upkeep::remove_everything(shared, &uid).await;
        }
    });
    futures::future::join_all(work).await;
    let _ = tokio::task::spawn_blocking(move || {
        let of = |dir: &Utf8PathBuf| dir.file_name().and_then(|n| n.rsplit('_').next()).map(str::to_owned);
        let known = |dir: &Utf8PathBuf| of(dir).is_none_or(|uid| uids.contains(&uid));
        inventory.pod_dirs.iter().filter(|dir| !known(dir)).for_each(|dir| volumes::remove(dir));
        for dir in inventory.log_dirs.iter().filter(|dir| !known(dir)) {
            let _ = std::fs::remove_dir_all(dir);
        }
    })
    .await;
}
