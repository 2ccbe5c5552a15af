//! The loop: changes come in through informers, placements go out as bindings.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::objects::{is_deleting, is_terminal, name, node_name, uid};
use client::{Change, EventRecorder, Informer, InformerFactory, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kit::Shutdown;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cycle::{Failure, Plugins, schedule};
use crate::framework::{Bind, Happening, Refusal};
use crate::plugins;
use crate::preemption::{Budget, Budgets, Preemption, preempt};
use crate::queue::{NO_NODES, Queue};
use crate::world::{PodInfo, World};

/// Bindings under way at most.
const BINDINGS: usize = 64;

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods whose `spec.schedulerName` is this are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {}

struct Known {
    world: World,
    queue: Queue,
    /// Placed by us, not yet seen as bound.
    assumed: BTreeSet<String>,
    budgets: Budgets,
    start: usize,
}

struct Scheduler {
    client: Client,
    config: Config,
    recorder: EventRecorder,
    plugins: Plugins,
    known: Mutex<Known>,
    wake: Notify,
    bindings: Arc<Semaphore>,
}

/// Schedules until `stop`. Returns once the bindings under way have ended.
pub async fn run(
    client: Client,
    informers: InformerFactory,
    config: Config,
    stop: Shutdown,
) -> Result<(), Error> {
    let recorder = EventRecorder::new(client.clone(), &config.scheduler_name, "", stop.clone());
    let known = Known {
        world: World::default(),
        queue: Queue::default(),
        assumed: BTreeSet::new(),
        budgets: Budgets::new(),
        start: 0,
    };
    let this = Arc::new(Scheduler {
        client,
        config,
        recorder,
        plugins: plugins::all(),
        known: Mutex::new(known),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
    });
    let nodes = informers.informer::<Node>();
    let pods = informers.informer::<Pod>();
    let namespaces = informers.informer::<Namespace>();
    let claims = informers.informer::<PersistentVolumeClaim>();
    let volumes = informers.informer::<PersistentVolume>();
    let classes = informers.informer::<StorageClass>();
    let budgets = informers.informer::<PodDisruptionBudget>();
    let all_synced = async {
        nodes.synced().await;
        pods.synced().await;
        namespaces.synced().await;
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
        budgets.synced().await;
    };
    tokio::select! {
        () = all_synced => {}
        () = stop.wait() => return Ok(()),
    }
    this.clone().watch_volumes(&claims, &volumes, &classes);
    this.clone().watch_rest(&nodes, &namespaces, &budgets);
    let handler = this.clone();
    pods.subscribe(move |change| handler.pod_changed(change));
    info!(scheduler = this.config.scheduler_name, "scheduler starts");
    let mut streak = 0u32;
    loop {
        if stop.is_triggered() {
            break;
        }
        let next = this.known.lock().queue.promote(Instant::now());
        if this.step() {
            streak += 1;
            if streak.is_multiple_of(16) {
                tokio::task::yield_now().await;
            }
            continue;
        }
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = this.wake.notified() => {}
            () = sleep => {}
            () = stop.wait() => break,
        }
    }
    // Every permit back: nothing is under way.
    let _ = this.bindings.acquire_many(BINDINGS as u32).await;
    Ok(())
}

impl Scheduler {
    fn happened(&self, known: &mut Known, happening: Happening) {
        if known.queue.happened(happening, &self.plugins) {
            self.wake.notify_one();
        }
    }

