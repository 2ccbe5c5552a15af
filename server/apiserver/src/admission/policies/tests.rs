//! What policies promise, case by case.

use super::super::support::testing::Ask;
use super::*;
use crate::authentication::UserInfo;
use crate::authorization::{Attributes, Authorizer, Decision};
use crate::reader::fake::FakeCluster;
use async_trait::async_trait;
use serde_json::json;
use std::sync::Arc;

/// Lets `jane` do everything.
struct OnlyJane;

#[async_trait]
impl Authorizer for OnlyJane {
    async fn authorize(&self, a: &Attributes) -> Decision {
        match a.user.name.as_str() {
            "jane" => Decision::Allow { reason: "she may".into() },
            _ => Decision::NoOpinion { reason: String::new() },
        }
    }
    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

fn cluster() -> Arc<FakeCluster> {
    let cluster = FakeCluster::new();
    cluster.put("", "namespaces", json!({"metadata": {"name": "a", "labels": {"team": "x"}}}));
    cluster
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]})
}

fn put(cluster: &FakeCluster, kind: &str, spec: Value, binding: Value) {
    let (policies, bindings) = match kind {
        "v" => ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
        _ => ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
    };
    let mut policy = json!({"metadata": {"name": "pol"}, "spec": {"matchConstraints": constraints()}});
    for (key, value) in spec.as_object().unwrap() {
        policy["spec"][key] = value.clone();
    }
    let mut bound =
        json!({"metadata": {"name": "bind"}, "spec": {"policyName": "pol", "validationActions": ["Deny"]}});
    for (key, value) in binding.as_object().unwrap() {
        bound["spec"][key] = value.clone();
    }
    cluster.put(GROUP, policies, policy);
    cluster.put(GROUP, bindings, bound);
}

async fn ask(cluster: Arc<FakeCluster>, user: &str) -> Result<Value, Denied> {
    let plugin = ValidatingAdmissionPolicy::new(cluster, Arc::new(OnlyJane));
    Ask::create("", "pods").by(UserInfo::new(user, &["dev"])).run(&plugin, pod()).await
}

async fn validate(spec: Value, binding: Value) -> Result<Value, Denied> {
    let cluster = cluster();
    put(&cluster, "v", spec, binding);
    ask(cluster, "jane").await
}

fn one(expression: &str) -> Value {
    json!({"validations": [{"expression": expression}]})
}

#[tokio::test]
async fn a_policy_refuses_in_upstreams_words() {
    validate(one("object.metadata.name == 'p' && oldObject == null"), json!({})).await.unwrap();
    let denied = validate(one("object.metadata.name != 'p'"), json!({})).await.unwrap_err();
    assert_eq!((denied.code, denied.reason, denied.by_policy), (422, "Invalid", true));
    assert_eq!(
        denied.message,
        "ValidatingAdmissionPolicy 'pol' with binding 'bind' denied request: failed expression: object.metadata.name \
         != 'p'"
    );
    for (validation, code, wanted) in [
        (json!({"expression": "false", "message": " no ", "reason": "Forbidden"}), 403, "denied request: no"),
        (
            json!({"expression": "false", "messageExpression": "'no ' + object.metadata.name"}),
            422,
            "request: no p",
        ),
        (json!({"expression": "false", "messageExpression": "object.x", "message": "m"}), 422, "request: m"),
        (json!({"expression": "object.x"}), 422, "compilation error: must evaluate to bool but got dyn"),
        (
            json!({"expression": "object.x == 1"}),
            422,
            "expression 'object.x == 1' resulted in error: no such key: x",
        ),
        (
            json!({"expression": "1 +"}),
            422,
            "compilation error: compilation failed: ERROR: <input>:1:4: Syntax error",
        ),
    ] {
        let denied = validate(json!({"validations": [validation]}), json!({})).await.unwrap_err();
        assert_eq!(denied.code, code);
        assert!(denied.message.contains(wanted), "{denied}");
    }
    let mut ignored = one("object.x == 1");
    ignored["failurePolicy"] = json!("Ignore");
    validate(ignored, json!({})).await.unwrap();
}

