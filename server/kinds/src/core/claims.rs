//! Persistent volume claims.

use super::pod_defaults::round_list;
use crate::kind::{Kind, Metadata, carry};
use crate::support::{
    at, has, map_mut, one_of_pointer, preset, required, same, some_mut, subdomain, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::quantity::Quantity;
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::namespaced("", "PersistentVolumeClaim")
    .metadata(Metadata::Both)
    .status()
    .default(default)
    .on_create(|o| {
        o["status"] = json!({"phase": "Pending"});
        with_spec(o, data_sources);
    })
    .on_update(|o, _, subresource| {
        if subresource.is_empty() {
            with_spec(o, data_sources);
        }
    })
    .validate(|o, errors| claim_spec(at(o, "spec"), &Path::new("spec"), errors))
    .validate_update(validate_update)
    .select(|o| vec![("name", machinery::meta::name(o).into())]);

pub(super) const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "volumeMode", "Filesystem");
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

/// Access modes of a claim or a volume.
pub(super) fn access_modes(spec: &Value, missing: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let at_modes = path.child("accessModes");
    let modes: Vec<&str> = texts(spec, "accessModes").collect();
    if modes.is_empty() {
        errors.required(&at_modes, missing);
    }
    for mode in &modes {
        if !MODES.contains(mode) {
            errors.not_supported(&at_modes, *mode, MODES);
        }
    }
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod") {
        errors.forbidden(&at_modes, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Upstream's `ValidatePersistentVolumeClaimSpec`.
pub(crate) fn claim_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    access_modes(spec, "at least 1 access mode is required", path, errors);
    validate_label_selector(spec.get("selector"), &path.child("selector"), errors);
    let resources = path.child("resources");
    let requests = at(at(spec, "resources"), "requests");
    match requests.get("storage") {
        None => errors.required(&resources.key("storage"), ""),
        Some(size) => {
            let quantity = Quantity::parse(size.as_str().unwrap_or("")).unwrap_or_default();
            if quantity.sign() <= 0 {
                errors.invalid(&resources.key("storage"), quantity.to_string(), "must be greater than zero");
            }
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
        let kind = text(source, "kind");
        if text(source, "apiGroup").is_empty() && !kind.is_empty() && kind != "PersistentVolumeClaim" {
            errors.invalid(
                &path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let path = Path::new("spec");
    let mut munged = spec.clone();
    // The binder names the volume, once.
    if text(before, "volumeName").is_empty() {
        carry(&mut munged, before, "volumeName");
    }
    let bound = text(at(old, "status"), "phase") == "Bound";
    if bound {
        let size = |s: &Value| {
            at(at(at(s, "resources"), "requests"), "storage").as_str().and_then(|q| Quantity::parse(q).ok())
        };
        if let (Some(now), Some(then)) = (size(spec), size(before))
            && now < then
        {
            errors.forbidden(
                &path.child("resources.requests.storage"),
                "field can not be less than status.capacity",
            );
        }
        if let Some(resources) = munged.get_mut("resources") {
            carry(resources, at(before, "resources"), "requests");
        }
        carry(&mut munged, before, "volumeAttributesClassName");
    }
    if text(before, "storageClassName").is_empty() && !has(before, "storageClassName") {
        carry(&mut munged, before, "storageClassName");
    }
    if !same(Some(&munged), Some(before)) {
        errors.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
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
        bound["status"] = json!({"phase": "Bound"});
        assert!((&CLAIM).validate_update(&new, &bound, "").is_empty());
    }
}
