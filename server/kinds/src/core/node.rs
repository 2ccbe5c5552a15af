//! Nodes. A node is created with its status, by the kubelet.

use super::pod_defaults::round_list;
use super::resources;
use crate::kind::{Check, Kind};
use crate::support::{at, cidr, flag, has, int, is_cidr, items, members, one_of, some_mut, text, texts};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::cluster("", "Node")
    .created_with_status()
    .default(default)
    .on_update(|o, old, subresource| {
        // Configuration from the cluster is gone; what is left of it may stay.
        if subresource == "status"
            && !has(at(old, "status"), "config")
            && let Some(status) = o.get_mut("status").and_then(Value::as_object_mut)
        {
            status.remove("config");
        }
    })
    .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
    .validate(validate)
    .validate_update(validate_update)
    .select(|o| vec![("spec.unschedulable", flag(at(o, "spec"), "unschedulable").to_string())]);

fn default(object: &mut Value) {
    ranges(object);
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

/// The old single range and the newer list say the same; on the way in, what the single one says wins.
fn ranges(object: &mut Value) {
    let Some(spec) = some_mut(object, "spec") else { return };
    let one = text(spec, "podCIDR").to_owned();
    if one.is_empty() {
        let first = items(spec, "podCIDRs").first().cloned();
        if let Some(first) = first {
            spec["podCIDR"] = first;
        }
    } else if texts(spec, "podCIDRs").next() != Some(one.as_str()) {
        spec["podCIDRs"] = json!([one]);
    }
}

fn taints(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata.taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(at(object, "spec"), "taints").iter().enumerate() {
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
            let shown = json!({"Key": key, "Value": text(taint, "value"), "Effect": id.1, "TimeAdded": taint.get("timeAdded")});
            let mut error = FieldError::duplicate(&at_i, shown);
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
            continue;
        }
        seen.push(id);
    }
}

fn amounts_of(object: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    for list in ["capacity", "allocatable"] {
        let path = status.child(list);
        for (name, value) in members(at(object, "status"), list) {
            resources::amount(name, value, &path.child(name), errors);
        }
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    taints(object, errors);
    amounts_of(object, errors);
    let swap = at(at(at(object, "status"), "nodeInfo"), "swap");
    if let Some(n) = int(swap, "capacity").filter(|n| *n <= 0) {
        errors.invalid(&Path::new("metadata.nodeSwapStatus.capacity"), n, "must be greater than 0");
    }
    let path = Path::new("spec.podCIDRs");
    let all: Vec<&str> = texts(spec, "podCIDRs").collect();
    for (i, range) in all.iter().enumerate() {
        cidr(range, &path.index(i), errors);
    }
    if all.len() < 2 {
        return;
    }
    if let Some((i, bad)) = all.iter().enumerate().find(|(_, r)| !is_cidr(r)) {
        let why = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{i}]: <nil> (invalid CIDR address: {bad})"
        );
        errors.push(FieldError::internal(&path, why));
    }
    let six = |r: &str| r.contains(':');
    let both = all.iter().all(|r| is_cidr(r)) && all.iter().any(|r| six(r)) && all.iter().any(|r| !six(r));
    if !both || all.len() > 2 {
        errors.invalid(&path, Value::from(all), "may specify no more than one CIDR for each IP family");
    }
}

fn validate_update(new: &Value, old: &Value, _: &str, errors: &mut FieldErrors) {
    amounts_of(new, errors);
    let path = Path::new("status.addresses");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, address) in items(at(new, "status"), "addresses").iter().enumerate() {
        let id = (text(address, "type"), text(address, "address"));
        if seen.contains(&id) {
            errors.duplicate(&path.index(i), json!({"Type": id.0, "Address": id.1}));
        }
        seen.push(id);
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let (ranges, had) = (items(spec, "podCIDRs"), items(before, "podCIDRs"));
    let differ = had.iter().zip(ranges).filter(|(a, b)| a != b).count();
    let differ = if had.len() == ranges.len() { differ } else { 1 };
    for _ in 0..if had.is_empty() { 0 } else { differ } {
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
    taints(new, errors);
    if text(spec, "externalID") != text(before, "externalID") {
        errors.forbidden(&Path::new("spec.externalID"), "may not be updated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static NODE: Kind = KIND;

    #[test]
    fn life() {
        let mut object = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "x"}]}, "status": {"capacity": {"cpu": "1"}}});
        (&NODE).default(&mut object);
        (&NODE).prepare_for_create(&mut object);
        assert_eq!(object["status"]["allocatable"]["cpu"], "1");
        assert_eq!(
            (&NODE).validate(&object).0[0].to_string(),
            "metadata.taints[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
        );
        assert_eq!((&NODE).selectable_fields(&object), [("spec.unschedulable", "false".to_string())]);
    }
}
