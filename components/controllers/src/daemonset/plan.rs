//! One pod on every node that fits. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use client::objects::{
    created, entry, is_active, is_available, is_deleting, is_ready, map_matches, name, phase, scaled,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::common::history::HASH;
use crate::nodes::eviction::tolerates;

/// Taints that daemons always tolerate.
fn own_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let make = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Default::default()
    };
    let mut list = vec![
        make("not-ready", "NoExecute"),
        make("unreachable", "NoExecute"),
        make("disk-pressure", "NoSchedule"),
        make("memory-pressure", "NoSchedule"),
        make("pid-pressure", "NoSchedule"),
        make("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        list.push(make("network-unavailable", "NoSchedule"));
    }
    list
}

fn all_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut list = spec.tolerations.clone().unwrap_or_default();
    for own in own_tolerations(spec) {
        if !list.contains(&own) {
            list.push(own);
        }
    }
    list
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or(&[]);
    let number = |t: &str| t.parse::<i64>().ok();
    let pair = || value.and_then(number).zip(values.first().and_then(|v| number(v)));
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|x| x == v)),
        "NotIn" => !value.is_some_and(|v| values.iter().any(|x| x == v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair().is_some_and(|(a, b)| a > b),
        "Lt" => pair().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

fn term(t: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = t.match_expressions.as_deref().unwrap_or(&[]);
    let fields = t.match_fields.as_deref().unwrap_or(&[]);
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|r| requirement(r, entry(node.metadata.labels.as_ref(), &r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(name(&node.metadata))))
}

/// Whether the node should have a pod, and whether one that is there may stay.
pub fn fits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name(&node.metadata));
    let selected = spec.node_selector.as_ref().is_none_or(|s| map_matches(s, node.metadata.labels.as_ref()));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let attracted = required.is_none_or(|s| s.node_selector_terms.iter().any(|t| term(t, node)));
    if !(named && selected && attracted) {
        return (false, false);
    }
    let tolerations = all_tolerations(spec);
    let repels = |effects: &[&str]| {
        let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        taints
            .filter(|t| effects.contains(&t.effect.as_str()))
            .any(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
    };
    (!repels(&["NoSchedule", "NoExecute"]), !repels(&["NoExecute"]))
}

/// The node that a pod is on or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields.filter(|r| r.key == "metadata.name").find_map(|r| r.values.as_ref()?.first()).map(String::as_str)
}

/// The template's spec, made for one node.
pub fn spec_for(template: &PodSpec, node: &str) -> PodSpec {
    let mut spec = template.clone();
    spec.tolerations = Some(all_tolerations(template));
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required = node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms = vec![NodeSelectorTerm::default()];
    }
    for t in &mut required.node_selector_terms {
        t.match_fields = Some(vec![field.clone()]);
    }
    let _: &NodeSelector = required;
    spec
}

#[derive(Debug, Default)]
pub struct Moves {
    /// Nodes that need a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods, to be replaced.
    pub failed: Vec<(String, Arc<Pod>)>,
}

pub type ByNode = HashMap<String, Vec<Arc<Pod>>>;

pub fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut map = ByNode::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            map.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    map
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    entry(pod.metadata.labels.as_ref(), HASH) == Some(hash)
}

fn surge_and_unavailable(ds: &DaemonSet, desired: i32) -> (i32, i32) {
    let update = ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = update.and_then(|u| u.rolling_update.clone()).unwrap_or_default();
    let surge = rolling.max_surge.as_ref().and_then(|v| scaled(v, desired, true)).unwrap_or(0);
    let default = IntOrString::Int(1);
    let unavailable =
        scaled(rolling.max_unavailable.as_ref().unwrap_or(&default), desired, true).unwrap_or(1);
    if surge > 0 { (surge, unavailable) } else { (0, unavailable.max(1)) }
}

