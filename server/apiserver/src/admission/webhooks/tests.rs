//! What this module promises, case by case.

use super::super::support::testing::Ask;
use super::*;
use crate::reader::fake::FakeCluster;
use bytes::Bytes;
use parking_lot::Mutex;

const GROUP: &str = "admissionregistration.k8s.io";

/// Answers by the path that was called, and remembers the calls.
struct Script {
    calls: Mutex<Vec<String>>,
}

#[async_trait]
impl WebhookTransport for Script {
    async fn call(
        &self,
        endpoint: &Endpoint,
        _: std::time::Duration,
        review: Bytes,
    ) -> Result<Answered, String> {
        let url = endpoint.shown(std::time::Duration::from_secs(1));
        let path = url.split('/').next_back().unwrap_or("").split('?').next().unwrap_or("").to_owned();
        self.calls.lock().push(path.clone());
        let request = serde_json::from_slice::<Value>(&review).unwrap()["request"].take();
        let mut response = json!({"uid": request["uid"], "allowed": true});
        match path.as_str() {
            "deny" => {
                response =
                    json!({"uid": request["uid"], "allowed": false, "status": {"message": "no", "code": 403}})
            }
            "silent" => response = json!({"uid": request["uid"], "allowed": false}),
            "broken" => return Err("connection refused".into()),
            "hang" => std::future::pending().await,
            "stranger" => response["uid"] = json!("other"),
            label
                if label.starts_with("label-")
                    && request["object"]["metadata"]["labels"][label].is_null() =>
            {
                let patch = json!([{"op": "add", "path": format!("/metadata/labels/{label}"), "value": "x"}]);
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(patch.to_string()));
            }
            _ => {}
        }
        let answer =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        Ok(Answered { code: 200, content_type: "application/json".into(), body: answer.to_string().into() })
    }
}

/// Everybody may do everything.
struct Anyone;

#[async_trait]
impl Authorizer for Anyone {
    async fn authorize(&self, _: &crate::authorization::Attributes) -> crate::authorization::Decision {
        crate::authorization::Decision::Allow { reason: String::new() }
    }
    async fn rules_for(
        &self,
        _: &crate::authentication::UserInfo,
        _: &str,
    ) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

fn hook(path: &str, extra: Value) -> Value {
    let ca = kit::pki::Authority::generate("hooks").unwrap();
    let mut hook = json!({
        "name": format!("{path}.example.com"),
        "clientConfig": {"url": format!("https://hooks.example.com/{path}"), "caBundle": STANDARD.encode(ca.certificate_pem())},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    for (key, value) in extra.as_object().unwrap() {
        hook[key] = value.clone();
    }
    hook
}

fn world(resource: &str, hooks: Vec<Value>) -> (Arc<FakeCluster>, Arc<Script>) {
    let cluster = FakeCluster::new();
    cluster.put("", "namespaces", json!({"metadata": {"name": "a", "labels": {"team": "x"}}}));
    cluster.put(GROUP, resource, json!({"metadata": {"name": "c"}, "webhooks": hooks}));
    (cluster, Arc::new(Script { calls: Mutex::default() }))
}

fn pod() -> Value {
    json!({"kind": "Pod", "metadata": {"namespace": "a", "name": "p", "labels": {"app": "web"}}})
}

async fn validate(hooks: Vec<Value>) -> Result<Value, Denied> {
    let (cluster, script) = world("validatingwebhookconfigurations", hooks);
    Ask::create("", "pods")
        .run(&ValidatingAdmissionWebhook::new(cluster, Arc::new(Anyone), Some(script)), pod())
        .await
}

#[tokio::test]
async fn refusals_are_worded_like_upstream() {
    validate(vec![hook("fine", json!({}))]).await.unwrap();
    let denied = validate(vec![hook("fine", json!({})), hook("deny", json!({}))]).await.unwrap_err();
    assert_eq!(
        (denied.code, denied.message.as_str()),
        (403, "admission webhook \"deny.example.com\" denied the request: no")
    );
    let denied = validate(vec![hook("silent", json!({}))]).await.unwrap_err();
    assert_eq!(denied.code, 400);
    assert_eq!(
        denied.message,
        "admission webhook \"silent.example.com\" denied the request without explanation"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_close_or_open_as_asked() {
    let denied = validate(vec![hook("broken", json!({"timeoutSeconds": 5}))]).await.unwrap_err();
    assert_eq!(denied.code, 500);
    assert_eq!(
        denied.message,
        "Internal error occurred: failed calling webhook \"broken.example.com\": failed to call webhook: Post \
         \"https://hooks.example.com:443/broken?timeout=5s\": connection refused"
    );
    let hang = validate(vec![hook("hang", json!({"timeoutSeconds": 3}))]).await.unwrap_err();
    assert!(hang.message.ends_with("context deadline exceeded"), "{hang}");
    assert!(validate(vec![hook("stranger", json!({}))]).await.is_err());
    for path in ["broken", "hang", "stranger"] {
        validate(vec![hook(path, json!({"failurePolicy": "Ignore"}))]).await.unwrap();
    }
    // Conditions that do not hold spare the call, and so do, where failures are ignored, those that fail.
    let when = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    validate(vec![hook("deny", when("false"))]).await.unwrap();
    validate(vec![hook("deny", when("has(object.metadata.labels.other)"))]).await.unwrap();
    let asks = "authorizer.group('').resource('pods').check('get').allowed()";
    validate(vec![hook("deny", when(&format!("!{asks}")))]).await.unwrap();
    assert!(validate(vec![hook("deny", when(asks))]).await.is_err());
    assert!(
        validate(vec![hook("deny", when("object.metadata.name == 'p' && request.operation == 'CREATE'"))])
            .await
            .is_err()
    );
    let denied = validate(vec![hook("fine", when("object.nothing == 1"))]).await.unwrap_err();
    assert_eq!(
        (denied.code, denied.message.as_str()),
        (403, "expression 'object.nothing == 1' resulted in error: no such key: nothing")
    );
    let mut ignored = when("object.nothing == 1");
    ignored["failurePolicy"] = json!("Ignore");
    validate(vec![hook("deny", ignored)]).await.unwrap();
    let no_ca = json!({"clientConfig": {"url": "https://x/"}});
    assert!(validate(vec![hook("fine", no_ca)]).await.unwrap_err().message.contains("no caBundle"));
}

#[tokio::test]
async fn rules_and_selectors_decide_who_is_asked() {
    for (extra, asked) in [
        (json!({}), true),
        (
            json!({"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}),
            false,
        ),
        (
            json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["*"]}]}),
            false,
        ),
        (
            json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["*/*"]}]}),
            true,
        ),
        (
            json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                              "scope": "Cluster"}]}),
            false,
        ),
        (json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), false),
        (json!({"objectSelector": {"matchLabels": {"app": "web"}}}), true),
        (
            json!({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}),
            false,
        ),
    ] {
        let (cluster, script) = world("validatingwebhookconfigurations", vec![hook("fine", extra.clone())]);
        let plugin = ValidatingAdmissionWebhook::new(cluster, Arc::new(Anyone), Some(script.clone()));
        Ask::create("", "pods").run(&plugin, pod()).await.unwrap();
        assert_eq!(!script.calls.lock().is_empty(), asked, "{extra}");
    }
}

