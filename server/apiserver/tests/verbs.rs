//! Every verb, black box, through the in-process service.

#![allow(clippy::unwrap_used)]

mod support;

use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

struct Api {
    server: ApiServer,
    _dir: tempfile::TempDir,
}

async fn api() -> Api {
    let dir = tempfile::tempdir().unwrap();
    let started = support::start(dir.path(), 0, |_| {}).await;
    Api { server: started.server, _dir: dir }
}

impl Api {
    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> http::Response<apiserver::http::Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("user-agent", "verbs/1")
            .body(Full::new(body.into()))
            .unwrap();
        let user = UserInfo::new("admin", &["system:masters"]);
        self.server.in_process(user).oneshot(request).await.unwrap()
    }

    async fn call_as(&self, method: &str, path: &str, kind: &str, body: Value) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let response = self.send(method, path, kind, bytes).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(method, path, "application/json", body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": "v"}})
}

#[tokio::test]
async fn create_get_update_delete() {
    let api = api().await;
    let (code, made) = api.call("POST", MAPS, map("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "verbs");
    let (code, again) = api.call("POST", MAPS, map("a")).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"a\" already exists");
    let (_, got) = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(got, made);

    let mut stale = made.clone();
    stale["data"]["k"] = "w".into();
    let (code, updated) = api.call("PUT", &format!("{MAPS}/a"), stale.clone()).await;
    assert_eq!(code, 200, "{updated}");
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, conflict) = api.call("PUT", &format!("{MAPS}/a"), stale).await;
    assert_eq!(code, 409);
    assert_eq!(
        conflict["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    // The same again changes nothing, not even the version.
    let (_, same) = api.call("PUT", &format!("{MAPS}/a"), updated.clone()).await;
    assert_eq!(same, updated);

    let uid = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.call("DELETE", &format!("{MAPS}/a"), uid).await.0, 409);
    let (code, gone) = api.call("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    assert_eq!(api.get(&format!("{MAPS}/a")).await.0, 404);
}

#[tokio::test]
async fn generate_name_dry_run_and_bad_input() {
    let api = api().await;
    let mut object = map("x");
    object["metadata"] = json!({"generateName": "gen-"});
    let (code, made) = api.call("POST", MAPS, object).await;
    assert_eq!(code, 201);
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("gen-"));
    let (code, _) = api.call("POST", &format!("{MAPS}?dryRun=All"), map("dry")).await;
    assert_eq!(code, 201);
    assert_eq!(api.get(&format!("{MAPS}/dry")).await.0, 404);

    let mut unknown = map("u");
    unknown["spec"] = json!({});
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, refused) = api.call("POST", &strict, unknown.clone()).await;
    assert_eq!(code, 400);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"spec\""
    );
    let warned = api.send("POST", MAPS, "application/json", unknown.to_string()).await;
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"spec\\\"\"");

    let (code, e) = api.call("POST", MAPS, json!({"kind": "Pod", "apiVersion": "v1"})).await;
    assert_eq!(code, 400, "{e}");
    let mut elsewhere = map("e");
    elsewhere["metadata"]["namespace"] = "other".into();
    assert_eq!(
        api.call("POST", MAPS, elsewhere).await.1["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let (code, e) = api.call("POST", MAPS, map("Not_A_Name")).await;
    assert_eq!((code, &e["reason"]), (422, &json!("Invalid")));
    assert_eq!(e["details"]["causes"][0]["field"], "metadata.name");
    let big = vec![b' '; 3 * 1024 * 1024 + 1];
    let response = api.send("POST", MAPS, "application/json", big).await;
    assert_eq!(response.status(), 413);
    let response = api.send("POST", MAPS, "text/csv", "a,b").await;
    assert_eq!(response.status(), 415);
}

#[tokio::test]
async fn patches() {
    let api = api().await;
    api.call("POST", MAPS, map("p")).await;
    let path = format!("{MAPS}/p");
    let merge = json!({"data": {"m": "1"}});
    let (code, o) = api.call_as("PATCH", &path, "application/merge-patch+json", merge).await;
    assert_eq!((code, &o["data"]), (200, &json!({"k": "v", "m": "1"})));
    let ops = json!([{"op": "remove", "path": "/data/m"}, {"op": "test", "path": "/data/k", "value": "v"}]);
    let (code, o) = api.call_as("PATCH", &path, "application/json-patch+json", ops).await;
    assert_eq!((code, &o["data"]), (200, &json!({"k": "v"})));
    let missing = json!([{"op": "remove", "path": "/data/none"}]);
    assert_eq!(api.call_as("PATCH", &path, "application/json-patch+json", missing).await.0, 422);
    let strategic = json!({"metadata": {"labels": {"app": null, "x": "y"}}});
    let (code, o) = api.call_as("PATCH", &path, "application/strategic-merge-patch+json", strategic).await;
    assert_eq!((code, &o["metadata"]["labels"]), (200, &json!({"x": "y"})));
    let pinned = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "1"}});
    assert_eq!(api.call_as("PATCH", &path, "application/merge-patch+json", pinned).await.0, 409);
    assert_eq!(api.call_as("PATCH", &path, "application/json", json!({})).await.0, 415);
    let gone = format!("{MAPS}/none");
    assert_eq!(api.call_as("PATCH", &gone, "application/merge-patch+json", json!({})).await.0, 404);
}

