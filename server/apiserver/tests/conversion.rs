//! Definitions with several versions: a conversion webhook, the storage version and its change, black box.

#![allow(clippy::unwrap_used)]

mod support;

use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::pki::{Authority, LeafSpec, RotatingCertificate, Sans};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tower::ServiceExt;

async fn raw(
    server: &ApiServer,
    method: &str,
    path: &str,
    kind: &str,
    body: Value,
) -> Response<apiserver::http::Body> {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.header("accept", "application/json").body(Full::new(Bytes::from(bytes))).unwrap();
    server.in_process(UserInfo::new("admin", &["system:masters"])).oneshot(request).await.unwrap()
}

async fn call(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    answer(raw(server, method, path, kind, body).await).await
}

async fn answer(response: Response<apiserver::http::Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(server: &ApiServer, path: &str) -> Value {
    let (code, value) = call(server, "GET", path, Value::Null).await;
    assert_eq!(code, 200, "{value}");
    value
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

/// Joins and splits `host:port`.
#[derive(Default)]
struct Webhook {
    reviews: AtomicUsize,
    objects: AtomicUsize,
    refusing: AtomicBool,
}

impl Webhook {
    fn convert(&self, review: &Value) -> Value {
        let request = &review["request"];
        let objects = request["objects"].as_array().unwrap();
        self.reviews.fetch_add(1, Ordering::Relaxed);
        self.objects.fetch_add(objects.len(), Ordering::Relaxed);
        if self.refusing.load(Ordering::Relaxed) {
            return json!({"uid": request["uid"], "result": {"status": "Failed", "message": "not today"}});
        }
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let convert = |object: &Value| {
            let mut out = object.clone();
            out["apiVersion"] = wanted.into();
            let spec = out["spec"].as_object_mut().unwrap();
            if wanted.ends_with("/v1") {
                let part =
                    |v: Option<Value>| v.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
                let (host, port) = (part(spec.remove("host")), part(spec.remove("port")));
                spec.insert("hostPort".into(), format!("{host}:{port}").into());
            } else if let Some(joined) = spec.remove("hostPort") {
                let (host, port) = joined.as_str().unwrap().split_once(':').unwrap();
                spec.insert("host".into(), host.into());
                spec.insert("port".into(), port.into());
            }
            out
        };
        let converted: Vec<Value> = objects.iter().map(convert).collect();
        json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted})
    }

    /// Serves; returns the client configuration that finds it.
    async fn start(self: &Arc<Self>) -> Value {
        let authority = Authority::generate("webhook-ca").unwrap();
        let leaf = authority.issue(&LeafSpec::server("webhook", Sans::new(["localhost"], []))).unwrap();
        let tls = kit::pki::server_config(RotatingCertificate::new(&leaf).unwrap(), None).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let webhook = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, webhook) = (acceptor.clone(), webhook.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let webhook = webhook.clone();
                        async move {
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let review: Value = serde_json::from_slice(&body).unwrap();
                            let out = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"],
                                "response": webhook.convert(&review)});
                            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(
                                out.to_string(),
                            ))))
                        }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
        json!({"url": format!("https://localhost:{port}/convert"), "caBundle": bundle})
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gates.example.com";
const V1: &str = "/apis/example.com/v1/namespaces/default/gates";
const V2: &str = "/apis/example.com/v2/namespaces/default/gates";

fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": properties}}}}})
}

fn definition(conversion: Value, v1: Value, v2: Value) -> Value {
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "gates.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "conversion": conversion,
            "names": {"plural": "gates", "kind": "Gate"}, "versions": [v1, v2]}})
}

fn gate(version: &str, name: &str, spec: Value) -> Value {
    json!({"kind": "Gate", "apiVersion": format!("example.com/{version}"), "metadata": {"name": name}, "spec": spec})
}

/// Changes which version is stored.
async fn store_in(server: &ApiServer, stored: &str) {
    let mut wanted = get(server, DEFINITION).await;
    for version in wanted["spec"]["versions"].as_array_mut().unwrap() {
        version["storage"] = (version["name"] == stored).into();
    }
    let (code, e) = call(server, "PUT", DEFINITION, wanted).await;
    assert_eq!(code, 200, "{e}");
}

