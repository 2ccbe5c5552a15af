//! Decoding, in upstream's words.

use serde_json::json;

use super::*;
use crate::schema::builtin;

fn read(kind: &str, value: Value) -> Result<Decoded, DecodeError> {
    let (group, kind) = kind.rsplit_once('/').unwrap_or(("", kind));
    let id = builtin().kind(group, "v1", kind).expect(kind);
    let bytes = serde_json::to_vec(&value).expect("JSON");
    let read = decode(&bytes, &builtin().schema, id, Strictness::Strict);
    assert_eq!(read, decode_value(value, &builtin().schema, id, Strictness::Strict));
    read
}

fn refusal(kind: &str, value: Value) -> String {
    read(kind, value).expect_err("refused").to_string()
}

#[test]
fn a_pod_round_trips_as_upstream_writes_it() {
    let read = read(
        "Pod",
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {}, "finalizers": null},
            "spec": {"containers": [{"name": "c", "image": "", "ports": [{"containerPort": 80, "hostPort": 0}],
                "resources": {"requests": {"cpu": 1, "memory": "64Mi"}}, "securityContext": {}}],
                "hostNetwork": false, "volumes": [{"name": "v", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 0},
        }),
    )
    .expect("a pod");
    assert_eq!(read.strict_errors, Vec::<String>::new());
    assert_eq!(
        read.value,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "1", "memory": "64Mi"}}, "securityContext": {}}],
                "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0},
            "status": {},
        })
    );
}

#[test]
fn zero_values_that_upstream_writes_are_there() {
    let role =
        read("rbac.authorization.k8s.io/ClusterRole", json!({"metadata": {"name": "x"}})).expect("role");
    assert_eq!(role.value, json!({"metadata": {"name": "x"}, "rules": null}));
    let service = read("Service", json!({"spec": {"ports": [{"port": 1}]}})).expect("service");
    assert_eq!(
        service.value,
        json!({"metadata": {}, "spec": {"ports": [{"port": 1, "targetPort": 0}]}, "status": {"loadBalancer": {}}})
    );
}

#[test]
fn unknown_and_duplicate_fields_are_named_as_upstream_does() {
    let id = builtin().kind("", "v1", "Pod").expect("Pod");
    let bytes = br#"{"metadata":{"labels":{"a":"1","a":"2"}},"spec":{"containers":[{"name":"a","foo":1},
        {"name":"b","name":"c","ports":[{"x":{}}]}],"bar":[]},"spex":null}"#;
    let read = decode(bytes, &builtin().schema, id, Strictness::Warn).expect("a pod");
    assert_eq!(
        read.strict_errors,
        [
            r#"duplicate field "metadata.labels.a""#,
            r#"unknown field "spec.containers[0].foo""#,
            r#"duplicate field "spec.containers[1].name""#,
            r#"unknown field "spec.containers[1].ports[0].x""#,
            r#"unknown field "spec.bar""#,
            r#"unknown field "spex""#,
        ]
    );
    assert_eq!(read.value["metadata"]["labels"]["a"], "2");
    assert_eq!(read.value["spec"]["containers"][1]["name"], "c");
    let quiet = decode(bytes, &builtin().schema, id, Strictness::Ignore).expect("a pod");
    assert_eq!((quiet.strict_errors.len(), quiet.value), (0, read.value));
}

#[test]
fn wrong_types_are_worded_as_upstream_does() {
    let field = "json: cannot unmarshal";
    assert_eq!(
        refusal("Pod", json!({"spec": {"containers": "x"}})),
        format!("{field} string into Go struct field PodSpec.spec.containers of type []v1.Container")
    );
    assert_eq!(
        refusal("apps/Deployment", json!({"spec": {"replicas": "3"}})),
        format!("{field} string into Go struct field DeploymentSpec.spec.replicas of type int32")
    );
    assert_eq!(
        refusal("apps/Deployment", json!({"spec": {"replicas": 1.5}})),
        format!("{field} number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32")
    );
    assert_eq!(
        refusal("Pod", json!({"metadata": {"labels": {"a": 1}}})),
        format!("{field} number into Go struct field ObjectMeta.metadata.labels of type string")
    );
    assert_eq!(
        refusal("Pod", json!({"spec": {"restartPolicy": true}})),
        format!("{field} bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy")
    );
    assert_eq!(
        refusal("Pod", json!({"spec": {"containers": [{"env": {}}]}})),
        format!("{field} object into Go struct field Container.spec.containers.env of type []v1.EnvVar")
    );
    assert_eq!(refusal("Pod", json!([])), format!("{field} array into Go value of type v1.Pod"));
    assert_eq!(
        refusal("Pod", json!({"metadata": {"creationTimestamp": "soon"}})),
        r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#
    );
    assert_eq!(refusal("Secret", json!({"data": {"a": "x!"}})), "illegal base64 data at input byte 1");
    assert_eq!(
        refusal("Service", json!({"spec": {"ports": [{"targetPort": 99999999999u64}]}})),
        format!(
            "{field} number 99999999999 into Go struct field ServicePort.spec.ports.targetPort of type int32"
        )
    );
}

