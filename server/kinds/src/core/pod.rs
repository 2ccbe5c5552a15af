//! Pods.

use super::{pod_defaults, pod_spec, qos};
use crate::kind::{Kind, Metadata, carry};
use crate::support::{at, flag, has, int, items, same, text};
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use machinery::names;
use serde_json::Value;

pub(super) const KIND: Kind = Kind::namespaced("", "Pod")
    .metadata(Metadata::Both)
    .status()
    .generation()
    .default(pod_defaults::pod)
    .on_create(create)
    .on_update(update)
    .validate(validate)
    .validate_update(validate_update)
    .select(select)
    .grace(grace)
    .warn(|o, old| super::warnings::pod(at(o, "spec"), old.map(|o| at(o, "spec")), "spec"));

const MIRROR: &str = "kubernetes.io/config.mirror";

fn create(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("ephemeralContainers");
    }
    pod_defaults::initial_status(object);
}

fn update(object: &mut Value, old: &Value, subresource: &str) {
    match subresource {
        "" => {
            // Ephemeral containers come by their own subresource, images and the rest by this.
            let kept = at(at(old, "spec"), "ephemeralContainers").clone();
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                if kept.is_null() {
                    spec.remove("ephemeralContainers");
                } else {
                    spec.insert("ephemeralContainers".into(), kept);
                }
            }
        }
        "status" => {
            let class = at(at(old, "status"), "qosClass").clone();
            if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
                let class = if class.is_null() { qos::class(at(old, "spec")).into() } else { class };
                status.insert("qosClass".into(), class);
            }
        }
        "ephemeralcontainers" => {
            let added = at(at(object, "spec"), "ephemeralContainers").clone();
            carry(object, old, "spec");
            carry(object, old, "status");
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.insert("ephemeralContainers".into(), added);
            }
        }
        "resize" => resize(object, old),
        _ => {}
    }
}

/// Of the wanted spec, resources alone are taken.
fn resize(object: &mut Value, old: &Value) {
    let wanted = object.get("spec").cloned().unwrap_or_default();
    carry(object, old, "spec");
    carry(object, old, "status");
    for list in ["containers", "initContainers"] {
        for (i, source) in items(&wanted, list).iter().enumerate() {
            if let Some(container) = object.pointer_mut(&format!("/spec/{list}/{i}"))
                && text(container, "name") == text(source, "name")
            {
                for member in ["resources", "resizePolicy"] {
                    if let Some(value) = source.get(member) {
                        container[member] = value.clone();
                    }
                }
            }
        }
    }
    if let Some(resources) = wanted.get("resources") {
        object["spec"]["resources"] = resources.clone();
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec_path = Path::new("spec");
    let spec = at(object, "spec");
    if meta::annotation(object, MIRROR).is_some() && text(spec, "nodeName").is_empty() {
        let annotations = Path::new("metadata.annotations");
        errors.invalid(
            &annotations.key(MIRROR),
            meta::annotation(object, MIRROR).unwrap_or(""),
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    pod_spec::validate_of(meta::name(object), spec, &spec_path, errors);
}

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    match subresource {
        "" => validate_spec_update(new, old, errors),
        "status" => validate_status(new, old, errors),
        "ephemeralcontainers" => validate_ephemeral(new, old, errors),
        "resize" => {
            let class = qos::class(at(new, "spec"));
            if class != qos::class(at(old, "spec")) {
                errors.invalid(
                    &Path::new("spec"),
                    class,
                    "Pod QOS Class may not change as a result of resizing",
                );
            }
            pod_spec::validate(at(new, "spec"), &Path::new("spec"), errors);
        }
        _ => {}
    }
}

fn validate_spec_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(spec, list), items(before, list));
        if now.len() != then.len() {
            errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return;
        }
        let at_list = path.child(list);
        for (i, c) in now.iter().enumerate() {
            let image = text(c, "image");
            if image.is_empty() {
                errors.required(&at_list.index(i).child("image"), "");
            }
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (int(spec, "activeDeadlineSeconds"), int(before, "activeDeadlineSeconds")) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.invalid(&deadline, n, names::range_message(0, i64::from(i32::MAX)));
            return;
        }
        (Some(n), Some(o)) if o < n => {
            errors.invalid(&deadline, n, "must be less than or equal to previous value");
            return;
        }
        (None, Some(_)) => {
            errors.invalid(&deadline, Value::Null, "must not update from a positive integer to nil value")
        }
        _ => {}
    }
    let added = items(spec, "tolerations");
    for toleration in items(before, "tolerations") {
        // Only how long a taint is borne may change on one that is there.
        let like = |t: &&Value| {
            ["key", "operator", "value", "effect"].iter().all(|m| text(t, m) == text(toleration, m))
        };
        if !added.iter().any(|t| like(&t)) {
            errors.forbidden(
                &path.child("tolerations"),
                "existing toleration can not be modified except its tolerationSeconds",
            );
            return;
        }
    }
    let mut munged = spec.clone();
    for list in ["containers", "initContainers"] {
        for (i, c) in items(before, list).iter().enumerate() {
            if let Some(target) = munged.get_mut(list).and_then(|l| l.get_mut(i)) {
                target["image"] = at(c, "image").clone();
            }
        }
    }
    for member in ["activeDeadlineSeconds", "tolerations"] {
        carry(&mut munged, before, member);
    }
    if int(before, "terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(spec, "terminationGracePeriodSeconds") == Some(1)
    {
        carry(&mut munged, before, "terminationGracePeriodSeconds");
    }
    if has_gates(before) {
        gated(&mut munged, before, errors);
    }
    if !same(Some(&munged), Some(before)) {
        errors.forbidden(&path, format!("{UPDATABLE}\n{}", difference(before, &munged)));
    }
}

