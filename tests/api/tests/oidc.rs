//! Tokens of foreign issuers: the test is the issuer, over HTTPS, and a server is told of it by flags or by a file.
//!
//! These need a server of their own. `IRONCLAD_BIN` may name any program that takes the arguments of ours, so a
//! wrapper around another server can be told of the issuers too.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::service::{Reply, Service};
use api::subject::{Subject, VARIABLE};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// An issuer that signs with ES256.
struct Issuer {
    service: Service,
    key: EcdsaKeyPair,
    id: String,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn new_key() -> Result<EcdsaKeyPair> {
    let random = SystemRandom::new();
    let refused = |_| anyhow::anyhow!("no key");
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(refused)?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|e| anyhow::anyhow!("{e}"))
}

impl Issuer {
    async fn start() -> Result<Self> {
        let service = Service::start().await?;
        let document = json!({"issuer": service.url, "jwks_uri": format!("{}/keys", service.url), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]});
        service.on("/.well-known/openid-configuration", move |_| Reply::json(&document));
        let mut made = Self { service, key: new_key()?, id: String::new() };
        made.publish("first");
        Ok(made)
    }

    /// Publishes its key under that name, and no other.
    fn publish(&mut self, id: &str) {
        self.id = id.to_owned();
        let point = self.key.public_key().as_ref();
        let part = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": part(1), "y": part(33)}]});
        self.service.on("/keys", move |_| Reply::json(&keys));
    }

    fn signed(&self, header: &Value, claims: &Value) -> Result<String> {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), text.as_bytes())
            .map_err(|_| anyhow::anyhow!("not signed"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// A token for jane with some claims changed; `null` takes one away.
    fn token(&self, changes: Value) -> Result<String> {
        let mut claims = json!({"iss": self.service.url, "aud": "kubernetes", "sub": "jane", "iat": now(), "exp": now() + 600,
            "groups": ["dev", "ops"], "tenant": "one", "email": "jane@example.com"});
        for (key, value) in changes.as_object().context("changes")? {
            match value {
                Value::Null => drop(claims.as_object_mut().and_then(|c| c.remove(key))),
                value => claims[key] = value.clone(),
            }
        }
        self.signed(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id}), &claims)
    }
}

/// Who the server takes the bearer for; none where it does not know them.
async fn whoami(subject: &Subject, token: &str) -> Result<Option<Value>> {
    let answer = subject
        .api
        .with_token(token)?
        .post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({}))
        .send()
        .await?;
    if answer.code == 401 {
        let status = answer.json()?;
        ensure!(status["message"] == "Unauthorized" && status["reason"] == "Unauthorized", "{status}");
        return Ok(None);
    }
    Ok(Some(answer.is(201)?["status"]["userInfo"].clone()))
}

/// The first answer after the server has read the issuer's documents.
async fn known(subject: &Subject, token: &str) -> Result<Value> {
    eventually("the issuer to be known", || whoami(subject, token)).await
}