#[tokio::test]
async fn a_webhook_converts_between_versions() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    let webhook = Arc::new(Webhook::default());
    let client = webhook.start().await;
    let conversion = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}});
    let mut v2 = version("v2", false, &["host", "port"]);
    v2["selectableFields"] = json!([{"jsonPath": ".spec.host"}]);
    let made = definition(conversion, version("v1", true, &["hostPort"]), v2);
    let (code, e) = call(&server, "POST", DEFINITIONS, made).await;
    assert_eq!(code, 201, "{e}");
    until(async || (call(&server, "GET", V2, Value::Null).await.0 == 200).then_some(())).await;

    for name in ["a", "b", "c"] {
        let made = gate("v1", name, json!({"hostPort": format!("{name}.example:80")}));
        assert_eq!(call(&server, "POST", V1, made).await.0, 201);
    }
    assert_eq!(webhook.reviews.load(Ordering::Relaxed), 0, "nothing was converted yet");
    let list = get(&server, V2).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["items"][1]["spec"], json!({"host": "b.example", "port": "80"}));
    assert_eq!(webhook.reviews.load(Ordering::Relaxed), 1, "one review for the whole list");
    get(&server, V2).await;
    let one = get(&server, &format!("{V2}/a")).await;
    assert_eq!(one["apiVersion"], "example.com/v2");
    assert_eq!(webhook.objects.load(Ordering::Relaxed), 3, "and none for what is known");
    let selected = get(&server, &format!("{V2}?fieldSelector=spec.host%3Dc.example")).await;
    assert_eq!(selected["items"][0]["metadata"]["name"], "c");

    // Written in the version it is not stored in.
    let (code, made) =
        call(&server, "POST", V2, gate("v2", "d", json!({"host": "d.example", "port": "1"}))).await;
    assert_eq!((code, &made["spec"]["host"]), (201, &json!("d.example")), "{made}");
    assert_eq!(get(&server, &format!("{V1}/d")).await["spec"], json!({"hostPort": "d.example:1"}));
    let (code, patched) = call(&server, "PATCH", &format!("{V2}/d"), json!({"spec": {"port": "2"}})).await;
    assert_eq!(
        (code, &patched["spec"]["port"], &patched["apiVersion"]),
        (200, &json!("2"), &json!("example.com/v2"))
    );
    assert_eq!(get(&server, &format!("{V1}/d")).await["spec"]["hostPort"], "d.example:2");
    let apply = gate("v2", "d", json!({"port": "3"}));
    let path = format!("{V2}/d?fieldManager=me&force=true");
    let (code, applied) =
        answer(raw(&server, "PATCH", &path, "application/apply-patch+yaml", apply).await).await;
    assert_eq!((code, &applied["spec"]), (200, &json!({"host": "d.example", "port": "3"})), "{applied}");
    let managers = applied["metadata"]["managedFields"].as_array().unwrap();
    let me = managers.iter().find(|m| m["manager"] == "me").unwrap();
    assert_eq!(me["apiVersion"], "example.com/v2");

    // Watching in both versions.
    let revision = get(&server, V1).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch =
        |path: &str| raw_watch(server.clone(), format!("{path}?watch=true&resourceVersion={revision}"));
    let (mut one, mut two) = (watch(V1).await, watch(V2).await);
    call(&server, "PATCH", &format!("{V1}/a"), json!({"spec": {"hostPort": "new:9"}})).await;
    assert_eq!(event(&mut one).await["object"]["spec"], json!({"hostPort": "new:9"}));
    let seen = event(&mut two).await;
    assert_eq!(
        (&seen["type"], &seen["object"]["spec"]),
        (&json!("MODIFIED"), &json!({"host": "new", "port": "9"}))
    );

    // A webhook that refuses.
    webhook.refusing.store(true, Ordering::Relaxed);
    let (code, e) = call(&server, "POST", V2, gate("v2", "e", json!({"host": "e", "port": "1"}))).await;
    assert_eq!(code, 500);
    assert_eq!(e["message"], "conversion webhook for example.com/v2, Kind=Gate failed: not today");
    webhook.refusing.store(false, Ordering::Relaxed);

    // The storage version changes: what lies there is converted, new objects are not.
    store_in(&server, "v2").await;
    let status = until(async || {
        let now = get(&server, DEFINITION).await;
        (now["status"]["storedVersions"] == json!(["v1", "v2"])).then_some(now["status"].clone())
    })
    .await;
    assert_eq!(status["storedVersions"], json!(["v1", "v2"]));
    assert_eq!(get(&server, &format!("{V2}/b")).await["spec"]["host"], "b.example");
    assert_eq!(get(&server, &format!("{V1}/b")).await["spec"]["hostPort"], "b.example:80");
    let before = get(&server, &format!("{V2}/b")).await;
    let (code, rewritten) = call(&server, "PUT", &format!("{V2}/b"), before.clone()).await;
    assert_eq!(code, 200, "{rewritten}");
    assert_ne!(
        rewritten["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"],
        "an update that changes nothing still moves it to the new version"
    );
    let (code, e) = call(&server, "DELETE", &format!("{V2}/b"), Value::Null).await;
    assert_eq!(code, 200, "{e}");
}

