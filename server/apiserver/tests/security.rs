//! Security through the whole server: store, cache, registry and request chain, without a socket.
#![allow(clippy::unwrap_used)]

use apiserver::authentication::UserInfo;
use apiserver::cache::{Cache, Options};
use apiserver::security::{self, SecurityConfig};
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use kit::pki::{LeafSpec, Pki};
use serde_json::{Value, json};
use std::time::Instant;
use tower::ServiceExt as _;

struct World {
    server: ApiServer,
    pki: Pki,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let server = start(dir.path(), &pki).await;
    World { server, pki, _dir: dir }
}

async fn start(dir: &std::path::Path, pki: &Pki) -> ApiServer {
    let store = store::embedded::open(&dir.join("store"), store::embedded::Options::default()).unwrap();
    let cache = Cache::start(store, Options::new(apiserver::selectable_fields())).await.unwrap();
    let security = security::build(pki, cache.clone(), SecurityConfig::default()).unwrap();
    let server = ApiServer::new(Config::secure(cache, security)).unwrap();
    let began = Instant::now();
    server.start().await.unwrap();
    eprintln!("start took {:?}", began.elapsed());
    server
}

fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters"])
}

impl World {
    async fn call(&self, user: &UserInfo, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = request(method, path, body);
        let response = self.server.in_process(user.clone()).oneshot(request).await.unwrap();
        answer(response).await
    }

    async fn token_call(&self, token: &str, path: &str) -> (u16, Value) {
        let mut request = request(Method::GET, path, Value::Null);
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        answer(self.server.service().oneshot(request).await.unwrap()).await
    }

    /// Asks until the answer has this code: reads follow writes after a moment.
    async fn until(&self, user: &UserInfo, path: &str, wanted: u16) {
        let mut last = Value::Null;
        for _ in 0..400 {
            let (code, answer) = self.call(user, Method::GET, path, Value::Null).await;
            if code == wanted {
                return;
            }
            last = answer;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{path} never answers {wanted}: {last:#}");
    }

    async fn must(&self, method: Method, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(&admin(), method, path, body).await;
        assert!(code < 300, "{path}: {answer:#}");
        answer
    }
}

fn request(method: Method, path: &str, body: Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let builder = Request::builder().method(method).uri(path).header("content-type", "application/json");
    builder.body(Full::new(body)).unwrap()
}

async fn answer<B: http_body::Body<Data = Bytes>>(response: http::Response<B>) -> (u16, Value)
where
    B::Error: std::fmt::Debug,
{
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into())),
    )
}

