//! What the scheduler knows: nodes with the pods on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use client::ObjectKey;
use client::objects::{StringMap, name, namespace, selector_matches, uid};
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, PodAffinityTerm, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::resources::{Resources, requests, scoring_requests};

/// A port on the host: protocol, address, number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub protocol: String,
    pub ip: String,
    pub port: i32,
}

impl HostPort {
    fn clashes(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A term of pod affinity, ready to be matched.
#[derive(Clone, Debug)]
pub struct Term {
    pub topology_key: String,
    selector: Option<LabelSelector>,
    namespaces: HashSet<String>,
    namespace_selector: Option<LabelSelector>,
}

impl Term {
    fn new(pod: &Pod, term: &PodAffinityTerm) -> Self {
        let mut namespaces: HashSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace(&pod.metadata).to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: term.label_selector.clone(),
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
        }
    }

    /// A missing selector matches no pod.
    pub fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let in_namespace = self.namespaces.contains(&pod.key.namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| selector_matches(s, namespaces.get(&pod.key.namespace)));
        in_namespace && self.selector.as_ref().is_some_and(|s| selector_matches(s, pod.labels()))
    }
}

pub type Namespaces = HashMap<String, StringMap>;

/// A pod with everything that is derived from it, worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub uid: String,
    pub priority: i32,
    pub requests: Resources,
    pub scoring: (i64, i64),
    pub ports: Vec<HostPort>,
    pub affinity: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    pub preferred: Vec<(i32, Term)>,
    pub preferred_anti: Vec<(i32, Term)>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref());
        let attract = affinity.and_then(|a| a.pod_affinity.as_ref());
        let repel = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let terms = |list: Option<&Vec<PodAffinityTerm>>| {
            list.into_iter().flatten().map(|t| Term::new(&pod, t)).collect()
        };
        let required = attract.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let required_anti =
            repel.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = attract.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred_anti =
            repel.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let weighted = |list: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| {
            list.into_iter().flatten().map(|t| (t.weight, Term::new(&pod, &t.pod_affinity_term))).collect()
        };
        Self {
            key: ObjectKey::of(&*pod),
            uid: uid(&pod.metadata).to_owned(),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            requests: requests(&pod),
            scoring: scoring_requests(&pod),
            ports: host_ports(&pod),
            affinity: terms(required),
            anti_affinity: terms(required_anti),
            preferred: weighted(preferred),
            preferred_anti: weighted(preferred_anti),
            pod,
        }
    }

    pub fn labels(&self) -> Option<&StringMap> {
        self.pod.metadata.labels.as_ref()
    }

    pub fn has_terms(&self) -> bool {
        !(self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty())
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                port: p.host_port.filter(|n| *n > 0)?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
            })
        })
        .collect()
}

/// A node and what runs on it. `node` is empty while only its pods are known.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub requested: Resources,
    /// CPU and memory as scoring counts them.
    pub scoring: (i64, i64),
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them have affinity terms of any kind, and how many required anti-affinity.
    pub with_terms: usize,
    pub with_anti: usize,
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    pub fn labels(&self) -> Option<&StringMap> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    pub fn taints(&self) -> impl Iterator<Item = &Taint> {
        self.node.iter().flat_map(|n| n.spec.iter()).flat_map(|s| s.taints.iter().flatten())
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.unschedulable).unwrap_or(false)
    }

    pub fn port_taken(&self, wanted: &[HostPort]) -> bool {
        !wanted.is_empty()
            && self.pods.iter().flat_map(|p| &p.ports).any(|used| wanted.iter().any(|w| w.clashes(used)))
    }

    fn set(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = Resources::parse(list);
        self.max_pods = list
            .and_then(|l| l.get("pods"))
            .and_then(|q| machinery::quantity::Quantity::parse(&q.0).ok())
            .map_or(0, |q| q.value());
        self.images = HashMap::new();
        for image in status.iter().flat_map(|s| s.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        self.node = Some(node);
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scoring.0 += pod.scoring.0;
        self.scoring.1 += pod.scoring.1;
        self.with_terms += usize::from(pod.has_terms());
        self.with_anti += usize::from(!pod.anti_affinity.is_empty());
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| p.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.scoring.0 -= pod.scoring.0;
        self.scoring.1 -= pod.scoring.1;
        self.with_terms -= usize::from(pod.has_terms());
        self.with_anti -= usize::from(!pod.anti_affinity.is_empty());
        Some(pod)
    }
}