async fn raw_watch(server: ApiServer, path: String) -> apiserver::http::Body {
    raw(&server, "GET", &path, "", Value::Null).await.into_body()
}

async fn event(body: &mut apiserver::http::Body) -> Value {
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    serde_json::from_slice(&frame).unwrap()
}

#[tokio::test]
async fn without_a_webhook_versions_differ_in_their_name_and_schema() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    let mut old = version("v1", true, &["host"]);
    old["deprecated"] = true.into();
    let made = definition(json!({"strategy": "None"}), old, version("v2", false, &["host", "more"]));
    let (code, e) = call(&server, "POST", DEFINITIONS, made).await;
    assert_eq!(code, 201, "{e}");
    until(async || (call(&server, "GET", V2, Value::Null).await.0 == 200).then_some(())).await;
    let response = raw(&server, "POST", V1, "application/json", gate("v1", "a", json!({"host": "h"}))).await;
    assert_eq!(
        response.headers()["warning"],
        "299 - \"example.com/v1 Gate is deprecated; use example.com/v2 Gate\""
    );
    let (code, made) = call(&server, "POST", V2, gate("v2", "b", json!({"host": "h", "more": "m"}))).await;
    assert_eq!((code, &made["spec"]["more"]), (201, &json!("m")), "{made}");
    let (_, one) = call(&server, "GET", &format!("{V2}/a"), Value::Null).await;
    assert_eq!((&one["apiVersion"], &one["spec"]), (&json!("example.com/v2"), &json!({"host": "h"})));
    assert_eq!(
        get(&server, &format!("{V2}/b")).await["spec"],
        json!({"host": "h"}),
        "the stored version knows no more"
    );

    // A default that comes later is seen on what is stored.
    let mut changed = get(&server, DEFINITION).await;
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["late"] =
        json!({"type": "string", "default": "yes"});
    assert_eq!(call(&server, "PUT", DEFINITION, changed).await.0, 200);
    until(async || (get(&server, &format!("{V1}/a")).await["spec"]["late"] == "yes").then_some(())).await;

    // A version objects may lie in stays.
    store_in(&server, "v2").await;
    let mut without = get(&server, DEFINITION).await;
    without["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let (code, e) = call(&server, "PUT", DEFINITION, without.clone()).await;
    assert_eq!(code, 422);
    assert!(e["message"].as_str().unwrap().contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration"), "{e}");
    let status = json!({"status": {"storedVersions": ["v2"]}});
    let (code, e) = call(&server, "PATCH", &format!("{DEFINITION}/status"), status).await;
    assert_eq!(code, 200, "{e}");
    without = get(&server, DEFINITION).await;
    without["spec"]["versions"].as_array_mut().unwrap().remove(0);
    assert_eq!(call(&server, "PUT", DEFINITION, without).await.0, 200);
    until(async || (call(&server, "GET", V1, Value::Null).await.0 == 404).then_some(())).await;
    // One that was stored and never rewritten still reads.
    assert_eq!(get(&server, &format!("{V2}/a")).await["apiVersion"], "example.com/v2");
}
