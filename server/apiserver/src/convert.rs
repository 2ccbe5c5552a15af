//! Between the versions of one kind. Most differ in `apiVersion` alone; the few that differ in shape are here.

mod devices;

use crate::resolve::Resource;
use serde_json::{Map, Value, json};

/// From the request's version to the stored one.
pub fn to_storage(resource: &Resource, mut object: Value) -> Value {
    if resource.is_storage_version() {
        return object;
    }
    object["apiVersion"] = resource.storage_api_version().into();
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "v1", "Event") => rename(&mut object, EVENT, true),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v2(&mut object),
        ("resource.k8s.io", "v1beta1", kind) => devices::to_v1(kind, &mut object),
        _ => {}
    }
    object
}

/// From the stored version to the request's.
pub fn from_storage(resource: &Resource, mut object: Value) -> Value {
    if resource.is_storage_version() {
        return object;
    }
    object["apiVersion"] = resource.api_version().into();
    match (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "v1", "Event") => rename(&mut object, EVENT, false),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(&mut object),
        ("resource.k8s.io", "v1beta1", kind) => devices::to_v1beta1(kind, &mut object),
        _ => {}
    }
    object
}

/// Whether the kind's versions differ in more than their names.
pub fn is_reshaped(resource: &Resource) -> bool {
    resource.custom.is_none()
        && matches!(
            (resource.storage.0.as_str(), resource.kind.as_str()),
            ("", "Event")
                | ("autoscaling", "HorizontalPodAutoscaler")
                | ("resource.k8s.io", "ResourceClaim" | "ResourceClaimTemplate" | "ResourceSlice")
        )
}

/// An object of such a kind in another of its versions.
pub fn reshape(kind: &str, object: &Value, from: &str, to: &str) -> Option<Value> {
    let mut out = object.clone();
    match (kind, from, to) {
        ("Event", "events.k8s.io/v1", "v1") => rename(&mut out, EVENT, true),
        ("Event", "v1", "events.k8s.io/v1") => rename(&mut out, EVENT, false),
        ("HorizontalPodAutoscaler", "autoscaling/v1", "autoscaling/v2") => autoscaler_to_v2(&mut out),
        ("HorizontalPodAutoscaler", "autoscaling/v2", "autoscaling/v1") => autoscaler_to_v1(&mut out),
        (_, "resource.k8s.io/v1beta1", _) => devices::to_v1(kind, &mut out),
        (_, _, "resource.k8s.io/v1beta1") => devices::to_v1beta1(kind, &mut out),
        (_, "resource.k8s.io/v1" | "resource.k8s.io/v1beta2", _) => {}
        _ => return None,
    }
    out["apiVersion"] = to.into();
    Some(out)
}

/// (events.k8s.io/v1, v1).
const EVENT: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(object: &mut Value, names: &[(&str, &str)], forward: bool) {
    let Some(map) = object.as_object_mut() else { return };
    for (a, b) in names {
        let (from, to) = if forward { (a, b) } else { (b, a) };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn autoscaler_to_v2(object: &mut Value) {
    let mut metrics =
        take_annotation(object, METRICS_ANNOTATION).and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let behavior = take_annotation(object, BEHAVIOR_ANNOTATION);
    let conditions = take_annotation(object, CONDITIONS_ANNOTATION);
    let current = take_annotation(object, CURRENT_ANNOTATION);
    if let Some(spec) = object["spec"].as_object_mut() {
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
            metrics.insert(
                0,
                json!({"type": "Resource", "resource": {
                    "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}),
            );
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut metrics = current.and_then(|v| v.as_array().cloned()).unwrap_or_default();
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null()) {
            metrics.insert(
                0,
                json!({"type": "Resource", "resource": {
                    "name": "cpu", "current": {"averageUtilization": percent, "averageValue": "0"}}}),
            );
        }
        status.insert("currentMetrics".into(), if metrics.is_empty() { Value::Null } else { metrics.into() });
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

fn autoscaler_to_v1(object: &mut Value) {
    let mut annotations = Map::new();
    if let Some(spec) = object["spec"].as_object_mut() {
        let mut rest = Vec::new();
        for metric in spec.remove("metrics").and_then(|m| m.as_array().cloned()).unwrap_or_default() {
            let utilization = &metric["resource"]["target"]["averageUtilization"];
            if metric["resource"]["name"] == "cpu" && utilization.is_number() {
                spec.insert("targetCPUUtilizationPercentage".into(), utilization.clone());
            } else {
                rest.push(metric);
            }
        }
        if !rest.is_empty() {
            annotations.insert(METRICS_ANNOTATION.into(), Value::Array(rest).to_string().into());
        }
        if let Some(behavior) = spec.remove("behavior").filter(|b| !b.is_null()) {
            annotations.insert(BEHAVIOR_ANNOTATION.into(), behavior.to_string().into());
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut rest = Vec::new();
        for metric in status.remove("currentMetrics").and_then(|m| m.as_array().cloned()).unwrap_or_default()
        {
            let utilization = &metric["resource"]["current"]["averageUtilization"];
            if metric["resource"]["name"] == "cpu" && utilization.is_number() {
                status.insert("currentCPUUtilizationPercentage".into(), utilization.clone());
            } else {
                rest.push(metric);
            }
        }
        if !rest.is_empty() {
            annotations.insert(CURRENT_ANNOTATION.into(), Value::Array(rest).to_string().into());
        }
        if let Some(conditions) = status.remove("conditions").filter(|c| !c.is_null()) {
            annotations.insert(CONDITIONS_ANNOTATION.into(), conditions.to_string().into());
        }
        for count in ["currentReplicas", "desiredReplicas"] {
            status.entry(count).or_insert(0.into());
        }
    }
    if annotations.is_empty() {
        return;
    }
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    if let Some(all) = object["metadata"]["annotations"].as_object_mut() {
        all.extend(annotations);
    }
}

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let text = object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?.remove(name)?;
    serde_json::from_str(text.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscaler_versions_round_trip() {
        let v1 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let mut v2 = v1.clone();
        autoscaler_to_v2(&mut v2);
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        let mut back = v2;
        autoscaler_to_v1(&mut back);
        assert_eq!(back, v1);
    }
}