fn has_gates(spec: &Value) -> bool {
    !items(spec, "schedulingGates").is_empty()
}

/// While gates hold a pod its node selector may be narrowed and gates may go.
fn gated(munged: &mut Value, before: &Value, errors: &mut FieldErrors) {
    let gates = Path::new("spec.schedulingGates");
    for (i, gate) in items(munged, "schedulingGates").iter().enumerate() {
        if !items(before, "schedulingGates").contains(gate) {
            errors.forbidden(
                &gates.index(i),
                "only deletion is allowed, but found new scheduling gate '".to_string()
                    + text(gate, "name")
                    + "'",
            );
        }
    }
    carry(munged, before, "schedulingGates");
    let kept = crate::support::members(before, "nodeSelector")
        .all(|(k, v)| at(munged, "nodeSelector").get(k) == Some(v));
    if !kept {
        errors.invalid(
            &Path::new("spec.nodeSelector"),
            at(munged, "nodeSelector").clone(),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    carry(munged, before, "nodeSelector");
    if !has(before, "affinity") {
        carry(munged, before, "affinity");
    }
}

/// The members that differ, one line removed and one added for each.
fn difference(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    walk("", Some(old), Some(new), &mut lines);
    lines.join("\n")
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    if same(old, new) {
        return;
    }
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{key}"), a.get(key), b.get(key), lines);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{i}]"), Some(x), Some(y), lines);
            }
        }
        _ => {
            lines.extend(old.map(|v| format!("-  {path}: {v}")));
            lines.extend(new.map(|v| format!("+  {path}: {v}")));
        }
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let nominated = text(at(new, "status"), "nominatedNodeName");
    if !nominated.is_empty() {
        errors.invalid_each(
            &Path::new("status.nominatedNodeName"),
            nominated,
            names::dns1123_subdomain(nominated),
        );
    }
    // A container that ended and is not to run again stays ended.
    let spec = at(old, "spec");
    let path = Path::new("status");
    let policy = text(spec, "restartPolicy");
    for (list, restarts) in
        [("containerStatuses", policy == "Always"), ("initContainerStatuses", init_restarts(spec))]
    {
        if restarts {
            continue;
        }
        let statuses = path.child(list);
        for (i, before) in items(at(old, "status"), list).iter().enumerate() {
            let state = at(before, "state");
            if !has(state, "terminated") {
                continue;
            }
            let failed = int(at(state, "terminated"), "exitCode").unwrap_or(0) != 0;
            if failed && policy == "OnFailure" {
                continue;
            }
            let after =
                items(at(new, "status"), list).iter().find(|s| text(s, "name") == text(before, "name"));
            if after.is_some_and(|a| !has(at(a, "state"), "terminated")) {
                errors.forbidden(
                    &statuses.index(i).child("state"),
                    "may not be transitioned to non-terminated state",
                );
            }
        }
    }
}

