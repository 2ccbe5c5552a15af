//! Whether a pod that was bound here can run here. Scheduling said yes already; this is the last word.

use crate::pod::resources::pod_request;
use crate::quantity;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use std::collections::BTreeMap;

/// What the pods that run here take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub pods: i64,
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
}

impl Use {
    pub fn of(spec: &PodSpec) -> Self {
        Self {
            pods: 1,
            cpu: pod_request(spec, "cpu"),
            memory: pod_request(spec, "memory"),
            storage: pod_request(spec, "ephemeral-storage"),
        }
    }

    pub fn plus(self, o: Self) -> Self {
        Self {
            pods: self.pods + o.pods,
            cpu: self.cpu + o.cpu,
            memory: self.memory + o.memory,
            storage: self.storage + o.storage,
        }
    }
}

/// The reason and message of phase Failed, if the pod cannot stay.
pub fn admit(node: &Node, used: Use, pod: &Pod) -> Result<(), (String, String)> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if !matches_node(node, spec) {
        return Err((
            "NodeAffinity".into(),
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                .into(),
        ));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let untolerated = crate::register::taints(node)
        .iter()
        .find(|t| t.effect == "NoExecute" && !tolerations.iter().any(|tol| tolerates(tol, t)));
    if let Some(t) = untolerated {
        return Err((
            "TaintToleration".into(),
            format!(
                "Pod was rejected: Predicate TaintToleration failed: node(s) had untolerated taint {{{}: {}}}",
                t.key,
                t.value.as_deref().unwrap_or_default()
            ),
        ));
    }
    let Some(allocatable) = node.status.as_ref().and_then(|s| s.allocatable.as_ref()) else { return Ok(()) };
    let ask = Use::of(spec);
    let rows = [
        ("pods", ask.pods, used.pods),
        ("cpu", ask.cpu, used.cpu),
        ("memory", ask.memory, used.memory),
        ("ephemeral-storage", ask.storage, used.storage),
    ];
    for (name, wanted, used) in rows {
        let Some(q) = allocatable.get(name) else { continue };
        let capacity = if name == "cpu" { quantity::milli(q) } else { quantity::value(q) };
        if wanted > 0 && used + wanted > capacity {
            return Err((
                format!("OutOf{name}"),
                format!(
                    "Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, \
                     capacity: {capacity}"
                ),
            ));
        }
    }
    Ok(())
}

pub fn tolerates(tol: &Toleration, t: &Taint) -> bool {
    let key = tol.key.as_deref().unwrap_or_default();
    let effect = tol.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != t.effect || !key.is_empty() && key != t.key {
        return false;
    }
    match tol.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        _ => {
            !key.is_empty()
                && tol.value.as_deref().unwrap_or_default() == t.value.as_deref().unwrap_or_default()
        }
    }
}

fn matches_node(node: &Node, spec: &PodSpec) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let terms = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && terms.is_none_or(|t| t.node_selector_terms.iter().any(|t| term(node, labels, t)))
}

fn term(node: &Node, labels: &BTreeMap<String, String>, t: &NodeSelectorTerm) -> bool {
    let by_label = t.match_expressions.as_deref().unwrap_or_default();
    let by_field = t.match_fields.as_deref().unwrap_or_default();
    if by_label.is_empty() && by_field.is_empty() {
        return false;
    }
    by_label.iter().all(|r| requirement(labels.get(&r.key).map(String::as_str), r))
        && by_field.iter().all(|r| r.key == "metadata.name" && requirement(node.metadata.name.as_deref(), r))
}

fn requirement(have: Option<&str>, r: &NodeSelectorRequirement) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = have.is_some_and(|h| values.iter().any(|v| v == h));
    let number = || Some((have?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => number().is_some_and(|(h, v)| h > v),
        "Lt" => number().is_some_and(|(h, v)| h < v),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, NodeSpec, NodeStatus, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn node() -> Node {
        let q = |s: &str| Quantity(s.into());
        Node {
            metadata: ObjectMeta {
                name: Some("n".into()),
                labels: Some(BTreeMap::from([("zone".to_owned(), "a".to_owned())])),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: Some(vec![
                    Taint { key: "soft".into(), effect: "NoSchedule".into(), ..Default::default() },
                    Taint { key: "hard".into(), effect: "NoExecute".into(), ..Default::default() },
                ]),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                allocatable: Some(BTreeMap::from([("cpu".into(), q("1")), ("pods".into(), q("2"))])),
                ..Default::default()
            }),
        }
    }

    fn pod(cpu: &str) -> Pod {
        let requests = BTreeMap::from([("cpu".to_owned(), Quantity(cpu.into()))]);
        let c = Container {
            resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
            ..Default::default()
        };
        let tolerations = vec![Toleration {
            key: Some("hard".into()),
            operator: Some("Exists".into()),
            ..Default::default()
        }];
        Pod {
            spec: Some(PodSpec { containers: vec![c], tolerations: Some(tolerations), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn resources_fit_or_not() {
        assert!(admit(&node(), Use::default(), &pod("1")).is_ok());
        let (reason, message) =
            admit(&node(), Use { pods: 1, cpu: 500, ..Use::default() }, &pod("600m")).expect_err("too much");
        assert_eq!(reason, "OutOfcpu");
        assert!(message.ends_with("requested: 600, used: 500, capacity: 1000"), "{message}");
        let full = Use { pods: 2, ..Use::default() };
        assert_eq!(admit(&node(), full, &pod("0")).expect_err("full").0, "OutOfpods");
    }

    #[test]
    fn selector_and_taints() {
        let mut p = pod("0");
        p.spec.as_mut().expect("spec").node_selector = Some(BTreeMap::from([("zone".into(), "b".into())]));
        assert_eq!(admit(&node(), Use::default(), &p).expect_err("zone").0, "NodeAffinity");
        let mut p = pod("0");
        p.spec.as_mut().expect("spec").tolerations = None;
        assert_eq!(admit(&node(), Use::default(), &p).expect_err("taint").0, "TaintToleration");
    }
}
