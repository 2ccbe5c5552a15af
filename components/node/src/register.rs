//! The Node object and its Lease: registration, heartbeats, conditions.
//!
//! [`describe`] computes what the status should say; [`NodeKeeper`] writes it when it differs from what the API holds,
//! and every five minutes. The Lease is renewed every ten seconds and is the real heartbeat.

use crate::config::{Config, KUBELET_VERSION};
use crate::events::{Kind, Recorder};
use crate::machine::{self, Machine};
use crate::network::PodNetwork;
use crate::quantity;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSwapStatus, NodeSystemInfo, ObjectReference, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a node that was registered before may wait for its network before it says that it has none.
const NETWORK_PATIENCE: Duration = Duration::from_secs(5);
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const STATUS_PERIOD: Duration = Duration::from_secs(300);
const EVICTION_MEMORY: u64 = 100 << 20;
const MAX_IMAGES: usize = 50;

/// What is measured anew for each status.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Why the runtime or the pod network is not ready.
    pub not_ready: Option<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub images: Vec<runtime::ImageStatus>,
}

pub struct NodeKeeper {
    pub client: kube::Client,
    pub runtime: Arc<dyn runtime::Runtime>,
    pub network: Arc<dyn PodNetwork>,
    pub config: Arc<Config>,
    pub machine: Arc<Machine>,
    pub runtime_version: runtime::Version,
    /// The port the kubelet API got.
    pub port: u16,
    pub recorder: Recorder,
    /// Woken when an image came or went.
    pub images_changed: Arc<Notify>,
    /// The Node as the API last told it.
    pub node: watch::Sender<Option<Arc<Node>>>,
}

impl NodeKeeper {
    /// Creates or updates the Node. Retries until the API answers; returns with the Node's status written.
    pub async fn register(&self) -> Arc<Node> {
        let mut wait = Duration::from_millis(20);
        loop {
            match self.try_register().await {
                Ok(node) => {
                    let node = Arc::new(node);
                    self.node.send_replace(Some(node.clone()));
                    return node;
                }
                Err(error) => tracing::warn!(%error, node = self.config.node_name, "node not registered yet"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.node_name;
        let wanted_labels = labels(&self.config);
        let existing = api.get_opt(name).await?;
        let has_block = |n: &Node| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
        if existing.as_ref().is_some_and(has_block) {
            // A restart: its network is only a moment away. A Node that said NotReady in between would take the
            // readiness of every pod on it, and with it their Services.
            let _ = tokio::time::timeout(NETWORK_PATIENCE, self.network.became_ready()).await;
        }
        let health = self.health().await;
        let node = match existing {
            None => {
                let node = Node {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        labels: Some(wanted_labels),
                        annotations: (!self.config.annotations.is_empty())
                            .then(|| self.config.annotations.clone()),
                        ..Default::default()
                    },
                    spec: Some(NodeSpec {
                        provider_id: self.config.provider_id.clone(),
                        taints: (!self.config.taints.is_empty()).then(|| self.config.taints.clone()),
                        ..Default::default()
                    }),
                    status: Some(self.describe(&health, None)),
                };
                api.create(&PostParams::default(), &node).await?
            }
            Some(node) => {
                let have = node.metadata.labels.clone().unwrap_or_default();
                if wanted_labels.iter().all(|(k, v)| have.get(k) == Some(v)) {
                    node
                } else {
                    let patch = serde_json::json!({"metadata": {"labels": wanted_labels}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?
                }
            }
        };
        let wanted = self.describe(&health, node.status.as_ref());
        if node.status.as_ref().is_some_and(|have| same_status(have, &wanted)) {
            return Ok(node);
        }
        self.write_status(&wanted).await
    }

    async fn write_status(&self, status: &NodeStatus) -> Result<Node, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = serde_json::json!({"status": status});
        api.patch_status(&self.config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Renews the Lease and keeps the status true until the task is dropped.
    pub async fn keep(&self) {
        let mut tick = tokio::time::interval(LEASE_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written_at = tokio::time::Instant::now();
        let mut was_ready = false;
        loop {
            tokio::select! {
                _ = tick.tick() => self.renew().await,
                () = self.network.became_ready(), if !was_ready => {}
                () = self.images_changed.notified() => {
                    // Several images often arrive together; the list is not urgent.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            let health = self.health().await;
            let ready = health.not_ready.is_none();
            if ready && !was_ready {
                self.event("NodeReady", format!("Node {} status is now: NodeReady", self.config.node_name));
            } else if !ready && was_ready {
                self.event(
                    "NodeNotReady",
                    format!("Node {} status is now: NodeNotReady", self.config.node_name),
                );
            }
            was_ready = ready;
            let current = self.node.borrow().clone();
            let Some(current) = current else {
                self.register().await;
                continue;
            };
            let wanted = self.describe(&health, current.status.as_ref());
            let same = current.status.as_ref().is_some_and(|have| same_status(have, &wanted));
            if same && written_at.elapsed() < STATUS_PERIOD {
                continue;
            }
            match self.write_status(&wanted).await {
                Ok(node) => {
                    written_at = tokio::time::Instant::now();
                    self.node.send_replace(Some(Arc::new(node)));
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.node.send_replace(None);
                }
                Err(error) => tracing::warn!(%error, "node status not written"),
            }
        }
    }

    fn event(&self, reason: &'static str, message: String) {
        let name = self.config.node_name.clone();
        let about = ObjectReference {
            kind: Some("Node".into()),
            uid: Some(name.clone()),
            name: Some(name),
            ..Default::default()
        };
        self.recorder.record(about, Kind::Normal, reason, message);
    }

    /// Tells the world that the agent came up.
    pub fn announce(&self) {
        self.event("Starting", "Starting kubelet.".into());
    }

    async fn health(&self) -> Health {
        let mut health = Health::default();
        if let Err(error) = self.runtime.version().await {
            health.not_ready = Some(format!("container runtime is down: {error}"));
        } else if let Err(error) = self.network.ready().await {
            health.not_ready = Some(format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{error}"
            ));
        }
        health.memory_pressure = machine::memory_available().is_some_and(|free| free < EVICTION_MEMORY);
        health.disk_pressure = machine::filesystem(&self.config.data_dir).is_some_and(|f| {
            f.capacity > 0 && (f.available * 10 < f.capacity || f.inodes > 0 && f.inodes_free * 20 < f.inodes)
        });
        // Disk pressure is told only when the disk is all but full: there are no evictions yet that would relieve it.
        if health.disk_pressure {
            health.disk_pressure = machine::filesystem(&self.config.data_dir)
                .is_some_and(|f| f.available < (512 << 20) || f.inodes > 0 && f.inodes_free * 20 < f.inodes);
        }
        health.images = self.runtime.list_images().await.unwrap_or_default();
        health
    }

    fn describe(&self, health: &Health, have: Option<&NodeStatus>) -> NodeStatus {
        describe(
            &self.config,
            &self.machine,
            &self.runtime_version,
            self.port,
            health,
            have,
            Timestamp::now(),
        )
    }

    async fn renew(&self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let name = &self.config.node_name;
        let now = MicroTime(Timestamp::now());
        let patch = serde_json::json!({"spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
        }});
        let outcome = match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let owner = self.node.borrow().as_ref().and_then(|n| n.metadata.uid.clone());
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        namespace: Some("kube-node-lease".into()),
                        owner_references: owner.map(|uid| {
                            vec![OwnerReference {
                                api_version: "v1".into(),
                                kind: "Node".into(),
                                name: name.clone(),
                                uid,
                                ..Default::default()
                            }]
                        }),
                        ..Default::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(name.clone()),
                        lease_duration_seconds: Some(LEASE_SECONDS),
                        renew_time: Some(now),
                        ..Default::default()
                    }),
                };
                api.create(&PostParams::default(), &lease).await
            }
            other => other,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "lease not renewed");
        }
    }
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let arch = machine::architecture();
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", &config.hostname),
    ] {
        labels.insert(key.into(), value.into());
    }
    labels
}

