//! The aggregation layer against the extension server of `examples/aggregated`, black box.

#![allow(clippy::unwrap_used)]

mod support;

use aggregated::{FrontProxy, Library};
use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kit::pki::{Authority, LeafSpec, RotatingCertificate, Sans};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

async fn raw(
    server: &ApiServer,
    method: &str,
    path: &str,
    accept: &str,
    body: Value,
) -> Response<apiserver::http::Body> {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", accept)
        .body(Full::new(Bytes::from(bytes)))
        .unwrap();
    let mut user = UserInfo::new("jane", &["system:masters", "readers"]);
    user.extra.insert("example.com/floor".into(), vec!["2".into()]);
    server.in_process(user).oneshot(request).await.unwrap()
}

async fn call(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let response = raw(server, method, path, "application/json", body).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()))
}

async fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    call(server, "GET", path, Value::Null).await
}

async fn until<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..750 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it never came true");
}

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const LIBRARY: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.library.example.com";
const BOOKS: &str = "/apis/library.example.com/v1/namespaces/default/books";

/// The `Available` condition, as `status reason: message`.
async fn availability(server: &ApiServer, path: &str) -> Option<String> {
    let (_, service) = get(server, path).await;
    let condition =
        service["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Available")?.clone();
    let text = |f: &str| condition[f].as_str().unwrap_or_default().to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

async fn available(server: &ApiServer, wanted: &str) {
    let wanted = wanted.to_owned();
    until(async || availability(server, LIBRARY).await.filter(|said| said.starts_with(&wanted)).map(|_| ()))
        .await;
}

/// A running library, and what an APIService says of it.
async fn library(front_proxy: &Authority) -> (u16, String, tokio::task::JoinHandle<()>) {
    let authority = Authority::generate("library-ca").unwrap();
    let spec = LeafSpec::server("library", Sans::new(["library.default.svc"], []));
    let leaf = authority.issue(&spec).unwrap();
    let trusted =
        FrontProxy::new(front_proxy.certificate_pem().as_bytes(), vec!["front-proxy-client".into()]).unwrap();
    let tls = trusted.tls(leaf.certificate_pem().as_bytes(), leaf.key_pem().as_bytes()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(aggregated::serve(listener, Arc::new(tls), Library::new(trusted)));
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
    (port, bundle, task)
}

fn registration(port: u16, bundle: &str) -> Value {
    json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "v1.library.example.com"},
        "spec": {"group": "library.example.com", "version": "v1", "groupPriorityMinimum": 1500, "versionPriority": 10,
            "caBundle": bundle, "service": {"namespace": "default", "name": "library", "port": port}}})
}

fn service() -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "library"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}})
}

fn book(name: &str) -> Value {
    json!({"kind": "Book", "apiVersion": "library.example.com/v1", "metadata": {"name": name},
        "spec": {"title": "A title", "pages": 7}})
}

struct World {
    test: support::TestServer,
    port: u16,
    bundle: String,
    library: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let front_proxy = Authority::generate("front-proxy-ca").unwrap();
    let leaf = front_proxy.issue(&LeafSpec::client("front-proxy-client", &[])).unwrap();
    let slot = RotatingCertificate::new(&leaf).unwrap();
    let test = support::start(dir.path(), 0, |config| config.front_proxy = Some(slot)).await;
    let (port, bundle, library) = library(&front_proxy).await;
    World { test, port, bundle, library, _dir: dir }
}

