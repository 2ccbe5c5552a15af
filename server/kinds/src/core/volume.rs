//! Persistent volumes.

use super::pod_defaults::volume_source;
use super::sources::SOURCES;
use super::{affinity, claims};
use crate::kind::{Check, Kind};
use crate::support::{
    amounts, at, basic_quantity, has, immutable, items, map_mut, members, one_of_if_set, one_of_pointer,
    positive_quantity, preset, preset_pointer, same, subdomain, text, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::cluster("", "PersistentVolume")
    // The volume is checked by the strategy, and again before its change is.
    .checks(&[Check::Meta, Check::Whole, Check::Meta, Check::Whole, Check::Change])
    .status()
    .default(default)
    .on_create(|o| {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        o["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now});
    })
    .on_update(|o, old, subresource| {
        let phase = |o: &Value| text(at(o, "status"), "phase").to_owned();
        let own = has(at(o, "status"), "lastPhaseTransitionTime")
            && at(at(o, "status"), "lastPhaseTransitionTime")
                != at(at(old, "status"), "lastPhaseTransitionTime");
        if subresource == "status" && phase(o) != phase(old) && !own && o["status"].is_object() {
            o["status"]["lastPhaseTransitionTime"] =
                chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into();
        }
    })
    .validate(validate)
    .validate_update(validate_update)
    .warn(|o, _| warnings(o))
    .select(|o| vec![("name", machinery::meta::name(o).into())]);

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "persistentVolumeReclaimPolicy", "Retain");
        preset_pointer(spec, "volumeMode", "Filesystem");
        volume_source(spec);
        if let Some(host) = spec.get_mut("hostPath").filter(|h| h.is_object()) {
            preset(host, "type", "");
        }
    });
    if map_mut(object, "status").is_some() {
        preset(&mut object["status"], "phase", "Pending");
    }
}

fn sources(spec: &Value) -> Vec<&'static str> {
    SOURCES.iter().copied().filter(|s| has(spec, s)).collect()
}

/// A volume has one source; `volume` is its name.
fn one_source(spec: &Value, volume: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match sources(spec).as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [first, rest @ ..] => {
            super::sources::validate(first, at(spec, first), volume, path, errors);
            if *first == "local" && !has(spec, "nodeAffinity") {
                errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
            }
            for other in rest {
                errors.forbidden(&path.child(other), "may not specify more than 1 volume type");
            }
        }
    }
}

