//! Defaults of pods and pod templates: upstream's `SetDefaults_Pod`, `_PodSpec`, `_Container`, `_Probe`, `_Volume`
//! and their like.

use crate::support::{
    at, flag, has, int, items_mut, map_mut, preset, preset_int, preset_pointer, some_mut, text,
};
use machinery::quantity::Quantity;
use serde_json::{Map, Value, json};

/// Defaults of a pod alone, not of templates.
pub(crate) fn pod(object: &mut Value) {
    if let Some(status) = some_mut(object, "status") {
        super::pod_status::same_ips(status);
    }
    let Some(spec) = some_mut(object, "spec") else { return };
    pod_spec(spec);
    preset(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    if flag(spec, "hostNetwork") {
        for list in ["containers", "initContainers"] {
            for container in items_mut(spec, list) {
                for port in items_mut(container, "ports") {
                    let number = int(port, "containerPort").unwrap_or(0);
                    preset_int(port, "hostPort", number);
                }
            }
        }
    }
}

/// Limits that no request stands beside are requests too.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = some_mut(container, "resources") else { return };
    let limits = at(resources, "limits").clone();
    let Some(limits) = limits.as_object().filter(|l| !l.is_empty()) else { return };
    if let Some(requests) = map_mut(resources, "requests") {
        for (name, amount) in limits {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
}

/// Defaults of `template` wherever one stands: `spec` is the pod spec.
pub(crate) fn template(owner_spec: &mut Value) {
    let Some(template) = some_mut(owner_spec, "template") else { return };
    if map_mut(template, "spec").is_some()
        && let Some(spec) = template.get_mut("spec")
    {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    preset(spec, "dnsPolicy", "ClusterFirst");
    preset(spec, "restartPolicy", "Always");
    preset(spec, "securityContext", json!({}));
    preset(spec, "terminationGracePeriodSeconds", 30);
    preset(spec, "schedulerName", "default-scheduler");
    // The old name of the field is kept in step.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_string(),
        name => name.to_string(),
    };
    if !account.is_empty() {
        spec["serviceAccountName"] = account.clone().into();
        spec["serviceAccount"] = account.into();
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volume);
    if let Some(resources) = some_mut(spec, "resources") {
        round(resources);
    }
    if let Some(overhead) = some_mut(spec, "overhead") {
        round_list(overhead);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    preset(container, "imagePullPolicy", policy);
    preset(container, "terminationMessagePath", "/dev/termination-log");
    preset(container, "terminationMessagePolicy", "File");
    preset(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        preset(port, "protocol", "TCP");
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = some_mut(container, name) {
            probe(value);
        }
    }
    if let Some(lifecycle) = some_mut(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = some_mut(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
    for env in items_mut(container, "env") {
        if let Some(from) = some_mut(env, "valueFrom") {
            field_ref(from);
            if let Some(file) = some_mut(from, "fileKeyRef") {
                preset(file, "optional", false);
            }
        }
    }
    if let Some(resources) = some_mut(container, "resources") {
        round(resources);
    }
}

fn probe(probe: &mut Value) {
    preset_int(probe, "timeoutSeconds", 1);
    preset_int(probe, "periodSeconds", 10);
    preset_int(probe, "successThreshold", 1);
    preset_int(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = some_mut(probe, "grpc") {
        preset(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = some_mut(handler, "httpGet") {
        preset(get, "path", "/");
        preset(get, "scheme", "HTTP");
    }
}

fn field_ref(source: &mut Value) {
    if let Some(field) = some_mut(source, "fieldRef") {
        preset(field, "apiVersion", "v1");
    }
    if let Some(resource) = some_mut(source, "resourceFieldRef") {
        preset(resource, "divisor", "0");
    }
}

/// `Always` for `latest` and for no tag; what cannot be read counts as tagged, as upstream leaves it.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') || !readable(image) {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or("");
    match name.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

/// Whether a reference without a digest is one: `[host[:port]/]path[:tag]`.
fn readable(image: &str) -> bool {
    let (name, tag) = match image.rfind(':') {
        Some(at) if !image[at..].contains('/') => (&image[..at], Some(&image[at + 1..])),
        _ => (image, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good_tag = tag.is_none_or(|t| {
        t.len() <= 128
            && t.bytes().next().is_some_and(word)
            && t.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
    });
    let (host, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("", name),
    };
    let named = host.split(':').next().unwrap_or("");
    let dotted = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    let good_host = (named.is_empty() || named.starts_with('[') || named.split('.').all(dotted))
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    let part = |p: &str| {
        let (first, last) = (p.bytes().next(), p.bytes().last());
        let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        end(first)
            && end(last)
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && !p.contains("..")
            && !p.contains("___")
    };
    good_tag && good_host && name.len() <= 255 && path.split('/').all(part)
}

const SOURCES: &[&str] = &[
    "hostPath",
    "emptyDir",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "configMap",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "projected",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "csi",
    "ephemeral",
    "image",
];

/// The volume sources, by their field names.
pub(crate) fn volume_sources(volume: &Value) -> impl Iterator<Item = &'static str> {
    SOURCES.iter().copied().filter(move |s| has(volume, s))
}

fn volume(volume: &mut Value) {
    if volume_sources(volume).next().is_none() {
        preset(volume, "emptyDir", json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = some_mut(volume, name) {
            preset(source, "defaultMode", 420);
            items_mut(source, "items").filter(|_| name == "downwardAPI").for_each(field_ref);
            items_mut(source, "sources").for_each(projection);
        }
    }
    if let Some(source) = some_mut(volume, "hostPath") {
        preset(source, "type", "");
    }
    if let Some(source) = some_mut(volume, "image") {
        let policy = pull_policy(text(source, "reference"));
        preset(source, "pullPolicy", policy);
    }
    if let Some(source) = some_mut(volume, "ephemeral")
        && let Some(template) = some_mut(source, "volumeClaimTemplate")
        && let Some(spec) = some_mut(template, "spec")
    {
        preset(spec, "volumeMode", "Filesystem");
    }
    volume_source(volume);
}

fn projection(source: &mut Value) {
    // The gate of these is off: such a source is read as none.
    source.as_object_mut().and_then(|s| s.remove("clusterTrustBundle"));
    if let Some(token) = some_mut(source, "serviceAccountToken") {
        preset(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = some_mut(source, "downwardAPI") {
        items_mut(downward, "items").for_each(field_ref);
    }
    if let Some(certificate) = some_mut(source, "podCertificate") {
        preset(certificate, "maxExpirationSeconds", 86400);
    }
}

/// Defaults that volumes of pods and persistent volumes share.
pub(crate) fn volume_source(source: &mut Value) {
    let sets: &[(&str, &[(&str, &str)])] = &[
        ("iscsi", &[("iscsiInterface", "default")]),
        ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
        ("azureDisk", &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")]),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
    ];
    for (name, defaults) in sets {
        if let Some(inner) = some_mut(source, name) {
            for (field, value) in *defaults {
                if *name == "azureDisk" {
                    preset_pointer(inner, field, *value);
                } else {
                    preset(inner, field, *value);
                }
            }
            if *name == "azureDisk" {
                preset(inner, "readOnly", false);
            }
        }
    }
}

fn round(resources: &mut Value) {
    for list in ["limits", "requests"] {
        if let Some(list) = some_mut(resources, list) {
            round_list(list);
        }
    }
}

/// Amounts finer than a thousandth are rounded up.
pub(crate) fn round_list(list: &mut Value) {
    for (_, amount) in list.as_object_mut().into_iter().flatten() {
        if let Some(mut quantity) = amount.as_str().and_then(|s| Quantity::parse(s).ok())
            && !quantity.is_milli_precise()
        {
            quantity.round_up_milli();
            *amount = quantity.to_string().into();
        }
    }
}

/// What a pod starts with: pending, with its class of service.
pub(super) fn initial_status(object: &mut Value) {
    let mut status = Map::new();
    status.insert("phase".into(), "Pending".into());
    status.insert("qosClass".into(), super::qos::class(at(object, "spec")).into());
    if !at(object, "spec").get("schedulingGates").and_then(Value::as_array).is_none_or(|g| g.is_empty()) {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null});
        status.insert("conditions".into(), json!([condition]));
    }
    object["status"] = Value::Object(status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("reg:5000/nginx", "Always"),
            ("reg:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("a/b:latest@sha256:x", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_minimal_pod() {
        let mut object = json!({"spec": {
            "volumes": [{"name": "a"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "0.0001"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "hostNetwork": true}});
        pod(&mut object);
        assert_eq!(
            object["spec"],
            json!({
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                    {"name": "t", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}],
                "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1m"}, "requests": {"cpu": "500m", "memory": "1m"}},
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}]}],
                "hostNetwork": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true
            })
        );
    }
}
