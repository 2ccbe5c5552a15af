//! Pods: binding, graceful deletion, eviction, namespaces' finalizers, and tunnels to a kubelet.

#![allow(clippy::unwrap_used)]

mod support;

use apiserver::ApiServer;
use apiserver::authentication::UserInfo;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use kit::pki::{LeafSpec, RotatingCertificate, Sans, client_config, server_config};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::ServiceExt;

async fn call(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(Full::new(Bytes::from(bytes)))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    let response = server.in_process(user).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    (code, value)
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn bind(server: &ApiServer, name: &str) -> u16 {
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    call(server, "POST", &format!("{PODS}/{name}/binding"), binding).await.0
}

#[tokio::test]
async fn bound_pods_go_gracefully() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    let (code, made) = call(&server, "POST", PODS, pod("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["phase"], "Pending");
    // Nobody runs it yet: gone at once, and the answer is the pod.
    let (_, gone) = call(&server, "DELETE", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(call(&server, "GET", &format!("{PODS}/a"), Value::Null).await.0, 404);

    call(&server, "POST", PODS, pod("b")).await;
    assert_eq!(bind(&server, "b").await, 201);
    let (_, bound) = call(&server, "GET", &format!("{PODS}/b"), Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bind(&server, "b").await, 409, "already bound");
    let (code, going) = call(&server, "DELETE", &format!("{PODS}/b"), Value::Null).await;
    assert_eq!((code, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)), "{going}");
    // A shorter time may follow, a longer one is ignored; zero ends it.
    let (_, shorter) = call(&server, "DELETE", &format!("{PODS}/b"), json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let (_, longer) = call(&server, "DELETE", &format!("{PODS}/b"), json!({"gracePeriodSeconds": 50})).await;
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    call(&server, "DELETE", &format!("{PODS}/b"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(call(&server, "GET", &format!("{PODS}/b"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    call(&server, "POST", PODS, pod("a")).await;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, _) = call(&server, "PATCH", &format!("{PODS}/a/status"), status).await;
    assert_eq!(code, 200);
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    assert_eq!(call(&server, "POST", BUDGETS, budget).await.0, 201);
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "a"}});
    let (code, refused) = call(&server, "POST", &format!("{PODS}/a/eviction"), eviction.clone()).await;
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let (code, e) = call(&server, "PATCH", &format!("{BUDGETS}/b/status"), status).await;
    assert_eq!(code, 200, "{e}");
    let (code, e) = call(&server, "POST", &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!(code, 201, "{e}");
    let (_, budget) = call(&server, "GET", &format!("{BUDGETS}/b"), Value::Null).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert_eq!(call(&server, "GET", &format!("{PODS}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn namespaces_wait_for_their_finalizer() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await.server;
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "x"}});
    let (_, made) = call(&server, "POST", "/api/v1/namespaces", namespace).await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let (_, going) = call(&server, "DELETE", "/api/v1/namespaces/x", Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let mut done = going.clone();
    done["spec"]["finalizers"] = json!([]);
    let (code, e) = call(&server, "PUT", "/api/v1/namespaces/x/finalize", done).await;
    assert_eq!(code, 200, "{e}");
    assert_eq!(call(&server, "GET", "/api/v1/namespaces/x", Value::Null).await.0, 404);
}

/// Answers one request a connection: a log, or an upgrade that echoes.
async fn fake_kubelet(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let line = head.lines().next().unwrap().to_owned();
            if head.to_lowercase().contains("upgrade: websocket") {
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Line: {line}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut buffer = [0; 64];
                while let Ok(n) = stream.read(&mut buffer).await {
                    if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            } else {
                let body = format!("{line}\n");
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.ok();
            }
        });
    }
}

#[tokio::test]
async fn logs_and_upgrades_reach_the_kubelet() {
    let authority = kit::pki::Authority::generate("kubelets").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let leaf = authority.issue(&LeafSpec::server("kubelet", Sans::new(["n"], [address.ip()]))).unwrap();
    let mut tls = server_config(RotatingCertificate::new(&leaf).unwrap(), None).unwrap();
    tls.alpn_protocols.clear();
    tokio::spawn(fake_kubelet(listener, TlsAcceptor::from(Arc::new(tls))));

    let trust = Arc::new(client_config(&[authority.certificate().clone()], None).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let started =
        support::start(dir.path(), 0, |config| config.kubelet = Some(Arc::new(move || trust.clone()))).await;
    let server = &started.server;
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}});
    call(server, "POST", "/api/v1/nodes", node).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}}});
    assert_eq!(call(server, "PATCH", "/api/v1/nodes/n/status", status).await.0, 200);
    call(server, "POST", PODS, pod("a")).await;
    assert_eq!(call(server, "GET", &format!("{PODS}/a/log"), Value::Null).await, (200, json!("")));
    let (code, e) = call(server, "POST", &format!("{PODS}/a/exec?command=ls"), Value::Null).await;
    assert_eq!((code, &e["message"]), (400, &json!("pod a does not have a host assigned")));
    bind(server, "a").await;
    let (_, log) = call(server, "GET", &format!("{PODS}/a/log?tailLines=5&follow=false"), Value::Null).await;
    assert_eq!(log, "GET /containerLogs/default/a/c?tailLines=5 HTTP/1.1\n");
    let (_, stats) = call(server, "GET", "/api/v1/nodes/n/proxy/stats/summary?x=1", Value::Null).await;
    assert_eq!(stats, "GET /stats/summary?x=1 HTTP/1.1\n");
    let (code, e) = call(server, "GET", &format!("{PODS}/a/log?container=zz"), Value::Null).await;
    assert_eq!((code, &e["message"]), (400, &json!("container zz is not valid for pod a")));

    // An upgrade, through the server's own socket.
    let ours = Arc::new(client_config(&[started.authority.certificate().clone()], None).unwrap());
    let stream = TcpStream::connect(started.address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(started.address.ip());
    let mut stream = TlsConnector::from(ours).connect(name, stream).await.unwrap();
    let request = format!(
        "GET {PODS}/a/exec?command=sh&command=-c%20x&stdin=true&stdout=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        support::TOKEN
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("/exec/default/a/c?input=1&output=1&command=sh&command=-c%20x"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}
