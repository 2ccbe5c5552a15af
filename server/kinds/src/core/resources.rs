//! Resource names and amounts, wherever a list of them stands.

use crate::support::{at, members, text};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use machinery::quantity::Quantity;
use serde_json::Value;

const STANDARD_CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Names with a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !is_native(name) && !name.starts_with("requests.")
}

fn is_native(name: &str) -> bool {
    !name.contains('/')
        || name.split('/').next().is_some_and(|d| d == "kubernetes.io" || d.ends_with(".kubernetes.io"))
}

/// Amounts that can only be counted whole.
fn is_whole(name: &str) -> bool {
    is_extended(name)
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
        || name.starts_with("count/")
}

/// A name in a container's requests or limits.
fn container_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let bad = names::qualified_name(name);
    if !bad.is_empty() {
        errors.invalid_each(path, name, bad);
        return;
    }
    if !name.contains('/') {
        if !STANDARD_CONTAINER.contains(&name) && !is_hugepages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name)
        && (name.starts_with("requests.") || !names::qualified_name(&format!("requests.{name}")).is_empty())
    {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A container's resource, where it is named alone: one that upstream knows, besides what it says of containers'.
pub(crate) fn container_resource_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    any_name(name, path, errors);
    if !name.contains('/') {
        if !STANDARD_CONTAINER.contains(&name) && !is_hugepages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name)
        && (!is_extended(name) || !names::qualified_name(&format!("requests.{name}")).is_empty())
    {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A name in a quota or limit range.
pub(super) fn any_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let bad = names::qualified_name(name);
    if !bad.is_empty() {
        errors.invalid_each(path, name, bad);
    } else if !name.contains('/')
        && !STANDARD.contains(&name)
        && !is_hugepages(name.strip_prefix("requests.").unwrap_or(name))
    {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
}

/// An amount: it must be readable, not negative, and whole where parts make no sense.
pub(super) fn amount(
    name: &str,
    value: &Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> Option<Quantity> {
    let quantity = Quantity::parse(value.as_str().unwrap_or("")).ok()?;
    if quantity.sign() < 0 {
        errors.invalid(path, quantity.to_string(), "must be greater than or equal to 0");
    }
    if is_whole(name) && !quantity.is_whole() {
        errors.invalid(path, quantity.to_string(), "must be an integer");
    }
    Some(quantity)
}

/// A resource of a container, and how much of it.
pub(crate) fn container_amount(name: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    container_name(name, path, errors);
    amount(name, value, path, errors);
}

/// Huge pages come whole: their size is in their name.
fn whole_pages(name: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let Ok(quantity) = Quantity::parse(value.as_str().unwrap_or("")) else { return };
    let whole = Quantity::parse(size)
        .is_ok_and(|s| s.sign() > 0 && s.is_whole() && quantity.value() % s.value().max(1) == 0);
    if !whole {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.invalid(path, quantity.to_string(), detail);
    }
}

/// Upstream's `ValidateResourceRequirements`.
pub(crate) fn requirements(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    for (name, value) in members(resources, "limits") {
        container_name(name, &limit_path.key(name), errors);
        amount(name, value, &limit_path.key(name), errors);
        whole_pages(name, value, &limit_path.key(name), errors);
    }
    for (name, value) in members(resources, "requests") {
        let at_name = request_path.key(name);
        container_name(name, &at_name, errors);
        let Some(request) = amount(name, value, &at_name, errors) else { continue };
        match at(resources, "limits").get(name).and_then(Value::as_str).and_then(|s| Quantity::parse(s).ok())
        {
            Some(limit) => {
                let strict = is_extended(name) || is_hugepages(name);
                if strict && request != limit {
                    errors.invalid(
                        &request_path,
                        request.to_string(),
                        format!("must be equal to {name} limit of {limit}"),
                    );
                } else if request > limit {
                    errors.invalid(
                        &request_path,
                        request.to_string(),
                        format!("must be less than or equal to {name} limit of {limit}"),
                    );
                }
            }
            None if is_extended(name) || is_hugepages(name) => {
                errors.required(&limit_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        whole_pages(name, value, &at_name, errors);
    }
    let named = |test: &dyn Fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|list| members(resources, list).any(|(name, _)| test(name)))
    };
    if named(&is_hugepages) && !named(&|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    let claims = path.child("claims");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, claim) in crate::support::items(resources, "claims").iter().enumerate() {
        let key = (text(claim, "name"), text(claim, "request"));
        if key.0.is_empty() {
            errors.required(&claims.index(i), "");
        } else if seen.contains(&key) {
            errors.duplicate(&claims.index(i), claim.clone());
        }
        seen.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(resources: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        requirements(&resources, &Path::new("resources"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classic_mistakes() {
        assert!(check(json!({"limits": {"cpu": "1", "nvidia.com/gpu": "1"}, "requests": {"cpu": "500m", "nvidia.com/gpu": "1"}})).is_empty());
        assert_eq!(
            check(json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "200m"}})),
            ["resources.requests: Invalid value: \"200m\": must be less than or equal to cpu limit of 100m"]
        );
        assert_eq!(
            check(json!({"limits": {"memory": "-1"}})),
            ["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            check(json!({"limits": {"ram": "1"}})),
            ["resources.limits[ram]: Invalid value: \"ram\": must be a standard resource for containers"]
        );
        assert_eq!(
            check(json!({"limits": {"a.b/c": "1500m"}})),
            ["resources.limits[a.b/c]: Invalid value: \"1500m\": must be an integer"]
        );
        assert_eq!(
            check(json!({"requests": {"a.b/c": "1"}})),
            ["resources.limits: Required value: Limit must be set for non overcommitable resources"]
        );
    }
}