#[tokio::test]
async fn policies_see_the_request_and_its_place() {
    for expression in [
        "request.operation == 'CREATE' && request.resource.resource == 'pods' && request.namespace == 'a'",
        "request.userInfo.username == 'jane' && 'dev' in request.userInfo.groups && !request.dryRun",
        "namespaceObject.metadata.labels.team == 'x'",
        "authorizer.group('').resource('pods').namespace('a').check('get').allowed()",
        "authorizer.requestResource.check('create').reason() == 'she may'",
        "!authorizer.serviceAccount('a', 'b').path('/x').check('get').allowed()",
        "object.spec.containers.all(c, c.image.matches('^[a-z]+$'))",
    ] {
        validate(one(expression), json!({})).await.unwrap_or_else(|e| panic!("{expression}: {e}"));
    }
    let cluster = cluster();
    put(&cluster, "v", one("authorizer.group('').resource('pods').check('get').allowed()"), json!({}));
    assert!(ask(cluster, "joe").await.is_err());
}

#[tokio::test]
async fn variables_are_evaluated_when_read() {
    let spec = json!({
        "variables": [
            {"name": "names", "expression": "object.spec.containers.map(c, c.name)"},
            {"name": "first", "expression": "variables.names[0]"},
            {"name": "broken", "expression": "object.nothing"},
        ],
        "validations": [{"expression": "variables.first == 'c' && variables.names.size() == 1"}],
    });
    validate(spec.clone(), json!({})).await.unwrap();
    let mut reading = spec;
    reading["validations"] = json!([{"expression": "variables.broken == 1"}]);
    let denied = validate(reading, json!({})).await.unwrap_err();
    let wanted = "resulted in error: composited variable \"broken\" fails to evaluate: no such key: nothing";
    assert!(denied.message.contains(wanted), "{denied}");
}

#[tokio::test]
async fn conditions_and_selectors_narrow_a_policy() {
    let conditional = |expression: &str| {
        let mut spec = one("false");
        spec["matchConditions"] = json!([{"name": "c", "expression": expression}]);
        spec
    };
    validate(conditional("request.userInfo.username != 'jane'"), json!({})).await.unwrap();
    assert!(validate(conditional("true"), json!({})).await.is_err());
    let failing = validate(conditional("object.x == 1"), json!({})).await.unwrap_err();
    assert!(failing.message.contains("resulted in error: no such key: x"), "{failing}");
    let mut named = constraints();
    named["resourceRules"][0]["resourceNames"] = json!(["other"]);
    for (binding, refused) in [
        (json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "y"}}}}), false),
        (json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "x"}}}}), true),
        (json!({"matchResources": {"objectSelector": {"matchLabels": {"app": "db"}}}}), false),
        (json!({"matchResources": {"excludeResourceRules": constraints()["resourceRules"]}}), false),
        (json!({"matchResources": named}), false),
    ] {
        assert_eq!(validate(one("false"), binding.clone()).await.is_err(), refused, "{binding}");
    }
}

#[tokio::test]
async fn parameters_come_from_objects() {
    let cluster = cluster();
    let mut spec = one("params.data.name == object.metadata.name");
    spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    put(&cluster, "v", spec.clone(), json!({"paramRef": {"name": "cfg", "parameterNotFoundAction": "Deny"}}));
    let denied = ask(cluster.clone(), "jane").await.unwrap_err();
    assert!(
        denied.message.ends_with(
            "denied request: failed to configure binding: no params found for policy binding with `Deny` \
                                  parameterNotFoundAction"
        ),
        "{denied}"
    );
    let map = |name: &str, value: &str| json!({"metadata": {"namespace": "a", "name": name, "labels": {"l": "1"}}, "data": {"name": value}});
    cluster.put("", "configmaps", map("cfg", "p"));
    ask(cluster.clone(), "jane").await.unwrap();
    // Every parameter a selector finds is asked.
    cluster.put("", "configmaps", map("other", "q"));
    put(
        &cluster,
        "v",
        spec.clone(),
        json!({"paramRef": {"selector": {"matchLabels": {"l": "1"}}, "parameterNotFoundAction": "Deny"}}),
    );
    assert!(ask(cluster.clone(), "jane").await.is_err());
    put(
        &cluster,
        "v",
        spec.clone(),
        json!({"paramRef": {"name": "none", "parameterNotFoundAction": "Allow"}}),
    );
    ask(cluster.clone(), "jane").await.unwrap();
    spec["paramKind"] = json!({"apiVersion": "x.y/v1", "kind": "Z"});
    put(&cluster, "v", spec, json!({"paramRef": {"name": "cfg", "parameterNotFoundAction": "Deny"}}));
    let denied = ask(cluster, "jane").await.unwrap_err();
    assert_eq!(
        denied.message,
        "ValidatingAdmissionPolicy 'pol' denied request: failed to configure policy: failed to find resource referenced by \
         paramKind: 'x.y/v1, Kind=Z'"
    );
}

