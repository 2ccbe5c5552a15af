//! Topology spread constraints.

use std::collections::{HashMap, HashSet};

use client::objects::{is_deleting, selector_matches};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::affinity::required_matches;
use super::basic::tolerates;
use crate::framework::{Happening, MAX_SCORE, Plugin, Prepared, Refusal, State};
use crate::world::{NodeInfo, PodInfo, World};

pub struct PodTopologySpread;

struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    selector: LabelSelector,
    affinity_counts: bool,
    taints_count: bool,
}

struct Counted {
    constraint: Constraint,
    /// Domain to matching pods, for every domain that a node the pod could run on belongs to.
    domains: HashMap<String, i64>,
    self_match: i64,
}

impl Counted {
    /// The fewest in a domain; none when there are fewer domains than wanted.
    fn min(&self) -> i64 {
        if i64::try_from(self.domains.len()).unwrap_or(i64::MAX) < self.constraint.min_domains {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or(0)
    }
}

fn constraint(pod: &PodInfo, c: &TopologySpreadConstraint) -> Constraint {
    let mut selector = c.label_selector.clone().unwrap_or_else(|| LabelSelector {
        // A missing selector matches no pod.
        match_expressions: Some(vec![LabelSelectorRequirement {
            operator: "None".into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    for key in c.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels().and_then(|l| l.get(key)) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    Constraint {
        key: c.topology_key.clone(),
        max_skew: i64::from(c.max_skew),
        min_domains: i64::from(c.min_domains.unwrap_or(1)),
        selector,
        affinity_counts: c.node_affinity_policy.as_deref() != Some("Ignore"),
        taints_count: c.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn constraints(pod: &PodInfo, when: &str) -> Vec<Constraint> {
    let all = pod.pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
    all.filter(|c| c.when_unsatisfiable == when).map(|c| constraint(pod, c)).collect()
}

fn counts_node(c: &Constraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let tolerations = pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
    (!c.affinity_counts || required_matches(pod, node))
        && (!c.taints_count
            || node
                .taints()
                .filter(|t| t.effect != "PreferNoSchedule")
                .all(|taint| tolerations.iter().any(|t| tolerates(t, taint))))
}

fn matching(c: &Constraint, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let same = node.pods.iter().filter(|p| {
        p.key.namespace == pod.key.namespace
            && !is_deleting(&p.pod.metadata)
            && selector_matches(&c.selector, p.labels())
    });
    i64::try_from(same.count()).unwrap_or(i64::MAX)
}

/// Counts the domains of nodes that have every key.
fn tally<'a>(
    constraints: Vec<Constraint>,
    pod: &PodInfo,
    nodes: impl Iterator<Item = &'a NodeInfo> + Clone,
) -> Vec<Counted> {
    let keys: Vec<String> = constraints.iter().map(|c| c.key.clone()).collect();
    let keyed = nodes.filter(|n| keys.iter().all(|k| n.label(k).is_some()));
    constraints
        .into_iter()
        .map(|constraint| {
            let mut domains = HashMap::new();
            for node in keyed.clone().filter(|n| counts_node(&constraint, pod, n)) {
                if let Some(value) = node.label(&constraint.key) {
                    *domains.entry(value.to_owned()).or_insert(0) += matching(&constraint, pod, node);
                }
            }
            let self_match = i64::from(selector_matches(&constraint.selector, pod.labels()));
            Counted { constraint, domains, self_match }
        })
        .collect()
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare(&self, world: &World, pod: &PodInfo) -> Prepared {
        let hard = constraints(pod, "DoNotSchedule");
        if hard.is_empty() {
            return Prepared::Skip;
        }
        let nodes: Vec<&NodeInfo> = world.nodes().collect();
        Prepared::Use(Some(Box::new(tally(hard, pod, nodes.iter().copied()))))
    }

    fn filter(&self, _: &World, state: &State, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(all) = state.as_ref().and_then(|s| s.downcast_ref::<Vec<Counted>>()) else { return Ok(()) };
        for counted in all {
            let Some(value) = node.label(&counted.constraint.key) else {
                let words = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::unresolvable(self.name(), words));
            };
            let here = counted.domains.get(value).copied().unwrap_or(0);
            if here + counted.self_match - counted.min() > counted.constraint.max_skew {
                let words = "node(s) didn't match pod topology spread constraints";
                return Err(Refusal::new(self.name(), words));
            }
        }
        Ok(())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score(&self, world: &World, pod: &PodInfo, _: &[&NodeInfo]) -> Prepared {
        let soft = constraints(pod, "ScheduleAnyway");
        if soft.is_empty() {
            return Prepared::Skip;
        }
        let nodes: Vec<&NodeInfo> = world.nodes().collect();
        Prepared::Use(Some(Box::new(tally(soft, pod, nodes.iter().copied()))))
    }

    /// How crowded the node's domains are; turned round by [`normalize`](Plugin::normalize). A node without a key is -1.
    fn score(&self, _: &World, state: &State, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(all) = state.as_ref().and_then(|s| s.downcast_ref::<Vec<Counted>>()) else { return 0 };
        let keys: HashSet<&str> = all.iter().map(|c| c.constraint.key.as_str()).collect();
        if keys.iter().any(|k| node.label(k).is_none()) {
            return -1;
        }
        let cost = |c: &Counted| {
            let here = node.label(&c.constraint.key).and_then(|v| c.domains.get(v)).copied().unwrap_or(0);
            // More domains make each of them weigh more, as upstream does.
            let weight = ((c.domains.len() + 2) as f64).ln();
            here as f64 * weight + (c.constraint.max_skew - 1) as f64
        };
        all.iter().map(cost).sum::<f64>().round() as i64
    }

    fn normalize(&self, _: &State, scores: &mut [i64]) {
        let real = || scores.iter().copied().filter(|s| *s >= 0);
        let (min, max) = (real().min().unwrap_or(0), real().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                s if s < 0 => 0,
                _ if max == 0 => MAX_SCORE,
                s => MAX_SCORE * (max + min - s) / max,
            };
        }
    }

    fn cured_by(&self, happening: Happening) -> bool {
        !matches!(happening, Happening::VolumesChanged | Happening::NamespaceChanged)
    }
}
