//! What upstream warns of in pods and pod templates: legal, and almost surely not meant.

use crate::support::{at, has, int, items, members, same, text, texts};
use machinery::field::quote;
use machinery::quantity::Quantity;
use serde_json::Value;

/// A label that nodes had, since when it is not the one to use, and which is.
pub(crate) const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use ", "\"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use ", "\"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use ",
        "\"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use ",
        "\"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use ",
        "\"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9", ""),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use ",
        "Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use ", "\"node-role.kubernetes.io/control-plane\" instead"),
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
    old_labels(spec, path, &mut out);
    selectors(spec, path, &mut out);
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
        volume_files(volume, &mut out);
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
    for (name, amount) in members(spec, "overhead") {
        fractional(name, amount, &format!("{path}.overhead"), &mut out);
    }
    for list in PLURALS {
        for (i, container) in items(spec, list).iter().enumerate() {
            of_container(container, &format!("{path}.{list}[{i}]"), &mut out);
        }
    }
    ports(spec, path, &mut out);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        out.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    out
}

const PLURALS: [&str; 2] = ["initContainers", "containers"];

fn of_container(container: &Value, path: &str, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for (name, amount) in members(at(container, "resources"), list) {
            fractional(name, amount, &format!("{path}.resources.{list}"), out);
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, variable) in items(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if !names.contains(&name) {
            names.push(name);
            continue;
        }
        // What is built on the earlier definition does not hide it.
        let (value, reference) = (text(variable, "value"), format!("$({name})"));
        if has(variable, "valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
}

fn fractional(name: &str, amount: &Value, list: &str, out: &mut Vec<String>) {
    let Some(quantity) = amount.as_str().and_then(|s| Quantity::parse(s).ok()) else { return };
    if matches!(name, "memory" | "ephemeral-storage") && !quantity.is_whole() {
        out.push(format!(
            "{list}[{name}]: fractional byte value \"{quantity}\" is invalid, must be an integer"
        ));
    }
}

/// Ports of all containers, that should not meet.
fn ports(spec: &Value, path: &str, out: &mut Vec<String>) {
    let mut all: Vec<(String, &Value)> = Vec::new();
    for list in PLURALS {
        for (c, container) in items(spec, list).iter().enumerate() {
            for (i, port) in items(container, "ports").iter().enumerate() {
                all.push((format!("{path}.{list}[{c}].ports[{i}]"), port));
            }
        }
    }
    let host = |p: &Value| int(p, "hostPort").unwrap_or(0);
    for (i, (here, port)) in all.iter().enumerate() {
        let ip = text(port, "hostIP");
        if !ip.is_empty() && host(port) == 0 {
            let number = int(port, "containerPort").unwrap_or(0);
            let (name, protocol) = (text(port, "name"), text(port, "protocol"));
            out.push(format!(
                "{here}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} \
                 Protocol:{protocol} HostIP:{ip}}}"
            ));
        }
        let key = |p: &Value| (int(p, "containerPort"), text(p, "protocol").to_owned());
        for (there, other) in all[..i].iter().filter(|(_, o)| key(o) == key(port)) {
            let other_ip = text(other, "hostIP");
            let what = if ip == other_ip && host(port) == host(other) {
                "duplicate"
            } else if host(port) == 0 || host(other) == 0 {
                "overlapping"
            } else if host(port) == host(other) && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{here}: {what} port definition with {there}"));
        }
        let name = text(port, "name");
        if let Some((there, _)) = all[..i].iter().find(|(_, o)| !name.is_empty() && text(o, "name") == name) {
            out.push(format!(
                "{here}: duplicate port name {} with {there}, services and probes that select ports by name will \
                 use {there}",
                quote(name)
            ));
        }
    }
}

/// Terms without a selector match nothing, which nobody writes down on purpose.
fn selectors(spec: &Value, path: &str, out: &mut Vec<String>) {
    let mut nothing = |of: &Value, at_term: String| {
        if !has(of, "labelSelector") {
            out.push(format!("{at_term}.labelSelector: a null labelSelector results in matching no pod"));
        }
    };
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        nothing(constraint, format!("{path}.topologySpreadConstraints[{i}]"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = at(at(spec, "affinity"), kind);
        let list = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(affinity, list).iter().enumerate() {
            nothing(term, format!("{path}.affinity.{kind}.{list}[{i}]"));
        }
        let list = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(affinity, list).iter().enumerate() {
            nothing(
                at(term, "podAffinityTerm"),
                format!("{path}.affinity.{kind}.{list}[{i}].podAffinityTerm"),
            );
        }
    }
}

fn old_label(key: &str) -> Option<String> {
    let (_, since, instead) = OLD_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("{since}{instead}"))
}

/// Labels of nodes by names that were given up.
fn old_labels(spec: &Value, path: &str, out: &mut Vec<String>) {
    for (key, _) in members(spec, "nodeSelector") {
        if let Some(why) = old_label(key) {
            out.push(format!("{path}.nodeSelector[{key}]: {why}"));
        }
    }
    let affinity = at(at(spec, "affinity"), "nodeAffinity");
    let list = "requiredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(at(affinity, list), "nodeSelectorTerms").iter().enumerate() {
        node_term(term, &format!("{path}.affinity.nodeAffinity.{list}.nodeSelectorTerms[{i}]"), false, out);
    }
    let list = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(affinity, list).iter().enumerate() {
        let here = format!("{path}.affinity.nodeAffinity.{list}[{i}].preference");
        node_term(at(term, "preference"), &here, true, out);
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let key = text(constraint, "topologyKey");
        if let Some(why) = old_label(key) {
            out.push(format!("{path}.topologySpreadConstraints[{i}].topologyKey: {key} is {why}"));
        }
    }
}

fn node_term(term: &Value, path: &str, values: bool, out: &mut Vec<String>) {
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        if let Some(why) = old_label(key) {
            out.push(format!("{path}.matchExpressions[{i}].key: {key} is {why}"));
        }
        for (n, value) in texts(expression, "values").enumerate().filter(|_| values) {
            for why in machinery::names::label_value(value) {
                out.push(format!("{path}.matchExpressions[{i}].values[{n}]: {value} is invalid, {why}"));
            }
        }
    }
}

