//! Upstream's `ValidatePodSpec` and `ValidatePodTemplateSpec`.

use super::{affinity, containers, resources, security, volumes};
use crate::support::{at, flag, has, in_range, int, ip, items, label, one_of, subdomain, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::labels::{Selector, validation};
use machinery::{meta, names};
use serde_json::Value;

/// A pod spec, of a pod or of a template.
pub(crate) fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_of("", spec, path, errors);
}

/// [`validate`] for the pod of this name.
pub(super) fn validate_of(pod: &str, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let known = volumes::all(spec, pod, path, errors);
    containers::all(spec, &known, path, errors);
    host_network(spec, path, errors);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    validation::validate_labels(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    affinity::affinity(spec, path, errors);
    dns_config(spec, path, errors);
    let gates = path.child("readinessGates");
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        errors.invalid_each(&gates.index(i).child("conditionType"), kind, names::qualified_name(kind));
    }
    scheduling_gates(spec, path, errors);
    affinity::spread(spec, path, errors);
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        if !text(spec, name).is_empty() {
            subdomain(text(spec, name), &path.child(name), errors);
        }
    }
    in_range(spec, "activeDeadlineSeconds", 1, i64::from(i32::MAX), path, errors);
    for name in ["hostname", "subdomain"] {
        if !text(spec, name).is_empty() {
            label(text(spec, name), &path.child(name), errors);
        }
    }
    affinity::tolerations(spec, path, errors);
    let aliases = path.child("hostAliases");
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let at_i = aliases.index(i);
        ip(text(alias, "ip"), &at_i.child("ip"), errors);
        let names = at_i.child("hostnames");
        for (n, name) in texts(alias, "hostnames").enumerate() {
            subdomain(name, &names.index(n), errors);
        }
    }
    if has(spec, "resources") {
        resources::requirements(at(spec, "resources"), &path.child("resources"), errors);
    }
    if has(spec, "overhead") {
        let overhead = path.child("overhead");
        for (name, value) in crate::support::members(spec, "overhead") {
            resources::amount(name, value, &overhead.key(name), errors);
        }
    }
    one_of_preemption(spec, path, errors);
    operating_system(spec, path, errors);
}

fn one_of_preemption(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    crate::support::one_of_if_set(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, errors);
}

fn operating_system(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !has(spec, "os") {
        return;
    }
    let path = path.child("os");
    let name = text(at(spec, "os"), "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if !["linux", "windows"].contains(&name) {
        errors.not_supported(&path, name, &["linux", "windows"]);
    }
}

fn scheduling_gates(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let gates = path.child("schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        errors.invalid_each(&gates.index(i), name, names::qualified_name(name));
        if seen.contains(&name) {
            errors.duplicate(&gates.index(i), name);
        }
        seen.push(name);
    }
    if !seen.is_empty() && !text(spec, "nodeName").is_empty() {
        errors
            .forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// On the node's network a port is the same in the container and on the host.
fn host_network(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    let list = path.child("containers");
    for (i, container) in items(spec, "containers").iter().enumerate() {
        let at_i = list.index(i);
        let ports = at_i.child("ports");
        for (n, port) in items(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or(0);
            if host != 0 && host != int(port, "containerPort").unwrap_or(0) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&ports.index(n).child("hostPort"), host, detail);
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let config = at(spec, "dnsConfig");
    let servers: Vec<&str> = texts(config, "nameservers").collect();
    if text(spec, "dnsPolicy") == "None" {
        let at_config = path.child("dnsConfig");
        if config.is_null() {
            errors.required(&at_config, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errors.required(
                &at_config.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    if config.is_null() {
        return;
    }
    let path = path.child("dnsConfig");
    let at_servers = path.child("nameservers");
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(
            &at_servers,
            Value::from(servers.clone()),
            format!("must not have more than {MAX_NAMESERVERS} nameservers"),
        );
    }
    for (i, server) in servers.iter().enumerate() {
        ip(server, &at_servers.index(i), errors);
    }
    let searches: Vec<&str> = texts(config, "searches").collect();
    let at_searches = path.child("searches");
    if searches.len() > MAX_SEARCHES {
        errors.invalid(
            &at_searches,
            Value::from(searches.clone()),
            format!("must not have more than {MAX_SEARCHES} search paths"),
        );
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        errors.invalid(
            &at_searches,
            Value::from(searches.clone()),
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"),
        );
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.strip_suffix('.').filter(|s| !s.is_empty()).unwrap_or(search);
        if search != "." {
            // Underscores are common in service records and accepted here.
            errors.invalid_each(
                &at_searches.index(i),
                search,
                names::dns1123_subdomain_with_underscore(search),
            );
        }
    }
    let options = path.child("options");
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&options.index(i), "must not be empty");
        }
    }
}

/// A pod template: its metadata's maps and its spec; ephemeral containers have no place in it.
pub(crate) fn template(template: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let metadata = at(template, "metadata");
    validation::validate_labels(metadata.get("labels"), &path.child("labels"), errors);
    meta::validate_annotations(metadata.get("annotations"), &path.child("annotations"), errors);
    let spec = at(template, "spec");
    validate(spec, &path.child("spec"), errors);
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(
            &path.child("spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// The selector must take what the template makes.
pub(crate) fn selected(selector: &Selector, template: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if selector.is_empty() || selector.matches_object(template) {
        return;
    }
    let labels = at(at(template, "metadata"), "labels").clone();
    errors.invalid(&path.child("metadata.labels"), labels, "`selector` does not match template `labels`");
}

/// Controllers that keep pods running forever take no other restart policy and no deadline.
pub(crate) fn always_running(template: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let spec = at(template, "spec");
    let policy = text(spec, "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        errors.not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if has(spec, "activeDeadlineSeconds") {
        errors.forbidden(
            &path.child("spec.activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}