#[tokio::test]
async fn server_side_apply() {
    let api = api().await;
    let apply = |manager: &str, force: bool| format!("{MAPS}/s?fieldManager={manager}&force={force}");
    let config = |v: &str| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"k": v}});
    let kind = "application/apply-patch+yaml";
    let (code, o) = api.call_as("PATCH", &apply("one", false), kind, config("1")).await;
    assert_eq!(code, 201, "{o}");
    assert_eq!(o["metadata"]["managedFields"][0]["operation"], "Apply");
    let (code, again) = api.call_as("PATCH", &apply("one", false), kind, config("1")).await;
    assert_eq!((code, &again["metadata"]["resourceVersion"]), (200, &o["metadata"]["resourceVersion"]));
    let (code, conflict) = api.call_as("PATCH", &apply("two", false), kind, config("2")).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")), "{conflict}");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".data.k");
    let (code, o) = api.call_as("PATCH", &apply("two", true), kind, config("2")).await;
    assert_eq!((code, &o["data"]["k"]), (200, &json!("2")));
    let (code, _) = api.call_as("PATCH", &format!("{MAPS}/s"), kind, config("2")).await;
    assert_eq!(code, 422, "an apply needs a manager");
}

/// Owners are recorded in the version they wrote in, and lose there what others change in another.
#[tokio::test]
async fn owners_of_two_versions() {
    let api = api().await;
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let (code, o) = api.call("POST", &path("v1"), object).await;
    assert_eq!(code, 201, "{o}");
    let owner = &o["metadata"]["managedFields"][0];
    assert_eq!(owner["apiVersion"], "autoscaling/v1");
    assert_eq!(
        owner["fieldsV1"]["f:spec"],
        json!({"f:maxReplicas": {}, "f:minReplicas": {}, "f:scaleTargetRef": {}, "f:targetCPUUtilizationPercentage": {}})
    );
    let metrics = json!({"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 60}}}]}});
    let patch = format!("{}/h?fieldManager=other", path("v2"));
    let (code, o) = api.call_as("PATCH", &patch, "application/merge-patch+json", metrics).await;
    assert_eq!(code, 200, "{o}");
    let owners = o["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(owners.len(), 2, "{owners:?}");
    let of =
        |version: &str| &owners.iter().find(|f| f["apiVersion"] == version).unwrap()["fieldsV1"]["f:spec"];
    assert_eq!(
        of("autoscaling/v1"),
        &json!({"f:maxReplicas": {}, "f:minReplicas": {}, "f:scaleTargetRef": {}})
    );
    assert_eq!(of("autoscaling/v2"), &json!({"f:metrics": {}}));
    assert_eq!(api.get(&format!("{}/h", path("v1"))).await.1["spec"]["targetCPUUtilizationPercentage"], 60);
}

/// What is applied is stored as anything else is: in the form that decoding gives it.
#[tokio::test]
async fn applied_objects_are_canonical() {
    let api = api().await;
    let path = "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities/c?fieldManager=a&force=true";
    let config = |capacity: Value| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity", "metadata": {"name": "c"},
            "storageClassName": "s", "capacity": capacity, "nodeTopology": null})
    };
    let kind = "application/apply-patch+yaml";
    for (capacity, code) in [(json!(5), 201), (json!("1024Ki"), 200)] {
        let (got, o) = api.call_as("PATCH", path, kind, config(capacity.clone())).await;
        assert_eq!(got, code, "{o}");
        let stored = if capacity == 5 { "5" } else { "1Mi" };
        assert_eq!(o["capacity"], stored);
        assert!(o.get("nodeTopology").is_none(), "{o}");
    }
    let (code, e) = api
        .call_as(
            "PATCH",
            path,
            kind,
            json!({"apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity", "metadata": {"name": null}}),
        )
        .await;
    assert_eq!((code, &e["reason"]), (400, &json!("BadRequest")), "{e}");
}

