//! The group `storage.k8s.io`.

use super::kind::{Kind, Metadata};
use super::support::{at, has, immutable, items, members, one_of, preset, required, text, texts, with_spec};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

const GROUP: &str = "storage.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "StorageClass").default(class_defaults).validate(validate_class).validate_update(
        |new, old, _, errors| {
            const FIXED: &str = "updates to parameters are forbidden.";
            for (field, message) in [
                ("parameters", FIXED),
                ("provisioner", "updates to provisioner are forbidden."),
                ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
            ] {
                if !super::support::same(new.get(field), old.get(field)) {
                    errors.forbidden(&Path::new(field), message);
                }
            }
            let mode = "volumeBindingMode";
            immutable(at(new, mode), at(old, mode), &Path::new(mode), errors);
        },
    ),
    Kind::cluster(GROUP, "VolumeAttachment").metadata(Metadata::Whole).status().on_create(|o| o["status"] = serde_json::json!({"attached": false})).validate(validate_attachment).validate_update(
        |new, old, subresource, errors| {
            if subresource.is_empty() {
                immutable(at(new, "spec"), at(old, "spec"), &Path::new("spec"), errors);
            }
        },
    ),
    Kind::cluster(GROUP, "CSIDriver")
        .generation()
        // Counted from its first change.
        .on_create(|o| drop(machinery::meta::take(o, "generation")))
        .warn(|o, old| {
            let spec = at(o, "spec");
            let unset = !items(spec, "tokenRequests").is_empty() && !has(spec, "serviceAccountTokenInSecrets");
            let warning = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
            (unset && old.is_none()).then(|| warning.to_owned()).into_iter().collect()
        })
        .default(driver_defaults)
        .validate(validate_driver)
        .validate_update(|new, old, _, errors| {
            for field in ["attachRequired", "volumeLifecycleModes"] {
                let get = |o: &Value| at(at(o, "spec"), field).clone();
                immutable(&get(new), &get(old), &Path::new("spec").child(field), errors);
            }
        }),
    Kind::cluster(GROUP, "CSINode").metadata(Metadata::Whole).validate(validate_node),
    Kind::namespaced(GROUP, "CSIStorageCapacity").validate(|o, errors| {
        if text(o, "storageClassName").is_empty() {
            errors.required(&Path::new("storageClassName"), "");
        }
    }),
    Kind::cluster(GROUP, "VolumeAttributesClass").metadata(Metadata::Both)
        .validate(|o, errors| {
            driver_name(text(o, "driverName"), &Path::new("driverName"), errors);
        })
        .validate_update(|new, old, _, errors| {
            for field in ["driverName", "parameters"] {
                immutable(at(new, field), at(old, field), &Path::new(field), errors);
            }
        }),
];

fn class_defaults(object: &mut Value) {
    preset(object, "reclaimPolicy", "Delete");
    preset(object, "volumeBindingMode", "Immediate");
}

fn validate_class(object: &Value, errors: &mut FieldErrors) {
    let provisioner = text(object, "provisioner");
    let path = Path::new("provisioner");
    if provisioner.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, provisioner, names::qualified_name(&provisioner.to_lowercase()));
    }
    for (key, _) in members(object, "parameters").filter(|(k, _)| k.is_empty()) {
        errors.invalid(&Path::new("parameters"), key.as_str(), "field can not be empty.");
    }
    if members(object, "parameters").count() > 512 {
        errors.push(FieldError::too_long(&Path::new("Provisioner Parameters Length"), 512));
    }
    if !text(object, "reclaimPolicy").is_empty() {
        one_of(object, "reclaimPolicy", &["Delete", "Retain"], &Path::root(), errors);
    }
    one_of(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &Path::root(), errors);
    let topologies = Path::new("allowedTopologies");
    for (i, term) in items(object, "allowedTopologies").iter().enumerate() {
        let list = topologies.index(i);
        let list = list.child("matchLabelExpressions");
        for (n, e) in items(term, "matchLabelExpressions").iter().enumerate() {
            let path = list.index(n);
            errors.invalid_each(&path.child("key"), text(e, "key"), names::qualified_name(text(e, "key")));
            if texts(e, "values").next().is_none() {
                errors.required(&path.child("values"), "");
            }
        }
    }
}

fn driver_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    errors.invalid_each(path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn validate_attachment(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    driver_name(text(spec, "attacher"), &path.child("attacher"), errors);
    let source = at(spec, "source");
    let at_source = path.child("source");
    match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
        (false, false) => errors
            .required(&at_source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => errors
            .forbidden(&at_source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, false) => {
            let name = text(source, "persistentVolumeName");
            if name.is_empty() {
                errors.required(
                    &at_source.child("persistentVolumeName"),
                    "must specify non empty persistentVolumeName",
                );
            } else {
                errors.invalid_each(
                    &at_source.child("persistentVolumeName"),
                    name,
                    names::dns1123_subdomain(name),
                );
            }
        }
        (false, true) => {}
    }
    let node = text(spec, "nodeName");
    errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
}

fn driver_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "attachRequired", true);
        preset(spec, "podInfoOnMount", false);
        preset(spec, "storageCapacity", false);
        preset(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        preset(spec, "requiresRepublish", false);
        preset(spec, "seLinuxMount", false);
        if items(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = serde_json::json!(["Persistent"]);
        }
    });
}

fn validate_driver(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let path = Path::new("spec");
    for name in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if !has(spec, name) {
            errors.required(&path.child(name), "");
        }
    }
    one_of(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &path, errors);
    let modes = path.child("volumeLifecycleModes");
    for mode in texts(spec, "volumeLifecycleModes").filter(|m| !["Ephemeral", "Persistent"].contains(m)) {
        errors.not_supported(&modes, mode, &["Ephemeral", "Persistent"]);
    }
    let name = machinery::meta::name(object);
    if name.len() > 63 {
        errors.push(FieldError::too_long(&Path::new("metadata.name"), 63));
    }
}

fn validate_node(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("spec.drivers");
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in items(at(object, "spec"), "drivers").iter().enumerate() {
        let path = list.index(i);
        let name = text(driver, "name");
        driver_name(name, &path.child("name"), errors);
        required(driver, "nodeID", &path, errors);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let row = find(GROUP, "StorageClass").unwrap();
        let mut class = json!({"metadata": {"name": "x"}, "provisioner": "a.b/c"});
        row.default(&mut class);
        assert_eq!(
            (&class["reclaimPolicy"], &class["volumeBindingMode"]),
            (&json!("Delete"), &json!("Immediate"))
        );
        assert!(row.validate(&class).is_empty());
        let mut new = class.clone();
        new["provisioner"] = "d".into();
        assert_eq!(
            row.validate_update(&new, &class, "").0[0].to_string(),
            "provisioner: Forbidden: updates to provisioner are forbidden."
        );
        let none = json!({"metadata": {"name": "x"}, "volumeBindingMode": "Immediate"});
        assert_eq!(row.validate(&none).0[0].to_string(), "provisioner: Required value");
    }
}
