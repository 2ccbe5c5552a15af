//! The group `autoscaling`, in its second version, which is the stored one.

use super::kind::Kind;
use super::support::{at, has, int, items, nonnegative, one_of, preset, required, some_mut, text, with_spec};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::names;
use machinery::quantity::Quantity;
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("autoscaling", "HorizontalPodAutoscaler")
    .status()
    .on_create(|o| o["status"] = json!({"currentMetrics": null, "desiredReplicas": 0}))
    .default(default)
    .validate(validate)];

const SPEC: Path<'static> = Path::new("spec");

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if let Some(behavior) = some_mut(spec, "behavior") {
            if let Some(up) = some_mut(behavior, "scaleUp") {
                preset(up, "stabilizationWindowSeconds", 0);
                rules(
                    up,
                    json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                );
            }
            if let Some(down) = some_mut(behavior, "scaleDown") {
                rules(down, json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
            }
        }
    });
}

fn rules(value: &mut Value, policies: Value) {
    preset(value, "selectPolicy", "Max");
    if items(value, "policies").is_empty() {
        value["policies"] = policies;
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let least = int(spec, "minReplicas").unwrap_or(1);
    let most = int(spec, "maxReplicas").unwrap_or(0);
    if least < 1 {
        errors.invalid(&SPEC.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than 0");
    }
    if most < least {
        errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    target(at(spec, "scaleTargetRef"), &SPEC.child("scaleTargetRef"), errors);
    let list = SPEC.child("metrics");
    let mut only_external = !items(spec, "metrics").is_empty();
    for (i, m) in items(spec, "metrics").iter().enumerate() {
        metric(m, &list.index(i), errors);
        only_external &= matches!(text(m, "type"), "Object" | "External");
    }
    if least == 0 && !only_external {
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

fn target(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for name in ["kind", "name"] {
        let value = text(reference, name);
        if value.is_empty() {
            errors.required(&path.child(name), "");
        } else {
            errors.invalid_each(&path.child(name), value, names::path_segment(value, false));
        }
    }
}

fn scaling_rules(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(value, "stabilizationWindowSeconds") {
        nonnegative(value, "stabilizationWindowSeconds", path, errors);
        if n > 3600 {
            errors.invalid(
                &path.child("stabilizationWindowSeconds"),
                n,
                "must be less than or equal to 3600",
            );
        }
    }
    if has(value, "selectPolicy") {
        one_of(value, "selectPolicy", &["Disabled", "Max", "Min"], path, errors);
    }
    let list = path.child("policies");
    if items(value, "policies").is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (i, policy) in items(value, "policies").iter().enumerate() {
        let at_i = list.index(i);
        one_of(policy, "type", &["Percent", "Pods"], &at_i, errors);
        if let Some(n) = int(policy, "value").filter(|n| *n <= 0) {
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
}

const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("External", "external"),
    ("ContainerResource", "containerResource"),
];

fn metric(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(value, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
        return;
    }
    let Some((_, field)) = SOURCES.iter().find(|(k, _)| *k == kind) else {
        errors.not_supported(
            &path.child("type"),
            kind,
            &["ContainerResource", "External", "Object", "Pods", "Resource"],
        );
        return;
    };
    for (_, other) in SOURCES.iter().filter(|(_, f)| f != field) {
        if has(value, other) {
            errors.forbidden(
                &path.child(other),
                format!("must populate the given metric source only ({field})"),
            );
        }
    }
    if !has(value, field) {
        errors.required(&path.child(field), "must populate information for the given metric source");
        return;
    }
    let source = at(value, field);
    let path = path.child(field);
    if matches!(*field, "resource" | "containerResource") {
        if text(source, "name").is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        }
    } else {
        let identifier = at(source, "metric");
        required(identifier, "name", &path.child("metric"), errors);
        validate_label_selector(identifier.get("selector"), &path.child("metric.selector"), errors);
    }
    match *field {
        "object" => target(at(source, "describedObject"), &path.child("describedObject"), errors),
        "containerResource" => required(source, "container", &path, errors),
        _ => {}
    }
    amounts(field, at(source, "target"), &path.child("target"), errors);
}

fn amounts(field: &str, target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(target, "type").is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    } else {
        one_of(target, "type", &["AverageValue", "Utilization", "Value"], path, errors);
    }
    let (utilization, average, plain) =
        (has(target, "averageUtilization"), has(target, "averageValue"), has(target, "value"));
    match field {
        "resource" | "containerResource" if utilization && average => errors.forbidden(
            &path.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        "resource" | "containerResource" if !utilization && !average => {
            errors.required(
                &path.child("averageUtilization"),
                "must set either a target raw value or a target utilization",
            );
        }
        "pods" if !average => {
            errors.required(&path.child("averageValue"), "must specify a positive target averageValue")
        }
        "object" | "external" if !plain && !average => {
            errors.required(
                &path.child("averageValue"),
                "must set either a target value for metric or a per-pod target",
            );
        }
        _ => {}
    }
    if let Some(n) = int(target, "averageUtilization").filter(|n| *n < 1) {
        errors.invalid(&path.child("averageUtilization"), n, "must be greater than 0");
    }
    for name in ["value", "averageValue"] {
        if let Some(q) =
            at(target, name).as_str().and_then(|s| Quantity::parse(s).ok()).filter(|q| q.sign() != 1)
        {
            errors.invalid(&path.child(name), q.to_string(), "must be positive");
        }
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
            errors(json!({"scaleTargetRef": {"kind": "a"}, "maxReplicas": 1})),
            ["spec.scaleTargetRef.name: Required value"]
        );
        assert_eq!(
            errors(json!({"scaleTargetRef": target, "maxReplicas": 1, "metrics": [{"type": "Pods"}]})),
            ["spec.metrics[0].pods: Required value: must populate information for the given metric source"]
        );
    }
}
