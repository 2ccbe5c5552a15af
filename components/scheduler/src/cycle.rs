//! One pod, one world, one answer. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::framework::{Plugin, Prepared, Refusal, State};
use crate::world::{NodeInfo, PodInfo, World};

pub type Plugins = Vec<Box<dyn Plugin>>;

/// Up to so many nodes all are looked at.
const MIN_FEASIBLE: usize = 100;

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// Nodes that exist.
    pub total: usize,
    /// A refusal that is the same for every node.
    pub everywhere: Option<Refusal>,
    /// Node to its refusal.
    pub nodes: BTreeMap<String, Refusal>,
}

impl Failure {
    /// The plugins that refused: what must happen before another try makes sense.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.nodes.values().chain(&self.everywhere).map(|r| r.plugin).collect()
    }

    /// Upstream's sentence.
    pub fn message(&self, preemption: Option<&str>) -> String {
        if self.total == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut text = format!("0/{} nodes are available:", self.total);
        match &self.everywhere {
            Some(refusal) => text.push_str(&format!(" {}.", refusal.reasons.join(", "))),
            None => text
                .push_str(&histogram(self.nodes.values().flat_map(|r| r.reasons.iter().map(String::as_str)))),
        }
        if let Some(words) = preemption {
            text.push(' ');
            text.push_str(words);
        }
        text
    }
}

/// ` 1 this, 2 that.`, sorted as text; nothing for nothing.
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.sort();
    if parts.is_empty() { String::new() } else { format!(" {}.", parts.join(", ")) }
}

/// What each plugin prepared; `None` for one that skips this pod.
pub struct Ready(Vec<Option<State>>);

/// Lets every plugin look at the world.
pub fn prepare(plugins: &Plugins, world: &World, pod: &PodInfo) -> Result<Ready, Refusal> {
    let mut ready = Vec::with_capacity(plugins.len());
    for plugin in plugins {
        ready.push(match plugin.prepare(world, pod) {
            Prepared::Skip => None,
            Prepared::Use(state) => Some(state),
            Prepared::Reject(refusal) => return Err(refusal),
        });
    }
    Ok(Ready(ready))
}