#[tokio::test]
async fn mutations_run_in_order_and_again_where_wanted() {
    let hooks = vec![hook("label-a", json!({"reinvocationPolicy": "IfNeeded"})), hook("label-b", json!({}))];
    let (cluster, script) = world("mutatingwebhookconfigurations", hooks);
    let plugin = MutatingAdmissionWebhook::new(cluster, Arc::new(Anyone), Some(script.clone()));
    let pod = Ask::create("", "pods").run(&plugin, pod()).await.unwrap();
    assert_eq!(pod["metadata"]["labels"], json!({"app": "web", "label-a": "x", "label-b": "x"}));
    assert_eq!(*script.calls.lock(), ["label-a", "label-b", "label-a"]);
}

#[tokio::test]
async fn configurations_themselves_are_exempt() {
    let everything = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]});
    let (cluster, script) = world("validatingwebhookconfigurations", vec![hook("deny", everything)]);
    let plugin = ValidatingAdmissionWebhook::new(cluster, Arc::new(Anyone), Some(script));
    let own = json!({"metadata": {"name": "c"}});
    Ask::delete(GROUP, "validatingwebhookconfigurations", own.clone()).run(&plugin, own).await.unwrap();
    assert!(Ask::delete("", "pods", pod()).run(&plugin, pod()).await.is_err());
}

/// The real transport against a real TLS server.
#[tokio::test]
async fn a_webhook_behind_tls_is_reached_and_a_stranger_is_not_trusted() {
    use http_body_util::{BodyExt as _, Full};
    let ca = kit::pki::Authority::generate("hooks").unwrap();
    let sans = kit::pki::Sans::new(["localhost"], ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let leaf = ca.issue(&kit::pki::LeafSpec::server("hook", sans)).unwrap();
    let slot = kit::pki::RotatingCertificate::new(&leaf).unwrap();
    let mut config = kit::pki::server_config(slot, None).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(
                |request: http::Request<hyper::body::Incoming>| async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap();
                    let status = json!({"message": format!("{} {}", review["request"]["operation"], review["request"]["name"])});
                    let response =
                        json!({"uid": review["request"]["uid"], "allowed": false, "status": status});
                    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
                    let answer = answer.to_string();
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(answer))))
                },
            );
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let ask = |ca: String| async move {
        let client = json!({"clientConfig": {"url": format!("https://127.0.0.1:{port}/"), "caBundle": STANDARD.encode(ca)}});
        let (cluster, _) = world("validatingwebhookconfigurations", vec![hook("tls", client)]);
        let plugin = ValidatingAdmissionWebhook::new(cluster, Arc::new(Anyone), None);
        Ask::create("", "pods").run(&plugin, pod()).await.unwrap_err()
    };
    let denied = ask(ca.certificate_pem().to_owned()).await;
    assert_eq!(denied.message, "admission webhook \"tls.example.com\" denied the request: \"CREATE\" \"p\"");
    let other = kit::pki::Authority::generate("hooks").unwrap();
    let denied = ask(other.certificate_pem().to_owned()).await;
    assert!(denied.code == 500 && denied.message.contains("tls: "), "{denied}");
}