/// Init containers restart with the pod unless the pod never does; sidecars always.
fn init_restarts(spec: &Value) -> bool {
    text(spec, "restartPolicy") != "Never"
        || items(spec, "initContainers").iter().any(|c| text(c, "restartPolicy") == "Always")
}

fn validate_ephemeral(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.ephemeralContainers");
    let now = items(at(new, "spec"), "ephemeralContainers");
    for container in items(at(old, "spec"), "ephemeralContainers") {
        let name = text(container, "name");
        match now.iter().find(|c| text(c, "name") == name) {
            None => errors.forbidden(
                &path,
                format!(
                    "existing ephemeral containers {} may not be removed\n",
                    machinery::field::quote(name)
                ),
            ),
            Some(c) if !same(Some(c), Some(container)) => errors.forbidden(
                &path,
                format!(
                    "existing ephemeral containers {} may not be changed\n",
                    machinery::field::quote(name)
                ),
            ),
            Some(_) => {}
        }
    }
    pod_spec::validate(at(new, "spec"), &Path::new("spec"), errors);
}

fn select(object: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (at(object, "spec"), at(object, "status"));
    let ip = items(status, "podIPs").first().map_or_else(|| text(status, "podIP"), |i| text(i, "ip"));
    vec![
        ("spec.nodeName", text(spec, "nodeName").into()),
        ("spec.restartPolicy", text(spec, "restartPolicy").into()),
        ("spec.schedulerName", text(spec, "schedulerName").into()),
        ("spec.serviceAccountName", text(spec, "serviceAccountName").into()),
        ("spec.hostNetwork", flag(spec, "hostNetwork").to_string()),
        ("status.phase", text(status, "phase").into()),
        ("status.podIP", ip.into()),
        ("status.podIPs", ip.into()),
        ("status.nominatedNodeName", text(status, "nominatedNodeName").into()),
    ]
}

