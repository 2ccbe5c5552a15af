//! Where a persistent volume's data is: one member of its spec. Those that pods have too differ there in their secrets.

use crate::storage::driver_name;
use crate::support::{
    at, flag, has, in_range, int, items, label, members, one_of_pointer, required, subdomain, text,
};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

/// In the order in which they are looked at.
pub(super) const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Members that may not be empty, of sources of which that is all there is to say and of some others.
const REQUIRED: &[(&str, &[&str])] = &[
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &["volumeHandle"]),
];

/// Checks the source `name` of the volume `volume`, which stands in the spec at `path`.
pub(super) fn validate(name: &str, value: &Value, volume: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    // One of them has another name in its errors.
    let path = path.child(if name == "gcePersistentDisk" { "persistentDisk" } else { name });
    if name == "csi" {
        driver_name(text(value, "driver"), &path.child("driver"), errors);
    }
    if matches!(name, "rbd" | "cephfs") && items(value, "monitors").is_empty() {
        errors.required(&path.child("monitors"), "");
    }
    for (_, members) in REQUIRED.iter().filter(|(n, _)| *n == name) {
        for member in *members {
            required(value, member, &path, errors);
        }
    }
    match name {
        "hostPath" | "nfs" => super::volumes::one(name, value, &path, errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            if let Some(n) = int(value, "partition").filter(|n| !(0..=255).contains(n)) {
                errors.invalid(&path.child("partition"), n, "must be between 1 and 255, inclusive");
            }
        }
        "glusterfs" => {
            if let Some(namespace) = value.get("endpointsNamespace").and_then(Value::as_str) {
                let path = path.child("endpointsNamespace");
                if namespace.is_empty() {
                    let message = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.invalid(&path, namespace, message);
                } else {
                    label(namespace, &path, errors);
                }
            }
        }
        "flocker" => flocker(value, &path, errors),
        "rbd" => required(value, "image", &path, errors),
        "quobyte" => quobyte(value, &path, errors),
        "iscsi" => iscsi(value, volume, &path, errors),
        "cinder" => secret(value, "secretRef", &path, errors),
        "fc" => fibre(value, &path, errors),
        "flexVolume" => {
            for (key, _) in members(value, "options") {
                let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    let message = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.invalid(&path.child("options").key(key), key.as_str(), message);
                }
            }
        }
        "azureFile" if value.get("secretNamespace").and_then(Value::as_str) == Some("") => {
            errors.required(&path.child("secretNamespace"), "");
        }
        "azureDisk" => azure_disk(value, &path, errors),
        "local" => {
            let given = text(value, "path");
            if given.split('/').any(|part| part == "..") {
                errors.invalid(&path.child("path"), given, "must not contain '..'");
            }
        }
        "storageos" => {
            for name in ["volumeName", "volumeNamespace"] {
                if !text(value, name).is_empty() {
                    label(text(value, name), &path.child(name), errors);
                }
            }
            secret(value, "secretRef", &path, errors);
        }
        "csi" => {
            for name in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                secret(value, name, &path, errors);
                let (reference, path) = (at(value, name), path.child(name));
                let (name, namespace) = (text(reference, "name"), text(reference, "namespace"));
                if !name.is_empty() {
                    subdomain(name, &path.child("name"), errors);
                }
                if !namespace.is_empty() {
                    label(namespace, &path.child("namespace"), errors);
                }
            }
        }
        _ => {}
    }
}

/// A secret, if one is named, is named in full.
fn secret(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if has(value, name) {
        required(at(value, name), "name", &path.child(name), errors);
        required(at(value, name), "namespace", &path.child(name), errors);
    }
}