/// What `status` should be, keeping what others wrote into it (foreign conditions, attached volumes) and every
/// transition time that still holds.
pub fn describe(
    config: &Config,
    machine: &Machine,
    version: &runtime::Version,
    port: u16,
    health: &Health,
    have: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let capacity = capacity(config, machine);
    let allocatable = allocatable(config, &capacity);
    let mut addresses: Vec<NodeAddress> = config
        .addresses
        .iter()
        .map(|a| NodeAddress { type_: "InternalIP".into(), address: a.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: config.hostname.clone() });
    let mut conditions: Vec<NodeCondition> = have
        .and_then(|s| s.conditions.as_ref())
        .map(|list| {
            list.iter()
                .filter(|c| {
                    !["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].contains(&c.type_.as_str())
                })
                .cloned()
                .collect()
        })
        .unwrap_or_default();
    let wanted = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
            ["kubelet has insufficient memory available", "kubelet has sufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            ["kubelet has disk pressure", "kubelet has no disk pressure"],
        ),
        pressure(
            "PIDPressure",
            false,
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            ["kubelet has insufficient PID available", "kubelet has sufficient PID available"],
        ),
        match &health.not_ready {
            None => ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(why) => ("Ready", "False", "KubeletNotReady", why.clone()),
        },
    ];
    for (type_, status, reason, message) in wanted {
        let before = have.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == type_));
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or(Time(now));
        conditions.push(NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since),
        });
    }
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            swap: (machine.swap_bytes > 0)
                .then(|| NodeSwapStatus { capacity: i64::try_from(machine.swap_bytes).ok() }),
        }),
        images: Some(images(&health.images)),
        ..Default::default()
    }
}

