//! What a node may say of a pod. Source: upstream's `ValidatePodStatusUpdate`.

use crate::support::{IP_MESSAGE, at, has, int, is_ip, items, text};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::{Value, json};

/// `podIP` is the first of `podIPs`, whichever of them was sent; where both were and differ, `podIP` is right.
pub(super) fn same_ips(status: &mut Value) {
    let Some(map) = status.as_object_mut() else { return };
    let ip = map.get("podIP").and_then(Value::as_str).unwrap_or("").to_owned();
    let first = map.get("podIPs").and_then(|l| l.get(0));
    match (ip.is_empty(), first.map(|f| text(f, "ip").to_owned())) {
        (true, Some(first)) if !first.is_empty() => drop(map.insert("podIP".into(), first.into())),
        (false, first) if first.as_deref() != Some(&ip) => {
            map.insert("podIPs".into(), json!([{"ip": ip}]));
        }
        _ => {}
    }
}

/// Who clears `observedGeneration` gets the old one back.
pub(super) fn keep_observed(object: &mut Value, old: &Value) {
    let keep = |new: &mut Value, old: i64| {
        if int(new, "observedGeneration").unwrap_or(0) == 0 && old != 0 && new.is_object() {
            new["observedGeneration"] = old.into();
        }
    };
    let before = at(old, "status");
    let Some(status) = object.get_mut("status") else { return };
    keep(status, int(before, "observedGeneration").unwrap_or(0));
    let mut known: Vec<(&str, i64)> = items(before, "conditions")
        .iter()
        .map(|c| (text(c, "type"), int(c, "observedGeneration").unwrap_or(0)))
        .collect();
    for condition in crate::support::items_mut(status, "conditions") {
        let kind = text(condition, "type").to_owned();
        if let Some(i) = known.iter().position(|(k, _)| *k == kind) {
            keep(condition, known.remove(i).1);
        }
    }
}

pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, before) = (at(new, "status"), at(old, "status"));
    let spec = at(old, "spec");
    let path = Path::new("status");
    conditions(status, &path.child("conditions"), errors);
    let nominated = text(status, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(before, "nominatedNodeName") {
        let path = path.child("nominatedNodeName");
        errors.invalid_each(&path, nominated, names::dns1123_subdomain(nominated));
        if !text(spec, "nodeName").is_empty() {
            errors.forbidden(&path, "may not be set on pods that are already bound to a node");
        }
    }
    not_negative(status, &path, errors);
    let class = text(status, "qosClass");
    if class != text(before, "qosClass") && !text(before, "qosClass").is_empty() {
        errors.invalid(&path.child("qosClass"), class, "field is immutable");
    }
    transitions(status, before, spec, &path, errors);
    ips(status, before, "podIPs", &path, errors);
    if let Some(first) = items(status, "hostIPs").first() {
        let list = path.child("hostIPs");
        if text(first, "ip") != text(status, "hostIP") {
            errors.invalid(&list.index(0).child("ip"), text(first, "ip"), "must be equal to `hostIP`");
        }
    }
    ips(status, before, "hostIPs", &path, errors);
    allocated(status, spec, &path, errors);
}

fn not_negative(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(of, "observedGeneration").filter(|n| *n < 0) {
        errors.invalid(&path.child("observedGeneration"), n, "must be a non-negative integer");
    }
}

fn conditions(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, condition) in items(status, "conditions").iter().enumerate() {
        let at_i = path.index(i);
        not_negative(condition, &at_i, errors);
        let kind = text(condition, "type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            errors.invalid_each(&at_i.child("Type"), kind, names::qualified_name(kind));
        }
    }
}

/// One address, or one of each family; those that are there already may be as they are.
fn ips(status: &Value, before: &Value, list: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child(list);
    let all: Vec<&str> = items(status, list).iter().map(|i| text(i, "ip")).collect();
    for (i, ip) in all.iter().enumerate() {
        let known = items(before, list).iter().any(|k| text(k, "ip") == *ip);
        if !known && !is_ip(ip) {
            errors.invalid(&path.index(i), *ip, IP_MESSAGE);
        }
    }
    if all.len() < 2 {
        return;
    }
    if let Some((i, bad)) = all.iter().enumerate().find(|(_, ip)| !is_ip(ip)) {
        let why = format!("failed to check for dual stack with error:invalid IP[{i}]: {bad}");
        errors.push(FieldError::internal(&path, &why));
    }
    let family = |v6: bool| all.iter().any(|ip| is_ip(ip) && ip.contains(':') == v6);
    if all.len() > 2 || !(family(false) && family(true)) || !all.iter().all(|ip| is_ip(ip)) {
        let shown: Value = all.iter().map(|ip| json!({"IP": ip})).collect();
        errors.invalid(&path, shown, "may specify no more than one IP for each IP family");
    }
}