#[tokio::test]
async fn an_extension_serves_its_group() {
    let world = world().await;
    let server = &world.test.server;
    assert_eq!(get(server, BOOKS).await.0, 404);
    let (code, made) = call(server, "POST", SERVICES, registration(world.port, &world.bundle)).await;
    assert_eq!(code, 201, "{made}");
    available(server, "False ServiceNotFound: service/library in \"default\" is not present").await;
    assert_eq!(get(server, BOOKS).await, (503, "service unavailable\n".into()));
    let (_, discovered) = discovery(server).await;
    assert_eq!(discovered["versions"], json!([{"version": "v1", "freshness": "Stale"}]));

    let (code, e) = call(server, "POST", "/api/v1/namespaces/default/services", service()).await;
    assert_eq!(code, 201, "{e}");
    available(server, "True Passed: all checks passed").await;
    let (code, made) = call(server, "POST", BOOKS, book("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["addedBy"], "jane");
    assert_eq!(made["status"]["groups"], json!(["system:masters", "readers", "system:authenticated"]));
    assert_eq!(made["status"]["extra"]["example.com%2ffloor"], json!(["2"]));
    let response =
        raw(server, "GET", BOOKS, "application/json;as=Table;v=v1;g=meta.k8s.io", Value::Null).await;
    assert_eq!(response.headers()["x-library-protocol"], "h2");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "A title", null, 7]));
    let (code, patched) =
        call(server, "PATCH", &format!("{BOOKS}/a"), json!({"spec": {"author": "me"}})).await;
    assert_eq!((code, &patched["spec"]["author"]), (200, &json!("me")));
    assert_eq!(get(server, &format!("{BOOKS}/none")).await.0, 404);

    // An interface to which nobody is let through without the front proxy's certificate.
    let (_, resources) = get(server, "/apis/library.example.com/v1").await;
    assert_eq!(resources["resources"][0]["name"], "books");
    let (_, group) = get(server, "/apis/library.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "library.example.com/v1");
    let found = until(async || {
        let (_, found) = discovery(server).await;
        (found["versions"][0]["freshness"] == "Current").then_some(found)
    })
    .await;
    assert_eq!(found["versions"][0]["resources"][0]["shortNames"], json!(["bk"]));

    call(server, "DELETE", "/api/v1/namespaces/default/services/library", Value::Null).await;
    available(server, "False ServiceNotFound").await;
    until(async || (get(server, BOOKS).await.0 == 503).then_some(())).await;
    call(server, "DELETE", LIBRARY, Value::Null).await;
    until(async || (get(server, BOOKS).await.0 == 404).then_some(())).await;
    assert_eq!(get(server, "/apis/library.example.com").await.0, 404);
}

/// The group's entry in aggregated discovery, and its place in it.
async fn discovery(server: &ApiServer) -> (usize, Value) {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let bytes = raw(server, "GET", "/apis", accept, Value::Null)
        .await
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    let all = list["items"].as_array().unwrap();
    let at = all.iter().position(|g| g["metadata"]["name"] == "library.example.com").unwrap();
    (at, all[at].clone())
}

async fn registered(world: &World) {
    let server = &world.test.server;
    call(server, "POST", "/api/v1/namespaces/default/services", service()).await;
    let (code, e) = call(server, "POST", SERVICES, registration(world.port, &world.bundle)).await;
    assert_eq!(code, 201, "{e}");
    available(server, "True Passed").await;
}

