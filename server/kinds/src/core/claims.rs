//! Persistent volume claims.

use super::pod_defaults::round_list;
use crate::kind::{Check, Kind, carry};
use crate::support::{
    amount_of, amounts, at, basic_quantity, has, immutable, label, map_mut, members, one_of_pointer,
    positive_quantity, preset, preset_pointer, required, same, some_mut, subdomain, text, texts, with_spec,
};
use machinery::field::{ErrorKind, FieldError, FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::{meta, names};
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::namespaced("", "PersistentVolumeClaim")
    .checks(&[Check::MetaChange, Check::Meta, Check::Change])
    .status()
    .default(default)
    .on_create(|o| {
        o["status"] = json!({"phase": "Pending"});
        with_spec(o, |spec| {
            drop_unknown_source(spec);
            data_sources(spec);
        });
    })
    .on_update(|o, old, subresource| {
        if subresource.is_empty() {
            let before = at(old, "spec");
            let sourced = has(before, "dataSource") || has(before, "dataSourceRef");
            with_spec(o, |spec| {
                if !sourced {
                    drop_unknown_source(spec);
                }
                data_sources(spec);
            });
        }
    })
    .warn(|o, _| warnings(o))
    .validate(|o, errors| claim_spec(at(o, "spec"), &Path::new("spec"), errors))
    .validate_update(validate_update)
    .select(|o| vec![("name", machinery::meta::name(o).into())]);

pub(super) const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset_pointer(spec, "volumeMode", "Filesystem");
        if let Some(resources) = some_mut(spec, "resources") {
            for list in ["limits", "requests"] {
                if let Some(list) = some_mut(resources, list) {
                    round_list(list);
                }
            }
        }
    });
    if map_mut(object, "status").is_some() {
        preset(&mut object["status"], "phase", "Pending");
    }
}

/// A `dataSource` of a kind that old servers did not know is ignored, as they did.
fn drop_unknown_source(spec: &mut Value) {
    let source = at(spec, "dataSource");
    let known = match text(source, "apiGroup") {
        "" => text(source, "kind") == "PersistentVolumeClaim",
        group => group == "snapshot.storage.k8s.io" && text(source, "kind") == "VolumeSnapshot",
    };
    if !known
        && !has(spec, "dataSourceRef")
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("dataSource");
    }
}

