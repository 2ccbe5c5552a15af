//! Name, cordon, taints, host ports, images.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Happening, MAX_SCORE, Plugin, Prepared, Refusal, State, normalize_by_max};
use crate::world::{NodeInfo, PodInfo, World};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare(&self, _: &World, pod: &PodInfo) -> Prepared {
        if client::objects::node_name(&pod.pod).is_none() { Prepared::Skip } else { Prepared::Use(None) }
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        match client::objects::node_name(&pod.pod) {
            Some(name) if name != node.name => {
                Err(Refusal::unresolvable(self.name(), "node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }

    fn cured_by(&self, happening: Happening) -> bool {
        matches!(happening, Happening::NodeAdded)
    }
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[])
}

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if !node.is_unschedulable() {
            return Ok(());
        }
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        if tolerations(pod).iter().any(|t| tolerates(t, &cordon)) {
            return Ok(());
        }
        Err(Refusal::unresolvable(self.name(), "node(s) were unschedulable"))
    }

    fn cured_by(&self, happening: Happening) -> bool {
        matches!(happening, Happening::NodeAdded | Happening::NodeChanged | Happening::PodChanged)
    }
}

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let fatal = node
            .taints()
            .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
            .any(|taint| !tolerations(pod).iter().any(|t| tolerates(t, taint)));
        if fatal {
            Err(Refusal::unresolvable(self.name(), "node(s) had untolerated taint(s)"))
        } else {
            Ok(())
        }
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let relevant: Vec<&Toleration> = tolerations(pod)
            .iter()
            .filter(|t| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
            .collect();
        let bad = node
            .taints()
            .filter(|t| t.effect == "PreferNoSchedule")
            .filter(|taint| !relevant.iter().any(|t| tolerates(t, taint)))
            .count();
        i64::try_from(bad).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &State, scores: &mut [i64]) {
        normalize_by_max(scores, true);
    }

    fn cured_by(&self, happening: Happening) -> bool {
        matches!(happening, Happening::NodeAdded | Happening::NodeChanged | Happening::PodChanged)
    }
}

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare(&self, _: &World, pod: &PodInfo) -> Prepared {
        if pod.ports.is_empty() { Prepared::Skip } else { Prepared::Use(None) }
    }

    fn filter(&self, _: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        if node.port_taken(&pod.ports) {
            let words = "node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::new(self.name(), words));
        }
        Ok(())
    }

    fn cured_by(&self, happening: Happening) -> bool {
        matches!(happening, Happening::NodeAdded | Happening::PodLeft)
    }
}

/// Prefers nodes that hold the pod's images, weighed by how many nodes do.
pub struct ImageLocality;

const MIN_IMAGE: i64 = 23 * 1024 * 1024;
const MAX_IMAGE: i64 = 1000 * 1024 * 1024;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, world: &World, _: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(spec) = &pod.pod.spec else { return 0 };
        let images: Vec<String> = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .filter_map(|c| c.image.as_deref())
            .map(normalized)
            .collect();
        let total = i64::try_from(world.nodes().count()).unwrap_or(i64::MAX).max(1);
        let mut sum = 0;
        for image in &images {
            let Some(size) = node.images.get(image) else { continue };
            let having = world.nodes().filter(|n| n.images.contains_key(image)).count();
            sum += size / total * i64::try_from(having).unwrap_or(i64::MAX);
        }
        let most = MAX_IMAGE * i64::try_from(images.len()).unwrap_or(1).max(1);
        MAX_SCORE * (sum.clamp(MIN_IMAGE, most) - MIN_IMAGE) / (most - MIN_IMAGE).max(1)
    }

    fn cured_by(&self, _: Happening) -> bool {
        false
    }
}

/// With a tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            ..Default::default()
        }
    }

    #[test]
    fn tolerations_follow_upstream() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        assert!(tolerates(&toleration("k", "Equal", "v", "NoSchedule"), &taint));
        assert!(tolerates(&toleration("k", "", "v", ""), &taint));
        assert!(tolerates(&toleration("", "Exists", "", ""), &taint));
        assert!(!tolerates(&toleration("k", "Equal", "w", ""), &taint));
        assert!(!tolerates(&toleration("k", "Exists", "", "NoExecute"), &taint));
        assert!(!tolerates(&toleration("j", "Exists", "", ""), &taint));
    }

    #[test]
    fn an_image_without_tag_is_the_latest() {
        assert_eq!(normalized("a.b:5000/c"), "a.b:5000/c:latest");
        assert_eq!(normalized("c:1"), "c:1");
    }
}