#[test]
fn broken_json_is_worded_as_go_does() {
    let id = builtin().kind("", "v1", "Pod").expect("Pod");
    let refuse = |bytes: &[u8]| {
        decode(bytes, &builtin().schema, id, Strictness::Strict).expect_err("refused").to_string()
    };
    assert_eq!(refuse(b"{"), "unexpected end of JSON input");
    assert_eq!(refuse(b""), "unexpected end of JSON input");
    assert_eq!(refuse(b"{}x"), "invalid character 'x' after top-level value");
    assert_eq!(refuse(b"{\"a\" 1}"), "invalid character '1' after object key");
    assert_eq!(refuse(b"{a}"), "invalid character 'a' looking for beginning of object key string");
    let deep = "[".repeat(5000);
    let deep = format!("{{\"data\":{deep}");
    let id = builtin().kind("apps", "v1", "ControllerRevision").expect("kind");
    let error = decode(deep.as_bytes(), &builtin().schema, id, Strictness::Strict).expect_err("refused");
    assert_eq!(error.to_string(), "exceeded max depth");
}

#[test]
fn hand_made_unions_are_read_as_upstream_does() {
    let schema = json!({"type": "object", "additionalProperties": {"type": "string", "bogus": 1},
        "items": [{"type": "string"}], "default": {"a": null}});
    let crd = json!({"spec": {"group": "g", "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema}}]}});
    let read = read("apiextensions.k8s.io/CustomResourceDefinition", crd).expect("crd");
    let schema = &read.value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["additionalProperties"], json!({"type": "string"}));
    assert_eq!(schema["items"], json!([{"type": "string"}]));
    assert_eq!(schema["default"], json!({"a": null}));
    assert_eq!(read.strict_errors, Vec::<String>::new());
}

mod changes {
    use super::*;
    use proptest::prelude::*;

    fn rich() -> Value {
        read(
            "Pod",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}],
                    "finalizers": ["a/b", "c/d"]},
                "spec": {"containers": [
                        {"name": "c", "image": "i", "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}],
                            "resources": {"requests": {"cpu": "1500m", "memory": "64Mi"}},
                            "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 3}},
                        {"name": "d", "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef":
                            {"fieldPath": "metadata.name"}}}], "resources": {}}],
                    "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists", "tolerationSeconds": 4}],
                    "terminationGracePeriodSeconds": 30,
                    "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "m", "defaultMode": 420}}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
                    "lastTransitionTime": null}]},
            }),
        )
        .expect("a pod")
        .value
    }

    fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| pointers(v, format!("{at}/{k}"), out)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{at}/{i}"), out))
            }
            _ => {}
        }
        if !at.is_empty() {
            out.push(at);
        }
    }

    fn junk() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            Just(json!({})),
            Just(json!([])),
            Just(json!([null])),
            Just(json!({"name": null})),
            Just(json!({"name": "z", "unknown": 1})),
            Just(json!([{"name": "z", "image": ""}, {"name": "z", "unknown": 1}])),
            Just(json!("")),
            Just(json!("1Gi")),
            Just(json!("2026-01-02T03:04:05.5Z")),
            Just(json!(0)),
            Just(json!(7)),
            Just(json!(7.5)),
            Just(json!(true)),
        ]
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Put(Value),
        Remove,
        Add(String, Value),
        Push(Value),
        Swap,
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            junk().prop_map(Edit::Put),
            Just(Edit::Remove),
            ("[a-c]|image|resources|hostNetwork|ports|status", junk()).prop_map(|(k, v)| Edit::Add(k, v)),
            junk().prop_map(Edit::Push),
            Just(Edit::Swap),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn decoding_a_change_is_decoding_the_whole(edits in proptest::collection::vec((any::<prop::sample::Index>(), edit()), 1..4)) {
            let old = rich();
            let mut new = old.clone();
            for (which, edit) in edits {
                let mut all = Vec::new();
                pointers(&new, String::new(), &mut all);
                let Some(at) = (!all.is_empty()).then(|| which.get(&all).clone()) else { continue };
                let (parent, last) = at.rsplit_once('/').unwrap();
                match edit {
                    Edit::Put(v) => *new.pointer_mut(&at).unwrap() = v,
                    Edit::Remove => match new.pointer_mut(parent).unwrap() {
                        Value::Object(map) => drop(map.remove(last)),
                        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
                        _ => {}
                    },
                    Edit::Add(k, v) => if let Some(map) = new.pointer_mut(&at).unwrap().as_object_mut() { map.insert(k, v); },
                    Edit::Push(v) => if let Some(items) = new.pointer_mut(&at).unwrap().as_array_mut() { items.push(v); },
                    Edit::Swap => if let Some(items) = new.pointer_mut(&at).unwrap().as_array_mut() { items.reverse(); },
                }
            }
            let table = builtin();
            let id = table.kind("", "v1", "Pod").unwrap();
            let whole = decode_value(new.clone(), &table.schema, id, Strictness::Strict);
            let changed = decode_changed(new, &old, &table.schema, id, Strictness::Strict);
            prop_assert_eq!(whole, changed);
        }
    }
}