#[tokio::test]
async fn lists_pages_and_selectors() {
    let api = api().await;
    for name in ["a", "b", "c", "d"] {
        api.call("POST", MAPS, map(name)).await;
    }
    let (_, all) = api.get(MAPS).await;
    assert_eq!((all["kind"].as_str(), all["items"].as_array().unwrap().len()), (Some("ConfigMapList"), 4));
    let (_, first) = api.get(&format!("{MAPS}?limit=3")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // What happens between pages is not seen.
    api.call("DELETE", &format!("{MAPS}/d"), Value::Null).await;
    let (_, rest) = api.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "d");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let names = |v: &Value| -> Vec<String> {
        v["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, some) = api.get(&format!("{MAPS}?labelSelector=app%20in%20(a,c)")).await;
    assert_eq!(names(&some), ["a", "c"]);
    let (_, one) = api.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await;
    assert_eq!(names(&one), ["b"]);
    let (code, e) = api.get(&format!("{MAPS}?fieldSelector=data.k%3Db")).await;
    assert_eq!((code, &e["reason"]), (400, &json!("BadRequest")));
    assert_eq!(api.get(&format!("{MAPS}?labelSelector=a%3D%3D%3Db")).await.0, 400);
    assert_eq!(api.get(&format!("{MAPS}?limit=x")).await.0, 400);
    let (code, _) = api.call("DELETE", &format!("{MAPS}?labelSelector=app%3Da"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(names(&api.get(MAPS).await.1), ["b", "c"]);
    let (code, future) = api.get(&format!("{MAPS}?resourceVersion=99999999")).await;
    assert_eq!((code, &future["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
}

/// The next `n` events of a watch.
async fn events(body: apiserver::http::Body, n: usize) -> Vec<Value> {
    let mut stream = body.into_data_stream();
    let mut text = Vec::new();
    let mut out = Vec::new();
    while out.len() < n {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await;
        let Ok(Some(Ok(piece))) = piece else { panic!("the watch ended after {out:?}") };
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            out.push(serde_json::from_slice(&line).unwrap());
        }
    }
    out
}

#[tokio::test]
async fn watches_follow_selectors() {
    let api = api().await;
    api.call("POST", MAPS, map("w")).await;
    let path = format!("{MAPS}?watch=true&labelSelector=app%3Dw&allowWatchBookmarks=true");
    let response = api.send("GET", &path, "application/json", "").await;
    let relabel = |v: Value| {
        let api = &api;
        async move {
            let patch = json!({"metadata": {"labels": {"app": v}}});
            api.call_as("PATCH", &format!("{MAPS}/w"), "application/merge-patch+json", patch).await.1
        }
    };
    let away = relabel(json!("other")).await;
    relabel(json!("w")).await;
    api.call("DELETE", &format!("{MAPS}/w"), Value::Null).await;
    let seen = events(response.into_body(), 4).await;
    let kinds: Vec<&str> = seen.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "DELETED", "ADDED", "DELETED"]);
    // Leaving the selection shows the last state that was in it, under the version that left.
    assert_eq!(seen[1]["object"]["metadata"]["labels"]["app"], "w");
    assert_eq!(seen[1]["object"]["metadata"]["resourceVersion"], away["metadata"]["resourceVersion"]);

    let streaming = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    api.call("POST", MAPS, map("i")).await;
    let response = api.send("GET", &streaming, "application/json", "").await;
    let seen = events(response.into_body(), 2).await;
    assert_eq!(seen[0]["object"]["metadata"]["name"], "i");
    assert_eq!(seen[1]["type"], "BOOKMARK");
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn finalizers_hold_objects() {
    let api = api().await;
    let mut object = map("f");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.call("POST", MAPS, object).await;
    let (code, marked) = api.call("DELETE", &format!("{MAPS}/f"), Value::Null).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let (_, still) = api.get(&format!("{MAPS}/f")).await;
    assert_eq!(still["metadata"]["finalizers"], json!(["example.com/hold"]));
    let patch = json!({"metadata": {"finalizers": null}});
    let (code, _) = api.call_as("PATCH", &format!("{MAPS}/f"), "application/merge-patch+json", patch).await;
    assert_eq!(code, 200);
    assert_eq!(api.get(&format!("{MAPS}/f")).await.0, 404);
    api.call("POST", MAPS, map("g")).await;
    let foreground = json!({"propagationPolicy": "Foreground"});
    let (_, marked) = api.call("DELETE", &format!("{MAPS}/g"), foreground).await;
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let api = api().await;
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec});
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "clusterIP": "10.96.3.3"});
    let (code, made) = api.call("POST", SERVICES, service("a", spec.clone())).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.3.3"]));
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    let (code, taken) = api.call("POST", SERVICES, service("b", spec)).await;
    assert_eq!(code, 422);
    let message = taken["message"].as_str().unwrap();
    assert!(
        message.contains("failed to allocate IP 10.96.3.3: provided IP is already allocated"),
        "{message}"
    );
    let asked = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (code, taken) = api.call("POST", SERVICES, service("b", asked.clone())).await;
    assert_eq!(code, 422);
    assert!(taken["message"].as_str().unwrap().ends_with("provided port is already allocated"));
    api.call("DELETE", &format!("{SERVICES}/a"), Value::Null).await;
    assert_eq!(api.call("POST", SERVICES, service("b", asked)).await.0, 201);
}

#[tokio::test]
async fn scale_and_discovery_and_tables() {
    let api = api().await;
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
    let web = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = api.call("POST", DEPLOYMENTS, web).await;
    assert_eq!(code, 201, "{made}");
    let (_, scale) = api.get(&format!("{DEPLOYMENTS}/web/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    let patch = json!({"spec": {"replicas": 5}});
    let (code, scale) = api
        .call_as("PATCH", &format!("{DEPLOYMENTS}/web/scale"), "application/merge-patch+json", patch)
        .await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/web")).await.1["spec"]["replicas"], 5);
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/web/log")).await.0, 404);
    assert_eq!(api.get("/apis/nope/v1/things").await.0, 404);
    assert_eq!(api.call("POST", "/apis/apps/v1/deployments", json!({})).await.0, 405);

    let (_, groups) = api.get("/apis").await;
    assert_eq!(groups["kind"], "APIGroupList");
    let (_, resources) = api.get("/api/v1").await;
    assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/eviction"));
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(api.get(path).await.0, 200, "{path}");
    }
    let request = Request::get(DEPLOYMENTS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    let response = api.server.in_process(user).oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][1], "0/5");
}

struct Panics;

#[async_trait::async_trait]
impl apiserver::admission::Plugin for Panics {
    fn name(&self) -> &'static str {
        "Panics"
    }
    fn handles(&self, request: &apiserver::admission::Request<'_>) -> bool {
        request.name == "panic"
    }
    async fn validate(
        &self,
        _: &apiserver::admission::Request<'_>,
        _: Option<&Value>,
    ) -> Result<(), apiserver::admission::Denied> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_panic_is_one_500_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let started = support::start(dir.path(), 0, |c| c.admission.push(std::sync::Arc::new(Panics))).await;
    let api = Api { server: started.server, _dir: dir };
    let (code, status) = api.call("POST", MAPS, map("panic")).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")), "{status}");
    assert_eq!(api.call("POST", MAPS, map("fine")).await.0, 201);
    assert!(api.server.metrics.render().contains("apiserver_panics_total 1"));
}

