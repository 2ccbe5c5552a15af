//! What stands around every request: seats, time limits, audit, encryption at rest, and the way out.
#![allow(clippy::unwrap_used)]

mod support;

use apiserver::audit::{Audit, Delivery, Format, LogOptions, Policy};
use apiserver::authentication::UserInfo;
use apiserver::cache::{Cache, Options};
use apiserver::encryption::Encryption;
use apiserver::http::RequestBody;
use apiserver::http::body::request_body;
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kit::pki::client_config;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

async fn server(dir: &Path, adjust: impl FnOnce(&mut Config)) -> ApiServer {
    let store = store::embedded::open(&dir.join("store"), store::embedded::Options::default()).unwrap();
    over(store, adjust).await
}

async fn over(store: Arc<dyn store::Store>, adjust: impl FnOnce(&mut Config)) -> ApiServer {
    let cache = Cache::start(store, Options::new(apiserver::selectable_fields())).await.unwrap();
    let mut config = Config::new(cache, Vec::new(), Arc::new(support::AllowAll), Vec::new());
    config.published = Some(tokio::sync::watch::channel(apiserver::bootstrap::Published::default()).1);
    adjust(&mut config);
    let server = ApiServer::new(config).unwrap();
    server.start().await.unwrap();
    server
}

fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters", "system:authenticated"])
}

async fn send<B>(server: &ApiServer, user: &UserInfo, request: Request<B>) -> Response<apiserver::http::Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<apiserver::http::BoxError>,
{
    server.in_process(user.clone()).oneshot(request).await.unwrap()
}

async fn call(server: &ApiServer, user: &UserInfo, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let response = send(server, user, request.body(Full::new(bytes)).unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// A create whose body never ends.
fn endless(path: &str) -> Request<RequestBody> {
    let never = futures::stream::pending::<Result<Frame<Bytes>, String>>();
    Request::post(path)
        .header("content-type", "application/json")
        .body(request_body(StreamBody::new(never)))
        .unwrap()
}

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn configmap(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn schema_of_jane() -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "mine"},
        "spec": {"matchingPrecedence": 7, "priorityLevelConfiguration": {"name": "mine"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]},
    })
}

fn level_that_refuses() -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "mine"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}},
    })
}

fn list_configmaps() -> Request<Full<Bytes>> {
    Request::get(CONFIGMAPS).body(Full::new(Bytes::new())).unwrap()
}

#[tokio::test]
async fn seats_run_out_and_the_refusal_is_upstreams() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), |config| {
        config.max_requests_inflight = 1;
        config.max_mutating_requests_inflight = 0;
    })
    .await;
    let level = format!("{FLOW}/prioritylevelconfigurations");
    assert_eq!(call(&server, &admin(), Method::POST, &level, &level_that_refuses()).await.0, 201);
    let (code, schema) =
        call(&server, &admin(), Method::POST, &format!("{FLOW}/flowschemas"), &schema_of_jane()).await;
    assert_eq!(code, 201);
    let uid = schema["metadata"]["uid"].as_str().unwrap();
    let jane = UserInfo::new("jane", &[]);
    while send(&server, &jane, list_configmaps()).await.headers()["x-kubernetes-pf-flowschema-uid"] != uid {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The level has a seat or two, and no queue.
    let mut holding = Vec::new();
    let refused = loop {
        let mut slow = Box::pin(send(&server, &jane, endless(CONFIGMAPS)));
        let _ = futures::poll!(&mut slow);
        holding.push(slow);
        assert!(holding.len() < 20, "there is no end of seats");
        let response = send(&server, &jane, list_configmaps()).await;
        if response.status() == 429 {
            break response;
        }
    };
    let headers = refused.headers();
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(headers["x-kubernetes-pf-flowschema-uid"], uid);
    assert!(headers.contains_key("x-kubernetes-pf-prioritylevel-uid"));
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    // The exempt go on, and what holds the seat gives it back when its client goes away.
    assert_eq!(send(&server, &admin(), list_configmaps()).await.status(), 200);
    let metrics = server.metrics_page();
    assert!(metrics.contains(
        "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"mine\",priority_level=\"mine\",reason=\"concurrency-limit\"}"
    ));
    drop(holding);
    assert_eq!(send(&server, &jane, list_configmaps()).await.status(), 200);
}

