//! Pods.

use super::{pod_defaults, pod_resize, pod_spec, pod_status, pod_update, qos};
use crate::kind::{Kind, Metadata, carry};
use crate::support::{at, flag, int, items, text};
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
    .validate_new(validate_new)
    .validate_update(validate_update)
    .select(select)
    .grace(grace)
    .warn(warnings);

pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

fn create(object: &mut Value) {
    pod_defaults::initial_status(object);
}

fn update(object: &mut Value, old: &Value, subresource: &str) {
    match subresource {
        "status" => {
            let class = at(at(old, "status"), "qosClass").clone();
            if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
                let class = if class.is_null() { qos::class(at(old, "spec")).into() } else { class };
                if text_of(status.get("qosClass")).is_empty() {
                    status.insert("qosClass".into(), class);
                }
            }
            pod_status::keep_observed(object, old);
        }
        "ephemeralcontainers" => {
            let added = at(at(object, "spec"), "ephemeralContainers").clone();
            carry(object, old, "spec");
            carry(object, old, "status");
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                if added.as_array().is_none_or(Vec::is_empty) {
                    spec.remove("ephemeralContainers");
                } else {
                    spec.insert("ephemeralContainers".into(), added);
                }
            }
        }
        "resize" => pod_resize::take_resources(object, old),
        _ => {}
    }
}

fn text_of(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or("")
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

/// What only a new pod may not have.
fn validate_new(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (at(object, "spec"), Path::new("spec"));
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !items(spec, "schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    match subresource {
        "" => pod_update::spec(new, old, errors),
        "status" => pod_status::validate(new, old, errors),
        "ephemeralcontainers" => {
            validate(new, errors);
            pod_update::ephemeral(new, old, errors);
        }
        "resize" => {
            validate(new, errors);
            pod_resize::validate(new, old, errors);
        }
        _ => {}
    }
}

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    // People seldom update pods by hand, and components often.
    if old.is_some() {
        return Vec::new();
    }
    let mut out = Vec::new();
    let bad = names::dns1123_label(meta::name(object));
    if !bad.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            bad.join(" ")
        ));
    }
    out.extend(super::warnings::pod(at(object, "spec"), None, "spec"));
    out
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
