//! CEL where the API server uses it, black box: rules of definitions, validating and mutating policies.

#![allow(clippy::unwrap_used)]

mod support;

use apiserver::ApiServer;
use apiserver::admission::{AdmissionConfig, plugins};
use apiserver::authentication::UserInfo;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

async fn call(server: &ApiServer, method: &str, path: &str, body: Value) -> Answer {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    let response = server.in_process(user).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let all = response.headers().get_all("warning").iter();
    let warnings = all.filter_map(|w| w.to_str().ok().map(str::to_owned)).collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), warnings }
}

async fn until<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it never came true");
}

async fn start(dir: &std::path::Path) -> ApiServer {
    let started = support::start(dir, 0, |config| {
        let reader: Arc<dyn apiserver::reader::Reader> = config.cache.clone();
        config.admission = plugins(&reader, &config.authorizer, &AdmissionConfig::default());
    });
    started.await.server
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LIMITS: &str = "/apis/example.com/v1/namespaces/default/limits";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn definition(rules: Value) -> Value {
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "limits.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "limits", "singular": "limit", "kind": "Limit"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "x-kubernetes-validations": rules, "properties": {
                        "min": {"type": "integer"}, "max": {"type": "integer"},
                        "name": {"type": "string", "maxLength": 20}}}}}}}]}})
}

fn limit(name: &str, spec: Value) -> Value {
    json!({"kind": "Limit", "apiVersion": "example.com/v1", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn rules_of_a_definition() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let refused = call(&server, "POST", DEFINITIONS, definition(json!([{"rule": "self.nope > 1"}]))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(refused.body["message"].as_str().unwrap().contains("undefined field 'nope'"), "{}", refused.body);
    let rules = json!([
        {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min exceeds max"},
        {"rule": "!has(oldSelf.name) || self.name == oldSelf.name", "fieldPath": ".name", "reason": "FieldValueForbidden",
            "messageExpression": "'name is ' + oldSelf.name + ' for good'"},
    ]);
    let made = call(&server, "POST", DEFINITIONS, definition(rules)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    until(async || (call(&server, "GET", LIMITS, Value::Null).await.code == 200).then_some(())).await;
    let bad = call(&server, "POST", LIMITS, limit("a", json!({"min": 3, "max": 1}))).await;
    assert_eq!(bad.code, 422);
    assert_eq!(
        bad.body["message"],
        "Limit.example.com \"a\" is invalid: spec: Invalid value: min exceeds max"
    );
    let good = call(&server, "POST", LIMITS, limit("a", json!({"min": 1, "max": 3, "name": "x"}))).await;
    assert_eq!(good.code, 201, "{}", good.body);
    let one = format!("{LIMITS}/a");
    let moved = call(&server, "PATCH", &one, json!({"spec": {"name": "y"}})).await;
    assert_eq!(
        (moved.code, moved.body["message"].as_str().unwrap()),
        (422, "Limit.example.com \"a\" is invalid: spec.name: Forbidden: name is x for good")
    );
    assert_eq!(call(&server, "PATCH", &one, json!({"spec": {"max": 4}})).await.code, 200);
    // A new rule that what is stored already breaks warns until the value changes.
    let path = format!("{DEFINITIONS}/limits.example.com");
    let mut stricter = call(&server, "GET", &path, Value::Null).await.body;
    stricter["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.max < 2"}]);
    assert_eq!(call(&server, "PUT", &path, stricter).await.code, 200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let warned = until(async || {
        let answer = call(&server, "PATCH", &one, label.clone()).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        (!answer.warnings.is_empty()).then_some(answer)
    })
    .await;
    assert!(
        warned.warnings[0].contains("spec: Invalid value: failed rule: self.max < 2"),
        "{:?}",
        warned.warnings
    );
    assert_eq!(call(&server, "PATCH", &one, json!({"spec": {"max": 5}})).await.code, 422);
    server.stop();
}

fn named(kind: &str, name: &str, spec: Value) -> Value {
    json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}, "spec": spec})
}

fn maps() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]})
}