/// A volume that an attachment holds instead of naming one.
pub(crate) fn inline(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let context = |what: &str| format!("may not {what} in the context of inline volumes");
    for (name, there) in
        [("claimRef", has(spec, "claimRef")), ("capacity", members(spec, "capacity").next().is_some())]
    {
        if there {
            errors.forbidden(&path.child(name), context("be specified"));
        }
    }
    if !has(spec, "csi") {
        errors.required(&path.child("csi"), "has to be specified in the context of inline volumes");
    }
    if items(spec, "accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    claims::modes(spec, path, errors);
    if !matches!(text(spec, "persistentVolumeReclaimPolicy"), "" | "Retain") {
        let message = "may only be Retain in the context of inline volumes";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), message);
    }
    if has(spec, "nodeAffinity") {
        errors.forbidden(&path.child("nodeAffinity"), context("be specified"));
    }
    one_source(spec, "", path, errors);
    if !text(spec, "storageClassName").is_empty() {
        errors.forbidden(&path.child("storageClassName"), context("be specified"));
    }
    if has(spec, "volumeMode") && text(spec, "volumeMode") != "Filesystem" {
        errors.forbidden(&path.child("volumeMode"), context("specify volumeMode other than Filesystem"));
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    if items(spec, "accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    claims::modes(spec, &path, errors);
    let capacity = path.child("capacity");
    if members(spec, "capacity").next().is_none() {
        errors.required(&capacity, "");
    }
    if at(spec, "capacity").get("storage").is_none() || members(spec, "capacity").count() > 1 {
        errors.not_supported(&capacity, at(spec, "capacity").clone(), &["storage"]);
    }
    for (name, amount) in amounts(spec, "capacity") {
        basic_quantity(&amount, &capacity.key(name), errors);
        positive_quantity(&amount, &capacity.key(name), errors);
    }
    one_of_if_set(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &path, errors);
    if has(spec, "nodeAffinity") {
        let at_affinity = path.child("nodeAffinity.required");
        let required = at(at(spec, "nodeAffinity"), "required");
        if required.is_null() {
            errors.required(&at_affinity, "must specify required node constraints");
        } else {
            affinity::node_selector(required, &at_affinity, errors);
        }
    }
    one_source(spec, meta::name(object), &path, errors);
    let recycled = text(spec, "persistentVolumeReclaimPolicy") == "Recycle";
    let root = |host: &str| host.starts_with('/') && host.split('/').all(|s| matches!(s, "" | "."));
    if recycled && root(text(at(spec, "hostPath"), "path")) {
        let message = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), message);
    }
    if !text(spec, "storageClassName").is_empty() {
        subdomain(text(spec, "storageClassName"), &path.child("storageClassName"), errors);
    }
    one_of_pointer(spec, "volumeMode", &["Block", "Filesystem"], &path, errors);
    if has(spec, "volumeAttributesClassName") {
        let class = text(spec, "volumeAttributesClassName");
        let at_class = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&at_class, "an empty string is disallowed");
        } else {
            subdomain(class, &at_class, errors);
        }
        if !has(spec, "csi") {
            let message = "has to be specified when using volumeAttributesClassName";
            errors.required(&path.child("csi"), message);
        }
    }
    let by_annotation = meta::annotation(object, MOUNT_OPTIONS).is_some();
    if by_annotation && !TAKE_MOUNT_OPTIONS.iter().any(|s| has(spec, s)) {
        let annotations = Path::new("metadata.annotations");
        let message = "may not specify mount options for this volume type";
        errors.forbidden(&annotations.child(MOUNT_OPTIONS), message);
    }
}

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
/// Sources that read their mount options from the annotation too.
const TAKE_MOUNT_OPTIONS: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

fn warnings(object: &Value) -> Vec<String> {
    let spec = at(object, "spec");
    let mut out = Vec::new();
    for (key, message) in [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (MOUNT_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if meta::annotation(object, key).is_some() {
            out.push(format!("metadata.annotations[{key}]: {message}"));
        }
    }
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
    }
    for (source, shown, since) in [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if has(spec, source) {
            out.push(format!("spec.{shown}: {since}"));
        }
    }
    out
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let mut names = sources(spec);
    names.extend(sources(before));
    // A volume without a secret for its expansion may get one.
    let mut munged = spec.clone();
    if has(before, "csi")
        && !has(at(before, "csi"), "controllerExpandSecretRef")
        && let Some(csi) = munged.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if names.iter().any(|n| !same(munged.get(n), before.get(n))) {
        errors.forbidden_change(
            &Path::new("spec.persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
            before,
            &munged,
        );
    }
    immutable(at(spec, "volumeMode"), at(before, "volumeMode"), &Path::new("volumeMode"), errors);
    if has(before, "nodeAffinity") && !same(spec.get("nodeAffinity"), before.get("nodeAffinity")) {
        let message = "field is immutable, except for updating from beta label to GA";
        errors.invalid(&Path::new("nodeAffinity"), at(spec, "nodeAffinity").clone(), message);
    }
    if has(before, "volumeAttributesClassName") && !has(spec, "volumeAttributesClassName") {
        let message = "update from non-nil value to nil is forbidden";
        errors.forbidden(&Path::new("spec.volumeAttributesClassName"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static VOLUME: Kind = KIND;

    #[test]
    fn checks() {
        let volume = |spec: Value| json!({"metadata": {"name": "v"}, "spec": spec});
        let errors = |o: Value| (&VOLUME).validate(&o).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            errors(volume(json!({}))),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec: Required value: must specify a volume type"
            ]
        );
        assert!(errors(volume(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}))).is_empty());
    }
}
