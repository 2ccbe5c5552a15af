//! The group `autoscaling`, in its second version, which is the stored one.

use super::core::container_resource_name;
use super::kind::{Check, Kind};
use super::support::{
    amount_of, at, has, int, items, label, map_mut, nonnegative, nonnegative_quantity, one_of_pointer,
    path_segment, preset, preset_pointer, some_mut, supported_only, text, with_spec,
};
use machinery::field::{FieldErrors, Path};
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("autoscaling", "HorizontalPodAutoscaler")
    .status()
    .on_create(|o| o["status"] = json!({"currentMetrics": null, "desiredReplicas": 0}))
    .default(default)
    .validate(|o, errors| validate(o, None, errors))
    .checks(&[Check::MetaChange, Check::Change])
    .validate_update(|new, old, subresource, errors| match subresource {
        "" => validate(new, Some(old), errors),
        _ => {
            for name in ["currentReplicas", "desiredReplicas"] {
                nonnegative(at(new, "status"), name, &Path::new("status"), errors);
            }
        }
    })];

const SPEC: Path<'static> = Path::new("spec");

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        // Who says something of one direction is given the rest of both.
        let Some(behavior) = some_mut(spec, "behavior") else { return };
        for direction in ["scaleUp", "scaleDown"] {
            if map_mut(behavior, direction).is_none() {
                return;
            }
        }
        preset(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        rules(&mut behavior["scaleUp"], json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]));
        rules(&mut behavior["scaleDown"], json!([percent]));
    });
}

fn rules(value: &mut Value, policies: Value) {
    preset_pointer(value, "selectPolicy", "Max");
    // An empty list of policies is one.
    preset_pointer(value, "policies", policies);
}

/// Which API versions a reference may name.
#[derive(Clone, Copy)]
enum Versions {
    Any,
    Grouped,
    Readable,
}

