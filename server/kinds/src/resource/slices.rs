//! Slices: what a driver publishes of a pool.

use super::common::{driver, node_name, pool_name, required_label, set, shortened, too_many};
use super::devices::device;
use crate::core::node_selector;
use crate::support::{at, flag, has, immutable_text, int, items, label, members, text};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

const MOST_DEVICES: usize = 128;
/// Where some device has taints, consumes counters or has lists as attributes.
const MOST_ADVANCED_DEVICES: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;

pub(super) fn warnings(object: &Value) -> Vec<String> {
    let driver = text(at(object, "spec"), "driver");
    let upper = driver != driver.to_lowercase();
    let warning = || {
        let shown = machinery::field::quote(driver);
        format!("spec.driver: driver names should be lowercase; {shown} contains uppercase characters")
    };
    upper.then(warning).into_iter().collect()
}

pub(super) fn spec(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    driver(spec, path, errors);
    let (pool, at_pool) = (at(spec, "pool"), path.child("pool"));
    pool_name(text(pool, "name"), &at_pool.child("name"), errors);
    let (count, generation) = (int(pool, "resourceSliceCount"), int(pool, "generation"));
    if count.unwrap_or(0) <= 0 {
        let path = at_pool.child("resourceSliceCount");
        errors.invalid(&path, count.unwrap_or(0), "must be greater than zero");
    }
    if let Some(generation) = generation.filter(|g| *g < 0) {
        let message = "must be greater than or equal to zero";
        errors.invalid(&at_pool.child("generation"), generation, message);
    }
    if let Some(old) = old {
        let name = |s| text(at(s, "pool"), "name");
        immutable_text(name(spec), name(old), &at_pool.child("name"), errors);
        immutable_text(text(spec, "driver"), text(old, "driver"), &path.child("driver"), errors);
        if spec.get("nodeName") != old.get("nodeName") {
            errors.invalid(&path.child("nodeName"), at(spec, "nodeName").clone(), "field is immutable");
        }
    }
    nodes(spec, path, errors);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = items(spec, "devices");
    let lists = |d: &Value| {
        members(d, "attributes")
            .any(|(_, a)| ["bools", "ints", "strings", "versions"].iter().any(|m| has(a, m)))
    };
    let advanced =
        |d: &Value| !items(d, "taints").is_empty() || !items(d, "consumesCounters").is_empty() || lists(d);
    let most = if devices.iter().any(advanced) { MOST_ADVANCED_DEVICES } else { MOST_DEVICES };
    let each_selects = flag(spec, "perDeviceNodeSelection");
    let before = |d: &Value| {
        let devices = items(old?, "devices");
        devices.iter().find(|o| text(o, "name") == text(d, "name"))
    };
    let name = |v: &Value| text(v, "name").to_owned();
    set(
        devices,
        most,
        &path.child("devices"),
        errors,
        |d, path, errors| device(d, before(d), each_selects, path, errors),
        name,
    );
    let at_sets = path.child("sharedCounters");
    set(items(spec, "sharedCounters"), MOST_COUNTER_SETS, &at_sets, errors, counter_set, name);
}

/// Which nodes have the devices.
fn nodes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut set = Vec::new();
    if has(spec, "nodeName") {
        let (name, path) = (text(spec, "nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.invalid(&path, name, "must be either unset or set to a non-empty string");
        } else {
            set.push("`nodeName`");
            node_name(name, &path, errors);
        }
    }
    if has(spec, "nodeSelector") {
        set.push("`nodeSelector`");
        let (selector, path) = (at(spec, "nodeSelector"), path.child("nodeSelector"));
        node_selector(selector, &path, errors);
        if items(selector, "nodeSelectorTerms").len() != 1 {
            let terms = at(selector, "nodeSelectorTerms").clone();
            let message = "must have exactly one node selector term";
            errors.invalid(&path.child("nodeSelectorTerms"), terms, message);
        }
    }
    for (member, shown) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        if flag(spec, member) {
            set.push(shown);
        } else if has(spec, member) {
            errors.invalid(&path.child(member), false, "must be either unset or set to true");
        }
    }
    const MESSAGE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.required(path, MESSAGE),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            errors.invalid(path, shown, format!("{MESSAGE}, but multiple fields are set"));
        }
    }
}

fn counter_set(set: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required_label(text(set, "name"), &path.child("name"), errors);
    counters(set, path, errors);
}

/// Counters by name: of a set, or of what a device consumes of one.
pub(super) fn counters(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("counters");
    let count = members(of, "counters").count();
    if count == 0 {
        errors.required(&path, "");
    } else if !too_many(count, MOST_COUNTERS, &path, errors) {
        members(of, "counters").for_each(|(name, _)| label(name, &path, errors));
    }
}

/// The path of a map's entry.
pub(super) fn entry(key: &str) -> String {
    shortened(key, super::common::LONGEST_DOMAIN + 1 + super::common::LONGEST_ID)
}