fn foreign() -> bool {
    let foreign = std::env::var_os(VARIABLE).is_some();
    if foreign {
        println!("skipped: issuers are told of by flags");
    }
    foreign
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags() -> Result<()> {
    if foreign() {
        return Ok(());
    }
    let mut issuer = Issuer::start().await?;
    let folder = tempfile::tempdir()?;
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, &issuer.service.authority)?;
    let url = issuer.service.url.clone();
    let flags = [
        format!("--oidc-issuer-url={url}"),
        "--oidc-client-id=kubernetes".into(),
        format!("--oidc-ca-file={}", ca.display()),
        "--oidc-groups-claim=groups".into(),
        "--oidc-groups-prefix=g:".into(),
        "--oidc-signing-algs=ES256".into(),
        "--oidc-required-claim=tenant=one".into(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let subject = Subject::start(&flags).await?;
    let user = known(&subject, &issuer.token(json!({}))?).await?;
    ensure!(user["username"] == format!("{url}#jane"), "{user}");
    ensure!(user["groups"] == json!(["g:dev", "g:ops", "system:authenticated"]), "{user}");
    ensure!(user.get("uid").is_none(), "{user}");
    let accepted = [
        ("one of several audiences", json!({"aud": ["other", "kubernetes"]})),
        ("one group that is no list", json!({"groups": "dev"})),
        ("no groups", json!({"groups": null})),
        ("a token id", json!({"jti": "one"})),
    ];
    for (what, changes) in accepted {
        ensure!(whoami(&subject, &issuer.token(changes)?).await?.is_some(), "{what} is refused");
    }
    let user =
        whoami(&subject, &issuer.token(json!({"groups": "dev", "jti": "one"}))?).await?.context("known")?;
    ensure!(user["groups"] == json!(["g:dev", "system:authenticated"]), "{user}");
    ensure!(user["extra"]["authentication.kubernetes.io/credential-id"] == json!(["JTI=one"]), "{user}");
    let refused = [
        ("another audience", json!({"aud": "other"})),
        ("no audience", json!({"aud": null})),
        ("another issuer", json!({"iss": "https://example.com"})),
        ("a token of the past", json!({"exp": now() - 60})),
        ("a token without an end", json!({"exp": null})),
        ("a token of the future", json!({"nbf": now() + 3600})),
        ("another tenant", json!({"tenant": "two"})),
        ("no tenant", json!({"tenant": null})),
        ("no subject", json!({"sub": null})),
        ("a subject that is no text", json!({"sub": 7})),
        ("groups that are no texts", json!({"groups": [1, 2]})),
    ];
    for (what, changes) in refused {
        ensure!(whoami(&subject, &issuer.token(changes)?).await?.is_none(), "{what} is accepted");
    }
    let claims = json!({"iss": url, "aud": "kubernetes", "sub": "jane", "exp": now() + 600, "tenant": "one"});
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "HS256", "kid": "first"}),
        json!({"alg": "ES256", "kid": "unknown"}),
    ] {
        ensure!(whoami(&subject, &issuer.signed(&header, &claims)?).await?.is_none(), "{header} is accepted");
    }
    let good = issuer.token(json!({}))?;
    let spoiled = format!("{}AAAA", &good[..good.len() - 4]);
    ensure!(whoami(&subject, &spoiled).await?.is_none(), "a spoiled signature is accepted");
    // The name with its prefix is what roles are bound to.
    let binding = json!({"metadata": {"name": "oidc-jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "oidc-reader"},
                         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("{url}#jane")}]});
    let role = json!({"metadata": {"name": "oidc-reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    subject.api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).is(201).await?;
    let jane = subject.api.with_token(&good)?;
    jane.get("/api/v1/namespaces/default/configmaps")
        .fails(403, "Forbidden", &[&format!("User \"{url}#jane\" cannot list")])
        .await?;
    subject.api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).is(201).await?;
    eventually("the role", || async {
        Ok((jane.get("/api/v1/namespaces/default/configmaps").send().await?.code == 200).then_some(()))
    })
    .await?;
    // A new key is found when a token names it.
    issuer.key = new_key()?;
    issuer.publish("second");
    known(&subject, &issuer.token(json!({}))?).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file() -> Result<()> {
    if foreign() {
        return Ok(());
    }
    let (one, two) = (Issuer::start().await?, Issuer::start().await?);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("authentication.json");
    let configuration = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [
        {"issuer": {"url": one.service.url, "audiences": ["kubernetes", "spare"], "audienceMatchPolicy": "MatchAny", "certificateAuthority": one.service.authority},
         "claimValidationRules": [{"claim": "tenant", "requiredValue": "one"},
                                  {"expression": "claims.exp - claims.iat <= 3600", "message": "too long a life"}],
         "claimMappings": {"username": {"expression": "'one:' + claims.sub"}, "groups": {"expression": "dyn(claims.groups).map(g, 'team-' + g)"},
                           "uid": {"expression": "'uid-' + claims.sub"},
                           "extra": [{"key": "example.com/tenant", "valueExpression": "claims.tenant"}]},
         "userValidationRules": [{"expression": "!user.username.startsWith('one:system')", "message": "no system users"},
                                 {"expression": "user.groups.all(g, g != 'team-banned')", "message": "banned"}]},
        {"issuer": {"url": two.service.url, "audiences": ["kubernetes"], "certificateAuthority": two.service.authority},
         "claimMappings": {"username": {"claim": "email", "prefix": ""}, "groups": {"claim": "groups", "prefix": "two:"}}}]});
    std::fs::write(&file, configuration.to_string())?;
    let flag = format!("--authentication-config={}", file.display());
    let subject = Subject::start(&[&flag]).await?;
    let user = known(&subject, &one.token(json!({}))?).await?;
    ensure!(user["username"] == "one:jane" && user["uid"] == "uid-jane", "{user}");
    ensure!(user["groups"] == json!(["team-dev", "team-ops", "system:authenticated"]), "{user}");
    ensure!(user["extra"]["example.com/tenant"] == json!(["one"]), "{user}");
    let user = known(&subject, &two.token(json!({"email_verified": true}))?).await?;
    ensure!(user["username"] == "jane@example.com", "{user}");
    ensure!(user["groups"] == json!(["two:dev", "two:ops", "system:authenticated"]), "{user}");
    for (what, issuer, changes, known) in [
        ("the spare audience", &one, json!({"aud": "spare"}), true),
        ("the spare audience elsewhere", &two, json!({"aud": "spare"}), false),
        ("a long life", &one, json!({"exp": now() + 7200}), false),
        ("another tenant", &one, json!({"tenant": "two"}), false),
        ("a system user", &one, json!({"sub": "system:admin"}), false),
        ("a banned group", &one, json!({"groups": ["banned"]}), false),
        ("no groups where an expression needs them", &one, json!({"groups": null}), false),
        ("no groups where a claim may be missing", &two, json!({"groups": null}), true),
        ("an unverified address", &two, json!({"email_verified": false}), false),
        ("no word of verification", &two, json!({}), true),
        ("no address", &two, json!({"email": null}), false),
        ("the other's name", &two, json!({"iss": one.service.url}), false),
    ] {
        ensure!(
            whoami(&subject, &issuer.token(changes)?).await?.is_some() == known,
            "{what}: known is to be {known}"
        );
    }
    // The file is read again when it changes.
    let mut next = configuration.clone();
    next["jwt"][1]["claimMappings"]["username"]["prefix"] = json!("changed:");
    std::fs::write(&file, next.to_string())?;
    let token = two.token(json!({"email_verified": true}))?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(100);
    loop {
        match whoami(&subject, &token).await? {
            Some(user) if user["username"] == "changed:jane@example.com" => return Ok(()),
            other if std::time::Instant::now() > end => {
                anyhow::bail!("the changed file is not read: {other:?}")
            }
            _ => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
        }
    }
}