fn validate(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let before = old.map(|o| at(o, "spec"));
    let (least, most) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    let had_none = before.is_some_and(|b| int(b, "minReplicas") == Some(0));
    let bound = i64::from(!had_none);
    if let Some(n) = least.filter(|n| *n < bound) {
        errors.invalid(&SPEC.child("minReplicas"), n, format!("must be greater than or equal to {bound}"));
    }
    let at_most = SPEC.child("maxReplicas");
    if most == 0 {
        errors.required(&at_most, "must be set and greater than 0");
    } else if most < 0 {
        errors.invalid(&at_most, most, "must be greater than or equal to 1");
    }
    if least.is_some_and(|n| most < n) {
        errors.invalid(&at_most, most, "must be greater than or equal to `minReplicas`");
    }
    let target = at(spec, "scaleTargetRef");
    let kept = before
        .map(|b| at(b, "scaleTargetRef"))
        .is_some_and(|b| ["apiVersion", "kind"].iter().all(|m| text(b, m) == text(target, m)));
    let versions = match text(target, "kind") {
        _ if kept => Versions::Any,
        "ReplicationController" => Versions::Readable,
        _ => Versions::Grouped,
    };
    reference(target, &SPEC.child("scaleTargetRef"), versions, errors);
    let described =
        |m: &Value| text(at(at(m, "object"), "describedObject"), "apiVersion").matches('/').count();
    let broken = before
        .is_some_and(|b| items(b, "metrics").iter().any(|m| text(m, "type") == "Object" && described(m) > 1));
    let versions = if broken { Versions::Any } else { Versions::Readable };
    let list = SPEC.child("metrics");
    for (i, m) in items(spec, "metrics").iter().enumerate() {
        metric(m, versions, &list.index(i), errors);
    }
    let outside = |m: &Value| matches!(text(m, "type"), "Object" | "External");
    if least == Some(0) && !items(spec, "metrics").iter().any(outside) {
        errors.forbidden(
            &list,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    let behavior = SPEC.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let value = at(at(spec, "behavior"), direction);
        if !value.is_null() {
            scaling_rules(value, &behavior.child(direction), errors);
        }
    }
}

fn reference(reference: &Value, path: &Path<'_>, versions: Versions, errors: &mut FieldErrors) {
    path_segment(reference, "kind", path, errors);
    path_segment(reference, "name", path, errors);
    let version = text(reference, "apiVersion");
    let why = match (versions, version.matches('/').count()) {
        (Versions::Any, _) | (Versions::Readable, 0 | 1) => return,
        (_, 2..) => format!("unexpected GroupVersion string: {version}"),
        _ if version.split_once('/').is_some_and(|(group, _)| !group.is_empty()) => return,
        _ => "apiVersion must specify API group".to_owned(),
    };
    errors.invalid(&path.child("apiVersion"), version, why);
}

fn scaling_rules(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let window = path.child("stabilizationWindowSeconds");
    match int(value, "stabilizationWindowSeconds").unwrap_or(0) {
        n if n < 0 => errors.invalid(&window, n, "must be greater than or equal to zero"),
        n if n > 3600 => errors.invalid(&window, n, "must be less than or equal to 3600"),
        _ => {}
    }
    one_of_pointer(value, "selectPolicy", &["Disabled", "Max", "Min"], path, errors);
    let list = path.child("policies");
    if items(value, "policies").is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (i, policy) in items(value, "policies").iter().enumerate() {
        let at_i = list.index(i);
        supported_only(policy, "type", &["Percent", "Pods"], &at_i, errors);
        if let Some(n) = Some(int(policy, "value").unwrap_or(0)).filter(|n| *n <= 0) {
            errors.invalid(&at_i.child("value"), n, "must be greater than zero");
        }
        match int(policy, "periodSeconds").unwrap_or(0) {
            n if n <= 0 => errors.invalid(&at_i.child("periodSeconds"), n, "must be greater than zero"),
            n if n > 1800 => {
                errors.invalid(&at_i.child("periodSeconds"), n, "must be less than or equal to 1800")
            }
            _ => {}
        }
    }
    if has(value, "tolerance") {
        nonnegative_quantity(&amount_of(at(value, "tolerance")), &path.child("tolerance"), errors);
    }
}

/// In the order in which they are looked at.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric(value: &Value, versions: Versions, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(value, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    supported_only(value, "type", TYPES, path, errors);
    let present: Vec<&str> = SOURCES.iter().map(|(_, f)| *f).filter(|f| has(value, f)).collect();
    if let Some(first) = present.first() {
        source(first, at(value, first), versions, &path.child(first), errors);
    }
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field);
    match expected {
        Some(field) if !has(value, field) => {
            errors.required(&path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
        None => supported_only(value, "type", TYPES, path, errors),
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|f| Some(*f) != expected) {
            errors.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn source(field: &str, source: &Value, versions: Versions, path: &Path<'_>, errors: &mut FieldErrors) {
    match field {
        "object" => {
            reference(at(source, "describedObject"), &path.child("describedObject"), versions, errors)
        }
        "resource" | "containerResource" => {
            let (name, at_name) = (text(source, "name"), path.child("name"));
            if name.is_empty() {
                errors.required(&at_name, "must specify a resource name");
            } else if field == "containerResource" {
                container_resource_name(name, &at_name, errors);
            }
        }
        _ => {}
    }
    if field == "containerResource" {
        let container = text(source, "container");
        if container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        } else {
            label(container, &path.child("container"), errors);
        }
    }
    if matches!(field, "object" | "external" | "pods") {
        let (metric, at_metric) = (at(source, "metric"), path.child("metric"));
        if text(metric, "name").is_empty() {
            errors.required(&at_metric.child("name"), "must specify a metric name");
        } else {
            path_segment(metric, "name", &at_metric, errors);
        }
    }
    target(field, at(source, "target"), &path.child("target"), errors);
}

fn target(field: &str, target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"] {
        let amount = amount_of(at(target, name));
        if has(target, name) && amount.sign() != 1 {
            errors.invalid(&path.child(name), amount.to_string(), "must be positive");
        }
    }
    if let Some(n) = int(target, "averageUtilization").filter(|n| *n < 1) {
        errors.invalid(&path.child("averageUtilization"), n, "must be greater than 0");
    }
    let (utilization, average, plain) =
        (has(target, "averageUtilization"), has(target, "averageValue"), has(target, "value"));
    let (at_utilization, at_average) = (path.child("averageUtilization"), path.child("averageValue"));
    match field {
        "resource" | "containerResource" if utilization && average => {
            errors.forbidden(&at_average, "may not set both a target raw value and a target utilization");
        }
        "resource" | "containerResource" if !utilization && !average => {
            let message = "must set either a target raw value or a target utilization";
            errors.required(&at_utilization, message);
        }
        "pods" if !average => {
            errors.required(&at_average, "must specify a positive target averageValue");
        }
        "object" if !plain && !average => {
            errors.required(&at_average, "must set either a target value or averageValue");
        }
        "external" if !plain && !average => {
            let message = "must set either a target value for metric or a per-pod target";
            errors.required(&at_average, message);
        }
        "external" if plain && average => {
            let message = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&path.child("value"), message);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    #[test]
    fn checks() {
        let row = find("autoscaling", "HorizontalPodAutoscaler").unwrap();
        let made = |spec: Value| {
            let mut object = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": spec});
            row.default(&mut object);
            object
        };
        let errors =
            |spec: Value| row.validate(&made(spec)).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
        assert_eq!(errors(json!({"scaleTargetRef": target, "maxReplicas": 3})), [""; 0]);
        assert_eq!(made(json!({}))["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(
            errors(json!({"scaleTargetRef": target, "maxReplicas": 1, "minReplicas": 2})),
            ["spec.maxReplicas: Invalid value: 1: must be greater than or equal to `minReplicas`"]
        );
        assert_eq!(
            errors(json!({"scaleTargetRef": {"kind": "a", "apiVersion": "b/c"}, "maxReplicas": 1})),
            ["spec.scaleTargetRef.name: Required value"]
        );
        assert_eq!(
            errors(json!({"scaleTargetRef": target, "maxReplicas": 1, "metrics": [{"type": "Pods"}]})),
            ["spec.metrics[0].pods: Required value: must populate information for the given metric source"]
        );
    }
}
