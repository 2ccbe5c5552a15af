//! Resizing a running pod. Source: upstream's `dropNonResizeUpdates` and `ValidatePodResize`.

use super::qos;
use crate::kind::carry;
use crate::support::{at, exactly, has, items, members, text};
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use serde_json::Value;

const LISTS: [&str; 2] = ["containers", "initContainers"];
const MEMBERS: [&str; 2] = ["resources", "resizePolicy"];

fn names<'a>(spec: &'a Value, list: &str) -> Vec<&'a str> {
    items(spec, list).iter().map(|c| text(c, "name")).collect()
}

/// Of the wanted spec, resources alone are taken. Where containers were added, removed or renamed, their lists stay as
/// they were sent: that is for validation to refuse.
pub(super) fn take_resources(object: &mut Value, old: &Value) {
    let wanted = object.get("spec").cloned().unwrap_or_default();
    let before = at(old, "spec");
    if LISTS.iter().any(|l| items(&wanted, l).len() != items(before, l).len()) {
        return;
    }
    carry(object, old, "spec");
    carry(object, old, "status");
    let Some(spec) = object.get_mut("spec") else { return };
    for list in LISTS {
        if names(&wanted, list) != names(before, list) {
            carry(spec, &wanted, list);
            continue;
        }
        for (container, source) in crate::support::items_mut(spec, list).zip(items(&wanted, list)) {
            for member in MEMBERS {
                carry(container, source, member);
            }
        }
    }
    carry(spec, &wanted, "resources");
}

/// What follows the checks of the pod as a whole.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let only = |why: &str, errors: &mut FieldErrors| {
        errors.0.clear();
        errors.forbidden(&Path::root(), why);
    };
    if meta::annotation(old, super::pod::MIRROR).is_some() {
        return only("static pods cannot be resized", errors);
    }
    if text(at(before, "os"), "name") == "windows" {
        return only("windows pods cannot be resized", errors);
    }
    let class = text(at(old, "status"), "qosClass");
    let class = if class.is_empty() { qos::class(before) } else { class };
    if class != qos::class(spec) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, text(at(new, "status"), "qosClass"), detail);
    }
    let running =
        items(at(old, "status"), "containerStatuses").iter().find(|s| has(at(s, "state"), "running"));
    if running.is_some_and(|s| !has(s, "resources")) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    let mut kept = spec.clone();
    pod_level(spec, before, &mut kept, &path, errors);
    if !same_containers(spec, before, &path, errors) {
        return;
    }
    for list in ["initContainers", "containers"] {
        let at_list = path.child(list);
        for (i, (now, then)) in items(spec, list).iter().zip(items(before, list)).enumerate() {
            let at_i = at_list.index(i);
            let (now, then) = (at(now, "resources"), at(then, "resources"));
            removed(now, then, "resource", &at_i.child("resources"), errors);
        }
    }
    for (now, then) in crate::support::items_mut(&mut kept, "containers").zip(items(before, "containers")) {
        without_cpu_and_memory(now, then);
        if !exactly(Some(now), Some(then)) {
            errors.forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    init_containers(&mut kept, before, &path, errors);
    if errors.is_empty() && !exactly(Some(&kept), Some(before)) {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
}

fn init_containers(kept: &mut Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("initContainers");
    let pairs = crate::support::items_mut(kept, "initContainers").zip(items(before, "initContainers"));
    for (i, (now, then)) in pairs.enumerate() {
        let changed = !exactly(Some(now), Some(then));
        without_cpu_and_memory(now, then);
        if !exactly(Some(now), Some(then)) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.forbidden(&list.index(i), detail);
        }
        if !changed || text(now, "restartPolicy") == "Always" {
            continue;
        }
        let restarting = |p: &&Value| text(p, "restartPolicy") == "RestartContainer";
        for _ in items(now, "resizePolicy").iter().filter(restarting) {
            let detail =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.forbidden(&list.index(i), detail);
        }
    }
}

fn pod_level(spec: &Value, before: &Value, kept: &mut Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let set = |spec: &Value| {
        let all = at(spec, "resources");
        ["requests", "limits"].iter().any(|l| members(all, l).next().is_some())
    };
    if !set(spec) && !set(before) {
        return;
    }
    let path_of = path.child("resources");
    if has(before, "resources") && !has(spec, "resources") {
        errors.forbidden(&path_of, "pod-level resources cannot be removed");
        return;
    }
    removed(at(spec, "resources"), at(before, "resources"), "pod-level resource", &path_of, errors);
    without_cpu_and_memory(kept, before);
    if !exactly(kept.get("resources"), before.get("resources")) {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

fn removed(now: &Value, then: &Value, what: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    for list in ["requests", "limits"] {
        if members(then, list).any(|(name, _)| at(now, list).get(name).is_none()) {
            errors.forbidden(&path.child(list), format!("{what} {list} cannot be removed"));
        }
    }
}

/// Puts the old amounts of what may change in place of the new.
fn without_cpu_and_memory(now: &mut Value, then: &Value) {
    let mut resources = serde_json::Map::new();
    for list in ["limits", "requests"] {
        let mut amounts: serde_json::Map<String, Value> = members(at(now, "resources"), list)
            .filter(|(k, _)| !matches!(k.as_str(), "cpu" | "memory"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let old = members(at(then, "resources"), list);
        amounts.extend(
            old.filter(|(k, _)| matches!(k.as_str(), "cpu" | "memory")).map(|(k, v)| (k.clone(), v.clone())),
        );
        if !amounts.is_empty() {
            resources.insert(list.into(), amounts.into());
        }
    }
    if has(at(now, "resources"), "claims") {
        resources.insert("claims".into(), at(at(now, "resources"), "claims").clone());
    }
    now["resources"] = resources.into();
}

fn same_containers(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let found = errors.0.len();
    for list in LISTS {
        let (now, then) = (names(spec, list), names(before, list));
        let at_list = path.child(list);
        if now.len() != then.len() {
            errors.forbidden(&at_list, format!("{list} may not be added or removed on resize"));
            continue;
        }
        for i in (0..now.len()).filter(|i| now[*i] != then[*i]) {
            let at_i = at_list.index(i);
            errors
                .forbidden(&at_i.child("name"), format!("{list} may not be renamed or reordered on resize"));
        }
    }
    errors.0.len() == found
}
