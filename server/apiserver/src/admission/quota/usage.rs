//! What one object uses, and which quotas look at it.

use super::super::support::{Resources, pod_resources};
use crate::reader::{items, text};
use machinery::quantity::{Format, Quantity};
use serde_json::Value;

fn one() -> Quantity {
    Quantity::from_value(1, Format::DecimalSI)
}

/// The name under which upstream counts objects of a resource.
pub(super) fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// What `object` uses, by quota resource name.
pub(super) fn usage(group: &str, resource: &str, object: &Value) -> Resources {
    let mut out = Resources::new();
    out.insert(count_name(group, resource), one());
    match (group, resource) {
        ("", "pods") => pod_usage(object, &mut out),
        ("", "services") => service_usage(object, &mut out),
        ("", "persistentvolumeclaims") => claim_usage(object, &mut out),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            out.insert(resource.into(), one());
        }
        _ => {}
    }
    out
}

pub(super) fn is_terminal(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")
}

fn pod_usage(pod: &Value, out: &mut Resources) {
    // An ended pod still counts as an object, and uses nothing.
    if is_terminal(pod) {
        return;
    }
    out.insert("pods".into(), one());
    for (resource, quantity) in pod_resources(pod, "requests") {
        match resource.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => drop(out.insert(resource.clone(), quantity)),
            r if r.starts_with("hugepages-") => drop(out.insert(resource.clone(), quantity)),
            _ => {}
        }
        out.insert(format!("requests.{resource}"), quantity);
    }
    for (resource, quantity) in pod_resources(pod, "limits") {
        if matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{resource}"), quantity);
        }
    }
}

fn service_usage(service: &Value, out: &mut Resources) {
    out.insert("services".into(), one());
    let ports = items(service, "/spec/ports").len() as i64;
    let node_ports = |n: i64| Quantity::from_value(n, Format::DecimalSI);
    match text(service, "/spec/type") {
        "NodePort" => drop(out.insert("services.nodeports".into(), node_ports(ports))),
        "LoadBalancer" => {
            out.insert("services.loadbalancers".into(), one());
            let allocates = service["spec"]["allocateLoadBalancerNodePorts"] != false;
            let given =
                items(service, "/spec/ports").iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0);
            let count = if allocates { ports } else { given.count() as i64 };
            out.insert("services.nodeports".into(), node_ports(count));
        }
        _ => {}
    }
}

fn claim_usage(claim: &Value, out: &mut Resources) {
    out.insert("persistentvolumeclaims".into(), one());
    let size = Quantity::parse(text(claim, "/spec/resources/requests/storage")).unwrap_or_default();
    out.insert("requests.storage".into(), size);
    let legacy = super::super::support::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    let class = legacy.unwrap_or_else(|| text(claim, "/spec/storageClassName"));
    if !class.is_empty() {
        out.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
        out.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), size);
    }
}

/// Whether the quota's scopes include the object; scopes are about pods only.
pub(super) fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let scopes = items(quota, "/spec/scopes");
    let expressions = items(quota, "/spec/scopeSelector/matchExpressions");
    if scopes.is_empty() && expressions.is_empty() {
        return true;
    }
    let pod = (group, resource) == ("", "pods");
    pod && scopes.iter().all(|s| scope_matches(s.as_str().unwrap_or(""), "Exists", &[], object))
        && expressions
            .iter()
            .all(|e| scope_matches(text(e, "/scopeName"), text(e, "/operator"), items(e, "/values"), object))
}

fn scope_matches(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    let found = match scope {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "CrossNamespacePodAffinity" => cross_namespace(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            let listed = values.iter().any(|v| v == class);
            return match operator {
                "In" => !class.is_empty() && listed,
                "NotIn" => !class.is_empty() && !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            };
        }
        _ => false,
    };
    if operator == "DoesNotExist" { !found } else { found }
}

fn best_effort(pod: &Value) -> bool {
    let asks = |member| {
        pod_resources(pod, member).iter().any(|(r, q)| matches!(r.as_str(), "cpu" | "memory") && !q.is_zero())
    };
    !asks("requests") && !asks("limits")
}

fn cross_namespace(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][kind];
        let required = items(affinity, "/requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = items(affinity, "/preferredDuringSchedulingIgnoredDuringExecution").iter();
        required
            .chain(preferred.map(|p| &p["podAffinityTerm"]))
            .any(|term| !items(term, "/namespaces").is_empty() || !term["namespaceSelector"].is_null())
    })
}

/// Compute resources a quota limits that some container of the pod leaves open, as upstream names them.
pub(super) fn unspecified(pod: &Value, limited: &Resources) -> Option<String> {
    let mut missing = Vec::new();
    for resource in limited.keys() {
        let (member, bare) = match resource.as_str() {
            "cpu" | "memory" => ("requests", resource.as_str()),
            r => match r.split_once('.') {
                Some((member @ ("requests" | "limits"), bare @ ("cpu" | "memory"))) => (member, bare),
                _ => continue,
            },
        };
        if !pod["spec"]["resources"][member][bare].is_null() {
            continue;
        }
        let open = |kind: &str| -> Vec<String> {
            let all = pod["spec"][kind].as_array().into_iter().flatten();
            let lacks = all.filter(|c| c["resources"][member][bare].is_null());
            lacks.map(|c| text(c, "/name").to_owned()).collect()
        };
        let mut names = open("containers");
        names.extend(open("initContainers"));
        if !names.is_empty() {
            names.sort();
            missing.push(format!("{resource} for: {}", names.join(",")));
        }
    }
    if missing.is_empty() { None } else { Some(missing.join("; ")) }
}