async fn wait_for(world: &World, path: &str) {
    world.until(&admin(), path, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_there_and_survive_a_restart() {
    let mut world = world().await;
    let roles = world.must(Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles", Value::Null).await;
    let count = roles["items"].as_array().unwrap().len();
    assert!(count > 65, "{count}");
    let admin_role =
        world.must(Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin", Value::Null).await;
    assert!(admin_role["rules"].as_array().unwrap().len() > 15);
    for path in [
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/workload-low",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/system:controller:token-cleaner",
    ] {
        world.must(Method::GET, path, Value::Null).await;
    }
    let before = admin_role["metadata"]["resourceVersion"].clone();
    world.server.stop();
    let dir = world._dir.path().to_owned();
    let World { server, pki, _dir } = world;
    drop(server);
    // The store is closed once the last task lets go of it.
    let mut tries = 0;
    while store::embedded::open(&dir.join("store"), store::embedded::Options::default()).is_err() {
        tries += 1;
        assert!(tries < 200, "the store stays locked");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    world = World { server: start(&dir, &pki).await, pki, _dir };
    let again =
        world.must(Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin", Value::Null).await;
    assert_eq!(again["metadata"]["resourceVersion"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_upstream_says() {
    let world = world().await;
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    let (code, answer) = world.call(&jane, Method::GET, "/api/v1/namespaces/default/pods", Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let (code, _) = world.token_call("nonsense", "/api/v1/namespaces").await;
    assert_eq!(code, 401);
    // A binding works as soon as the cache shows it.
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "view"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    world.must(Method::POST, bindings, binding.clone()).await;
    world.until(&jane, "/api/v1/namespaces/default/pods", 200).await;
    // Jane may not grant what she does not hold.
    let mut grant = binding.clone();
    grant["metadata"]["name"] = json!("grant");
    grant["roleRef"]["name"] = json!("admin");
    let allow = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "binder"},
        "rules": [{"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"]}]});
    world.must(Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", allow).await;
    let mut bound = binding;
    bound["metadata"]["name"] = json!("binder");
    bound["roleRef"] = json!({"kind": "Role", "name": "binder", "apiGroup": "rbac.authorization.k8s.io"});
    world.must(Method::POST, bindings, bound).await;
    wait_for(&world, &format!("{bindings}/binder")).await;
    let (code, answer) = world.call(&jane, Method::POST, bindings, grant).await;
    assert_eq!(code, 403, "{answer:#}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("is attempting to grant RBAC permissions not currently held:\n"),
        "{answer:#}"
    );
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let (code, answer) = world
        .call(&jane, Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        .await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)), "{answer:#}");
    assert!(
        answer["status"]["reason"]
            .as_str()
            .unwrap()
            .starts_with("RBAC: allowed by RoleBinding \"view/default\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_its_account_and_the_token_dies_with_it() {
    let world = world().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    world.must(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    wait_for(&world, "/api/v1/namespaces/default/serviceaccounts/default").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let pod = world.must(Method::POST, "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));
    wait_for(&world, "/api/v1/namespaces/default/pods/p").await;
    let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": ["https://kubernetes.default.svc.cluster.local"],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}}});
    let answer =
        world.must(Method::POST, "/api/v1/namespaces/default/serviceaccounts/default/token", ask).await;
    let token = answer["status"]["token"].as_str().unwrap();
    let (code, answer) = world.token_call(token, "/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    let name = "User \\\"system:serviceaccount:default:default\\\" cannot list resource \\\"pods\\\"";
    assert!(answer.to_string().contains(name), "{answer:#}");
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = world.must(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["authenticated"], true, "{review:#}");
    assert_eq!(review["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    world.must(Method::DELETE, "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", Value::Null).await;
    let mut tries = 0;
    while world.token_call(token, "/api/v1/namespaces/default/pods").await.0 != 401 {
        tries += 1;
        assert!(tries < 200, "the token outlives its pod");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_sees_its_own_and_nothing_else() {
    let world = world().await;
    let kubelet =
        |n: &str| UserInfo::new(format!("system:node:{n}"), &["system:nodes", "system:authenticated"]);
    let node = |n: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": n}});
    let (code, answer) = world.call(&kubelet("n1"), Method::POST, "/api/v1/nodes", node("n1")).await;
    assert_eq!(code, 201, "{answer:#}");
    assert_eq!(answer["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let (code, answer) = world.call(&kubelet("n1"), Method::POST, "/api/v1/nodes", node("n2")).await;
    assert_eq!(code, 403);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("node \"n1\" is not allowed to modify node \"n2\""), "{message}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    world.must(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    world.must(Method::POST, "/api/v1/namespaces/default/secrets", secret).await;
    let path = "/api/v1/namespaces/default/secrets/s";
    assert_eq!(world.call(&kubelet("n1"), Method::GET, path, Value::Null).await.0, 403);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n1",
        "volumes": [{"name": "s", "secret": {"secretName": "s"}}], "containers": [{"name": "c", "image": "x"}]}});
    world.must(Method::POST, "/api/v1/namespaces/default/pods", pod).await;
    wait_for(&world, "/api/v1/namespaces/default/pods/p").await;
    world.until(&kubelet("n1"), path, 200).await;
    let (code, answer) = world.call(&kubelet("n2"), Method::GET, path, Value::Null).await;
    assert_eq!(code, 403);
    let message = answer["message"].as_str().unwrap();
    assert!(message.ends_with("no relationship found between node 'n2' and this object"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_documents_are_served() {
    let world = world().await;
    let keys = world.must(Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    let config = world.must(Method::GET, "/.well-known/openid-configuration", Value::Null).await;
    assert_eq!(config["issuer"], "https://kubernetes.default.svc.cluster.local");
    // The certificate of an administrator, as `up` writes it.
    let leaf = world.pki.ca.issue(&LeafSpec::client("kubernetes-admin", &["system:masters"])).unwrap();
    let mut request = request(Method::GET, "/api/v1/namespaces/default", Value::Null);
    let chain = vec![leaf.chain[0].to_vec()];
    request.extensions_mut().insert(apiserver::authentication::PeerCertificates(std::sync::Arc::new(chain)));
    assert_eq!(answer(world.server.service().oneshot(request).await.unwrap()).await.0, 200);
}
