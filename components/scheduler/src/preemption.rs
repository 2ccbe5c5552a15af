//! Making room: which less important pods to evict so that a pod fits. Pure, but for the world it tries things on and
//! puts back.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use client::ObjectKey;
use client::objects::{is_deleting, selector_matches};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cycle::{Failure, Plugins, histogram, judge, prepare};
use crate::world::{PodInfo, World};

/// A disruption budget: whom it covers and how many of them may go.
#[derive(Clone, Debug)]
pub struct Budget {
    pub selector: LabelSelector,
    pub allowed: i32,
}

pub type Budgets = HashMap<ObjectKey, Budget>;

/// What preemption came to.
#[derive(Debug)]
pub enum Preemption {
    /// Evict these from the node and wait for it.
    Evict { node: String, victims: Vec<Arc<PodInfo>> },
    /// Nothing helps; the words for the event.
    Hopeless(String),
}

struct Candidate {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Looks for the node where the least is lost.
pub fn preempt(
    plugins: &Plugins,
    world: &mut World,
    pod: &PodInfo,
    failure: &Failure,
    budgets: &Budgets,
) -> Preemption {
    let spec = pod.pod.spec.as_ref();
    if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Preemption::Hopeless("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    if let Some((_, node)) = world.nominated.get(&pod.uid)
        && let Some(info) = world.node(node)
        && info.pods.iter().any(|p| p.priority < pod.priority && is_deleting(&p.pod.metadata))
    {
        let words = "preemption: not eligible due to a terminating pod on the nominated node.";
        return Preemption::Hopeless(words.into());
    }
    let mut reasons: Vec<String> = Vec::new();
    let mut candidates = Vec::new();
    if failure.everywhere.is_some() {
        reasons.extend(std::iter::repeat_n(NOT_HELPFUL.to_owned(), failure.total));
    }
    for (node, refusal) in &failure.nodes {
        if refusal.final_ {
            reasons.push(NOT_HELPFUL.into());
            continue;
        }
        match try_node(plugins, world, pod, node, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => reasons.extend(why),
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(Candidate { node, victims, .. }) => Preemption::Evict { node, victims },
        None => {
            let counted = histogram(reasons.iter().map(String::as_str));
            Preemption::Hopeless(format!("preemption: 0/{} nodes are available:{counted}", failure.total))
        }
    }
}

/// Least first: broken budgets, the most important victim, the sum of importance, the number of victims, and the
/// youngest of the most important victims preferred.
fn cost(c: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let top = c.victims.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    let sum = c.victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let started = c.victims.iter().filter(|p| p.priority == top).map(|p| start_time(p)).min();
    (c.violations, top, sum, c.victims.len(), Reverse(started.unwrap_or(Timestamp::MAX)))
}

fn start_time(pod: &PodInfo) -> Timestamp {
    let status = pod.pod.status.as_ref();
    status.and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0)
}

fn fits(plugins: &Plugins, world: &World, pod: &PodInfo, node: &str) -> Result<(), Vec<String>> {
    let Some(info) = world.node(node) else { return Err(vec![NOT_HELPFUL.into()]) };
    match prepare(plugins, world, pod) {
        Err(refusal) => Err(refusal.reasons),
        Ok(ready) => judge(plugins, &ready, world, pod, info).map_or(Ok(()), |r| Err(r.reasons)),
    }
}

/// The victims that the pod would need on this node. The world is as before when this returns.
fn try_node(
    plugins: &Plugins,
    world: &mut World,
    pod: &PodInfo,
    node: &str,
    budgets: &Budgets,
) -> Result<Candidate, Vec<String>> {
    let lower: Vec<Arc<PodInfo>> = world
        .node(node)
        .map(|n| n.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect())
        .unwrap_or_default();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    for victim in &lower {
        world.displace(&victim.uid);
    }
    if let Err(why) = fits(plugins, world, pod, node) {
        for victim in lower {
            world.place(victim, node);
        }
        return Err(why);
    }
    let (mut broken, mut other) = split(lower, budgets);
    // The most important are spared first, those under a budget before all others.
    let order = |list: &mut Vec<Arc<PodInfo>>| {
        list.sort_by_key(|p| (Reverse(p.priority), start_time(p), p.uid.clone()));
    };
    order(&mut broken);
    order(&mut other);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (list, violating) in [(broken, true), (other, false)] {
        for candidate in list {
            world.place(candidate.clone(), node);
            if fits(plugins, world, pod, node).is_err() {
                world.displace(&candidate.uid);
                violations += usize::from(violating);
                victims.push(candidate);
            }
        }
    }
    for victim in &victims {
        world.place(victim.clone(), node);
    }
    Ok(Candidate { node: node.to_owned(), victims, violations })
}

/// Pods whose eviction would break a budget, and the others.
fn split(mut pods: Vec<Arc<PodInfo>>, budgets: &Budgets) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    pods.sort_by_key(|p| (Reverse(p.priority), start_time(p)));
    let mut left: HashMap<&ObjectKey, i32> = budgets.iter().map(|(k, b)| (k, b.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut breaks = false;
        for (key, budget) in budgets {
            if key.namespace != pod.key.namespace || !selector_matches(&budget.selector, pod.labels()) {
                continue;
            }
            if let Some(n) = left.get_mut(key) {
                *n -= 1;
                breaks |= *n < 0;
            }
        }
        breaks
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::schedule;
    use crate::plugins;
    use crate::testing::{NodeSpec, PodSpecs, pod, world};
    use proptest::prelude::*;

    fn of(name: &str, cpu: i64, priority: i32) -> Arc<PodInfo> {
        Arc::new(pod(name, PodSpecs { cpu, priority, ..Default::default() }))
    }

    #[test]
    fn the_least_important_go_and_only_as_many_as_needed() {
        let plugins = plugins::all();
        let mut w = world(&[NodeSpec::new("a", 1000, 1 << 30), NodeSpec::new("b", 1000, 1 << 30)]);
        w.place(of("a1", 600, 5), "a");
        w.place(of("a2", 400, 1), "a");
        w.place(of("b1", 500, 3), "b");
        w.place(of("b2", 500, 3), "b");
        let p = of("p", 300, 10);
        let failure = schedule(&plugins, &w, &p, &mut 0).unwrap_err();
        match preempt(&plugins, &mut w, &p, &failure, &Budgets::new()) {
            Preemption::Evict { node, victims } => {
                assert_eq!(node, "a");
                assert_eq!(victims.iter().map(|v| v.uid.as_str()).collect::<Vec<_>>(), ["a2"]);
            }
            Preemption::Hopeless(words) => panic!("{words}"),
        }
        let low = of("q", 300, 1);
        match preempt(&plugins, &mut w, &low, &failure, &Budgets::new()) {
            Preemption::Hopeless(words) => assert_eq!(
                words,
                "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
            ),
            Preemption::Evict { .. } => panic!("equals must not be evicted"),
        }
    }

    #[test]
    fn what_eviction_cannot_help_is_said_so() {
        let plugins = plugins::all();
        let mut w = world(&[NodeSpec::new("a", 100, 1 << 30)]);
        let p = of("p", 300, 10);
        let failure = schedule(&plugins, &w, &p, &mut 0).unwrap_err();
        let Preemption::Hopeless(words) = preempt(&plugins, &mut w, &p, &failure, &Budgets::new()) else {
            panic!("evicts");
        };
        assert_eq!(
            failure.message(Some(&words)),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }

    proptest! {
        /// After the eviction the pod fits, every victim was less important, and the world was not changed by looking.
        #[test]
        fn eviction_makes_room(pods in prop::collection::vec((1i64..500, 0i32..5), 1..12), cpu in 1i64..1000, priority in 0i32..6) {
            let plugins = plugins::all();
            let mut w = world(&[NodeSpec::new("a", 1000, 1 << 30), NodeSpec::new("b", 1000, 1 << 30)]);
            let mut start = 0;
            for (i, (cpu, priority)) in pods.iter().enumerate() {
                let p = of(&i.to_string(), *cpu, *priority);
                if let Ok(n) = schedule(&plugins, &w, &p, &mut start) { w.place(p, &n); }
            }
            let before: Vec<_> = w.nodes().map(|n| (n.requested.clone(), n.pods.len())).collect();
            let p = of("p", cpu, priority);
            if let Err(failure) = schedule(&plugins, &w, &p, &mut start) {
                let answer = preempt(&plugins, &mut w, &p, &failure, &Budgets::new());
                let after: Vec<_> = w.nodes().map(|n| (n.requested.clone(), n.pods.len())).collect();
                prop_assert_eq!(before, after);
                if let Preemption::Evict { node, victims } = answer {
                    prop_assert!(!victims.is_empty());
                    prop_assert!(victims.iter().all(|v| v.priority < priority));
                    for v in &victims { w.displace(&v.uid); }
                    prop_assert!(fits(&plugins, &w, &p, &node).is_ok());
                }
            }
        }
    }
}
