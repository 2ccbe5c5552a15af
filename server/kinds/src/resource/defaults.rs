//! What is filled in, and what is left out.

use crate::support::{
    at, has, items, items_mut, members, preset, preset_int, preset_pointer, some_mut, text, with_spec,
};
use serde_json::Value;

pub(super) fn claim(object: &mut Value) {
    with_spec(object, devices);
    let results = some_mut(object, "status")
        .and_then(|s| some_mut(s, "allocation"))
        .and_then(|a| some_mut(a, "devices"));
    if let Some(results) = results {
        items_mut(results, "results").for_each(tolerations);
    }
}

pub(super) fn template(object: &mut Value) {
    with_spec(object, |spec| with_spec(spec, devices));
}

fn devices(spec: &mut Value) {
    let Some(devices) = some_mut(spec, "devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = some_mut(request, "exactly") {
            count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(count);
    }
}

fn count(request: &mut Value) {
    preset(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        preset_int(request, "count", 1);
    }
    tolerations(request);
}

fn tolerations(of: &mut Value) {
    items_mut(of, "tolerations").for_each(|t| preset(t, "operator", "Equal"));
}

pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn since(taint: &mut Value) {
    if !has(taint, "timeAdded") {
        preset(taint, "timeAdded", now());
    }
}

pub(super) fn slice(object: &mut Value) {
    with_spec(object, |spec| {
        for device in items_mut(spec, "devices") {
            items_mut(device, "taints").for_each(since);
            let mappings = device.get_mut("nodeAllocatableResourceMappings").and_then(Value::as_object_mut);
            for mapping in mappings.into_iter().flat_map(serde_json::Map::values_mut) {
                preset_pointer(mapping, "allocationMultiplier", "1");
            }
        }
    });
}

pub(super) fn rule(object: &mut Value) {
    with_spec(object, |spec| with_taint(spec, since));
}

fn with_taint(spec: &mut Value, f: impl FnOnce(&mut Value)) {
    if crate::support::map_mut(spec, "taint").is_some()
        && let Some(taint) = spec.get_mut("taint")
    {
        f(taint);
    }
}

const LISTS: &[&str] = &["bools", "ints", "strings", "versions"];
const MAPPINGS: &str = "nodeAllocatableResourceMappings";

/// Members behind gates that are off by default, which an object may go on having.
pub(super) fn drop_gated(object: &mut Value, old: Option<&Value>) {
    let before = || old.into_iter().flat_map(|o| items(at(o, "spec"), "devices"));
    let lists =
        before().any(|d| members(d, "attributes").any(|(_, a)| LISTS.iter().any(|list| has(a, list))));
    let mapped = before().any(|d| members(d, MAPPINGS).next().is_some());
    let Some(spec) = some_mut(object, "spec") else { return };
    for device in items_mut(spec, "devices").filter_map(Value::as_object_mut) {
        if !mapped {
            device.remove(MAPPINGS);
        }
        if lists {
            continue;
        }
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flatten().filter_map(|(_, a)| a.as_object_mut()) {
            attribute.retain(|name, _| !LISTS.contains(&name.as_str()));
        }
    }
}