/// Which pods each node lacks or has too many of.
pub fn manage(ds: &DaemonSet, nodes: &[Arc<Node>], pods: &ByNode, hash: &str) -> Moves {
    let mut moves = Moves::default();
    let spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    let mut seen: Vec<&str> = Vec::new();
    for node in nodes {
        let node_name = name(&node.metadata);
        seen.push(node_name);
        let (should, may) = fits(&spec, node);
        let here = pods.get(node_name).map(Vec::as_slice).unwrap_or(&[]);
        let mut running: Vec<Arc<Pod>> = Vec::new();
        let mut leaving = false;
        for pod in here {
            if is_deleting(&pod.metadata) {
                leaving = true;
            } else if phase(pod) == "Failed" && may {
                moves.failed.push((node_name.to_owned(), pod.clone()));
                leaving = true;
            } else if phase(pod) == "Succeeded" && may {
                moves.delete.push(pod.clone());
                leaving = true;
            } else {
                running.push(pod.clone());
            }
        }
        if should && running.is_empty() && !leaving {
            moves.create.push(node_name.to_owned());
        } else if !may {
            moves.delete.extend(running);
        } else if running.len() > 1 {
            // While surging an old and a new pod stand side by side.
            running.sort_by_key(|p| (!is_ready(p), created(&p.metadata)));
            let (surge, _) = surge_and_unavailable(ds, i32::MAX);
            let old = running.iter().position(|p| !is_current(p, hash));
            let new = running.iter().position(|p| is_current(p, hash));
            let pair = if surge > 0 { old.zip(new) } else { None };
            for (i, pod) in running.into_iter().enumerate() {
                let keep = pair.map_or(i == 0, |(old, new)| i == old || i == new);
                if !keep {
                    moves.delete.push(pod);
                }
            }
        }
    }
    // Pods meant for nodes that are gone are the pod collector's, but those never placed are ours.
    for (node, here) in pods {
        if !seen.contains(&node.as_str()) {
            let unplaced = here.iter().filter(|p| client::objects::node_name(p).is_none() && is_active(p));
            moves.delete.extend(unplaced.cloned());
        }
    }
    moves
}

/// Which pods with an old template to replace now, and where to put a second pod beside an old one.
pub fn roll(ds: &DaemonSet, nodes: &[Arc<Node>], pods: &ByNode, hash: &str, now: Timestamp) -> Moves {
    let mut moves = Moves::default();
    let update = ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    if update.and_then(|u| u.type_.as_deref()) == Some("OnDelete") {
        return moves;
    }
    let spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    let min_ready = ds.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let wanted: Vec<&str> = nodes.iter().filter(|n| fits(&spec, n).0).map(|n| name(&n.metadata)).collect();
    let (surge, unavailable) = surge_and_unavailable(ds, i32::try_from(wanted.len()).unwrap_or(i32::MAX));
    let mut down = 0;
    let mut surging = 0;
    let mut candidates = Vec::new();
    let mut surge_candidates = Vec::new();
    for node in &wanted {
        let here = pods.get(*node).map(Vec::as_slice).unwrap_or(&[]);
        let alive = |p: &&Arc<Pod>| !is_deleting(&p.metadata);
        let old = here.iter().filter(alive).find(|p| !is_current(p, hash));
        let new = here.iter().filter(alive).find(|p| is_current(p, hash));
        let up = |p: &Arc<Pod>| is_available(p, min_ready, now);
        match (old, new) {
            (None, None) => down += 1,
            (None, Some(new)) => down += i32::from(!up(new)),
            (Some(old), None) if surge > 0 => {
                if up(old) {
                    surge_candidates.push(*node)
                } else {
                    moves.delete.push(old.clone())
                }
            }
            // One that is down anyway costs nothing to replace.
            (Some(old), None) if !up(old) => {
                moves.delete.push(old.clone());
                down += 1;
            }
            (Some(old), None) => candidates.push(old.clone()),
            (Some(old), Some(new)) => {
                if up(new) {
                    moves.delete.push(old.clone())
                } else {
                    surging += 1
                }
            }
        }
    }
    if surge > 0 {
        let room = usize::try_from(surge - surging).unwrap_or(0);
        moves.create.extend(surge_candidates.into_iter().take(room).map(str::to_owned));
    } else {
        let room = usize::try_from(unavailable - down).unwrap_or(0);
        moves.delete.extend(candidates.into_iter().take(room));
    }
    moves
}