#[tokio::test]
async fn stopping_ends_watches_and_lets_the_store_go() {
    let dir = tempfile::tempdir().unwrap();
    let started = support::start(dir.path(), 0, |_| {}).await;
    let api = Api { server: started.server, _dir: dir };
    let made = api.call("POST", MAPS, map("kept")).await.1;
    let response = api.send("GET", &format!("{MAPS}?watch=1"), "application/json", "").await;
    started.shutdown.trigger();
    started.task.await.unwrap();
    let body = tokio::time::timeout(std::time::Duration::from_secs(20), response.into_body().collect()).await;
    body.expect("the watch ends with the server").unwrap();
    let Api { server, _dir: dir } = api;
    drop(server);
    // Its tasks end by themselves, and the store with the last of them.
    let store = dir.path().join("store");
    for _ in 0..250 {
        if store::embedded::open(&store, store::embedded::Options::default()).is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let started = support::start(dir.path(), 0, |_| {}).await;
    let api = Api { server: started.server, _dir: dir };
    assert_eq!(api.get(&format!("{MAPS}/kept")).await.1, made);
    // Addresses in use are known again.
    let taken = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "x"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 1}]}});
    assert_eq!(api.call("POST", "/api/v1/namespaces/default/services", taken).await.0, 422);
}