#[tokio::test]
async fn schemas_are_followed_and_dangling_ones_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), |_| {}).await;
    let (schemas, levels) = (format!("{FLOW}/flowschemas"), format!("{FLOW}/prioritylevelconfigurations"));
    let (code, made) = call(&server, &admin(), Method::POST, &schemas, &schema_of_jane()).await;
    assert_eq!(code, 201, "{made}");
    let dangling = || async {
        let (_, now) = call(&server, &admin(), Method::GET, &format!("{schemas}/mine"), &Value::Null).await;
        now["status"]["conditions"][0].clone()
    };
    let until = async |status: &str| loop {
        let condition = dangling().await;
        if condition["status"] == status {
            return condition;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let condition = tokio::time::timeout(Duration::from_secs(20), until("True")).await.unwrap();
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Dangling"), &json!("NotFound")));
    assert_eq!(call(&server, &admin(), Method::POST, &levels, &level_that_refuses()).await.0, 201);
    let condition = tokio::time::timeout(Duration::from_secs(20), until("False")).await.unwrap();
    assert_eq!(condition["reason"], "Found");
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    let request = Request::get(CONFIGMAPS).body(Full::new(Bytes::new())).unwrap();
    let response = send(&server, &jane, request).await;
    assert_eq!(
        response.headers()["x-kubernetes-pf-flowschema-uid"],
        made["metadata"]["uid"].as_str().unwrap()
    );
    let path = "/debug/api_priority_and_fairness/dump_queues";
    let request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
    let dump = send(&server, &admin(), request).await.into_body().collect().await.unwrap().to_bytes();
    assert!(dump.starts_with(b"PriorityLevelName, "), "{dump:?}");
}

#[tokio::test]
async fn requests_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), |_| {}).await;
    let response = send(&server, &admin(), endless(&format!("{CONFIGMAPS}?timeout=50ms"))).await;
    assert_eq!(response.status(), 504);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["reason"], "Timeout");
    assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
    let (code, status) =
        call(&server, &admin(), Method::GET, &format!("{CONFIGMAPS}?timeout=soon"), &Value::Null).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
}