pub fn status(
    ds: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &ByNode,
    hash: &str,
    now: Timestamp,
) -> DaemonSetStatus {
    let spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    let min_ready = ds.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let old = ds.status.clone().unwrap_or_default();
    let (mut updated, mut available) = (0, 0);
    let mut s = DaemonSetStatus {
        observed_generation: Some(ds.metadata.generation.unwrap_or(0)),
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..Default::default()
    };
    for node in nodes {
        let here = pods.get(name(&node.metadata)).map(Vec::as_slice).unwrap_or(&[]);
        let mut alive: Vec<&Arc<Pod>> = here.iter().filter(|p| !is_deleting(&p.metadata)).collect();
        if !fits(&spec, node).0 {
            s.number_misscheduled += i32::from(!alive.is_empty());
            continue;
        }
        s.desired_number_scheduled += 1;
        alive.sort_by_key(|p| (!is_ready(p), created(&p.metadata)));
        let Some(first) = alive.first() else { continue };
        s.current_number_scheduled += 1;
        s.number_ready += i32::from(is_ready(first));
        available += i32::from(is_available(first, min_ready, now));
        updated += i32::from(is_current(first, hash));
    }
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    s.updated_number_scheduled = some(updated);
    s.number_available = some(available);
    s.number_unavailable = some(s.desired_number_scheduled - available);
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSetSpec;
    use k8s_openapi::api::core::v1::{NodeSpec, PodCondition, PodStatus, Taint};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use proptest::prelude::*;

    fn node(id: usize, taint: Option<(&str, &str)>) -> Arc<Node> {
        Arc::new(Node {
            metadata: ObjectMeta { name: Some(format!("n{id}")), ..Default::default() },
            spec: Some(NodeSpec {
                taints: taint
                    .map(|(k, e)| vec![Taint { key: k.into(), effect: e.into(), ..Default::default() }]),
                ..Default::default()
            }),
            status: None,
        })
    }

    fn pod(id: usize, hash: &str, ready: bool) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta {
                uid: Some(format!("{id}-{hash}")),
                labels: Some([(HASH.to_owned(), hash.to_owned())].into()),
                ..Default::default()
            },
            spec: Some(spec_for(&PodSpec::default(), &format!("n{id}"))),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
        })
    }

    fn set() -> DaemonSet {
        DaemonSet { spec: Some(DaemonSetSpec::default()), ..Default::default() }
    }

    #[test]
    fn daemons_tolerate_what_is_theirs() {
        let spec = PodSpec::default();
        assert_eq!(
            fits(&spec, &node(1, Some(("node.kubernetes.io/unschedulable", "NoSchedule")))),
            (true, true)
        );
        assert_eq!(fits(&spec, &node(1, Some(("x", "NoSchedule")))), (false, true));
        assert_eq!(fits(&spec, &node(1, Some(("x", "NoExecute")))), (false, false));
        assert_eq!(target(&pod(3, "h", true)), Some("n3"));
    }

    proptest! {
        /// A rollout never takes more than one node down, and ends with every node on the new template.
        #[test]
        fn a_rollout_ends_and_keeps_its_bound(n in 1usize..12, luck in prop::collection::vec(any::<bool>(), 60)) {
            let ds = set();
            let nodes: Vec<_> = (0..n).map(|i| node(i, None)).collect();
            let mut pods: Vec<Arc<Pod>> = (0..n).map(|i| pod(i, "old", true)).collect();
            let mut luck = luck.into_iter().chain(std::iter::repeat(true));
            for _ in 0..200 {
                let map = by_node(&pods);
                let m = manage(&ds, &nodes, &map, "new");
                let r = roll(&ds, &nodes, &map, "new", Timestamp::now());
                for gone in m.delete.iter().chain(&r.delete) { pods.retain(|p| p.metadata.uid != gone.metadata.uid); }
                for at in m.create.iter().chain(&r.create) {
                    pods.push(pod(at[1..].parse().unwrap(), "new", false));
                }
                let up = pods.iter().filter(|p| is_ready(p)).count();
                prop_assert!(up + 1 >= n);
                let s = status(&ds, &nodes, &by_node(&pods), "new", Timestamp::now());
                if s.updated_number_scheduled == Some(n as i32) && s.number_available == Some(n as i32) { return Ok(()); }
                for p in &mut pods {
                    if !is_ready(p) && luck.next().unwrap() {
                        let id: usize = target(p).unwrap()[1..].parse().unwrap();
                        *p = pod(id, "new", true);
                    }
                }
            }
            prop_assert!(false, "never ends");
        }
    }
}
