//! Small worlds for tests.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, Node, NodeSpec as RawNodeSpec, NodeStatus, Pod, PodAffinity,
    PodAffinityTerm, PodAntiAffinity, PodSpec, ResourceRequirements, Taint, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::world::{PodInfo, World};

#[derive(Clone)]
pub(crate) struct NodeSpec {
    pub name: String,
    pub cpu: i64,
    pub memory: i64,
    pub pods: i64,
    pub taint: Option<&'static str>,
    pub zone: Option<&'static str>,
}

impl NodeSpec {
    pub(crate) fn new(name: &str, cpu: i64, memory: i64) -> Self {
        Self { name: name.into(), cpu, memory, pods: 110, taint: None, zone: None }
    }
}

pub(crate) fn node(spec: &NodeSpec) -> Arc<Node> {
    let mut labels: std::collections::BTreeMap<String, String> =
        [("host".to_owned(), spec.name.clone())].into();
    if let Some(zone) = spec.zone {
        labels.insert("zone".into(), zone.into());
    }
    let amounts = [
        ("cpu", format!("{}m", spec.cpu)),
        ("memory", spec.memory.to_string()),
        ("pods", spec.pods.to_string()),
    ];
    Arc::new(Node {
        metadata: ObjectMeta { name: Some(spec.name.clone()), labels: Some(labels), ..Default::default() },
        spec: Some(RawNodeSpec {
            taints: spec
                .taint
                .map(|effect| vec![Taint { key: "t".into(), effect: effect.into(), ..Default::default() }]),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            allocatable: Some(amounts.into_iter().map(|(k, v)| (k.to_owned(), Quantity(v))).collect()),
            ..Default::default()
        }),
    })
}

pub(crate) fn world(nodes: &[NodeSpec]) -> World {
    let mut world = World::default();
    nodes.iter().for_each(|n| world.set_node(node(n)));
    world
}

#[derive(Clone, Default)]
pub(crate) struct PodSpecs {
    pub cpu: i64,
    pub port: i32,
    pub priority: i32,
    pub label: &'static str,
    pub repels: Option<&'static str>,
    pub attracts: Option<&'static str>,
    pub spread: Option<i32>,
}

fn selector(value: &str) -> LabelSelector {
    LabelSelector { match_labels: Some([("l".to_owned(), value.to_owned())].into()), ..Default::default() }
}

fn terms(value: &str) -> Option<Vec<PodAffinityTerm>> {
    Some(vec![PodAffinityTerm {
        topology_key: "host".into(),
        label_selector: Some(selector(value)),
        ..Default::default()
    }])
}

pub(crate) fn pod(name: &str, s: PodSpecs) -> PodInfo {
    let affinity = Affinity {
        pod_affinity: s.attracts.map(|v| PodAffinity {
            required_during_scheduling_ignored_during_execution: terms(v),
            ..Default::default()
        }),
        pod_anti_affinity: s.repels.map(|v| PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: terms(v),
            ..Default::default()
        }),
        node_affinity: None,
    };
    PodInfo::new(Arc::new(Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            uid: Some(name.into()),
            labels: Some([("l".to_owned(), s.label.to_owned())].into()),
            ..Default::default()
        },
        spec: Some(PodSpec {
            priority: Some(s.priority),
            affinity: Some(affinity),
            topology_spread_constraints: s.spread.map(|skew| {
                vec![TopologySpreadConstraint {
                    max_skew: skew,
                    topology_key: "zone".into(),
                    when_unsatisfiable: "DoNotSchedule".into(),
                    label_selector: Some(selector(s.label)),
                    ..Default::default()
                }]
            }),
            containers: vec![Container {
                resources: Some(ResourceRequirements {
                    requests: Some([("cpu".to_owned(), Quantity(format!("{}m", s.cpu)))].into()),
                    ..Default::default()
                }),
                ports: (s.port > 0)
                    .then(|| vec![ContainerPort { host_port: Some(s.port), ..Default::default() }]),
                ..Default::default()
            }],
            ..Default::default()
        }),
        status: None,
    }))
}