/// Volumes, as far as placement depends on them.
#[derive(Debug, Default)]
pub struct Volumes {
    pub claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    pub volumes: HashMap<String, Arc<PersistentVolume>>,
    /// Storage classes that bind when their first consumer is placed.
    pub wait_classes: HashSet<String>,
}

#[derive(Debug, Default)]
pub struct World {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Uid to node of every pod on a node, assumed ones included.
    placed: HashMap<String, String>,
    pub namespaces: Namespaces,
    pub volumes: Volumes,
    pub nominated: BTreeMap<String, (Arc<PodInfo>, String)>,
}

impl World {
    /// Nodes that are known to exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|n| n.node.is_some())
    }

    /// All entries by position, for callers that keep a place in the list.
    pub fn entries(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|i| self.nodes.get(*i))
    }

    fn slot(&mut self, name: &str) -> &mut NodeInfo {
        let next = self.nodes.len();
        let at = *self.by_name.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.nodes.push(NodeInfo { name: name.to_owned(), ..Default::default() });
        }
        &mut self.nodes[at]
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = name(&node.metadata).to_owned();
        self.slot(&name).set(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.by_name.get(name).copied() {
            self.nodes[at].node = None;
            self.drop_if_unused(name);
        }
    }

    fn drop_if_unused(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        if self.nodes[at].node.is_some() || !self.nodes[at].pods.is_empty() {
            return;
        }
        self.by_name.remove(name);
        self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    /// Puts the pod on the node, taking it from where it was.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.displace(&pod.uid);
        self.placed.insert(pod.uid.clone(), node.to_owned());
        self.slot(node).add(pod);
    }

    /// Takes the pod off its node; returns it and the node's name.
    pub fn displace(&mut self, uid: &str) -> Option<(Arc<PodInfo>, String)> {
        let node = self.placed.remove(uid)?;
        let at = self.by_name.get(&node).copied()?;
        let pod = self.nodes[at].remove(uid);
        self.drop_if_unused(&node);
        pod.map(|p| (p, node))
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    pub fn placed_on(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    fn pod(id: u8) -> Arc<PodInfo> {
        let requests = [("cpu".to_owned(), Quantity(format!("{id}m")))].into();
        Arc::new(PodInfo::new(Arc::new(Pod {
            metadata: ObjectMeta { uid: Some(id.to_string()), ..Default::default() },
            spec: Some(PodSpec {
                containers: vec![Container {
                    resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            status: None,
        })))
    }

    #[derive(Clone, Debug)]
    enum Op {
        Place(u8, u8),
        Displace(u8),
        Node(u8),
        NoNode(u8),
    }

    proptest! {
        /// The sums of every node are those of the pods on it, whatever the order of changes.
        #[test]
        fn sums_follow_pods(ops in prop::collection::vec(prop_oneof![
            (0u8..20, 0u8..4).prop_map(|(p, n)| Op::Place(p, n)),
            (0u8..20).prop_map(Op::Displace),
            (0u8..4).prop_map(Op::Node),
            (0u8..4).prop_map(Op::NoNode),
        ], 0..120)) {
            let mut world = World::default();
            let mut model: HashMap<u8, u8> = HashMap::new();
            let mut known: HashSet<u8> = HashSet::new();
            for op in ops {
                match op {
                    Op::Place(p, n) => { world.place(pod(p), &n.to_string()); model.insert(p, n); }
                    Op::Displace(p) => {
                        prop_assert_eq!(world.displace(&p.to_string()).is_some(), model.remove(&p).is_some());
                    }
                    Op::Node(n) => {
                        let metadata = ObjectMeta { name: Some(n.to_string()), ..Default::default() };
                        world.set_node(Arc::new(Node { metadata, ..Default::default() }));
                        known.insert(n);
                    }
                    Op::NoNode(n) => { world.remove_node(&n.to_string()); known.remove(&n); }
                }
                prop_assert_eq!(world.nodes().count(), known.len());
                for n in 0u8..4 {
                    let want: i64 = model.iter().filter(|(_, on)| **on == n).map(|(p, _)| i64::from(*p)).sum();
                    let have = world.node(&n.to_string()).map_or(0, |i| i.requested.milli_cpu);
                    prop_assert_eq!(want, have);
                }
            }
        }
    }
}
