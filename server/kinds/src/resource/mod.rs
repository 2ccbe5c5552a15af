//! The group `resource.k8s.io`: devices that drivers publish, classes of them, and claims to them.
//!
//! Rows are of the stored version, `v1` (`v1beta2` for taint rules); older ones are converted before they come here.
//! What stands behind gates that are off (lists as attributes, mappings to a node's resources) is dropped, unless the
//! object had it already.

mod allocation;
mod capacity;
mod claims;
mod common;
mod defaults;
mod devices;
mod slices;
mod taints;

use super::kind::{Check, Kind};
use super::support::{at, exactly, text};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_labels;
use machinery::{meta, names};
use serde_json::{Value, json};

const GROUP: &str = "resource.k8s.io";
const SPEC: Path<'static> = Path::new("spec");

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "DeviceClass")
        .named(class_name)
        .generation()
        .checks(&[Check::Meta, Check::MetaChange, Check::Change])
        .validate(|o, errors| claims::class(at(o, "spec"), None, &SPEC, errors))
        .validate_update(|new, old, _, errors| {
            claims::class(at(new, "spec"), Some(at(old, "spec")), &SPEC, errors);
        }),
    Kind::namespaced(GROUP, "ResourceClaim")
        .status()
        .checks(&[Check::Meta, Check::MetaChange, Check::Change])
        .default(defaults::claim)
        .on_update(|o, old, subresource| {
            if subresource == "status" {
                allocation::drop_deallocated(o, old);
            }
        })
        .validate(|o, errors| claims::spec(at(o, "spec"), &SPEC, errors))
        .validate_update(|new, old, subresource, errors| match subresource {
            "" => frozen(new, old, errors),
            _ => allocation::status(new, old, errors),
        }),
    Kind::namespaced(GROUP, "ResourceClaimTemplate")
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .default(defaults::template)
        .validate(|o, errors| {
            let spec = at(o, "spec");
            template_metadata(at(spec, "metadata"), &SPEC.child("metadata"), errors);
            claims::spec(at(spec, "spec"), &SPEC.child("spec"), errors);
        })
        .validate_update(|new, old, _, errors| frozen(new, old, errors)),
    Kind::cluster(GROUP, "ResourceSlice")
        .generation()
        .checks(&[Check::MetaChange, Check::Change])
        .default(defaults::slice)
        .on_create(|o| defaults::drop_gated(o, None))
        .on_update(|o, old, _| defaults::drop_gated(o, Some(old)))
        .warn(|o, _| slices::warnings(o))
        .validate(|o, errors| slices::spec(at(o, "spec"), None, &SPEC, errors))
        .validate_update(|new, old, _, errors| {
            slices::spec(at(new, "spec"), Some(at(old, "spec")), &SPEC, errors);
        })
        .select(|o| {
            let spec = at(o, "spec");
            vec![
                ("spec.nodeName", text(spec, "nodeName").into()),
                ("spec.driver", text(spec, "driver").into()),
            ]
        }),
    Kind::cluster(GROUP, "DeviceTaintRule")
        .status()
        .generation()
        .checks(&[Check::MetaChange, Check::Change])
        .default(defaults::rule)
        .on_update(taints::renew)
        .validate(|o, errors| taints::rule(at(o, "spec"), None, &SPEC, errors))
        .validate_update(|new, old, subresource, errors| match subresource {
            "" => taints::rule(at(new, "spec"), Some(at(old, "spec")), &SPEC, errors),
            _ => taints::rule_status(at(new, "status"), errors),
        }),
];

/// A subdomain; told in bytes where others are in characters.
fn class_name(name: &str, prefix: bool) -> Vec<String> {
    let messages = names::name_is_subdomain(name, prefix);
    messages.into_iter().map(|m| m.replace("no more than 253 characters", "no more than 253 bytes")).collect()
}

/// A specification that stays as it was made.
fn frozen(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !exactly(new.get("spec"), old.get("spec")) {
        errors.invalid(&SPEC, at(new, "spec").clone(), "field is immutable");
    }
}

/// What the metadata of a template may not say: members as upstream spells them, in its order.
const NOT_IN_TEMPLATES: &[(&str, &str)] = &[
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

fn template_metadata(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    meta::validate_annotations(metadata.get("annotations"), &path.child("annotations"), errors);
    validate_labels(metadata.get("labels"), &path.child("labels"), errors);
    for (member, shown) in NOT_IN_TEMPLATES {
        let value = at(metadata, member);
        if !value.is_null() && *value != json!("") && *value != json!(0) {
            errors.forbidden(&path.child(shown), "cannot be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    #[test]
    fn claims() {
        let row = find(GROUP, "ResourceClaim").unwrap();
        let mut claim = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}}});
        row.default(&mut claim);
        assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert!(row.validate(&claim).is_empty());
        let mut new = claim.clone();
        new["spec"]["devices"]["requests"][0]["name"] = "b".into();
        assert!(row.validate_update(&new, &claim, "").0[0].to_string().starts_with("spec: Invalid value: {"));
    }

    #[test]
    fn gated_members_go_unless_they_were_there() {
        let row = find(GROUP, "ResourceSlice").unwrap();
        let device = json!({"name": "a", "attributes": {"x": {"ints": [1]}, "y": {"int": 1}}, "nodeAllocatableResourceMappings": {"cpu": {}}});
        let old = json!({"metadata": {"name": "s"}, "spec": {"devices": [device]}});
        let mut fresh = old.clone();
        row.prepare_for_create(&mut fresh);
        assert_eq!(
            fresh["spec"]["devices"],
            json!([{"name": "a", "attributes": {"x": {}, "y": {"int": 1}}}])
        );
        let mut kept = old.clone();
        row.prepare_for_update(&mut kept, &old, "");
        assert_eq!(kept["spec"], old["spec"]);
    }
}