    fn watch_volumes(
        self: Arc<Self>,
        claims: &Informer<PersistentVolumeClaim>,
        volumes: &Informer<PersistentVolume>,
        classes: &Informer<StorageClass>,
    ) {
        let this = self.clone();
        claims.subscribe(move |change| {
            let mut known = this.known.lock();
            let key = ObjectKey::of(&**change.object());
            match change.is_deleted() {
                true => known.world.volumes.claims.remove(&key),
                false => known.world.volumes.claims.insert(key, change.object().clone()),
            };
            this.happened(&mut known, Happening::VolumesChanged);
        });
        let this = self.clone();
        volumes.subscribe(move |change| {
            let mut known = this.known.lock();
            let key = name(&change.object().metadata).to_owned();
            match change.is_deleted() {
                true => known.world.volumes.volumes.remove(&key),
                false => known.world.volumes.volumes.insert(key, change.object().clone()),
            };
            this.happened(&mut known, Happening::VolumesChanged);
        });
        classes.subscribe(move |change| {
            let mut known = self.known.lock();
            let class = change.object();
            let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            match waits && !change.is_deleted() {
                true => known.world.volumes.wait_classes.insert(name(&class.metadata).to_owned()),
                false => known.world.volumes.wait_classes.remove(name(&class.metadata)),
            };
            self.happened(&mut known, Happening::VolumesChanged);
        });
    }

    fn watch_rest(
        self: Arc<Self>,
        nodes: &Informer<Node>,
        namespaces: &Informer<Namespace>,
        budgets: &Informer<PodDisruptionBudget>,
    ) {
        let this = self.clone();
        nodes.subscribe(move |change| {
            let mut known = this.known.lock();
            match change {
                Change::Deleted(node) => known.world.remove_node(name(&node.metadata)),
                Change::Added(node) => {
                    known.world.set_node(node.clone());
                    this.happened(&mut known, Happening::NodeAdded);
                }
                Change::Updated { old, new } => {
                    known.world.set_node(new.clone());
                    if node_matters(old, new) {
                        this.happened(&mut known, Happening::NodeChanged);
                    }
                }
            }
        });
        let this = self.clone();
        namespaces.subscribe(move |change| {
            let mut known = this.known.lock();
            let meta = &change.object().metadata;
            let labels = meta.labels.clone().unwrap_or_default();
            match change.is_deleted() {
                true => known.world.namespaces.remove(name(meta)),
                false => known.world.namespaces.insert(name(meta).to_owned(), labels),
            };
            this.happened(&mut known, Happening::NamespaceChanged);
        });
        budgets.subscribe(move |change| {
            let mut known = self.known.lock();
            let budget = change.object();
            let key = ObjectKey::of(&**budget);
            let selector = budget.spec.as_ref().and_then(|s| s.selector.clone());
            match selector.filter(|_| !change.is_deleted()) {
                Some(selector) => {
                    let allowed = budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
                    known.budgets.insert(key, Budget { selector, allowed });
                }
                None => {
                    known.budgets.remove(&key);
                }
            }
        });
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let scheduler =
            pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        scheduler == self.config.scheduler_name
    }

    fn pod_changed(self: &Arc<Self>, change: &Change<Pod>) {
        let pod = change.object();
        let id = uid(&pod.metadata);
        let mut known = self.known.lock();
        if change.is_deleted() || is_terminal(pod) {
            known.queue.remove(id);
            known.assumed.remove(id);
            known.world.nominated.remove(id);
            if known.world.displace(id).is_some() {
                self.happened(&mut known, Happening::PodLeft);
            }
            return;
        }
        if let Some(node) = node_name(pod) {
            known.queue.remove(id);
            known.world.nominated.remove(id);
            let expected = known.assumed.remove(id) && known.world.placed_on(id) == Some(node);
            let info = Arc::new(PodInfo::new(pod.clone()));
            let (mut shrank, mut came) = (false, !expected);
            if let Change::Updated { old, .. } = change
                && node_name(old).is_some()
            {
                came = old.metadata.labels != pod.metadata.labels;
                shrank = old.spec != pod.spec;
            }
            known.world.place(info, node);
            if came {
                self.happened(&mut known, Happening::PodCame);
            }
            if shrank {
                self.happened(&mut known, Happening::PodLeft);
            }
            return;
        }
        if !self.is_ours(pod) || is_deleting(&pod.metadata) {
            known.queue.remove(id);
            return;
        }
        if known.assumed.contains(id) {
            return;
        }
        let fresh = !known.queue.contains(id);
        known.queue.update(Arc::new(PodInfo::new(pod.clone())), &self.plugins);
        if fresh && known.queue.is_gated(id) {
            let words = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            self.clone().report(pod.clone(), "SchedulingGated", words, None);
        }
        self.wake.notify_one();
    }

