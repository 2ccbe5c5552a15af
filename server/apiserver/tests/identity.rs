//! Identity through the whole server: an OIDC issuer and webhooks over TLS, expressions, tokens of Secrets,
//! impersonation.
#![allow(clippy::unwrap_used)]

#[path = "../src/remote/testing.rs"]
mod testing;

use apiserver::authentication::{Anonymous, AnonymousAccess, UserInfo, WebhookTokens};
use apiserver::authorization::config::AuthorizationConfiguration;
use apiserver::cache::{Cache, Options};
use apiserver::remote::kubeconfig;
use apiserver::security::reload::AuthenticationReload;
use apiserver::security::{self, CelCompiler, SecurityConfig};
use apiserver::tokens::jose::SigningKey;
use apiserver::{ApiServer, Config};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use kit::pki::{Pki, PrivateKey};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testing::TestService;
use tower::ServiceExt as _;

struct World {
    server: ApiServer,
    issuer: Arc<apiserver::tokens::Issuer>,
    idp: TestService,
    key: SigningKey,
    _dir: tempfile::TempDir,
}

/// This server's audience, which its token webhook knows nothing of.
const API: &str = "https://kubernetes.default.svc.cluster.local";
const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\n";

fn authentication(idp: &TestService) -> String {
    let ca = idp.authority.replace('\n', "\n      ");
    format!(
        r#"{HEAD}kind: AuthenticationConfiguration
jwt:
- issuer:
    url: {url}
    audiences: [kubernetes, other]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
      {ca}
  claimMappings:
    username: {{expression: "'oidc:' + claims.sub"}}
    groups: {{claim: groups, prefix: "oidc:"}}
    extra:
    - {{key: example.com/tenant, valueExpression: claims.tenant}}
  claimValidationRules:
  - {{expression: "claims.tenant != 'evil'", message: "this tenant is not welcome"}}
  userValidationRules:
  - {{expression: "!user.username.startsWith('system:')"}}
anonymous:
  enabled: true
  conditions: [{{path: /livez}}]
"#,
        url = idp.url
    )
}

fn authorization(file: &std::path::Path) -> String {
    format!(
        r#"{HEAD}kind: AuthorizationConfiguration
authorizers:
- {{type: RBAC, name: rbac}}
- type: Webhook
  name: hook.example.com
  webhook:
    timeout: 5s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: NoOpinion
    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}
    matchConditions:
    - expression: request.user.startsWith('oidc:')
    - expression: has(request.resourceAttributes) && request.resourceAttributes.resource == 'pods'
"#,
        file.display()
    )
}

async fn world() -> World {
    let idp = TestService::start().await;
    let key = SigningKey::Ecdsa(PrivateKey::generate().unwrap());
    let public = key.public();
    let url = idp.url.clone();
    idp.put("/.well-known/openid-configuration", json!({"issuer": url, "jwks_uri": format!("{url}/keys")}));
    idp.put("/keys", json!({"keys": [public.key.to_jwk(&public.id)]}));
    idp.handle("/authorize", |review| {
        let mut answer = review.clone();
        answer["status"] =
            json!({"allowed": review["spec"]["user"] == "oidc:jane", "reason": "the webhook says so"});
        (200, answer)
    });
    idp.handle("/tokens", |review| {
        let mut answer = review.clone();
        answer["status"] =
            json!({"authenticated": review["spec"]["token"] == "hook", "user": {"username": "hooky"}});
        (200, answer)
    });
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let compiler: Arc<dyn apiserver::authentication::expressions::Compiler> = Arc::new(CelCompiler);
    let anonymous = AnonymousAccess::from(Anonymous::Off);
    let reload = AuthenticationReload {
        tokens: Arc::default(),
        anonymous: anonymous.clone(),
        anonymous_by_flag: Anonymous::Off,
        disallowed: Vec::new(),
        compiler: Some(compiler.clone()),
    };
    reload.start(authentication(&idp).as_bytes()).unwrap();
    let (_keep, hook) = idp.kubeconfig("/tokens");
    let webhook = kubeconfig::load(&hook).unwrap();
    let webhook = WebhookTokens::new(webhook, "v1", vec![API.into()], Duration::from_secs(60)).unwrap();
    let (_keep, hook) = idp.kubeconfig("/authorize");
    let authorization = AuthorizationConfiguration::parse(authorization(&hook).as_bytes()).unwrap();
    let config = SecurityConfig {
        anonymous,
        remote_tokens: vec![reload.tokens, Arc::new(webhook)],
        authorization: Some(authorization),
        compiler: Some(compiler),
        ..SecurityConfig::default()
    };
    let store =
        store::embedded::open(&dir.path().join("store"), store::embedded::Options::default()).unwrap();
    let cache = Cache::start(store, Options::new(apiserver::selectable_fields())).await.unwrap();
    let security = security::build(&pki, cache.clone(), config).unwrap();
    let issuer = security.token_issuer.clone();
    let server = ApiServer::new(Config::secure(cache, security)).unwrap();
    server.start().await.unwrap();
    World { server, issuer, idp, key, _dir: dir }
}