async fn mutate(spec: Value) -> Result<Value, Denied> {
    let cluster = cluster();
    put(&cluster, "m", spec, json!({}));
    let plugin = MutatingAdmissionPolicy::new(cluster, Arc::new(OnlyJane));
    Ask::create("", "pods").by(UserInfo::new("jane", &[])).run(&plugin, pod()).await
}

fn apply(expression: &str) -> Value {
    json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
}

fn patches(expression: &str) -> Value {
    json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]})
}

#[tokio::test]
async fn apply_configurations_are_merged() {
    let made = mutate(apply(
        "Object{metadata: Object.metadata{labels: {'team': namespaceObject.metadata.labels.team}}, spec: Object.spec{\
         containers: [Object.spec.containers{name: 'c', imagePullPolicy: 'Always'}, Object.spec.containers{name: 'side', \
         image: 'x'}], priority: 3}}",
    ))
    .await
    .unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"app": "web", "team": "x"}));
    let containers = &made["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[0]["imagePullPolicy"]), (&json!("i"), &json!("Always")));
    // What was added has its defaults.
    assert_eq!(
        (&containers[1]["name"], &containers[1]["terminationMessagePolicy"]),
        (&json!("side"), &json!("File"))
    );
    assert_eq!(made["spec"]["priority"], 3);
    for (expression, wanted) in [
        (
            "Object{spec: Object.status{}}",
            "type mismatch: unexpected type name \"Object.status\", expected \"Object.spec\"",
        ),
        (
            "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['a']}]}}",
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args",
        ),
        ("object", "must evaluate to Object but got dyn"),
    ] {
        let denied = mutate(apply(expression)).await.unwrap_err();
        let status = denied.status.unwrap();
        assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Invalid")));
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with("policy 'pol' with binding 'bind' denied request: "), "{message}");
        assert!(message.contains(wanted), "{message}");
    }
}

#[tokio::test]
async fn json_patches_are_applied() {
    let made = mutate(patches(
        "[JSONPatch{op: 'test', path: '/metadata/labels/app', value: 'web'}, JSONPatch{op: 'add', path: \
         '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: string(1)}, JSONPatch{op: 'add', path: \
         '/spec/initContainers', value: [Object.spec.initContainers{name: 'n', image: 'i'}]}]",
    ))
    .await
    .unwrap();
    assert_eq!(made["metadata"]["labels"]["a/b"], "1");
    assert_eq!(made["spec"]["initContainers"][0]["name"], "n");
    // A failed test leaves the object alone; a path that is not there is a refusal.
    let same = mutate(patches(
        "[JSONPatch{op: 'test', path: '/kind', value: 'x'}, JSONPatch{op: 'remove', path: '/kind'}]",
    ));
    assert_eq!(same.await.unwrap(), pod());
    let denied = mutate(patches("[JSONPatch{op: 'remove', path: '/nothing'}]")).await.unwrap_err();
    assert!(denied.message.contains("denied request: JSON Patch: "), "{denied}");
    let mut conditional = patches("[JSONPatch{op: 'remove', path: '/spec'}]");
    conditional["matchConditions"] = json!([{"name": "c", "expression": "request.name == 'other'"}]);
    assert_eq!(mutate(conditional).await.unwrap(), pod());
}