/// A container that ended and is not to run again stays ended.
fn transitions(status: &Value, before: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = text(spec, "restartPolicy");
    let all = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    if all()
        .any(|c| items(c, "restartPolicyRules").iter().any(|r| text(r, "action") == "RestartAllContainers"))
    {
        return;
    }
    for (statuses, containers) in
        [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")]
    {
        let list = path.child(statuses);
        for (i, then) in items(before, statuses).iter().enumerate() {
            let ended = at(at(then, "state"), "terminated");
            if ended.is_null() {
                continue;
            }
            let name = text(then, "name");
            let now = items(status, statuses).iter().find(|s| text(s, "name") == name);
            if now.is_none_or(|n| has(at(n, "state"), "terminated")) {
                continue;
            }
            let code = int(ended, "exitCode").unwrap_or(0);
            let container = items(spec, containers).iter().find(|c| text(c, "name") == name);
            let again = if containers == "initContainers" {
                // Restarted with their pod, unless that never is.
                let own = container.map_or("", |c| text(c, "restartPolicy"));
                own == "Always" || policy != "Never"
            } else {
                container.is_some_and(|c| restarts(c, policy, code))
            };
            if !again {
                errors.forbidden(
                    &list.index(i).child("state"),
                    "may not be transitioned to non-terminated state",
                );
            }
        }
    }
    let list = path.child("ephemeralContainerStatuses");
    for (i, then) in items(before, "ephemeralContainerStatuses").iter().enumerate() {
        let now = items(status, "ephemeralContainerStatuses")
            .iter()
            .find(|s| text(s, "name") == text(then, "name"));
        if has(at(then, "state"), "terminated") && now.is_some_and(|n| !has(at(n, "state"), "terminated")) {
            errors
                .forbidden(&list.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether the container is started again after it ended so.
fn restarts(container: &Value, pod: &str, code: i64) -> bool {
    for rule in items(container, "restartPolicyRules") {
        let exits = at(rule, "exitCodes");
        let listed = items(exits, "values").iter().any(|v| v.as_i64() == Some(code));
        if has(rule, "exitCodes") && listed == (text(exits, "operator") == "In") {
            return text(rule, "action") == "Restart";
        }
    }
    let own = text(container, "restartPolicy");
    match if own.is_empty() { pod } else { own } {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// Health of allocated resources speaks of resources the container asked for.
fn allocated(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (statuses, containers) in
        [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")]
    {
        let list = path.child(statuses);
        for (i, one) in items(status, statuses).iter().enumerate() {
            let at_i = list.index(i);
            let at_list = at_i.child("allocatedResourcesStatus");
            let container = items(spec, containers).iter().find(|c| text(c, "name") == text(one, "name"));
            for (j, resource) in items(one, "allocatedResourcesStatus").iter().enumerate() {
                let at_j = at_list.index(j);
                if let Some(container) = container {
                    asked_for(resource, at(container, "resources"), &at_j, errors);
                }
                health(resource, &at_j.child("resources"), errors);
            }
        }
    }
    let list = path.child("ephemeralContainerStatuses");
    for (i, one) in items(status, "ephemeralContainerStatuses").iter().enumerate() {
        if !items(one, "allocatedResourcesStatus").is_empty() {
            let at_i = list.index(i);
            errors.forbidden(
                &at_i.child("allocatedResourcesStatus"),
                "must not be specified in container status",
            );
        }
    }
}

fn asked_for(resource: &Value, resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(resource, "name");
    let (found, why) = match name.strip_prefix("claim:") {
        Some(wanted) => {
            let named = |c: &Value| match text(c, "request") {
                "" => text(c, "name").to_owned(),
                request => format!("{}/{request}", text(c, "name")),
            };
            (
                items(resources, "claims").iter().any(|c| named(c) == wanted),
                "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
                 'claim:<claimName>' if request is empty",
            )
        }
        None => (has(at(resources, "requests"), name), "must match one of the container's resource requests"),
    };
    if !found {
        errors.invalid(&path.child("name"), name, why);
    }
}

fn health(resource: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let all = items(resource, "resources");
    for (k, one) in all.iter().enumerate() {
        let at_k = path.index(k);
        let health = text(one, "health");
        let known = ["Healthy", "Unhealthy", "Unknown"];
        if !known.contains(&health) {
            errors.not_supported(&at_k.child("health"), health, &known);
        }
        if one.get("message").and_then(Value::as_str).is_some_and(str::is_empty) {
            errors.required(&at_k.child("message"), "must be non-empty if specified");
        }
        let id = text(one, "resourceID");
        if all[..k].iter().any(|o| text(o, "resourceID") == id) {
            errors.duplicate(&at_k.child("resourceID"), id);
        }
    }
}