#[tokio::test]
async fn documents_are_merged() {
    let world = world().await;
    registered(&world).await;
    let server = &world.test.server;
    let path = "/apis/library.example.com/v1/namespaces/{namespace}/books";
    until(async || {
        let (_, index) = get(server, "/openapi/v3").await;
        index["paths"]["apis/library.example.com/v1"]["serverRelativeURL"].is_string().then_some(())
    })
    .await;
    let (code, v3) = get(server, "/openapi/v3/apis/library.example.com/v1").await;
    assert_eq!((code, v3["paths"][path].is_object()), (200, true), "{v3}");
    let (code, v2) = get(server, "/openapi/v2").await;
    assert_eq!(code, 200);
    assert!(v2["paths"][path].is_object() && v2["paths"]["/apis/apps/v1/"].is_object());
    let reference = &v2["definitions"]["com.example.library.v1.Book"]["properties"]["metadata"]["$ref"];
    assert_eq!(reference, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2");
    let (_, groups) = get(server, "/apis").await;
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(names.first(), Some(&"apiregistration.k8s.io"));
    assert_eq!(names.last(), Some(&"library.example.com"));

    // Changed, it goes on with what it knows; and conditions of others stay.
    let (code, e) = call(server, "PATCH", LIBRARY, json!({"spec": {"groupPriorityMinimum": 20000}})).await;
    assert_eq!(code, 200, "{e}");
    until(async || {
        let (at, found) = discovery(server).await;
        assert_eq!(found["versions"][0]["freshness"], "Current");
        (at == 0).then_some(())
    })
    .await;
    let (_, mut service) = get(server, LIBRARY).await;
    let theirs = json!({"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "set by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    service["status"]["conditions"].as_array_mut().unwrap().push(theirs);
    let (code, e) = call(server, "PUT", &format!("{LIBRARY}/status"), service).await;
    assert_eq!(code, 200, "{e}");
    let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
    call(server, "PATCH", "/api/v1/namespaces/default/services/library", touch).await;
    let (_, service) = get(server, LIBRARY).await;
    assert_eq!(service["status"]["conditions"].as_array().map(Vec::len), Some(2), "{service}");
}

#[tokio::test]
async fn watches_stream_through() {
    let world = world().await;
    registered(&world).await;
    let server = &world.test.server;
    let watch = raw(server, "GET", &format!("{BOOKS}?watch=true"), "application/json", Value::Null).await;
    assert_eq!(watch.status(), 200);
    let mut body = watch.into_body();
    for (method, path, kind) in
        [("POST", BOOKS.to_owned(), "ADDED"), ("DELETE", format!("{BOOKS}/w"), "DELETED")]
    {
        call(server, method, &path, if method == "POST" { book("w") } else { Value::Null }).await;
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!("w")));
    }
}

#[tokio::test]
async fn upgrades_are_spliced() {
    let world = world().await;
    registered(&world).await;
    let test = &world.test;
    let tls = kit::pki::client_config(&[test.authority.certificate().clone()], None).unwrap();
    let tcp = TcpStream::connect(test.address).await.unwrap();
    let name = test.address.ip().to_string().try_into().unwrap();
    let mut io = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    let request = format!(
        "GET {BOOKS}/a/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
        support::TOKEN
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: spdy/3.1"), "{head}");
    io.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable() {
    let world = world().await;
    registered(&world).await;
    let server = &world.test.server;
    world.library.abort();
    let _ = world.library.await;
    // A connection that is refused ends the request; nothing waits for the next check.
    until(async || (get(server, BOOKS).await.0 == 503).then_some(())).await;
    // Any change of the Service has it checked at once.
    let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
    call(server, "PATCH", "/api/v1/namespaces/default/services/library", touch).await;
    available(server, "False FailedDiscoveryCheck: failing or missing response from https://localhost:")
        .await;
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let world = world().await;
    let server = &world.test.server;
    let local = "True Local: Local APIServices are always available";
    for name in ["v1.", "v1.apps", "v2.autoscaling"] {
        let path = format!("{SERVICES}/{name}");
        until(async || availability(server, &path).await.filter(|said| said == local).map(|_| ())).await;
        let (_, object) = get(server, &path).await;
        assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    }
    assert_eq!(get(server, "/readyz/autoregister-completion").await.0, 200);
    let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
            "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(call(server, "POST", definitions, definition).await.0, 201);
    let path = format!("{SERVICES}/v1.example.com");
    until(async || availability(server, &path).await.filter(|said| said == local).map(|_| ())).await;
    let (_, object) = get(server, &path).await;
    assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        object["spec"],
        json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    call(server, "DELETE", &path, Value::Null).await;
    until(async || (get(server, &path).await.0 == 200).then_some(())).await;
    call(server, "DELETE", &format!("{definitions}/widgets.example.com"), Value::Null).await;
    until(async || (get(server, &path).await.0 == 404).then_some(())).await;
}