impl World {
    fn token(&self, claims: Value) -> String {
        let public = self.key.public();
        let mut all = json!({"iss": self.idp.url, "aud": ["kubernetes"], "sub": "jane", "groups": ["dev"],
                             "tenant": "t1", "exp": 32503680000i64});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = json!({"alg": "ES256", "kid": public.id});
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&all));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).unwrap()))
    }

    async fn send(&self, user: Option<UserInfo>, request: Request<Full<Bytes>>) -> (u16, Value) {
        let response = match user {
            Some(user) => self.server.in_process(user).oneshot(request).await.unwrap(),
            None => self.server.service().oneshot(request).await.unwrap(),
        };
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn with(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = ask(method, path, body);
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        self.send(None, request).await
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.send(Some(UserInfo::new("admin", &["system:masters"])), ask(method, path, body)).await
    }

    async fn whoami(&self, token: &str) -> (u16, Value) {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let (code, answer) = self.with(token, Method::POST, path, review).await;
        (code, answer.pointer("/status/userInfo").cloned().unwrap_or_default())
    }
}

fn ask(method: Method, path: &str, body: Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let builder = Request::builder().method(method).uri(path).header("content-type", "application/json");
    builder.body(Full::new(body)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_tokens_make_users() {
    let world = world().await;
    let (code, user) = world.whoami(&world.token(json!({}))).await;
    assert_eq!(code, 201);
    assert_eq!(
        user,
        json!({"username": "oidc:jane", "groups": ["oidc:dev", "system:authenticated"],
               "extra": {"example.com/tenant": ["t1"]}})
    );
    for bad in
        [json!({"tenant": "evil"}), json!({"aud": "x"}), json!({"exp": 1}), json!({"iss": "https://x"})]
    {
        assert_eq!(world.whoami(&world.token(bad.clone())).await.0, 401, "{bad}");
    }
    let review = |token: String| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let evil = review(world.token(json!({"tenant": "evil"})));
    let (_, answer) = world.admin(Method::POST, path, evil).await;
    let error = answer["status"]["error"].as_str().unwrap();
    assert!(error.contains("failed: this tenant is not welcome"), "{error}");
    let (code, user) = world.whoami("hook").await;
    assert_eq!((code, &user["username"]), (201, &json!("hooky")));
    assert_eq!(world.whoami("nonsense").await.0, 401);
    let (code, _) = world.with("", Method::GET, "/livez", Value::Null).await;
    assert_ne!(code, 401);
    assert_eq!(world.with("", Method::GET, "/readyz", Value::Null).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_where_its_conditions_match() {
    let world = world().await;
    let jane = world.token(json!({}));
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(world.with(&jane, Method::GET, pods, Value::Null).await.0, 200);
    let (code, answer) =
        world.with(&world.token(json!({"sub": "joe"})), Method::GET, pods, Value::Null).await;
    assert_eq!(code, 403);
    assert!(answer["message"].as_str().unwrap().ends_with(": the webhook says so"), "{answer}");
    let asked = world.idp.asked("/authorize");
    assert_eq!(asked, 2);
    // Other resources, and other people, are none of its business.
    assert_eq!(world.with(&jane, Method::GET, "/api/v1/nodes", Value::Null).await.0, 403);
    assert_eq!(world.with("hook", Method::GET, pods, Value::Null).await.0, 403);
    assert_eq!(world.with(&jane, Method::GET, pods, Value::Null).await.0, 200);
    assert_eq!(world.idp.asked("/authorize"), asked);
    // When it is away nobody allowed it: the error is the server's.
    world.idp.remove("/authorize");
    let (code, _) = world.with(&world.token(json!({"sub": "eve"})), Method::GET, pods, Value::Null).await;
    assert_eq!(code, 500);
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, answer) = world.with(&jane, Method::POST, path, rules).await;
    assert_eq!(answer["status"]["incomplete"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secrets_token_works_and_its_use_is_recorded() {
    let world = world().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bob"}});
    let (_, account) = world.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let token = world.issuer.sign_legacy("default", "bob", uid, "bob-token").unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "bob-token", "annotations": {"kubernetes.io/service-account.name": "bob"}},
        "data": {"token": STANDARD.encode(&token)}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(world.admin(Method::POST, secrets, secret).await.0, 201);
    let mut user = Value::Null;
    for _ in 0..400 {
        let (code, found) = world.whoami(&token).await;
        if code == 201 {
            user = found;
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((&user["username"], &user["uid"]), (&json!("system:serviceaccount:default:bob"), &json!(uid)));
    let one = format!("{secrets}/bob-token");
    let mut label = Value::Null;
    for _ in 0..400 {
        let (_, secret) = world.admin(Method::GET, &one, Value::Null).await;
        label = secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].clone();
        if label.is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(label.as_str().map(str::len), Some("2026-01-01".len()), "{label}");
    assert_eq!(world.admin(Method::DELETE, &one, Value::Null).await.0, 200);
    for _ in 0..400 {
        if world.whoami(&token).await.0 == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the token outlives its secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn constrained_impersonation_needs_both_rights() {
    let world = world().await;
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]}]);
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "as-jane"}, "rules": rules});
    world.admin(Method::POST, &format!("/apis/{group}/v1/clusterroles"), role).await;
    for (binding, role, user) in [("helper", "as-jane", "hooky"), ("jane", "view", "jane")] {
        let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": binding},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user, "apiGroup": group}]});
        let (code, answer) =
            world.admin(Method::POST, &format!("/apis/{group}/v1/clusterrolebindings"), binding).await;
        assert_eq!(code, 201, "{answer}");
    }
    let as_jane = async |path: &str| {
        let mut request = ask(Method::GET, path, Value::Null);
        request.headers_mut().insert("authorization", "Bearer hook".parse().unwrap());
        request.headers_mut().insert("impersonate-user", "jane".parse().unwrap());
        world.send(None, request).await
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    for _ in 0..400 {
        if as_jane(maps).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(as_jane(maps).await.0, 200);
    // Jane may list pods; the helper may not do that as Jane.
    let (code, answer) = as_jane("/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "pods is forbidden: User \"hooky\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
}