fn warnings(object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    if meta::annotation(object, CLASS).is_some() {
        let message = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        out.push(format!("metadata.annotations[{CLASS}]: {message}"));
    }
    for list in ["requests", "limits"] {
        let amount = amount_of(at(at(at(at(object, "spec"), "resources"), list), "storage"));
        if !amount.is_whole() {
            out.push(format!(
                "spec.resources.{list}[storage]: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
    out
}

/// The older `dataSource` and the newer `dataSourceRef` say the same.
fn data_sources(spec: &mut Value) {
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
        spec["dataSourceRef"] = at(spec, "dataSource").clone();
    } else if has(spec, "dataSourceRef") && !has(spec, "dataSource") {
        let source = at(spec, "dataSourceRef").clone();
        if !has(&source, "namespace") {
            spec["dataSource"] = source;
        }
    }
}

/// Access modes of a claim or a volume, of which there may be none.
pub(super) fn modes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at_modes = path.child("accessModes");
    let modes: Vec<&str> = texts(spec, "accessModes").collect();
    for mode in &modes {
        if !MODES.contains(mode) {
            errors.not_supported(&at_modes, *mode, MODES);
        }
    }
    let other = |m: &&str| *m != "ReadWriteOncePod" && MODES.contains(m);
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(other) {
        errors.forbidden(&at_modes, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Upstream's `ValidatePersistentVolumeClaimSpec`.
pub(crate) fn claim_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    claim_spec_of(spec, false, path, errors);
}

/// A claim whose sources may be of any group where an older form of it had one.
fn claim_spec_of(spec: &Value, any_group: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if texts(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    validate_label_selector(spec.get("selector"), &path.child("selector"), errors);
    modes(spec, path, errors);
    let resources = path.child("resources");
    let requests = at(at(spec, "resources"), "requests");
    match requests.get("storage") {
        None => errors.required(&resources.key("storage"), ""),
        Some(size) => {
            positive_quantity(&amount_of(size), &resources.key("storage"), errors);
        }
    }
    if !text(spec, "storageClassName").is_empty() {
        subdomain(text(spec, "storageClassName"), &path.child("storageClassName"), errors);
    }
    one_of_pointer(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    for name in ["dataSource", "dataSourceRef"] {
        let source = at(spec, name);
        if source.is_null() {
            continue;
        }
        let path = path.child(name);
        required(source, "name", &path, errors);
        required(source, "kind", &path, errors);
        let (kind, group) = (text(source, "kind"), text(source, "apiGroup"));
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            errors.invalid(
                &path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        if !group.is_empty() && !any_group {
            subdomain(group, &path.child("apiGroup"), errors);
        }
        let namespace = text(source, "namespace");
        if name == "dataSourceRef" && !namespace.is_empty() {
            label(namespace, &path.child("namespace"), errors);
        }
    }
    let (source, reference) = (at(spec, "dataSource"), at(spec, "dataSourceRef"));
    if !source.is_null() && !reference.is_null() {
        let differ = ["apiGroup", "kind", "name"].iter().any(|m| at(source, m) != at(reference, m));
        let message = match text(reference, "namespace") {
            "" if differ => "must match dataSourceRef",
            "" => "",
            _ => "may not be specified when dataSourceRef.namespace is specified",
        };
        if !message.is_empty() {
            // Upstream shows a path in place of a value, which is nothing to be seen.
            let mut error = FieldError::invalid(path, Value::Null, format!("{{}}: {message}"));
            error.kind = ErrorKind::InvalidUnshown;
            errors.push(error);
        }
    }
    let class = text(spec, "volumeAttributesClassName");
    if !class.is_empty() {
        subdomain(class, &path.child("volumeAttributesClassName"), errors);
    }
}

/// Upstream's states of a claim's resize.
const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// Whether a claim's status may hold the resource.
fn status_resource(name: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let bad = names::qualified_name(name);
    if !bad.is_empty() {
        errors.invalid_each(path, name, bad);
        return false;
    }
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if native && name != "storage" {
        errors.not_supported(path, name, &["storage"]);
        return false;
    }
    true
}

fn validate_status(new: &Value, errors: &mut FieldErrors) {
    if texts(at(new, "spec"), "accessModes").next().is_none() {
        errors.required(&Path::new("Spec.accessModes"), "");
    }
    let path = Path::new("status");
    let status = at(new, "status");
    for (name, amount) in amounts(status, "capacity") {
        basic_quantity(&amount, &path.child("capacity").key(name), errors);
    }
    let states = path.child("allocatedResourceStatuses");
    for (name, state) in members(status, "allocatedResourceStatuses") {
        status_resource(name, &states, errors);
        if !RESIZES.contains(&state.as_str().unwrap_or("")) {
            errors.not_supported(&states, name.as_str(), RESIZES);
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, amount) in amounts(status, "allocatedResources") {
        if status_resource(name, &allocated, errors) {
            basic_quantity(&amount, &allocated.key(name), errors);
        }
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource == "status" {
        validate_status(new, errors);
    }
    if !subresource.is_empty() {
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let path = Path::new("spec");
    let grouped = |source: &str| has(at(before, source), "apiGroup");
    claim_spec_of(spec, grouped("dataSource") || grouped("dataSourceRef"), &path, errors);
    let mut munged = spec.clone();
    // The binder names the volume, once.
    if text(before, "volumeName").is_empty() {
        carry(&mut munged, before, "volumeName");
    }
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let (was, is) = (meta::annotation(old, CLASS), meta::annotation(new, CLASS));
    let (class, had_class) = (text(spec, "storageClassName"), has(before, "storageClassName"));
    let named = has(spec, "storageClassName") && !had_class && was.is_none_or(|w| w == class);
    if named {
        carry(&mut munged, before, "storageClassName");
    }
    if was != is && !(named && was.is_some() && is.is_none()) {
        let annotations = Path::new("metadata.annotations");
        errors.invalid(&annotations.child(CLASS), is.unwrap_or(""), "field is immutable");
    }
    if text(at(new, "status"), "phase") == "Bound" {
        let requests = |s: &Value| at(at(s, "resources"), "requests").clone();
        if let Some(resources) = munged.get_mut("resources").filter(|r| has(r, "requests")) {
            carry(&mut resources["requests"], &requests(before), "storage");
        }
        carry(&mut munged, before, "volumeAttributesClassName");
    }
    if !same(Some(&munged), Some(before)) {
        errors.forbidden_change(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            before,
            &munged,
        );
    }
    let size = |s: &Value| amount_of(at(at(at(s, "resources"), "requests"), "storage"));
    let now = size(spec);
    // What was asked for and not yet given may be taken back.
    if now < size(before) && now <= amount_of(at(at(at(old, "status"), "capacity"), "storage")) {
        errors.forbidden(
            &path.child("resources.requests.storage"),
            "field can not be less than status.capacity",
        );
    }
    let mode = "volumeMode";
    immutable(at(spec, mode), at(before, mode), &Path::new(mode), errors);
    let class = "volumeAttributesClassName";
    if has(at(old, "status"), "currentVolumeAttributesClassName") && spec.get(class) != before.get(class) {
        let what = if has(spec, class) { "empty string" } else { "nil" };
        if text(spec, class).is_empty() {
            let message = format!(
                "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            );
            errors.forbidden(&path.child(class), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static CLAIM: Kind = KIND;

    #[test]
    fn checks() {
        let claim = |spec: Value| json!({"metadata": {"name": "e", "namespace": "a"}, "spec": spec});
        let errors = |o: &Value| (&CLAIM).validate(o).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            errors(&claim(json!({}))),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        let good =
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}));
        assert!(errors(&good).is_empty());
        let mut new = good.clone();
        new["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        assert!(
            (&CLAIM).validate_update(&new, &good, "").0[0]
                .to_string()
                .starts_with("spec: Forbidden: spec is immutable after creation")
        );
        let mut bound = good;
        new["status"] = json!({"phase": "Bound"});
        bound["status"] = json!({"phase": "Bound"});
        assert!((&CLAIM).validate_update(&new, &bound, "").is_empty());
    }
}
