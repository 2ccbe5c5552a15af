//! The group `storage.k8s.io`.

use super::kind::{Check, Kind, Metadata};
use super::support::{
    amount_of, at, flag, frozen_member, has, immutable, immutable_text, int, items, members, nonnegative,
    nonnegative_quantity, one_of_pointer, preset_pointer, required, same, text, texts, with_spec,
};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::{meta, names};
use serde_json::{Value, json};

const GROUP: &str = "storage.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "StorageClass")
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .default(class_defaults)
        .validate(validate_class)
        .validate_update(|new, old, _, errors| {
            immutable(at(new, "parameters"), at(old, "parameters"), &Path::new("parameters"), errors);
            let provisioner = "provisioner";
            immutable_text(text(new, provisioner), text(old, provisioner), &Path::new(provisioner), errors);
            for name in ["reclaimPolicy", "volumeBindingMode"] {
                immutable(at(new, name), at(old, name), &Path::new(name), errors);
            }
        }),
    Kind::cluster(GROUP, "VolumeAttachment")
        .metadata(Metadata::Whole)
        .status()
        .on_create(|o| o["status"] = json!({"attached": false}))
        .validate(validate_attachment)
        .validate_update(|new, old, subresource, errors| match subresource {
            "" => immutable(at(new, "spec"), at(old, "spec"), &Path::new("spec"), errors),
            _ => attachment_status(new, errors),
        }),
    Kind::cluster(GROUP, "CSIDriver")
        .generation()
        // Counted from its first change.
        .on_create(|o| drop(meta::take(o, "generation")))
        .warn(driver_warnings)
        .default(driver_defaults)
        .validate(validate_driver)
        .validate_update(|new, old, _, errors| {
            // One of the two has another name in its error.
            for (field, shown) in [
                ("attachRequired", "spec.attachedRequired"),
                ("volumeLifecycleModes", "spec.volumeLifecycleModes"),
            ] {
                immutable(at(at(new, "spec"), field), at(at(old, "spec"), field), &Path::new(shown), errors);
            }
        }),
    Kind::cluster(GROUP, "CSINode")
        .metadata(Metadata::Whole)
        .validate(validate_node)
        .validate_update(node_update),
    Kind::namespaced(GROUP, "CSIStorageCapacity")
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .validate(validate_capacity)
        .validate_update(|new, old, _, errors| {
            let topology = "nodeTopology";
            // A selector that is there and empty is another than none.
            if has(new, topology) != has(old, topology) || !same(new.get(topology), old.get(topology)) {
                errors.invalid(&Path::new(topology), at(new, topology).clone(), "field is immutable");
            }
            let class = "storageClassName";
            immutable_text(text(new, class), text(old, class), &Path::new(class), errors);
        }),
    Kind::cluster(GROUP, "VolumeAttributesClass")
        .checks(&[Check::MetaChange, Check::Change, Check::Meta, Check::Whole])
        .validate(|o, errors| {
            provisioner(text(o, "driverName"), &Path::new("driverName"), errors);
            parameters(o, errors);
            if members(o, "parameters").next().is_none() {
                errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
            }
        })
        .validate_update(|new, old, _, errors| {
            frozen_member(new, old, "driverName", "updates to driverName are forbidden.", errors);
            if at(new, "parameters") != at(old, "parameters") {
                errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
            }
        }),
];

fn class_defaults(object: &mut Value) {
    preset_pointer(object, "reclaimPolicy", "Delete");
    preset_pointer(object, "volumeBindingMode", "Immediate");
}

/// Who provisions: a qualified name, whatever its case.
fn provisioner(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        let name = name.to_lowercase();
        errors.invalid_each(path, &name, names::qualified_name(&name));
    }
}

const MOST_PARAMETERS: usize = 512;
const LARGEST_PARAMETERS: usize = 256 << 10;

