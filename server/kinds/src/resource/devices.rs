//! A device of a slice.

use super::capacity::capacity;
use super::claims::is_native;
use super::common::{each, node_name, qualified, required_label, set};
use super::slices::{counters, entry};
use super::taints::{binding, taint};
use crate::core::node_selector;
use crate::support::{amount_of, at, flag, has, items, label, members, same, text, texts};
use machinery::field::{FieldError, FieldErrors, Path};
use serde_json::{Value, json};

const MOST_NAMES: usize = 32;
const MOST_VALUES: usize = 48;
const MOST_TAINTS: usize = 16;
const MOST_CONSUMPTIONS: usize = 2;
const LONGEST_VALUE: usize = 64;
const SCALARS: &[&str] = &["bool", "int", "string", "version"];
const LISTS: &[&str] = &["bools", "ints", "strings", "versions"];

pub(super) fn device(
    device: &Value,
    old: Option<&Value>,
    selects: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    label(text(device, "name"), &path.child("name"), errors);
    let names = members(device, "attributes").count() + members(device, "capacity").count();
    if names > MOST_NAMES {
        let message = format!("the total number of attributes and capacities must not exceed {MOST_NAMES}");
        errors.invalid(path, names, message);
    }
    let values: usize = members(device, "attributes").map(|(_, a)| values_of(a)).sum();
    if values > MOST_VALUES {
        let message = format!("the total number of attribute values must not exceed {MOST_VALUES}");
        errors.invalid(path, values, message);
    }
    let at_attributes = path.child("attributes");
    for (name, value) in members(device, "attributes") {
        qualified(name, &at_attributes, errors);
        attribute(value, &at_attributes.key(&entry(name)), errors);
    }
    let at_capacity = path.child("capacity");
    let shared = flag(device, "allowMultipleAllocations");
    for (name, value) in members(device, "capacity") {
        qualified(name, &at_capacity, errors);
        capacity(value, shared, &at_capacity.key(&entry(name)), errors);
    }
    // Taints that stay as they are were accepted before.
    if old.is_none_or(|o| !same(o.get("taints"), device.get("taints"))) {
        let at_taints = path.child("taints");
        each(items(device, "taints"), MOST_TAINTS, &at_taints, errors, |t, p, e| taint(t, false, p, e));
    }
    let consumed = items(device, "consumesCounters");
    let consumption = |c: &Value, path: &Path<'_>, errors: &mut FieldErrors| {
        required_label(text(c, "counterSet"), &path.child("counterSet"), errors);
        counters(c, path, errors);
    };
    let from = |c: &Value| text(c, "counterSet").to_owned();
    set(consumed, MOST_CONSUMPTIONS, &path.child("consumesCounters"), errors, consumption, from);
    nodes(device, selects, path, errors);
    binding(device, path, errors);
    mappings(device, path, errors);
}

fn values_of(attribute: &Value) -> usize {
    match LISTS.iter().map(|list| items(attribute, list).len()).sum() {
        0 => 1,
        n => n,
    }
}

fn attribute(attribute: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in SCALARS.iter().filter(|m| has(attribute, m)) {
        one(member, text(attribute, member), &path.child(member), errors);
    }
    for member in LISTS.iter().filter(|m| has(attribute, m)) {
        let path = path.child(member);
        if items(attribute, member).is_empty() {
            errors.invalid(&path, json!([]), "must not be empty if specified");
        }
        for (i, value) in texts(attribute, member).enumerate() {
            one(member.trim_end_matches('s'), value, &path.index(i), errors);
        }
    }
    const MESSAGE: &str = "exactly one value must be specified";
    match SCALARS.iter().chain(LISTS).filter(|m| has(attribute, m)).count() {
        0 => errors.invalid(path, "", MESSAGE),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), MESSAGE),
    }
}

/// One value of an attribute.
fn one(kind: &str, value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if kind == "version" && !is_version(value) {
        errors.invalid(path, value, "must be a string compatible with semver.org spec 2.0.0");
    }
    if value.len() > LONGEST_VALUE {
        errors.push(FieldError::too_long(path, LONGEST_VALUE));
    }
}

/// Semantic versioning 2.0.0.
fn is_version(text: &str) -> bool {
    let number = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s.len() == 1 || !s.starts_with('0'))
    };
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, before) = match rest.split_once('-') {
        Some((core, before)) => (core, Some(before)),
        None => (rest, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|b| b.split('.').all(|s| word(s) && (!digits(s) || number(s))))
        && build.is_none_or(|b| b.split('.').all(word))
}

/// Which nodes have the device, where devices say it each on their own.
fn nodes(device: &Value, selects: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let given = ["nodeName", "nodeSelector", "allNodes"].iter().any(|m| has(device, m));
    if !selects {
        if given {
            let message = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, message);
        }
        return;
    }
    let mut set = Vec::new();
    if has(device, "nodeName") {
        let (name, path) = (text(device, "nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.invalid(&path, name, "must not be empty");
        } else {
            set.push("`nodeName`");
            node_name(name, &path, errors);
        }
    }
    if has(device, "nodeSelector") {
        set.push("`nodeSelector`");
        node_selector(at(device, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
    if flag(device, "allNodes") {
        set.push("`allNodes`");
    } else if has(device, "allNodes") {
        errors.invalid(&path.child("allNodes"), false, "must be either unset or set to true");
    }
    const MESSAGE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => errors.required(path, MESSAGE),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", set.join(", ")), MESSAGE),
    }
}

/// What of a node's own resources the device takes.
fn mappings(device: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("nodeAllocatableResourceMappings");
    for (name, mapping) in members(device, "nodeAllocatableResourceMappings") {
        let path = list.key(name);
        if !is_native(name) {
            errors.invalid(&path, name.as_str(), "must be a node allocatable resource name");
        }
        let (multiplier, key) = (has(mapping, "allocationMultiplier"), has(mapping, "capacityKey"));
        if !multiplier && !key {
            let message = "at least one of allocationMultiplier or capacityKey must be set";
            errors.invalid(&path, "", message);
        }
        let amount = amount_of(at(mapping, "allocationMultiplier"));
        if multiplier && amount.sign() <= 0 {
            let path = path.child("allocationMultiplier");
            errors.invalid(&path, amount.to_string(), "must be positive");
        }
        if key {
            let (key, path) = (text(mapping, "capacityKey"), path.child("capacityKey"));
            if key.is_empty() {
                errors.invalid(&path, "", "capacityKey must not be an empty string");
            } else if !has(at(device, "capacity"), key) {
                errors.not_found(&path, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.2.3", "0.0.0", "1.2.3-a.1+b.01", "1.0.0-0a", "1.0.0--", "1.0.0+0-0"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3-a..b", "1.2.3.4"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