    /// Tries the next pod. False when none is ready.
    fn step(self: &Arc<Self>) -> bool {
        let mut guard = self.known.lock();
        let known = &mut *guard;
        let Some(pod) = known.queue.pop() else { return false };
        let reserved = hold_nominated(&mut known.world, &pod);
        let answer = schedule(&self.plugins, &known.world, &pod, &mut known.start);
        reserved.iter().for_each(|held| drop(known.world.displace(held)));
        match answer {
            Ok(node) => match self.reserve(&pod, &node) {
                Ok(()) => {
                    known.queue.remove(&pod.uid);
                    known.assumed.insert(pod.uid.clone());
                    known.world.nominated.remove(&pod.uid);
                    known.world.place(pod.clone(), &node);
                    drop(guard);
                    self.clone().start_binding(pod, node);
                }
                Err(refusal) => {
                    let failure = Failure { total: 1, everywhere: Some(refusal), ..Default::default() };
                    self.refuse(known, &pod, failure);
                }
            },
            Err(failure) => self.refuse(known, &pod, failure),
        }
        true
    }

    fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), Refusal> {
        for (i, plugin) in self.plugins.iter().enumerate() {
            if let Err(refusal) = plugin.reserve(pod, node) {
                self.plugins[..i].iter().rev().for_each(|p| p.unreserve(pod, node));
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn refuse(self: &Arc<Self>, known: &mut Known, pod: &Arc<PodInfo>, failure: Failure) {
        let mut plugins = failure.plugins();
        if failure.total == 0 {
            plugins.insert(NO_NODES);
        }
        let mut words = None;
        let mut nominated = None;
        if failure.total > 0 {
            match preempt(&self.plugins, &mut known.world, pod, &failure, &known.budgets) {
                Preemption::Hopeless(text) => words = Some(text),
                Preemption::Evict { node, victims } => {
                    known.world.nominated.insert(pod.uid.clone(), (pod.clone(), node.clone()));
                    nominated = Some(node.clone());
                    self.clone().evict(pod.clone(), node, victims);
                }
            }
        }
        let message = failure.message(words.as_deref());
        debug!(pod = %pod.key, message, "no node for the pod");
        known.queue.failed(&pod.uid, plugins, Instant::now());
        self.recorder.warning(&*pod.pod, "FailedScheduling", message.clone());
        self.clone().report(pod.pod.clone(), "Unschedulable", message, nominated);
    }

    fn start_binding(self: Arc<Self>, pod: Arc<PodInfo>, node: String) {
        tokio::spawn(async move {
            let Ok(_permit) = self.bindings.clone().acquire_owned().await else { return };
            for plugin in &self.plugins {
                if let Some(wait) = plugin.permit(&pod, &node)
                    && let Err(refusal) = wait.await
                {
                    return self.unbind(
                        &pod,
                        &node,
                        refusal.reasons.join(", "),
                        BTreeSet::from([refusal.plugin]),
                    );
                }
            }
            match self.bind(&pod, &node).await {
                Ok(()) => {
                    let words = format!("Successfully assigned {} to {node}", pod.key);
                    self.recorder.normal(&*pod.pod, "Scheduled", words);
                }
                Err(error) if client::errors::is_not_found(&error) => {
                    // Its deletion is on its way to us.
                    self.unbind(&pod, &node, error.to_string(), BTreeSet::new());
                }
                Err(error) => {
                    warn!(pod = %pod.key, node, %error, "binding failed");
                    self.unbind(&pod, &node, error.to_string(), BTreeSet::new());
                }
            }
        });
    }

    /// Takes an assumption back and queues the pod again, unless it has been seen bound or gone meanwhile.
    fn unbind(&self, pod: &Arc<PodInfo>, node: &str, why: String, plugins: BTreeSet<&'static str>) {
        debug!(pod = %pod.key, node, why, "placement taken back");
        self.plugins.iter().rev().for_each(|p| p.unreserve(pod, node));
        let mut known = self.known.lock();
        if !known.assumed.remove(&pod.uid) {
            return;
        }
        known.world.displace(&pod.uid);
        known.queue.add(pod.clone());
        known.queue.failed(&pod.uid, plugins, Instant::now());
        self.happened(&mut known, Happening::PodLeft);
        self.wake.notify_one();
    }

    /// Writes the PodScheduled condition, if it says something new.
    fn report(
        self: Arc<Self>,
        pod: Arc<Pod>,
        reason: &'static str,
        message: String,
        nominated: Option<String>,
    ) {
        let old = client::objects::pod_condition(&pod, "PodScheduled");
        let same = old.is_some_and(|c| {
            c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_ref() == Some(&message)
        });
        if same && nominated.is_none() {
            return;
        }
        let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let mut status = json!({"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "observedGeneration": pod.metadata.generation,
            "lastTransitionTime": since.unwrap_or_else(|| Time(Timestamp::now())),
        }]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node.into();
        }
        tokio::spawn(async move {
            let key = ObjectKey::of(&*pod);
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let params = kube::api::PatchParams::default();
            let done = api.patch_status(&key.name, &params, &kube::api::Patch::Strategic(patch)).await;
            if let Err(error) = client::errors::ignore_not_found(done) {
                debug!(pod = %key, %error, "cannot write the condition");
            }
        });
    }

    fn evict(self: Arc<Self>, pod: Arc<PodInfo>, node: String, victims: Vec<Arc<PodInfo>>) {
        tokio::spawn(async move {
            for victim in victims {
                if let Err(error) = self.evict_one(&pod, &node, &victim).await {
                    warn!(victim = %victim.key, %error, "cannot evict");
                }
            }
        });
    }

    async fn evict_one(&self, pod: &PodInfo, node: &str, victim: &PodInfo) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.key.namespace);
        let words =
            format!("{}: preempting to accommodate a higher priority pod", self.config.scheduler_name);
        let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": words,
            "observedGeneration": victim.pod.metadata.generation,
            "lastTransitionTime": Time(Timestamp::now()),
        }]}});
        let params = kube::api::PatchParams::default();
        let patched = api.patch_status(&victim.key.name, &params, &kube::api::Patch::Strategic(patch)).await;
        client::errors::ignore_not_found(patched)?;
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(victim.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        client::errors::ignore_not_found(api.delete(&victim.key.name, &params).await)?;
        let words = format!("Preempted by pod {} on node {node}", pod.uid);
        self.recorder.normal(&*victim.pod, "Preempted", words);
        Ok(())
    }
}