fn parameters(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("parameters");
    if members(object, "parameters").count() > MOST_PARAMETERS {
        errors.push(FieldError::too_long(&path, MOST_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in members(object, "parameters") {
        if key.is_empty() {
            errors.invalid(&path, key.as_str(), "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > LARGEST_PARAMETERS {
        errors.push(FieldError::too_long(&path, LARGEST_PARAMETERS));
    }
}

fn validate_class(object: &Value, errors: &mut FieldErrors) {
    provisioner(text(object, "provisioner"), &Path::new("provisioner"), errors);
    parameters(object, errors);
    if !text(object, "reclaimPolicy").is_empty() {
        one_of_pointer(object, "reclaimPolicy", &["Delete", "Retain"], &Path::root(), errors);
    }
    if has(object, "volumeBindingMode") {
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of_pointer(object, "volumeBindingMode", &modes, &Path::root(), errors);
    } else {
        errors.required(&Path::new("volumeBindingMode"), "");
    }
    let topologies = Path::new("allowedTopologies");
    let mut before: Vec<Vec<(&str, Vec<&str>)>> = Vec::new();
    for (i, term) in items(object, "allowedTopologies").iter().enumerate() {
        let at_term = topologies.index(i);
        let list = at_term.child("matchLabelExpressions");
        let mut keys: Vec<(&str, Vec<&str>)> = Vec::new();
        for (n, e) in items(term, "matchLabelExpressions").iter().enumerate() {
            let path = list.index(n);
            let (key, values) = (text(e, "key"), texts(e, "values").collect::<Vec<_>>());
            if values.is_empty() {
                errors.required(&path.child("values"), "");
            }
            for (v, value) in values.iter().enumerate().filter(|(v, value)| values[..*v].contains(value)) {
                errors.duplicate(&path.child("values").index(v), *value);
            }
            errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
            if keys.iter().any(|(k, _)| *k == key) {
                errors.duplicate(&path.child("key"), key);
            }
            keys.retain(|(k, _)| *k != key);
            keys.push((key, values));
        }
        for (_, values) in &mut keys {
            values.sort_unstable();
            values.dedup();
        }
        keys.sort_unstable();
        // Upstream compares with as many empty terms as there are, so an empty one repeats each of them.
        let empty = if keys.is_empty() { items(object, "allowedTopologies").len() } else { 0 };
        for _ in 0..empty + before.iter().filter(|b| **b == keys).count() {
            errors.duplicate(&list, "");
        }
        before.push(keys);
    }
}

/// The name of a CSI driver.
pub(super) fn driver_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
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
    let at_volume = at_source.child("persistentVolumeName");
    let volume = text(source, "persistentVolumeName");
    let named = has(source, "persistentVolumeName");
    match (named, has(source, "inlineVolumeSpec")) {
        (false, false) => errors
            .required(&at_source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => errors
            .forbidden(&at_source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, false) if volume.is_empty() => {
            errors.required(&at_volume, "must specify non empty persistentVolumeName")
        }
        (false, true) => {
            let path = at_source.child("inlineVolumeSpec");
            super::core::inline_volume(at(source, "inlineVolumeSpec"), &path, errors);
        }
        _ => {}
    }
    let node = text(spec, "nodeName");
    errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    attachment_status(object, errors);
    if named {
        errors.invalid_each(&at_volume, volume, names::dns1123_subdomain(volume));
    }
}

fn attachment_status(object: &Value, errors: &mut FieldErrors) {
    let status = at(object, "status");
    for name in ["attachError", "detachError"] {
        let path = Path::new("status");
        let path = path.child(name);
        if text(at(status, name), "message").len() > 1024 {
            errors.push(FieldError::too_long(&path.child("message"), LARGEST_PARAMETERS));
        }
        if let Some(code) = int(at(status, name), "errorCode").filter(|c| *c < 0) {
            let range = names::range_message(0, i64::from(i32::MAX));
            errors.invalid(&path.child("errorCode"), code, range);
        }
    }
}

fn driver_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = at(object, "spec");
    let requests = spec.get("tokenRequests");
    let changed = old.is_none_or(|old| !same(at(old, "spec").get("tokenRequests"), requests));
    let unset = !items(spec, "tokenRequests").is_empty() && !has(spec, "serviceAccountTokenInSecrets");
    let warning = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
    (changed && unset).then(|| warning.to_owned()).into_iter().collect()
}

fn driver_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset_pointer(spec, "attachRequired", true);
        preset_pointer(spec, "podInfoOnMount", false);
        preset_pointer(spec, "storageCapacity", false);
        preset_pointer(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        preset_pointer(spec, "requiresRepublish", false);
        preset_pointer(spec, "seLinuxMount", false);
        if items(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
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
    one_of_pointer(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &path, errors);
    let requests = path.child("tokenRequests");
    let mut audiences: Vec<&str> = Vec::new();
    for (i, request) in items(spec, "tokenRequests").iter().enumerate() {
        let at_i = requests.index(i);
        let audience = text(request, "audience");
        if audiences.contains(&audience) {
            errors.duplicate(&at_i.child("audience"), audience);
            continue;
        }
        audiences.push(audience);
        match int(request, "expirationSeconds") {
            Some(seconds) if seconds < 600 => {
                let message = "may not specify a duration less than 10 minutes";
                errors.invalid(&at_i.child("expirationSeconds"), seconds, message);
            }
            Some(seconds) if seconds > 1 << 32 => {
                let message = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&at_i.child("expirationSeconds"), seconds, message);
            }
            _ => {}
        }
    }
    let modes = path.child("volumeLifecycleModes");
    for mode in texts(spec, "volumeLifecycleModes").filter(|m| !["Ephemeral", "Persistent"].contains(m)) {
        errors.not_supported(&modes, mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(seconds) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < 10) {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&path, seconds, "must be greater than or equal to 10 seconds");
    }
    let secrets = "serviceAccountTokenInSecrets";
    if has(spec, secrets) && audiences.is_empty() {
        let message = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path.child(secrets), flag(spec, secrets), message);
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
        if text(driver, "nodeID").len() > 256 {
            let message = "must be 256 characters or less";
            errors.invalid(&path.child("nodeID"), text(driver, "nodeID"), message);
        }
        nonnegative(at(driver, "allocatable"), "count", &path.child("allocatable"), errors);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        let mut keys: Vec<&str> = Vec::new();
        for key in texts(driver, "topologyKeys") {
            if key.is_empty() {
                errors.required(&path, "");
            }
            if keys.contains(&key) {
                errors.duplicate(&path, key);
            }
            keys.push(key);
            errors.invalid_each(&path, key, names::qualified_name(key));
        }
    }
}

/// A driver that stays may change how much it can hold only.
fn node_update(new: &Value, old: &Value, _: &str, errors: &mut FieldErrors) {
    let drivers = |o| items(at(o, "spec"), "drivers");
    for before in drivers(old) {
        for now in drivers(new).iter().filter(|d| d.get("name") == before.get("name")) {
            if ["nodeID", "topologyKeys"].iter().any(|m| !same(now.get(m), before.get(m))) {
                let shown = json!({"Name": now.get("name"), "NodeID": text(now, "nodeID"),
                    "TopologyKeys": now.get("topologyKeys"), "Allocatable": null});
                errors.invalid(&Path::new("spec.drivers"), shown, "field is immutable");
            }
        }
    }
}

fn validate_capacity(object: &Value, errors: &mut FieldErrors) {
    validate_label_selector(object.get("nodeTopology"), &Path::new("nodeTopology"), errors);
    let class = text(object, "storageClassName");
    errors.invalid_each(&Path::new("storageClassName"), class, names::dns1123_subdomain(class));
    if has(object, "capacity") {
        nonnegative_quantity(&amount_of(at(object, "capacity")), &Path::new("capacity"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

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
            "provisioner: Invalid value: \"d\": field is immutable"
        );
        let none = json!({"metadata": {"name": "x"}, "volumeBindingMode": "Immediate"});
        assert_eq!(row.validate(&none).0[0].to_string(), "provisioner: Required value");
    }
}