fn flocker(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, uuid) = (text(value, "datasetName"), text(value, "datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let message = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(path, "resource", message);
        }
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(value, "registry");
    let at_registry = path.child("registry");
    if registry.is_empty() {
        errors.required(&at_registry, PAIRS);
    } else if text(value, "tenant").len() >= 65 {
        let message = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), message);
    } else {
        let pair = |p: &str| {
            p.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.starts_with('['))
        };
        for _ in registry.split(',').filter(|p| !pair(p)) {
            errors.invalid(&at_registry, registry, PAIRS);
        }
    }
    required(value, "volume", path, errors);
}

fn iscsi(value: &Value, volume: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let portal = text(value, "targetPortal");
    if has(value, "initiatorName") && volume.len() + 1 + portal.len() > 64 {
        let message = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(&path.child("targetportal"), portal, message);
    }
    let name = text(value, "iqn");
    if !name.is_empty() && !iscsi_name(name) {
        errors.invalid(&path.child("iqn"), name, "must be valid format");
    }
    in_range(value, "lun", 0, 255, path, errors);
    if !has(value, "secretRef") && (flag(value, "chapAuthDiscovery") || flag(value, "chapAuthSession")) {
        errors.required(&path.child("secretRef"), "");
    }
    if has(value, "secretRef") {
        required(at(value, "secretRef"), "name", &path.child("secretRef"), errors);
    }
    let initiator = text(value, "initiatorName");
    if has(value, "initiatorName") && !iscsi_name(initiator) {
        errors.invalid(&path.child("initiatorname"), initiator, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:x`, `eui.` and 16 letters or digits, or `naa.` and 32.
fn iscsi_name(name: &str) -> bool {
    let word = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let dated = |rest: &str| {
        let (b, digits) = (rest.as_bytes(), |part: &[u8]| part.iter().all(u8::is_ascii_digit));
        let date = b.len() > 8 && digits(&b[..4]) && b[4] == b'-' && digits(&b[5..7]) && b[7] == b'.';
        let (domain, unique) = rest.get(8..).and_then(|r| r.split_once(':')).unwrap_or_default();
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        let bad = |c: char| ",;*&$|".contains(c) || c.is_whitespace();
        date && !domain.is_empty()
            && domain.bytes().all(letters)
            && !unique.is_empty()
            && !unique.contains(bad)
    };
    match name.split_once('.') {
        Some(("iqn", rest)) => dated(rest),
        Some(("eui", rest)) => word(rest, 16),
        Some(("naa", rest)) => word(rest, 32),
        _ => false,
    }
}

fn fibre(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (targets, ids) = (items(value, "targetWWNs"), items(value, "wwids"));
    let at_targets = path.child("targetWWNs");
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => {
            errors.required(&at_targets, "must specify either targetWWNs or wwids, but not both");
        }
        (false, false) => {
            let message = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at_targets, at(value, "targetWWNs").clone(), message);
        }
        _ => {}
    }
    if !targets.is_empty() {
        if !has(value, "lun") {
            errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
        }
        in_range(value, "lun", 0, 255, path, errors);
    }
}

fn azure_disk(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    one_of_pointer(value, "cachingMode", &["None", "ReadOnly", "ReadWrite"], path, errors);
    one_of_pointer(value, "kind", &["Dedicated", "Managed", "Shared"], path, errors);
    let (kind, uri) = (text(value, "kind"), text(value, "diskURI"));
    let (start, shown) = if kind == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    if has(value, "kind") && !uri.starts_with(start) {
        errors.not_supported(&path.child("diskURI"), uri, &[shown]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_targets() {
        for good in
            ["iqn.2001-04.com.example:a.b", "eui.0123456789abcdef", "naa.0123456789abcdef0123456789abcdef"]
        {
            assert!(iscsi_name(good), "{good}");
        }
        for bad in [
            "",
            "iqn",
            "iqn.2001-04.com.example",
            "iqn.2001.com:a",
            "eui.1",
            "x.2001-04.com:a",
            "iqn.2001-04.com:a b",
        ] {
            assert!(!iscsi_name(bad), "{bad}");
        }
    }
}
