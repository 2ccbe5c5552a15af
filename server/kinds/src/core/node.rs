//! Nodes. A node is created with its status, by the kubelet.

use super::pod_defaults::round_list;
use crate::kind::Kind;
use crate::support::{at, cidr, flag, has, items, one_of, same, some_mut, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

pub(super) const KIND: Kind = Kind::cluster("", "Node")
    .created_with_status()
    .default(default)
    .validate(validate)
    .validate_update(validate_update)
    .select(|o| vec![("spec.unschedulable", flag(at(o, "spec"), "unschedulable").to_string())]);

fn default(object: &mut Value) {
    let Some(status) = some_mut(object, "status") else { return };
    for list in ["capacity", "allocatable"] {
        if let Some(list) = some_mut(status, list) {
            round_list(list);
        }
    }
    if !has(status, "allocatable") && has(status, "capacity") {
        status["allocatable"] = at(status, "capacity").clone();
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let path = Path::new("spec.taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(spec, "taints").iter().enumerate() {
        let at_i = path.index(i);
        let key = text(taint, "key");
        errors.invalid_each(&at_i.child("key"), key, names::qualified_name(key));
        let bad = names::label_value(text(taint, "value"));
        if !bad.is_empty() {
            errors.invalid(&at_i.child("value"), text(taint, "value"), bad.join(";"));
        }
        one_of(taint, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at_i, errors);
        let id = (key, text(taint, "effect"));
        if seen.contains(&id) {
            errors.duplicate(&at_i, taint.clone());
        }
        seen.push(id);
    }
    let cidrs = Path::new("spec.podCIDRs");
    for (i, range) in texts(spec, "podCIDRs").enumerate() {
        cidr(range, &cidrs.index(i), errors);
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource == "status" {
        let path = Path::new("status.addresses");
        let mut seen: Vec<&Value> = Vec::new();
        for (i, address) in items(at(new, "status"), "addresses").iter().enumerate() {
            if seen.contains(&address) {
                errors.duplicate(&path.index(i), address.clone());
            }
            seen.push(address);
        }
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    if !items(before, "podCIDRs").is_empty() && !same(spec.get("podCIDRs"), before.get("podCIDRs")) {
        errors.forbidden(
            &Path::new("spec.podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    let id = text(before, "providerID");
    if !id.is_empty() && id != text(spec, "providerID") {
        errors.forbidden(
            &Path::new("spec.providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static NODE: Kind = KIND;

    #[test]
    fn life() {
        let mut object = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "x"}]}, "status": {"capacity": {"cpu": "1"}}});
        (&NODE).default(&mut object);
        (&NODE).prepare_for_create(&mut object);
        assert_eq!(object["status"]["allocatable"]["cpu"], "1");
        assert_eq!(
            (&NODE).validate(&object).0[0].to_string(),
            "spec.taints[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
        );
        assert_eq!((&NODE).selectable_fields(&object), [("spec.unschedulable", "false".to_string())]);
    }
}
