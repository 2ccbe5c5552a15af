//! Limit ranges and resource quotas.

use super::resources;
use crate::kind::{Kind, Metadata};
use crate::support::{at, immutable, items, items_mut, map_mut, members, some_mut, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use machinery::quantity::Quantity;
use serde_json::{Map, Value};

pub(super) const LIMIT_RANGE: Kind = Kind::namespaced("", "LimitRange")
    .metadata(Metadata::Whole)
    .default(range_defaults)
    .validate(validate_range);
pub(super) const QUOTA: Kind = Kind::namespaced("", "ResourceQuota")
    .status()
    .validate(validate_quota)
    .validate_update(|new, old, subresource, errors| {
        if subresource.is_empty() {
            let scopes = |o: &Value| at(at(o, "spec"), "scopes").clone();
            immutable(&scopes(new), &scopes(old), &Path::new("spec.scopes"), errors);
        }
    });

fn range_defaults(object: &mut Value) {
    let Some(spec) = some_mut(object, "spec") else { return };
    for limit in items_mut(spec, "limits").filter(|l| text(l, "type") == "Container") {
        for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
        {
            let from: Map<String, Value> = at(limit, source).as_object().cloned().unwrap_or_default();
            if from.is_empty() {
                continue;
            }
            if let Some(into) = map_mut(limit, target) {
                for (name, amount) in from {
                    into.entry(name).or_insert(amount);
                }
            }
        }
    }
}

fn validate_range(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("spec.limits");
    let mut seen: Vec<&str> = Vec::new();
    for (i, limit) in items(at(object, "spec"), "limits").iter().enumerate() {
        let at_i = list.index(i);
        let kind = text(limit, "type");
        errors.invalid_each(&at_i.child("type"), kind, names::qualified_name(kind));
        if seen.contains(&kind) {
            errors.duplicate(&at_i.child("type"), kind);
        }
        seen.push(kind);
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            let path = at_i.child(field);
            for (name, _) in members(limit, field) {
                resources::any_name(name, &path.key(name), errors);
            }
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if members(limit, field).next().is_some() {
                    errors.forbidden(&at_i.child(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && at(limit, "min").get("storage").is_none()
            && at(limit, "max").get("storage").is_none()
        {
            errors.required(
                &at_i.child("limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
        bounds(limit, &at_i, errors);
    }
}

fn bounds(limit: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut names: Vec<&String> = ["max", "min", "default", "defaultRequest"]
        .iter()
        .flat_map(|f| members(limit, f).map(|(n, _)| n))
        .collect();
    names.sort();
    names.dedup();
    let amount = |field: &str, name: &str| {
        at(limit, field).get(name).and_then(Value::as_str).and_then(|s| Quantity::parse(s).ok())
    };
    for name in names {
        let mut check = |low: &str, high: &str, what: &str, against: &str| {
            if let (Some(a), Some(b)) = (amount(low, name), amount(high, name))
                && a > b
            {
                let field = path.child(if low == "min" && high == "max" { "min" } else { "defaultRequest" });
                let shown =
                    if low == "min" { path.child(if high == "max" { "min" } else { high }) } else { field };
                errors.invalid(
                    &shown.key(name),
                    a.to_string(),
                    format!("{what} value {a} is greater than {against} value {b}"),
                );
            }
        };
        check("min", "max", "min", "max");
        check("min", "defaultRequest", "min", "default request");
        check("defaultRequest", "max", "default request", "max");
        check("defaultRequest", "default", "default request", "default limit");
        if let (Some(a), Some(b)) = (amount("default", name), amount("max", name))
            && a > b
        {
            errors.invalid(
                &path.child("default").key(name),
                a.to_string(),
                format!("default value {a} is greater than max value {b}"),
            );
        }
    }
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn validate_quota(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let hard = Path::new("spec.hard");
    for (name, value) in members(spec, "hard") {
        resources::any_name(name, &hard.key(name), errors);
        resources::amount(name, value, &hard.key(name), errors);
    }
    let scopes: Vec<&str> = texts(spec, "scopes").collect();
    let path = Path::new("spec.scopes");
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&path, Value::from(scopes.clone()), "unsupported scope");
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            errors.invalid(&path, Value::from(scopes.clone()), "conflicting scopes");
        }
    }
    let selector = Path::new("spec.scopeSelector.matchExpressions");
    for (i, e) in items(at(spec, "scopeSelector"), "matchExpressions").iter().enumerate() {
        let at_i = selector.index(i);
        let name = text(e, "scopeName");
        if !SCOPES.contains(&name) {
            errors.invalid(&at_i.child("scopeName"), name, "unsupported scope");
        }
        let values = items(e, "values");
        match text(e, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &at_i.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                &at_i.child("values"),
                Value::Array(values.to_vec()),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at_i.child("operator"), other, "not a valid selector operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static RANGE: Kind = LIMIT_RANGE;
    static QUOTAS: Kind = QUOTA;

    #[test]
    fn ranges() {
        let mut object = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}});
        assert_eq!(
            (&RANGE).validate(&object).0[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
        object["spec"]["limits"][0]["min"]["cpu"] = "1".into();
        (&RANGE).default(&mut object);
        assert_eq!(object["spec"]["limits"][0]["defaultRequest"]["cpu"], "1");
        assert!((&RANGE).validate(&object).is_empty());
    }

    #[test]
    fn quotas() {
        let object = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"hard": {"pods": "1.5", "ram": "1", "count/x.y": "3"}}});
        let got: Vec<_> = (&QUOTAS).validate(&object).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.hard[ram]: Invalid value: \"ram\": must be a standard resource type or fully qualified",
            ]
        );
    }
}
