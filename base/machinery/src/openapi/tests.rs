//! What clients look for in the documents.

use serde_json::json;

use super::*;

fn pods() -> ResourceDoc {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let sub = |name: &str, group: &str, kind: &str, verbs: &[&str]| SubresourceDoc {
        name: name.into(),
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        verbs: verbs.iter().map(|v| v.to_string()).collect(),
    };
    ResourceDoc {
        version: "v1".into(),
        kind: "Pod".into(),
        plural: "pods".into(),
        namespaced: true,
        verbs: verbs.map(String::from).to_vec(),
        subresources: vec![
            sub("status", "", "Pod", &["get", "patch", "update"]),
            sub("eviction", "policy", "Eviction", &["create"]),
            sub("exec", "", "PodExecOptions", &["create", "get"]),
            sub("log", "", "Pod", &["get"]),
        ],
        ..ResourceDoc::default()
    }
}

fn crontabs() -> ResourceDoc {
    ResourceDoc {
        group: "stable.example.com".into(),
        version: "v1".into(),
        kind: "CronTab".into(),
        plural: "crontabs".into(),
        namespaced: true,
        verbs: vec!["get".into(), "list".into(), "create".into()],
        schema: Some(json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "nullable": true}, "port": {"x-kubernetes-int-or-string": true}}}}})),
        ..ResourceDoc::default()
    }
}

/// Every reference leads somewhere.
fn references_hold(document: &Value, at: &Value) {
    match at {
        Value::Object(object) => {
            if let Some(to) = object.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
            }
            object.values().for_each(|v| references_hold(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| references_hold(document, v)),
        _ => {}
    }
}

#[test]
fn v2_says_what_kubectl_needs() {
    let document = v2(&[pods(), crontabs()], Some(&|name, field| Some(format!("{name}#{field}"))));
    references_hold(&document, &document);
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    assert_eq!(pod["description"], "io.k8s.api.core.v1.Pod#");
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    assert!(patch["parameters"].as_array().expect("parameters").iter().any(|p| p["name"] == "dryRun"));
    let custom =
        &document["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(*custom, json!({"replicas": {}, "port": {"x-kubernetes-int-or-string": true}}));
}

#[test]
fn v3_is_split_by_group_version() {
    let all = [pods(), crontabs()];
    let index = v3_index(&all, &|path| path.len().to_string());
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=6");
    let core = v3_group_version(&all, "", "v1", None).expect("core");
    references_hold(&core, &core);
    let container = &core["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"];
    assert_eq!(container["name"], json!({"type": "string", "default": ""}));
    assert_eq!(container["resources"]["default"], json!({}));
    assert_eq!(container["ports"]["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    let custom = v3_group_version(&all, "stable.example.com", "v1", None).expect("custom");
    references_hold(&custom, &custom);
    assert!(
        custom["components"]["schemas"]["com.example.stable.v1.CronTab"]["properties"]["spec"].is_object()
    );
    assert!(v3_group_version(&all, "none", "v1", None).is_none());
}
