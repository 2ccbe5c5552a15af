//! Room: whether the requests fit, and which node they fit best.

use crate::framework::{Happening, MAX_SCORE, Plugin, Prepared, Refusal, State};
use crate::world::{NodeInfo, PodInfo, World};

/// NodeResourcesFit with the LeastAllocated strategy.
pub struct Fit;

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let mut refusal = Refusal { plugin: self.name(), reasons: Vec::new(), final_: false };
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.max_pods {
            refusal.reasons.push("Too many pods".into());
        }
        let (want, have, used) = (&pod.requests, &node.allocatable, &node.requested);
        let mut check = |name: &str, want: i64, have: i64, used: i64| {
            if want > 0 && want > have - used {
                refusal.reasons.push(format!("Insufficient {name}"));
                refusal.final_ |= want > have;
            }
        };
        check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
        check("memory", want.memory, have.memory, used.memory);
        check("ephemeral-storage", want.ephemeral, have.ephemeral, used.ephemeral);
        for (name, n) in &want.scalars {
            let of = |r: &crate::resources::Resources| r.scalars.get(name).copied().unwrap_or(0);
            check(name, *n, of(have), of(used));
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let free = |used: i64, have: i64| {
            if have == 0 || used > have { 0 } else { (have - used).saturating_mul(MAX_SCORE) / have }
        };
        let cpu = free(node.scoring.0 + pod.scoring.0, node.allocatable.milli_cpu);
        let memory = free(node.scoring.1 + pod.scoring.1, node.allocatable.memory);
        (cpu + memory) / 2
    }

    fn cured_by(&self, happening: Happening) -> bool {
        use Happening::{NodeAdded, NodeChanged, PodChanged, PodLeft};
        matches!(happening, NodeAdded | NodeChanged | PodLeft | PodChanged)
    }
}

/// NodeResourcesBalancedAllocation: CPU and memory should fill up alike.
pub struct Balanced;

impl Plugin for Balanced {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare_score(&self, _: &World, pod: &PodInfo, _: &[&NodeInfo]) -> Prepared {
        // A pod that asks for nothing would only blur the picture.
        if pod.requests.is_zero() { Prepared::Skip } else { Prepared::Use(None) }
    }

    fn score(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let share = |used: i64, have: i64| if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) };
        let cpu = share(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(node.requested.memory + pod.requests.memory, node.allocatable.memory);
        let deviation = ((cpu - memory) / 2.0).abs();
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }

    fn cured_by(&self, _: Happening) -> bool {
        false
    }
}