fn map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_validating_policy_with_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (all, bindings) = (
        format!("{POLICIES}/validatingadmissionpolicies"),
        format!("{POLICIES}/validatingadmissionpolicybindings"),
    );
    let spec = |expression: &str| {
        json!({
            "matchConstraints": maps(), "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "not-ours", "expression": "object.metadata.name != 'rules'"}],
            "variables": [{"name": "most", "expression": "int(params.data.most)"}],
            "validations": [{"expression": expression, "messageExpression": "'at most ' + string(variables.most)"}],
        })
    };
    let broken =
        call(&server, "POST", &all, named("ValidatingAdmissionPolicy", "p", spec("object.data.size() <=")))
            .await;
    assert_eq!(broken.code, 422);
    assert!(
        broken.body["message"].as_str().unwrap().contains("spec.validations[0].expression: Invalid value")
    );
    let rule =
        spec("object.data.size() <= variables.most && object.data.all(k, k != request.userInfo.username)");
    let made = call(&server, "POST", &all, named("ValidatingAdmissionPolicy", "p", rule)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let binding = |actions: Value| {
        json!({"policyName": "p", "validationActions": actions,
            "paramRef": {"name": "rules", "namespace": "default", "parameterNotFoundAction": "Deny"}})
    };
    let bound = call(
        &server,
        "POST",
        &bindings,
        named("ValidatingAdmissionPolicyBinding", "b", binding(json!(["Deny"]))),
    )
    .await;
    assert_eq!(bound.code, 201, "{}", bound.body);
    let absent = until(async || {
        let answer = call(&server, "POST", MAPS, map("a", json!({}))).await;
        (answer.code != 201 && answer.code != 409).then_some(answer)
    })
    .await;
    assert_eq!(
        absent.body["message"],
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed to configure \
         binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    assert_eq!(call(&server, "POST", MAPS, map("rules", json!({"most": "1"}))).await.code, 422);
    let mut lenient = call(&server, "GET", &format!("{bindings}/b"), Value::Null).await.body;
    lenient["spec"]["paramRef"]["parameterNotFoundAction"] = json!("Allow");
    assert_eq!(call(&server, "PUT", &format!("{bindings}/b"), lenient).await.code, 200);
    until(async || {
        (call(&server, "POST", MAPS, map("rules", json!({"most": "1"}))).await.code == 201).then_some(())
    })
    .await;
    let refused = until(async || {
        let answer = call(&server, "POST", MAPS, map("b", json!({"x": "1", "y": "2"}))).await;
        (answer.code != 201 && answer.code != 409).then_some(answer)
    })
    .await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        refused.body["message"],
        "configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: at most 1"
    );
    assert_eq!(
        refused.body["details"]["causes"][0]["message"].as_str().unwrap().split(": ").last(),
        Some("at most 1")
    );
    assert_eq!(call(&server, "POST", MAPS, map("c", json!({"x": "1"}))).await.code, 201);
    // The same, as a warning.
    let mut warning = call(&server, "GET", &format!("{bindings}/b"), Value::Null).await.body;
    warning["spec"]["validationActions"] = json!(["Warn", "Audit"]);
    assert_eq!(call(&server, "PUT", &format!("{bindings}/b"), warning).await.code, 200);
    let warned = until(async || {
        let answer = call(&server, "POST", MAPS, map("d", json!({"x": "1", "y": "2"}))).await;
        (answer.code == 201).then_some(answer)
    })
    .await;
    assert!(
        warned.warnings[0]
            .contains("Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': at most 1"),
        "{:?}",
        warned.warnings
    );
    server.stop();
}

#[tokio::test]
async fn a_policys_types_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let all = format!("{POLICIES}/validatingadmissionpolicies");
    let constraints = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"]}]});
    let spec = json!({"matchConstraints": constraints, "validations": [
        {"expression": "object.spec.replicas <= 5"}, {"expression": "object.spec.replicas > '1'"}, {"expression": "object.foo == 1"}]});
    assert_eq!(
        call(&server, "POST", &all, named("ValidatingAdmissionPolicy", "typed", spec)).await.code,
        201
    );
    let status = until(async || {
        let found = call(&server, "GET", &format!("{all}/typed"), Value::Null).await.body;
        (found["status"]["observedGeneration"] == 1).then(|| found["status"].clone())
    })
    .await;
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{status}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression");
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(text.starts_with("apps/v1, Kind=Deployment: "), "{text}");
    assert!(text.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{text}");
    assert!(warnings[1]["warning"].as_str().unwrap().contains("undefined field 'foo'"), "{status}");
    server.stop();
}

#[tokio::test]
async fn mutating_policies() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (all, bindings) = (
        format!("{POLICIES}/mutatingadmissionpolicies"),
        format!("{POLICIES}/mutatingadmissionpolicybindings"),
    );
    let policy = |name: &str, mutation: Value, again: &str| {
        let spec = json!({"matchConstraints": maps(), "reinvocationPolicy": again, "failurePolicy": "Fail", "mutations": [mutation]});
        named("MutatingAdmissionPolicy", name, spec)
    };
    let counts = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {
        "expression": "Object{metadata: Object.metadata{labels: {'keys': string(object.data.size())}}}"}});
    let adds = json!({"patchType": "JSONPatch", "jsonPatch": {
        "expression": "has(object.data.added) ? [] : [JSONPatch{op: 'add', path: '/data/added', value: 'x'}]"}});
    for object in [policy("a-counts", counts, "IfNeeded"), policy("b-adds", adds, "Never")] {
        let made = call(&server, "POST", &all, object.clone()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let name = object["metadata"]["name"].as_str().unwrap();
        let made = call(
            &server,
            "POST",
            &bindings,
            named("MutatingAdmissionPolicyBinding", name, json!({"policyName": name})),
        )
        .await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let mut n = 0;
    let made = until(async || {
        n += 1;
        let made = call(&server, "POST", MAPS, map(&format!("m{n}"), json!({"k": "v"}))).await;
        assert_eq!(made.code, 201, "{}", made.body);
        (made.body["data"]["added"] == "x").then_some(made.body)
    })
    .await;
    // The first policy has seen what the second did.
    assert_eq!(made["metadata"]["labels"]["keys"], "2", "{made}");
    let atomic = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/nothing'}]"}});
    let wrong = policy(
        "c-wrong",
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}}),
        "Never",
    );
    let refused = call(&server, "POST", &all, wrong).await;
    assert!(
        refused.body["message"].as_str().unwrap().contains("must evaluate to Object but got int"),
        "{}",
        refused.body
    );
    assert_eq!(call(&server, "POST", &all, policy("c-breaks", atomic, "Never")).await.code, 201);
    let bound = named("MutatingAdmissionPolicyBinding", "c-breaks", json!({"policyName": "c-breaks"}));
    assert_eq!(call(&server, "POST", &bindings, bound).await.code, 201);
    let refused = until(async || {
        n += 1;
        let answer = call(&server, "POST", MAPS, map(&format!("m{n}"), json!({"k": "v"}))).await;
        (answer.code != 201).then_some(answer)
    })
    .await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Invalid")));
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("policy 'c-breaks' with binding 'c-breaks' denied request: JSON Patch: "),
        "{message}"
    );
    server.stop();
}