fn pressure(
    type_: &'static str,
    on: bool,
    reasons: [&'static str; 2],
    messages: [&str; 2],
) -> (&'static str, &'static str, &'static str, String) {
    let i = usize::from(!on);
    (type_, if on { "True" } else { "False" }, reasons[i], messages[i].to_owned())
}

fn capacity(config: &Config, machine: &Machine) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".into(), Quantity(machine.cpus.to_string())),
        ("memory".into(), quantity::bytes(machine.memory_bytes)),
        ("ephemeral-storage".into(), quantity::bytes(machine.ephemeral_bytes)),
        ("hugepages-1Gi".into(), Quantity("0".into())),
        ("hugepages-2Mi".into(), Quantity("0".into())),
        ("pods".into(), Quantity(config.max_pods.to_string())),
    ])
}

fn allocatable(config: &Config, capacity: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let reserved = |name: &str| config.reserved.get(name).map(|q| Quantity(q.clone()));
    capacity
        .iter()
        .map(|(name, q)| {
            let left = match name.as_str() {
                "cpu" => {
                    let kept = reserved(name).map_or(0, |r| quantity::milli(&r));
                    quantity::from_milli((quantity::milli(q) - kept).max(0))
                }
                "memory" => {
                    let kept = reserved(name).map_or(0, |r| quantity::value(&r));
                    let evicted = i64::try_from(EVICTION_MEMORY).unwrap_or(0);
                    quantity::bytes(u64::try_from(quantity::value(q) - kept - evicted).unwrap_or(0))
                }
                "ephemeral-storage" => {
                    let kept = reserved(name).map_or(0, |r| quantity::value(&r));
                    let all = quantity::value(q);
                    Quantity((all - all / 10 - kept).max(0).to_string())
                }
                _ => q.clone(),
            };
            (name.clone(), left)
        })
        .collect()
}

fn images(list: &[runtime::ImageStatus]) -> Vec<ContainerImage> {
    let mut images: Vec<ContainerImage> = list
        .iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.iter().chain(&i.repo_tags).take(5).cloned().collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .filter(|i| i.names.as_ref().is_some_and(|n| !n.is_empty()))
        .collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images.truncate(MAX_IMAGES);
    images
}

/// Equal but for heartbeat times, and for what others own.
pub fn same_status(have: &NodeStatus, wanted: &NodeStatus) -> bool {
    let strip = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
            c.last_transition_time = None;
        }
        if let Some(list) = s.conditions.as_mut() {
            list.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        s.images.get_or_insert_default();
        s.volumes_attached = None;
        s.volumes_in_use = None;
        s.phase = None;
        s
    };
    strip(have) == strip(wanted)
}

/// Taints that keep pods from running here at all.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        Config::new("n1", "/tmp/x", Arc::new(tls))
    }

    fn machine() -> Machine {
        Machine { cpus: 2, memory_bytes: 4 << 30, ephemeral_bytes: 1000, ..Machine::default() }
    }

    #[test]
    fn status_is_stable_but_for_heartbeats() {
        let (c, m, v) = (config(), machine(), runtime::Version::default());
        let t0 = Timestamp::UNIX_EPOCH;
        let t1 = Timestamp::from_second(100).expect("in range");
        let first = describe(&c, &m, &v, 10250, &Health::default(), None, t0);
        let second = describe(&c, &m, &v, 10250, &Health::default(), Some(&first), t1);
        assert!(same_status(&first, &second));
        let ready = second
            .conditions
            .as_ref()
            .expect("conditions")
            .iter()
            .find(|c| c.type_ == "Ready")
            .expect("ready");
        assert_eq!(ready.last_transition_time, Some(Time(t0)));
        let sick = Health { not_ready: Some("down".into()), ..Health::default() };
        let third = describe(&c, &m, &v, 10250, &sick, Some(&second), t1);
        assert!(!same_status(&second, &third));
    }

    #[test]
    fn allocatable_keeps_something_back() {
        let mut c = config();
        c.reserved.insert("cpu".into(), "500m".into());
        let status = describe(
            &c,
            &machine(),
            &runtime::Version::default(),
            1,
            &Health::default(),
            None,
            Timestamp::UNIX_EPOCH,
        );
        let a = status.allocatable.expect("allocatable");
        assert_eq!(a["cpu"].0, "1500m");
        assert_eq!(quantity::value(&a["memory"]), (4 << 30) - (100 << 20));
        assert_eq!(a["ephemeral-storage"].0, "900");
    }

    #[test]
    fn foreign_conditions_are_kept() {
        let (c, m, v) = (config(), machine(), runtime::Version::default());
        let foreign = NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..Default::default()
        };
        let have = NodeStatus { conditions: Some(vec![foreign.clone()]), ..Default::default() };
        let s = describe(&c, &m, &v, 1, &Health::default(), Some(&have), Timestamp::UNIX_EPOCH);
        assert!(s.conditions.expect("conditions").contains(&foreign));
    }
}
