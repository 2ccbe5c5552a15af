//! Node selectors and node affinity.

use client::objects::map_matches;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use crate::framework::{Happening, Plugin, Prepared, Refusal, State, normalize_by_max};
use crate::world::{NodeInfo, PodInfo, World};

pub struct NodeAffinity;

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or(&[]);
    let compare = |ok: fn(i64, i64) -> bool| {
        let wanted = values.first().and_then(|v| v.parse::<i64>().ok());
        value.and_then(|v| v.parse::<i64>().ok()).zip(wanted).is_some_and(|(a, b)| ok(a, b))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|x| x == v)),
        "NotIn" => !value.is_some_and(|v| values.iter().any(|x| x == v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

/// An empty term matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    labels.iter().all(|r| requirement(r, node.label(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(&node.name)))
}

/// Whether any term matches the node.
pub fn node_selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|t| term_matches(t, node))
}

/// The pod's node selector and its required node affinity.
pub fn required_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.pod.spec else { return true };
    if let Some(wanted) = &spec.node_selector
        && !map_matches(wanted, node.labels())
    {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| node_selector_matches(selector, node))
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare(&self, _: &World, pod: &PodInfo) -> Prepared {
        let spec = pod.pod.spec.as_ref();
        let selects = spec.is_some_and(|s| {
            s.node_selector.is_some() || s.affinity.as_ref().is_some_and(|a| a.node_affinity.is_some())
        });
        if selects { Prepared::Use(None) } else { Prepared::Skip }
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if required_matches(pod, node) {
            return Ok(());
        }
        Err(Refusal::unresolvable(self.name(), "node(s) didn't match Pod's node affinity/selector"))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score(&self, world: &World, pod: &PodInfo, _: &[&NodeInfo]) -> Prepared {
        self.prepare(world, pod)
    }

    fn score(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let affinity =
            pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        let preferred =
            affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let terms =
            preferred.into_iter().flatten().filter(|t| t.weight != 0 && term_matches(&t.preference, node));
        terms.map(|t| i64::from(t.weight)).sum()
    }

    fn normalize(&self, _: &State, scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }

    fn cured_by(&self, happening: Happening) -> bool {
        matches!(happening, Happening::NodeAdded | Happening::NodeChanged | Happening::PodChanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operator: &str, values: &[&str], value: Option<&str>) -> bool {
        let r = NodeSelectorRequirement {
            key: "k".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| v.to_string()).collect()),
        };
        requirement(&r, value)
    }

    #[test]
    fn requirements_follow_upstream() {
        assert!(check("In", &["a", "b"], Some("b")));
        assert!(!check("In", &["a"], None));
        assert!(check("NotIn", &["a"], None));
        assert!(!check("NotIn", &["a"], Some("a")));
        assert!(check("Exists", &[], Some("")));
        assert!(check("DoesNotExist", &[], None));
        assert!(check("Gt", &["3"], Some("4")));
        assert!(!check("Gt", &["3"], Some("x")));
        assert!(check("Lt", &["3"], Some("2")));
        assert!(!check("Lt", &["3"], None));
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        assert!(!term_matches(&NodeSelectorTerm::default(), &NodeInfo::default()));
    }
}