#[tokio::test]
async fn events_tell_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    let log = dir.path().join("audit.log");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules:\n- level: None\n  users: [quiet]\n\
                 - level: RequestResponse\n  resources: [{group: '', resources: [configmaps]}]\n- level: Metadata\n";
    std::fs::write(&policy, rules).unwrap();
    let options = LogOptions {
        path: log.clone(),
        format: Format::Json,
        max_age: 0,
        max_backups: 0,
        max_size: 100,
        compress: false,
    };
    let audit = Audit::new(Policy::load(&policy).unwrap()).with_log(options, Delivery::of_log()).unwrap();
    let server = server(dir.path(), |config| config.audit = Some(Arc::new(audit))).await;
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let before = events().len();
    let quiet = UserInfo::new("quiet", &["system:masters"]);
    assert_eq!(call(&server, &quiet, Method::GET, CONFIGMAPS, &Value::Null).await.0, 200);
    assert_eq!(events().len(), before);
    let request = Request::post(CONFIGMAPS)
        .header("content-type", "application/json")
        .header("impersonate-user", "jane")
        .header("user-agent", "tester")
        .header("audit-id", "my-id")
        .body(Full::new(Bytes::from(configmap("a").to_string())))
        .unwrap();
    assert_eq!(send(&server, &admin(), request).await.status(), 201);
    let new = events().split_off(before);
    let stages: Vec<&Value> = new.iter().map(|e| &e["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let event = &new[1];
    assert_eq!((&event["auditID"], &event["level"]), (&json!("my-id"), &json!("RequestResponse")));
    assert_eq!((&event["user"]["username"], &event["verb"]), (&json!("admin"), &json!("create")));
    assert_eq!(event["impersonatedUser"]["username"], "jane");
    assert_eq!((&event["userAgent"], &event["requestURI"]), (&json!("tester"), &json!(CONFIGMAPS)));
    assert_eq!(
        event["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!(event["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(event["responseObject"]["metadata"]["name"], "a");
    assert!(event["responseObject"]["metadata"]["uid"].is_string());
    assert!(event["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");

    // Failures carry their Status; a watch has a stage when it begins and one when it ends.
    assert_eq!(call(&server, &admin(), Method::GET, &format!("{SECRETS}/none"), &Value::Null).await.0, 404);
    let last = events().pop().unwrap();
    assert_eq!(last["responseStatus"]["reason"], "NotFound");
    assert_eq!(last["responseStatus"]["details"], json!({"name": "none", "kind": "secrets"}));
    assert!(last["responseObject"].is_null(), "the level is Metadata");
    let before = events().len();
    let request =
        Request::get(format!("{SECRETS}?watch=1&timeoutSeconds=1")).body(Full::new(Bytes::new())).unwrap();
    let watch = send(&server, &admin(), request).await;
    let stages = || events().split_off(before).iter().map(|e| e["stage"].clone()).collect::<Vec<_>>();
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    for _ in 0..1000 {
        if stages().len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(stages()[2], "ResponseComplete");
}

fn encryption_config(dir: &Path, keys: &[(&str, u8)]) -> std::path::PathBuf {
    use base64::Engine as _;
    let secret = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    let keys: Vec<String> =
        keys.iter().map(|(name, byte)| format!("{{name: {name}, secret: '{}'}}", secret(*byte))).collect();
    let path = dir.join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers: [{{secretbox: {{keys: [{}]}}}}]\n",
        keys.join(", ")
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn secrets_are_encrypted_rotated_and_missed() {
    let dir = tempfile::tempdir().unwrap();
    let raw = store::embedded::open(&dir.path().join("store"), store::embedded::Options::default()).unwrap();
    let stored = async |name: &str| {
        let key = format!("/registry/secrets/default/{name}");
        raw.get(key.as_bytes()).await.unwrap().0.unwrap().value
    };
    let start = async |keys: &[(&str, u8)]| {
        let encryption = Encryption::load(&encryption_config(dir.path(), keys), true).await.unwrap();
        let store = encryption.wrap(raw.clone());
        let server = over(store, |config| config.encryption = Some(encryption.clone())).await;
        (server, encryption)
    };
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"p": "hunter2"}});
    let (first, _) = start(&[("key1", 1)]).await;
    for name in ["a", "b"] {
        assert_eq!(call(&first, &admin(), Method::POST, SECRETS, &secret(name)).await.0, 201);
    }
    let bytes = stored("a").await;
    assert!(bytes.starts_with(b"k8s:enc:secretbox:v1:key1:"));
    assert!(!bytes.windows(8).any(|w| w == b"metadata"));
    first.stop();

    // The new key in front: both are read; an update that changes nothing is written all the same, once.
    let (second, _) = start(&[("key2", 2), ("key1", 1)]).await;
    let (code, before) = call(&second, &admin(), Method::GET, &format!("{SECRETS}/a"), &Value::Null).await;
    assert_eq!((code, &before["data"]["p"]), (200, &json!("aHVudGVyMg==")));
    let (code, touched) = call(&second, &admin(), Method::PUT, &format!("{SECRETS}/a"), &before).await;
    assert_eq!(code, 200);
    assert_ne!(touched["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    assert!(stored("a").await.starts_with(b"k8s:enc:secretbox:v1:key2:"));
    let (_, again) = call(&second, &admin(), Method::PUT, &format!("{SECRETS}/a"), &touched).await;
    assert_eq!(again["metadata"]["resourceVersion"], touched["metadata"]["resourceVersion"]);
    second.stop();

    // Without the old key `b` cannot be read: itself and lists say why, everything else goes on.
    let (third, encryption) = start(&[("key2", 2)]).await;
    let why = "Internal error occurred: unable to transform key \"/registry/secrets/default/b\": no matching key was \
               found for the provided Secretbox transformer";
    for path in [format!("{SECRETS}/b"), SECRETS.to_owned(), "/api/v1/secrets".to_owned()] {
        let (code, status) = call(&third, &admin(), Method::GET, &path, &Value::Null).await;
        assert_eq!((code, status["message"].as_str().unwrap()), (500, why), "{path}");
    }
    assert_eq!(call(&third, &admin(), Method::GET, &format!("{SECRETS}/a"), &Value::Null).await.0, 200);
    assert_eq!(call(&third, &admin(), Method::POST, SECRETS, &secret("c")).await.0, 201);
    assert_eq!(call(&third, &admin(), Method::POST, SECRETS, &secret("b")).await.0, 409);
    assert_eq!(call(&third, &admin(), Method::POST, CONFIGMAPS, &configmap("x")).await.0, 201);
    assert_eq!(
        call(&third, &admin(), Method::GET, "/api/v1/namespaces/kube-system/secrets", &Value::Null).await.0,
        200
    );

    // The key comes back while the server runs.
    encryption_config(dir.path(), &[("key2", 2), ("key1", 1)]);
    assert!(encryption.reload().await.unwrap());
    third.storage.cache().reload();
    for _ in 0..2000 {
        if call(&third, &admin(), Method::GET, SECRETS, &Value::Null).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (code, list) = call(&third, &admin(), Method::GET, SECRETS, &Value::Null).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(3)));
}

#[tokio::test]
async fn stopping_drops_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let test =
        support::start(dir.path(), 0, |config| config.shutdown_delay = Duration::from_millis(300)).await;
    let tls = client_config(&[test.authority.certificate().clone()], None).unwrap();
    let connect = async || {
        let tcp = tokio::net::TcpStream::connect(test.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
    };
    let body = configmap("late").to_string();
    let (early, late) = body.split_at(10);
    let head = format!(
        "POST {CONFIGMAPS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{early}",
        support::TOKEN,
        body.len()
    );
    let mut slow = connect().await;
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", support::TOKEN)
    };
    let mut watch = connect().await;
    watch.write_all(get(&format!("{CONFIGMAPS}?watch=1")).as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    assert!(watch.read(&mut buffer).await.unwrap() > 0);

    // First /readyz says no, while everything else goes on, new connections too.
    test.shutdown.trigger();
    let mut ready = connect().await;
    ready.write_all(get("/readyz").as_bytes()).await.unwrap();
    let n = ready.read(&mut buffer).await.unwrap();
    let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("[-]shutdown failed"), "{answer}");

    // Then watches end cleanly, and what was under way is answered, with a goodbye.
    let mut rest = Vec::new();
    watch.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    assert!(tokio::net::TcpStream::connect(test.address).await.is_err());
    slow.write_all(late.as_bytes()).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    tokio::time::timeout(Duration::from_secs(20), test.task).await.unwrap().unwrap();
}
