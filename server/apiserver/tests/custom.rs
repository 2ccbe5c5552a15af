//! Custom resources and service account tokens, black box.

#![allow(clippy::unwrap_used)]

mod support;

use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use apiserver::tokens::{Issuer, TokenRequests};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

async fn send(
    server: &ApiServer,
    method: &str,
    path: &str,
    kind: &str,
    accept: &str,
    body: Value,
) -> (u16, Value) {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", accept)
        .body(Full::new(Bytes::from(bytes)))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    let response = server.in_process(user).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn call(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    send(server, method, path, kind, "application/json", body).await
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
                    "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}})
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

fn widget(name: &str, spec: Value) -> Value {
    json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": name}, "spec": spec, "status": {"size": 9}})
}

#[tokio::test]
async fn custom_resources_live_and_die_with_their_definition() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    assert_eq!(call(&server, "GET", WIDGETS, Value::Null).await.0, 404);
    let (code, e) = call(&server, "POST", DEFINITIONS, definition()).await;
    assert_eq!(code, 201, "{e}");
    until(async || (call(&server, "GET", WIDGETS, Value::Null).await.0 == 200).then_some(())).await;
    let (_, made) = call(&server, "GET", &format!("{DEFINITIONS}/widgets.example.com"), Value::Null).await;
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));

    let (code, made) = call(&server, "POST", WIDGETS, widget("a", json!({"size": 3, "bogus": true}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], json!({"size": 3, "color": "red"}), "pruned and defaulted");
    assert!(made["status"].is_null(), "status has its own road");
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, bad) = call(&server, "POST", WIDGETS, widget("b", json!({"size": 0}))).await;
    assert_eq!((code, &bad["details"]["causes"][0]["field"]), (422, &json!("spec.size")), "{bad}");
    let (code, bad) = call(&server, "POST", WIDGETS, widget("b", json!({}))).await;
    assert_eq!((code, &bad["details"]["causes"][0]["reason"]), (422, &json!("FieldValueRequired")), "{bad}");

    let (code, o) = call(
        &server,
        "PATCH",
        &format!("{WIDGETS}/a/status"),
        json!({"status": {"size": 2}, "spec": {"size": 7}}),
    )
    .await;
    assert_eq!((code, &o["status"]["size"], &o["spec"]["size"]), (200, &json!(2), &json!(3)), "{o}");
    let (code, scale) =
        call(&server, "PATCH", &format!("{WIDGETS}/a/scale"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scale["spec"]["replicas"], &scale["status"]["replicas"]), (200, &json!(5), &json!(2)));
    let (_, o) = call(&server, "GET", &format!("{WIDGETS}/a"), Value::Null).await;
    assert_eq!((&o["spec"]["size"], &o["metadata"]["generation"]), (&json!(5), &json!(2)));

    let config = json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "s"}, "spec": {"size": 1, "color": "blue"}});
    let path = format!("{WIDGETS}/s?fieldManager=me");
    let (code, o) =
        send(&server, "PATCH", &path, "application/apply-patch+yaml", "application/json", config).await;
    assert_eq!(code, 201, "{o}");
    let (_, blue) =
        call(&server, "GET", &format!("{WIDGETS}?fieldSelector=spec.color%3Dblue"), Value::Null).await;
    assert_eq!(blue["items"].as_array().unwrap().len(), 1, "{blue}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) =
        send(&server, "GET", &format!("{WIDGETS}/a"), "application/json", table, Value::Null).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", 5]));
    let (_, found) = call(&server, "GET", "/apis/example.com/v1", Value::Null).await;
    assert_eq!(found["resources"][0]["shortNames"], json!(["wd"]));
    let (code, v3) = call(&server, "GET", "/openapi/v3/apis/example.com/v1", Value::Null).await;
    assert_eq!(code, 200);
    assert!(
        v3["paths"].as_object().unwrap().contains_key("/apis/example.com/v1/namespaces/{namespace}/widgets")
    );

    call(&server, "DELETE", &format!("{DEFINITIONS}/widgets.example.com"), Value::Null).await;
    until(async || {
        let gone =
            call(&server, "GET", &format!("{DEFINITIONS}/widgets.example.com"), Value::Null).await.0 == 404;
        (gone && call(&server, "GET", WIDGETS, Value::Null).await.0 == 404).then_some(())
    })
    .await;
}

/// A condition as `status reason: message`.
async fn condition(server: &ApiServer, name: &str, kind: &str) -> Option<String> {
    let (_, d) = call(server, "GET", &format!("{DEFINITIONS}/{name}"), Value::Null).await;
    let c = d["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?.clone();
    let text = |f: &str| c[f].as_str().unwrap_or_default().to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

#[tokio::test]
async fn names_are_given_once_and_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    assert_eq!(call(&server, "POST", DEFINITIONS, definition()).await.0, 201);
    let first = "widgets.example.com";
    let named = async |name: &str| {
        until(async || condition(&server, name, "NamesAccepted").await.filter(|c| !c.is_empty())).await
    };
    assert_eq!(named(first).await, "True NoConflicts: no conflicts found");
    let mut other = definition();
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "shortNames": ["wd"]});
    assert_eq!(call(&server, "POST", DEFINITIONS, other).await.0, 201);
    let second = "gadgets.example.com";
    assert_eq!(named(second).await, "False ShortNamesConflict: \"wd\" is already in use");
    assert_eq!(
        condition(&server, second, "Established").await.unwrap(),
        "False NotAccepted: not all names are accepted"
    );
    let gadgets = "/apis/example.com/v1/namespaces/default/gadgets";
    assert_eq!(call(&server, "GET", gadgets, Value::Null).await.0, 404);
    // The name comes free with its owner, and the other one gets it.
    call(&server, "DELETE", &format!("{DEFINITIONS}/{first}"), Value::Null).await;
    until(async || (call(&server, "GET", gadgets, Value::Null).await.0 == 200).then_some(())).await;
    let free = "True NoConflicts: no conflicts found";
    until(async || condition(&server, second, "NamesAccepted").await.filter(|c| c == free)).await;
}