fn grace(object: &Value, requested: Option<i64>) -> Option<i64> {
    let (spec, status) = (at(object, "spec"), at(object, "status"));
    let period = requested.or_else(|| int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
    let over = matches!(text(status, "phase"), "Failed" | "Succeeded");
    if text(spec, "nodeName").is_empty() || over {
        return Some(0);
    }
    Some(if period < 0 { 1 } else { period })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static POD: Kind = KIND;

    fn pod(spec: Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec});
        (&POD).default(&mut object);
        (&POD).prepare_for_create(&mut object);
        object
    }

    fn errors(spec: Value) -> Vec<String> {
        (&POD).validate(&pod(spec)).0.iter().map(ToString::to_string).collect()
    }

    fn container(extra: Value) -> Value {
        let mut c = json!({"name": "c", "image": "nginx"});
        machinery::patch::merge_patch::apply(&mut c, &extra);
        json!({"containers": [c]})
    }

    #[test]
    fn creation() {
        let object = pod(container(json!({})));
        assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(object["metadata"]["generation"], 1);
        assert!((&POD).validate(&object).is_empty());
        let gated =
            pod(json!({"containers": [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "a/b"}]}));
        assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn classic_mistakes() {
        for (spec, want) in [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [{"image": "a"}]}), "spec.containers[0].name: Required value"),
            (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
            (
                json!({"containers": [{"name": "a", "image": " b"}]}),
                "spec.containers[0].image: Invalid value: \" b\": must not have leading or trailing whitespace",
            ),
            (
                json!({"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                container(json!({"imagePullPolicy": "x"})),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
            (
                container(json!({"ports": [{"containerPort": 0}]})),
                "spec.containers[0].ports[0].containerPort: Required value",
            ),
            (
                container(json!({"ports": [{"containerPort": 70000}]})),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "protocol": "X"}]})),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                container(json!({"env": [{"name": "a=b"}]})),
                "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ),
            (
                container(json!({"env": [{"name": "a", "valueFrom": {}}]})),
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            (
                container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                container(json!({"livenessProbe": {}})),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                container(json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}})),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                container(
                    json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
                ),
                "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "i", "image": "i", "readinessProbe": {"exec": {"command": ["a"]}}}]}),
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "x"}),
                "spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "hostPath": {"path": ""}}]}),
                "spec.volumes[0].hostPath.path: Required value",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]}),
                "spec.volumes[0].emptyDir: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"value": "x"}]}),
                "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ),
        ] {
            assert_eq!(errors(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn what_may_change() {
        let old = pod(container(json!({})));
        let update = |f: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            f(&mut new);
            (&POD).default(&mut new);
            (&POD).prepare_for_update(&mut new, &old, "");
            (
                (&POD).validate_update(&new, &old, "").0.iter().map(ToString::to_string).collect::<Vec<_>>(),
                new,
            )
        };
        let (errors, new) = update(&|p| p["spec"]["containers"][0]["image"] = "x".into());
        assert!(errors.is_empty() && new["metadata"]["generation"] == 2, "{errors:?}");
        let (errors, _) = update(&|p| p["spec"]["containers"][0]["command"] = json!(["x"]));
        assert!(errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"), "{errors:?}");
        assert!(errors[0].ends_with("\n+  containers[0].command: [\"x\"]"), "{errors:?}");
        let (errors, _) = update(&|p| {
            p["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "i"}))
        });
        assert_eq!(errors, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
        let (errors, new) = update(&|p| p["status"]["phase"] = "Running".into());
        assert!(
            errors.is_empty() && new["status"]["phase"] == "Pending" && new["metadata"]["generation"] == 1
        );
        let (errors, _) = update(&|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}]));
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn deletion() {
        let mut object = pod(container(json!({})));
        assert_eq!((&POD).grace_period(&object, None), Some(0));
        object["spec"]["nodeName"] = "n".into();
        assert_eq!((&POD).grace_period(&object, None), Some(30));
        assert_eq!((&POD).grace_period(&object, Some(-3)), Some(1));
        assert_eq!((&POD).grace_period(&object, Some(5)), Some(5));
        object["status"]["phase"] = "Succeeded".into();
        assert_eq!((&POD).grace_period(&object, None), Some(0));
    }

    /// The owners `kubectl run` leaves on an upstream cluster.
    #[test]
    fn a_created_pods_owners_are_upstreams() {
        let table = machinery::schema::builtin();
        let root = table.kind("", "v1", "Pod").unwrap();
        let sent = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "nginx", "namespace": "default", "labels": {"run": "nginx"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {}}], "restartPolicy": "Always"}, "status": {}});
        let strict = machinery::codec::Strictness::Strict;
        let mut object = machinery::codec::decode_value(sent, &table.schema, root, strict).unwrap().value;
        (&POD).default(&mut object);
        (&POD).prepare_for_create(&mut object);
        let context = machinery::apply::Context {
            schema: &table.schema,
            root,
            manager: "kubectl-run",
            api_version: "v1",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
            force: false,
            reset: &[&["status"]],
            builtin: true,
            others: None,
        };
        machinery::apply::update(None, &mut object, &context);
        assert_eq!(
            meta::managed_fields(&object)[0]["fieldsV1"],
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:run": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                        "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
                    "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                    "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}
                }
            })
        );
    }
}
