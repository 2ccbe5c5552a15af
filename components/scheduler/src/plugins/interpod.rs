//! Affinity and anti-affinity between pods.

use std::collections::HashMap;

use crate::framework::{Happening, MAX_SCORE, Plugin, Prepared, Refusal, State};
use crate::world::{NodeInfo, PodInfo, Term, World};

pub struct InterPodAffinity;

/// Topology key and value to a count.
type Counts = HashMap<(String, String), i64>;

struct Filter {
    /// Terms of pods that are there and that repel this pod.
    existing_anti: Counts,
    affinity: Counts,
    anti: Counts,
}

struct Score {
    counts: Counts,
}

fn count(counts: &mut Counts, node: &NodeInfo, term: &Term, by: i64) {
    if let Some(value) = node.label(&term.topology_key) {
        *counts.entry((term.topology_key.clone(), value.to_owned())).or_insert(0) += by;
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare(&self, world: &World, pod: &PodInfo) -> Prepared {
        let own = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        let mut f = Filter { existing_anti: Counts::new(), affinity: Counts::new(), anti: Counts::new() };
        for node in world.nodes() {
            if !own && node.with_anti == 0 {
                continue;
            }
            for other in &node.pods {
                for term in other.anti_affinity.iter().filter(|t| t.matches(pod, &world.namespaces)) {
                    count(&mut f.existing_anti, node, term, 1);
                }
                if !own {
                    continue;
                }
                if !pod.affinity.is_empty()
                    && pod.affinity.iter().all(|t| t.matches(other, &world.namespaces))
                {
                    pod.affinity.iter().for_each(|t| count(&mut f.affinity, node, t, 1));
                }
                for term in pod.anti_affinity.iter().filter(|t| t.matches(other, &world.namespaces)) {
                    count(&mut f.anti, node, term, 1);
                }
            }
        }
        if !own && f.existing_anti.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Use(Some(Box::new(f)))
    }

    fn filter(&self, world: &World, state: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(f) = state.as_ref().and_then(|s| s.downcast_ref::<Filter>()) else { return Ok(()) };
        let has = |counts: &Counts, key: &str| {
            node.label(key)
                .is_some_and(|v| counts.get(&(key.to_owned(), v.to_owned())).is_some_and(|n| *n > 0))
        };
        let keyed = pod.affinity.iter().all(|t| node.label(&t.topology_key).is_some());
        let attracted = keyed && pod.affinity.iter().all(|t| has(&f.affinity, &t.topology_key));
        // The first of a group that wants to be together may go anywhere.
        let first =
            || f.affinity.is_empty() && pod.affinity.iter().all(|t| t.matches(pod, &world.namespaces));
        if !(attracted || (keyed && first())) {
            return Err(Refusal::unresolvable(self.name(), "node(s) didn't match pod affinity rules"));
        }
        if pod.anti_affinity.iter().any(|t| has(&f.anti, &t.topology_key)) {
            return Err(Refusal::new(self.name(), "node(s) didn't match pod anti-affinity rules"));
        }
        if f.existing_anti.iter().any(|((k, v), n)| *n > 0 && node.label(k) == Some(v)) {
            return Err(Refusal::new(
                self.name(),
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score(&self, world: &World, pod: &PodInfo, _: &[&NodeInfo]) -> Prepared {
        let own = !pod.preferred.is_empty() || !pod.preferred_anti.is_empty();
        let mut counts = Counts::new();
        for node in world.nodes() {
            if !own && node.with_terms == 0 {
                continue;
            }
            for other in &node.pods {
                for (weight, term) in
                    pod.preferred.iter().filter(|(_, t)| t.matches(other, &world.namespaces))
                {
                    count(&mut counts, node, term, i64::from(*weight));
                }
                for (weight, term) in
                    pod.preferred_anti.iter().filter(|(_, t)| t.matches(other, &world.namespaces))
                {
                    count(&mut counts, node, term, -i64::from(*weight));
                }
                for term in other.affinity.iter().filter(|t| t.matches(pod, &world.namespaces)) {
                    count(&mut counts, node, term, 1);
                }
                for (weight, term) in
                    other.preferred.iter().filter(|(_, t)| t.matches(pod, &world.namespaces))
                {
                    count(&mut counts, node, term, i64::from(*weight));
                }
                for (weight, term) in
                    other.preferred_anti.iter().filter(|(_, t)| t.matches(pod, &world.namespaces))
                {
                    count(&mut counts, node, term, -i64::from(*weight));
                }
            }
        }
        if counts.is_empty() { Prepared::Skip } else { Prepared::Use(Some(Box::new(Score { counts }))) }
    }

    fn score(&self, _: &World, state: &State, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(s) = state.as_ref().and_then(|s| s.downcast_ref::<Score>()) else { return 0 };
        s.counts.iter().filter(|((k, v), _)| node.label(k) == Some(v)).map(|(_, n)| n).sum()
    }

    fn normalize(&self, _: &State, scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 };
        }
    }

    fn cured_by(&self, happening: Happening) -> bool {
        !matches!(happening, Happening::VolumesChanged)
    }
}