#[tokio::test]
async fn a_definition_ends_with_its_instances_or_without_any() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    assert_eq!(call(&server, "POST", DEFINITIONS, definition()).await.0, 201);
    let first = format!("{DEFINITIONS}/widgets.example.com");
    until(async || (call(&server, "GET", WIDGETS, Value::Null).await.0 == 200).then_some(())).await;
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(call(&server, "POST", WIDGETS, held).await.0, 201);
    call(&server, "DELETE", &first, Value::Null).await;
    let name = "widgets.example.com";
    let ending = until(async || condition(&server, name, "Terminating").await).await;
    assert_eq!(ending, "True InstanceDeletionInProgress: CustomResource deletion is in progress");
    until(async || {
        let (_, found) = call(&server, "GET", "/apis/example.com/v1", Value::Null).await;
        let ending = json!(["delete", "deletecollection", "get", "list", "watch"]);
        (found["resources"][0]["verbs"] == ending).then_some(())
    })
    .await;
    let (code, refused) = call(&server, "POST", WIDGETS, widget("late", json!({"size": 1}))).await;
    assert_eq!(code, 405, "{refused}");
    let free = json!({"metadata": {"finalizers": null}});
    let (code, e) = call(&server, "PATCH", &format!("{WIDGETS}/held"), free).await;
    assert_eq!(code, 200, "{e}");
    until(async || (call(&server, "GET", &first, Value::Null).await.0 == 404).then_some(())).await;

    // One that never got its names has nothing to wait for.
    assert_eq!(call(&server, "POST", DEFINITIONS, definition()).await.0, 201);
    let mut other = definition();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "kind": "Widget", "listKind": "OtherList"});
    until(async || condition(&server, name, "NamesAccepted").await.map(|_| ())).await;
    assert_eq!(call(&server, "POST", DEFINITIONS, other).await.0, 201);
    let refused = until(async || condition(&server, "others.example.com", "NamesAccepted").await).await;
    assert_eq!(refused, "False KindConflict: \"Widget\" is already in use");
    let second = format!("{DEFINITIONS}/others.example.com");
    call(&server, "DELETE", &second, Value::Null).await;
    until(async || (call(&server, "GET", &second, Value::Null).await.0 == 404).then_some(())).await;
}

#[tokio::test]
async fn service_accounts_get_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let adjust = |config: &mut apiserver::Config| {
        let key = kit::pki::PrivateKey::generate().unwrap();
        config.tokens = Some(Arc::new(TokenRequests {
            issuer: Arc::new(Issuer::new(key, "https://kubernetes.default.svc")),
            reader: config.cache.clone(),
            audiences: vec!["https://kubernetes.default.svc".into()],
            extend: true,
            longest: None,
        }));
    };
    let server = support::start(dir.path(), 0, adjust).await.server;
    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "bob"}});
    assert_eq!(call(&server, "POST", ACCOUNTS, account).await.0, 201);
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 600}});
    let (code, answer) = call(&server, "POST", &format!("{ACCOUNTS}/bob/token"), request.clone()).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["status"]["token"].as_str().unwrap().split('.').count(), 3);
    assert_eq!(call(&server, "POST", &format!("{ACCOUNTS}/nobody/token"), request).await.0, 404);
    let short = json!({"spec": {"expirationSeconds": 1}});
    assert_eq!(call(&server, "POST", &format!("{ACCOUNTS}/bob/token"), short).await.0, 422);
    let (code, keys) = call(&server, "GET", "/openid/v1/jwks", Value::Null).await;
    assert_eq!((code, keys["keys"].as_array().unwrap().len()), (200, 1));
    let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": support::TOKEN}});
    let (code, reviewed) = call(&server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!((code, &reviewed["status"]["user"]["username"]), (201, &json!("admin")), "{reviewed}");
    let access = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) =
        call(&server, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", access).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
}

#[tokio::test]
async fn protobuf_in_and_out() {
    use machinery::codec::protobuf;
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    let table = machinery::schema::builtin();
    let shape = table.kind("", "v1", "ConfigMap").unwrap();
    let object =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "p"}, "data": {"k": "v"}});
    let body = protobuf::encode(&object, &table.schema, shape).unwrap();
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let run = async |method: &str, path: &str, body: Vec<u8>| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", PROTOBUF)
            .header("accept", PROTOBUF);
        let user = UserInfo::new("admin", &["system:masters"]);
        let service = server.in_process(user);
        let response = service.oneshot(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], PROTOBUF);
        (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
    };
    let (code, bytes) = run("POST", MAPS, body).await;
    assert_eq!(code, 201);
    let made = protobuf::decode(&bytes, &table.schema, shape).unwrap();
    assert_eq!(made["data"], json!({"k": "v"}));
    let (_, bytes) = run("GET", &format!("{MAPS}/p"), Vec::new()).await;
    assert_eq!(protobuf::decode(&bytes, &table.schema, shape).unwrap(), made);
    let (_, bytes) = run("GET", MAPS, Vec::new()).await;
    let list = table.kind("", "v1", "ConfigMapList").unwrap();
    let list = protobuf::decode(&bytes, &table.schema, list).unwrap();
    assert_eq!(list["items"][0]["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, bytes) = run("GET", &format!("{MAPS}/none"), Vec::new()).await;
    let status = protobuf::decode(&bytes, &table.schema, table.kind("", "v1", "Status").unwrap()).unwrap();
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
}
