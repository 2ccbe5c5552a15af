//! What upstream warns of in pods and pod templates: legal, and almost surely not meant.

use crate::support::{at, has, int, items, members, same, text};
use machinery::field::quote;
use machinery::quantity::Quantity;
use serde_json::Value;

const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warnings of `spec.template` of a controller.
pub(crate) fn template(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = |o: &Value| at(at(at(o, "spec"), "template"), "spec").clone();
    let before = old.map(spec);
    pod(&spec(object), before.as_ref(), "spec.template.spec")
}

/// Warnings of a pod template that stands at `path`.
pub(crate) fn template_at(template: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    pod(at(template, "spec"), old.map(|o| at(o, "spec")), &format!("{path}.spec"))
}

/// Warnings of a pod spec that stands at `path`; none when an update leaves the spec as it was.
pub(super) fn pod(spec: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_some_and(|o| same(Some(o), Some(spec))) {
        return out;
    }
    for (old_label, since, new_label) in OLD_LABELS {
        if at(spec, "nodeSelector").get(old_label).is_some() {
            out.push(format!(
                "{path}.nodeSelector[{old_label}]: deprecated since {since}; use \"{new_label}\" instead"
            ));
        }
    }
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        for (source, since) in [
            ("photonPersistentDisk", "v1.11, non-functional in v1.16+"),
            ("scaleIO", "v1.16, non-functional in v1.22+"),
            ("flocker", "v1.22, non-functional in v1.25+"),
            ("storageos", "v1.22, non-functional in v1.25+"),
            ("quobyte", "v1.22, non-functional in v1.25+"),
            ("cephfs", "v1.28, non-functional in v1.31+"),
            ("rbd", "v1.28, non-functional in v1.31+"),
        ] {
            if has(volume, source) {
                let shown = if source == "storageos" { "storageOS" } else { source };
                out.push(format!("{path}.volumes[{i}].{shown}: deprecated in {since}"));
            }
        }
        if has(volume, "gitRepo") {
            out.push(format!(
                "{path}.volumes[{i}].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"
            ));
        }
        if has(volume, "glusterfs") {
            out.push(format!("{path}.volumes[{i}].glusterfs: deprecated in v1.25, non-functional in v1.26+"));
        }
    }
    for volume in items(spec, "volumes") {
        if has(volume, "projected")
            && items(at(volume, "projected"), "sources")
                .iter()
                .any(|s| s.as_object().is_some_and(|s| s.is_empty()))
        {
            out.push(format!("volume {} (Projected) has no sources provided", quote(text(volume, "name"))));
        }
    }
    let mut hosts: Vec<&str> = Vec::new();
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if hosts.contains(&ip) {
            out.push(format!("{path}.hostAliases[{i}].ip: duplicate ip \"{ip}\""));
        }
        hosts.push(ip);
    }
    let mut secrets: Vec<&str> = Vec::new();
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        let name = text(secret, "name");
        if name.is_empty() {
            out.push(format!("{path}.imagePullSecrets[{i}].name: invalid empty name \"\""));
        } else if secrets.contains(&name) {
            out.push(format!("{path}.imagePullSecrets[{i}].name: duplicate name {}", quote(name)));
        }
        secrets.push(name);
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        out.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            of_container(container, &format!("{path}.{list}[{i}]"), &mut out);
        }
    }
    out
}

fn of_container(container: &Value, path: &str, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for (name, amount) in members(at(container, "resources"), list) {
            let Some(quantity) = amount.as_str().and_then(|s| Quantity::parse(s).ok()) else { continue };
            if matches!(name.as_str(), "memory" | "ephemeral-storage") && !quantity.is_whole() {
                out.push(format!(
                    "{path}.resources.{list}[{name}]: fractional byte value \"{quantity}\" is invalid, must be an integer"
                ));
            }
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, variable) in items(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if names.contains(&name) {
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
        names.push(name);
    }
    let mut ports: Vec<(&Value, &str)> = Vec::new();
    for (i, port) in items(container, "ports").iter().enumerate() {
        let key = (at(port, "containerPort"), text(port, "protocol"));
        let host = int(port, "hostPort").unwrap_or(0);
        let earlier = items(container, "ports")[..i].iter().position(|p| {
            let same_ends = (at(p, "containerPort"), text(p, "protocol")) == key;
            same_ends && int(p, "hostPort").unwrap_or(0) != host
        });
        if let Some(first) = earlier {
            out.push(format!("{path}.ports[{i}]: overlapping port definition with {path}.ports[{first}]"));
        } else if let Some(first) = ports.iter().position(|p| *p == key) {
            out.push(format!("{path}.ports[{i}]: duplicate port definition with {path}.ports[{first}]"));
        }
        ports.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classic_slips() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "500m"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]}]});
        assert_eq!(
            pod(&spec, None, "spec"),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"500m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
        assert!(pod(&spec, Some(&spec), "spec").is_empty());
    }
}