/// A file of a volume, and of which of its sources.
type File = (String, String);

fn shown((path, source): &File) -> String {
    if source.is_empty() { quote(path) } else { format!("{} ({source})", quote(path)) }
}

/// Says where files of one volume lie in one another's place.
fn overlapping(files: Vec<File>, volume: &str, what: &str, out: &mut Vec<String>) {
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|r| r.starts_with('/'));
    let mut seen: Vec<File> = Vec::new();
    for (path, source) in files {
        let file = (path.trim_end_matches('/').to_owned(), source);
        let meets = |o: &&File| o.0 == file.0 || within(&o.0, &file.0) || within(&file.0, &o.0);
        for other in seen.iter().filter(meets) {
            let (name, file, other) = (quote(volume), shown(&file), shown(other));
            out.push(format!("volume {name} ({what}): overlapping paths: {file} with {other}"));
        }
        seen.push(file);
    }
}

fn volume_files(volume: &Value, out: &mut Vec<String>) {
    let name = text(volume, "name");
    let files = |of: &Value, source: &str| -> Vec<File> {
        items(of, "items").iter().map(|i| (text(i, "path").to_owned(), source.to_owned())).collect()
    };
    for (source, kind, member) in [
        ("configMap", "ConfigMap", "name"),
        ("secret", "Secret", "secretName"),
        ("downwardAPI", "DownwardAPI", ""),
    ] {
        let of = at(volume, source);
        let what =
            if member.is_empty() { kind.to_owned() } else { format!("{kind} {}", quote(text(of, member))) };
        overlapping(files(of, ""), name, &what, out);
    }
    let mut all: Vec<File> = Vec::new();
    for source in items(at(volume, "projected"), "sources") {
        let Some((kind, of)) = source.as_object().and_then(|s| s.iter().find(|(_, v)| !v.is_null())) else {
            out.push(format!("volume {} (Projected) has no sources provided", quote(name)));
            continue;
        };
        let named = |kind: &str| format!("{kind} {}", quote(text(of, "name")));
        let path = || text(of, "path").to_owned();
        match kind.as_str() {
            "configMap" => all.extend(files(of, &named("ConfigMap"))),
            "secret" => all.extend(files(of, &named("Secret"))),
            "downwardAPI" => all.extend(files(of, "DownwardAPI")),
            "serviceAccountToken" => all.push((path(), "ServiceAccountToken".into())),
            "clusterTrustBundle" => {
                let member = if has(of, "name") { "name" } else { "signerName" };
                all.push((path(), format!("ClusterTrustBundle {}", quote(text(of, member)))));
            }
            "podCertificate" => {
                for (member, what) in [
                    ("certificateChainPath", "PodCertificate chain"),
                    ("keyPath", "PodCertificate key"),
                    ("credentialBundlePath", "PodCertificate credential bundle"),
                ] {
                    if !text(of, member).is_empty() {
                        all.push((text(of, member).to_owned(), what.into()));
                    }
                }
            }
            _ => {}
        }
    }
    overlapping(all, name, "Projected", out);
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