impl Bind for Scheduler {
    fn bind<'a>(&'a self, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), kube::Error>> {
        Box::pin(async move {
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(pod.key.name.clone()),
                    namespace: Some(pod.key.namespace.clone()),
                    uid: Some(pod.uid.clone()),
                    ..Default::default()
                },
                target: ObjectReference {
                    kind: Some("Node".into()),
                    name: Some(node.to_owned()),
                    ..Default::default()
                },
            };
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
            let _: serde_json::Value =
                api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await?;
            Ok(())
        })
    }
}

/// Counts pods that preemption has promised a node, when they are at least as important. Returns what was placed.
fn hold_nominated(world: &mut World, pod: &PodInfo) -> Vec<String> {
    if world.nominated.is_empty() {
        return Vec::new();
    }
    let held: Vec<(Arc<PodInfo>, String)> = world
        .nominated
        .values()
        .filter(|(p, node)| {
            p.uid != pod.uid
                && p.priority >= pod.priority
                && !world.is_placed(&p.uid)
                && world.node(node).is_some()
        })
        .cloned()
        .collect();
    held.into_iter()
        .map(|(p, node)| {
            let uid = p.uid.clone();
            world.place(p, &node);
            uid
        })
        .collect()
}

/// Whether a node's change can matter to a pod that found no room: heartbeats do not.
fn node_matters(old: &Node, new: &Node) -> bool {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.unschedulable, s.taints.clone()));
    old.metadata.labels != new.metadata.labels
        || spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
}