/// The first refusal of this node, if any.
pub fn judge(
    plugins: &Plugins,
    ready: &Ready,
    world: &World,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Option<Refusal> {
    let both = plugins.iter().zip(&ready.0);
    both.filter_map(|(plugin, state)| state.as_ref().map(|s| (plugin, s)))
        .find_map(|(plugin, state)| plugin.filter(world, state, pod, node).err())
}

/// How many nodes that pass are enough.
fn enough(total: usize) -> usize {
    if total < MIN_FEASIBLE {
        return total;
    }
    let percent = 50usize.saturating_sub(total / 125).max(5);
    (total * percent / 100).max(MIN_FEASIBLE)
}

/// Chooses a node. `start` is where the search begins, moved on so that all nodes get their turn.
pub fn schedule(
    plugins: &Plugins,
    world: &World,
    pod: &PodInfo,
    start: &mut usize,
) -> Result<String, Failure> {
    let total = world.nodes().count();
    let mut failure = Failure { total, ..Default::default() };
    if total == 0 {
        return Err(failure);
    }
    let ready = match prepare(plugins, world, pod) {
        Ok(ready) => ready,
        Err(refusal) => {
            failure.everywhere = Some(refusal);
            return Err(failure);
        }
    };
    // A node that preemption has freed is tried first, and alone if it will do.
    let nominated = world.nominated.get(&pod.uid).map(|(_, node)| node.as_str());
    if let Some(node) = nominated.and_then(|n| world.node(n)).filter(|n| n.node.is_some())
        && judge(plugins, &ready, world, pod, node).is_none()
    {
        return Ok(node.name.clone());
    }
    let entries = world.entries();
    let wanted = enough(total);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut looked = 0;
    for step in 0..entries.len() {
        let node = &entries[(*start + step) % entries.len()];
        looked = step + 1;
        if node.node.is_none() {
            continue;
        }
        match judge(plugins, &ready, world, pod, node) {
            None => feasible.push(node),
            Some(refusal) => {
                failure.nodes.insert(node.name.clone(), refusal);
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    *start = (*start + looked) % entries.len();
    match feasible.as_slice() {
        [] => Err(failure),
        [only] => Ok(only.name.clone()),
        many => Ok(best(plugins, world, pod, many, *start).name.clone()),
    }
}

/// The node with the highest sum of scores; among equals the choice turns with `salt`.
fn best<'a>(
    plugins: &Plugins,
    world: &World,
    pod: &PodInfo,
    nodes: &[&'a NodeInfo],
    salt: usize,
) -> &'a NodeInfo {
    let mut sums = vec![0i64; nodes.len()];
    for plugin in plugins.iter().filter(|p| p.weight() > 0) {
        let Prepared::Use(state) = plugin.prepare_score(world, pod, nodes) else { continue };
        let mut scores: Vec<i64> = nodes.iter().map(|n| plugin.score(world, &state, pod, n)).collect();
        plugin.normalize(&state, &mut scores);
        for (sum, score) in sums.iter_mut().zip(scores) {
            *sum += score * plugin.weight();
        }
    }
    let top = sums.iter().copied().max().unwrap_or(0);
    let mut equals = sums.iter().enumerate().filter(|(_, s)| **s == top).map(|(i, _)| i);
    let count = equals.clone().count().max(1);
    let at = equals.nth(salt % count).unwrap_or(0);
    nodes[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;
    use crate::testing::{NodeSpec, PodSpecs, node, pod, world};
    use proptest::prelude::*;
    use std::sync::Arc;

    #[test]
    fn the_words_are_upstreams() {
        let plugins = plugins::all();
        let mut w = world(&[NodeSpec::new("a", 1000, 1 << 30)]);
        let big = pod("big", PodSpecs { cpu: 2000, ..Default::default() });
        let failure = schedule(&plugins, &w, &big, &mut 0).unwrap_err();
        assert_eq!(failure.message(None), "0/1 nodes are available: 1 Insufficient cpu.");
        w.set_node(node(&NodeSpec { taint: Some("NoSchedule"), ..NodeSpec::new("b", 4000, 1 << 30) }));
        let failure = schedule(&plugins, &w, &big, &mut 0).unwrap_err();
        assert_eq!(
            failure.message(Some("preemption: x")),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). preemption: x"
        );
        assert_eq!(
            schedule(&plugins, &World::default(), &big, &mut 0).unwrap_err().message(None),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let plugins = plugins::all();
        let mut w = world(&[NodeSpec::new("a", 1000, 1 << 30), NodeSpec::new("b", 1000, 1 << 30)]);
        w.place(Arc::new(pod("x", PodSpecs { cpu: 500, ..Default::default() })), "a");
        let p = pod("p", PodSpecs { cpu: 100, ..Default::default() });
        for start in 0..4 {
            assert_eq!(schedule(&plugins, &w, &p, &mut { start }).unwrap(), "b");
        }
    }

    #[test]
    fn anti_affinity_keeps_pods_apart_and_affinity_together() {
        let plugins = plugins::all();
        let mut w = world(&[NodeSpec::new("a", 1000, 1 << 30), NodeSpec::new("b", 1000, 1 << 30)]);
        let apart = |n: &str| pod(n, PodSpecs { label: "x", repels: Some("x"), ..Default::default() });
        let first = schedule(&plugins, &w, &apart("1"), &mut 0).unwrap();
        w.place(Arc::new(apart("1")), &first);
        let second = schedule(&plugins, &w, &apart("2"), &mut 0).unwrap();
        assert_ne!(first, second);
        w.place(Arc::new(apart("2")), &second);
        let failure = schedule(&plugins, &w, &apart("3"), &mut 0).unwrap_err();
        assert_eq!(
            failure.message(None),
            "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
        );
        let plain = pod("4", PodSpecs { label: "x", ..Default::default() });
        let failure = schedule(&plugins, &w, &plain, &mut 0).unwrap_err();
        assert_eq!(
            failure.message(None),
            "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
        );
        let friend = pod("5", PodSpecs { label: "y", attracts: Some("y"), ..Default::default() });
        let home = schedule(&plugins, &w, &friend, &mut 0).unwrap();
        w.place(Arc::new(friend), &home);
        for start in 0..4 {
            let other = pod("6", PodSpecs { attracts: Some("y"), ..Default::default() });
            assert_eq!(schedule(&plugins, &w, &other, &mut { start }).unwrap(), home);
        }
    }

    proptest! {
        /// Whatever comes, no node is ever filled past what it has, and a refusal means that no node had room.
        #[test]
        fn nodes_are_never_overfilled(
            nodes in prop::collection::vec((100i64..2000, 1i64..5), 1..6),
            pods in prop::collection::vec((1i64..900, 0i32..3), 1..40)
        ) {
            let plugins = plugins::all();
            let specs: Vec<NodeSpec> = nodes.iter().enumerate()
                .map(|(i, (cpu, n))| NodeSpec { pods: *n, ..NodeSpec::new(&format!("n{i}"), *cpu, 1 << 30) }).collect();
            let mut w = world(&specs);
            let mut start = 0;
            for (i, (cpu, port)) in pods.iter().enumerate() {
                let p = Arc::new(pod(&i.to_string(), PodSpecs { cpu: *cpu, port: *port, ..Default::default() }));
                match schedule(&plugins, &w, &p, &mut start) {
                    Ok(node) => w.place(p, &node),
                    Err(f) => {
                        for n in w.nodes() {
                            let room = n.allocatable.milli_cpu - n.requested.milli_cpu >= *cpu
                                && (n.pods.len() as i64) < n.max_pods && !n.port_taken(&p.ports);
                            prop_assert!(!room, "{} had room: {}", n.name, f.message(None));
                        }
                    }
                }
                for n in w.nodes() {
                    prop_assert!(n.requested.milli_cpu <= n.allocatable.milli_cpu);
                    prop_assert!(n.pods.len() as i64 <= n.max_pods);
                }
            }
        }

        /// Hard spread constraints hold after every placement.
        #[test]
        fn spreading_keeps_the_skew(zones in prop::collection::vec(0u8..3, 1..6), count in 1usize..30, skew in 1i32..3) {
            let plugins = plugins::all();
            let names = ["z0", "z1", "z2"];
            let specs: Vec<NodeSpec> = zones.iter().enumerate().map(|(i, z)| NodeSpec {
                zone: Some(names[usize::from(*z)]), ..NodeSpec::new(&format!("n{i}"), 100_000, 1 << 40)
            }).collect();
            let mut w = world(&specs);
            let mut start = 0;
            for i in 0..count {
                let p = Arc::new(pod(&i.to_string(), PodSpecs { label: "s", spread: Some(skew), ..Default::default() }));
                let node = schedule(&plugins, &w, &p, &mut start);
                prop_assert!(node.is_ok());
                w.place(p, &node.unwrap());
                let mut per: BTreeMap<&str, i32> = BTreeMap::new();
                for n in w.nodes() {
                    *per.entry(n.label("zone").unwrap()).or_insert(0) += n.pods.len() as i32;
                }
                let (min, max) = (per.values().min().unwrap(), per.values().max().unwrap());
                prop_assert!(max - min <= skew);
            }
        }
    }
}
