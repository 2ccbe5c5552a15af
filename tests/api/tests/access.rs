//! Who may do what: RBAC and escalation, reviews, impersonation, tokens, certificate requests, quota, policies.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::http::MERGE_PATCH;
use api::{Space, cases};
use base64::Engine;
use serde_json::{Value, json};

#[test]
fn access() {
    api::run(cases![
        roles_are_enforced,
        roles_cannot_escalate,
        reviews,
        impersonation,
        tokens,
        token_requests_refused,
        certificate_requests,
        quota_is_exact,
        limits,
        pod_security,
        validating_policies,
        mutating_policies,
        bad_credentials,
        secrets,
    ]);
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

async fn allow(s: &Space, user: &str, rules: Value) -> Result<()> {
    let role = json!({"metadata": {"name": user}, "rules": rules});
    s.api.post(&s.path(RBAC, "roles"), &role).is(201).await?;
    let binding = json!({"metadata": {"name": user}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
                         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    s.api.post(&s.path(RBAC, "rolebindings"), &binding).is(201).await.map(drop)
}

async fn roles_are_enforced(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    s.make_map("a").await?;
    s.make_map("b").await?;
    let jane = s.api.as_user("jane", &[])?;
    let words = format!(
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"{}\"",
        s.namespace
    );
    let status = jane.get(&path).fails(403, "Forbidden", &[&words]).await?;
    ensure!(status["details"] == json!({"kind": "configmaps"}), "{status}");
    let words = format!(
        "configmaps \"a\" is forbidden: User \"jane\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"{}\"",
        s.namespace
    );
    jane.get(&format!("{path}/a")).fails(403, "Forbidden", &[&words]).await?;
    allow(
        &s,
        "jane",
        json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["a"]},
                             {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]}]),
    )
    .await?;
    eventually("the role", || async {
        Ok((jane.get(&format!("{path}/a")).send().await?.code == 200).then_some(()))
    })
    .await?;
    jane.get(&format!("{path}/b")).fails(403, "Forbidden", &[]).await?;
    jane.get(&path).fails(403, "Forbidden", &[]).await?;
    jane.get(&s.core("secrets")).is(200).await?;
    jane.get("/api/v1/secrets").fails(403, "Forbidden", &["at the cluster scope"]).await?;
    let words = ["User \"jane\" cannot get path \"/metrics\""];
    jane.get("/metrics").fails(403, "Forbidden", &words).await?;
    jane.get("/version").is(200).await.map(drop).or(jane
        .get("/version")
        .fails(403, "Forbidden", &[])
        .await
        .map(drop))?;
    Ok(())
}

async fn roles_cannot_escalate(s: Space) -> Result<()> {
    let kim = s.api.as_user("kim", &[])?;
    allow(&s, "kim", json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "update", "get"]},
                            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])).await?;
    let roles = s.path(RBAC, "roles");
    let small = json!({"metadata": {"name": "small"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    eventually("the role", || async {
        Ok((kim.post(&format!("{roles}?dryRun=All"), &small).send().await?.code == 201).then_some(()))
    })
    .await?;
    let big = json!({"metadata": {"name": "big"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let words = [
        "user \"kim\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                  {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
    ];
    kim.post(&roles, &big).fails(403, "Forbidden", &words).await?;
    s.api.post(&roles, &big).is(201).await?;
    let bind = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "big"},
                      "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kim"}]});
    let words = ["is attempting to grant RBAC permissions not currently held"];
    kim.post(&s.path(RBAC, "rolebindings"), &bind).fails(403, "Forbidden", &words).await?;
    let bindings = s.path(RBAC, "rolebindings");
    s.api.post(&bindings, &bind).is(201).await?;
    let words = ["roleRef: Invalid value: ", "cannot change roleRef"];
    let patch = json!({"roleRef": {"name": "small"}});
    s.api.patch(&format!("{bindings}/b"), MERGE_PATCH, &patch).fails(422, "Invalid", &words).await?;
    Ok(())
}

async fn reviews(s: Space) -> Result<()> {
    allow(&s, "lou", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])).await?;
    let path = "/apis/authorization.k8s.io/v1";
    let ask = |verb: &str, namespace: &str| json!({"spec": {"user": "lou", "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "configmaps"}}});
    let said = eventually("the role", || async {
        let said =
            s.api.post(&format!("{path}/subjectaccessreviews"), &ask("list", &s.namespace)).is(201).await?;
        Ok((said["status"]["allowed"] == true).then_some(said))
    })
    .await?;
    ensure!(
        said["status"]["reason"]
            .as_str()
            .is_some_and(|r| r.starts_with("RBAC: allowed by RoleBinding \"lou/")),
        "{said}"
    );
    let said =
        s.api.post(&format!("{path}/subjectaccessreviews"), &ask("delete", &s.namespace)).is(201).await?;
    ensure!(said["status"]["allowed"] == false, "{said}");
    let local = s.path("authorization.k8s.io/v1", "localsubjectaccessreviews");
    let mut object = ask("list", &s.namespace);
    object["metadata"] = json!({"namespace": s.namespace});
    ensure!(s.api.post(&local, &object).is(201).await?["status"]["allowed"] == true);
    let lou = s.api.as_user("lou", &["system:authenticated"])?;
    let own = json!({"spec": {"resourceAttributes": {"namespace": s.namespace, "verb": "list", "resource": "configmaps"}}});
    ensure!(
        lou.post(&format!("{path}/selfsubjectaccessreviews"), &own).is(201).await?["status"]["allowed"]
            == true
    );
    let rules = json!({"spec": {"namespace": s.namespace}});
    let rules = lou.post(&format!("{path}/selfsubjectrulesreviews"), &rules).is(201).await?;
    let all = rules["status"]["resourceRules"].as_array().context("rules")?;
    ensure!(
        all.iter().any(|r| r["resources"] == json!(["configmaps"]) && r["verbs"] == json!(["list"])),
        "{rules}"
    );
    let me = lou.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).is(201).await?;
    ensure!(me["status"]["userInfo"]["username"] == "lou", "{me}");
    for (body, words) in [
        (
            json!({"spec": {"user": "lou"}}),
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            json!({"spec": {"resourceAttributes": {"verb": "get"}}}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
    ] {
        s.api.post(&format!("{path}/subjectaccessreviews"), &body).fails(422, "Invalid", &[words]).await?;
    }
    Ok(())
}

async fn impersonation(s: Space) -> Result<()> {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let call = s
        .api
        .as_user("mo", &["devs"])?
        .post(path, &json!({}))
        .header("impersonate-extra-scopes", "view")
        .header("impersonate-uid", "7");
    let me = call.is(201).await?;
    let user = &me["status"]["userInfo"];
    ensure!(
        user["username"] == "mo" && user["uid"] == "7" && user["extra"] == json!({"scopes": ["view"]}),
        "{me}"
    );
    ensure!(user["groups"] == json!(["devs", "system:authenticated"]), "{me}");
    let account = s.api.as_user(&format!("system:serviceaccount:{}:robot", s.namespace), &[])?;
    let me = account.post(path, &json!({})).is(201).await?;
    let groups = json!([
        "system:serviceaccounts",
        format!("system:serviceaccounts:{}", s.namespace),
        "system:authenticated"
    ]);
    ensure!(me["status"]["userInfo"]["groups"] == groups, "{me}");
    let call = s.api.get("/api/v1/namespaces").header("impersonate-group", "devs");
    let answer = call.send().await?;
    ensure!(
        answer.code == 400 && answer.text().contains("without impersonating a user"),
        "{} {}",
        answer.code,
        answer.text()
    );
    // Who may not is told so.
    allow(&s, "nan", json!([{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["list"]}]))
        .await?;
    Ok(())
}

fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("no claims")?;
    Ok(serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part)?)?)
}

async fn tokens(s: Space) -> Result<()> {
    let path = s.core("serviceaccounts");
    let account = s.api.post(&path, &json!({"metadata": {"name": "robot"}})).is(201).await?;
    let request = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
    let made = s.api.post(&format!("{path}/robot/token"), &request).is(201).await?;
    let token = made["status"]["token"].as_str().context("no token")?;
    ensure!(made["status"]["expirationTimestamp"].is_string() && made["kind"] == "TokenRequest", "{made}");
    let said = claims(token)?;
    ensure!(said["sub"] == format!("system:serviceaccount:{}:robot", s.namespace), "{said}");
    ensure!(
        said["kubernetes.io"]["serviceaccount"]["uid"] == account["metadata"]["uid"]
            && said["jti"].is_string(),
        "{said}"
    );
    ensure!(said["exp"].as_i64().zip(said["iat"].as_i64()).is_some_and(|(e, i)| e - i == 3600), "{said}");
    let robot = s.api.with_token(token)?;
    let me = robot.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).is(201).await?;
    ensure!(me["status"]["userInfo"]["username"] == said["sub"], "{me}");
    let extra = &me["status"]["userInfo"]["extra"]["authentication.kubernetes.io/credential-id"];
    ensure!(*extra == json!([format!("JTI={}", said["jti"].as_str().unwrap_or_default())]), "{me}");
    // For another audience it is no key to this door.
    let other = json!({"spec": {"audiences": ["vault"]}});
    let made = s.api.post(&format!("{path}/robot/token"), &other).is(201).await?;
    let vault = made["status"]["token"].as_str().context("no token")?;
    s.api.with_token(vault)?.get("/api").fails(401, "Unauthorized", &["Unauthorized"]).await?;
    let review = |audiences: Value| json!({"spec": {"token": vault, "audiences": audiences}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let said = s.api.post(reviews, &review(json!(["vault"]))).is(201).await?;
    ensure!(
        said["status"]["authenticated"] == true && said["status"]["audiences"] == json!(["vault"]),
        "{said}"
    );
    let said = s.api.post(reviews, &review(json!(["bank"]))).is(201).await?;
    ensure!(said["status"]["authenticated"] != true, "{said}");
    // Bound to a secret that goes, it goes too.
    let secret = s.api.post(&s.core("secrets"), &json!({"metadata": {"name": "bound"}})).is(201).await?;
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "bound", "uid": secret["metadata"]["uid"]}}});
    let made = s.api.post(&format!("{path}/robot/token"), &bound).is(201).await?;
    let bound = s.api.with_token(made["status"]["token"].as_str().context("no token")?)?;
    let mine = json!({});
    bound.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &mine).is(201).await?;
    s.api.delete(&format!("{}/bound", s.core("secrets"))).is(200).await?;
    eventually("the token's end", || async {
        Ok((bound.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &mine).send().await?.code == 401)
            .then_some(()))
    })
    .await
}

async fn token_requests_refused(s: Space) -> Result<()> {
    let path = s.core("serviceaccounts");
    s.api.post(&path, &json!({"metadata": {"name": "robot"}})).is(201).await?;
    let ask = |spec: Value| s.api.post(&format!("{path}/robot/token"), &json!({"spec": spec}));
    let words = ["spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"];
    ask(json!({"expirationSeconds": 5})).fails(422, "Invalid", &words).await?;
    let words = [
        "spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
    ];
    ask(json!({"expirationSeconds": 4_294_967_297_i64})).fails(422, "Invalid", &words).await?;
    let pod = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}});
    ask(pod).fails(404, "NotFound", &["pods \"none\" not found"]).await?;
    let other = json!({"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "none"}});
    let answer = ask(other).send().await?;
    ensure!(
        answer.code == 400
            && answer.text().contains("cannot bind token to object of type /v1, Kind=ConfigMap"),
        "{} {}",
        answer.code,
        answer.text()
    );
    s.api
        .post(&format!("{path}/none/token"), &json!({"spec": {}}))
        .fails(404, "NotFound", &["serviceaccounts \"none\" not found"])
        .await?;
    Ok(())
}

async fn certificate_requests(s: Space) -> Result<()> {
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "walker");
    let pem = params.serialize_request(&key)?.pem()?;
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    let object = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let spec = json!({"request": request, "signerName": "example.com/own", "usages": ["client auth"]});
    let name = s.unique.clone();
    let walker = s.api.as_user("walker", &["system:masters"])?;
    let made = walker.post(path, &object(&name, spec.clone())).is(201).await?;
    ensure!(made["spec"]["username"] == "walker" && made["spec"]["groups"][0] == "system:masters", "{made}");
    let item = format!("{path}/{name}");
    let words = ["is invalid: spec"];
    let patch = json!({"spec": {"usages": ["server auth"]}});
    let after = s.api.patch(&item, MERGE_PATCH, &patch).send().await?;
    ensure!(after.code == 200 || after.fails(422, "Invalid", &words).is_ok(), "{}", after.text());
    ensure!(s.api.get(&item).is(200).await?["spec"]["usages"] == json!(["client auth"]));
    let approve = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "Test", "message": "t"}]}});
    let done = s.api.patch(&format!("{item}/approval"), MERGE_PATCH, &approve("Approved")).is(200).await?;
    ensure!(
        done["status"]["conditions"][0]["type"] == "Approved"
            && done["status"]["conditions"][0]["lastUpdateTime"].is_string(),
        "{done}"
    );
    let both = json!({"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "Test"}, {"type": "Approved", "status": "True", "reason": "Test"}]}});
    let words = [
        "status.conditions: Invalid value: \"Approved\": Approved and Denied conditions are mutually exclusive",
    ];
    s.api.patch(&format!("{item}/approval"), MERGE_PATCH, &both).fails(422, "Invalid", &words).await?;
    s.api.delete(&item).is(200).await?;
    for (spec, words) in [
        (
            json!({"request": "bm9uc2Vuc2U=", "signerName": "example.com/own", "usages": ["client auth"]}),
            "spec.request: Invalid value: ",
        ),
        (
            json!({"request": request, "signerName": "own", "usages": ["client auth"]}),
            "spec.signerName: Invalid value: \"own\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (
            json!({"request": request, "signerName": "example.com/own", "usages": []}),
            "spec.usages: Required value",
        ),
        (
            json!({"request": request, "signerName": "example.com/own", "usages": ["client auth"], "expirationSeconds": 5}),
            "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ] {
        s.api.post(path, &object(&format!("{name}-x"), spec)).fails(422, "Invalid", &[words]).await?;
    }
    Ok(())
}

async fn quota_is_exact(s: Space) -> Result<()> {
    let path = s.core("resourcequotas");
    let hard = json!({"count/secrets": "5", "services": "0"});
    s.api.post(&path, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).is(201).await?;
    if !s.own {
        // Without a controller nobody else says what is used.
        let status = json!({"status": {"hard": hard, "used": {"count/secrets": "0", "services": "0"}}});
        s.api.patch(&format!("{path}/q/status"), MERGE_PATCH, &status).is(200).await?;
    }
    eventually("the quota's status", || async {
        let quota = s.api.get(&format!("{path}/q")).is(200).await?;
        Ok((quota["status"]["used"]["count/secrets"] == "0").then_some(()))
    })
    .await?;
    let calls = (0..15)
        .map(|n| s.api.post(&s.core("secrets"), &json!({"metadata": {"name": format!("s{n}")}})).send());
    let answers = futures::future::try_join_all(calls).await?;
    let made = answers.iter().filter(|a| a.code == 201).count();
    ensure!(made == 5, "{:?}", answers.iter().map(|a| a.code).collect::<Vec<_>>());
    for answer in answers.iter().filter(|a| a.code != 201) {
        let words = [
            "exceeded quota: q, requested: count/secrets=1, used: count/secrets=5, limited: count/secrets=5",
        ];
        answer.fails(403, "Forbidden", &words)?;
    }
    let words = ["exceeded quota: q, requested: services=1, used: services=0, limited: services=0"];
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    s.api.post(&s.core("services"), &service).fails(403, "Forbidden", &words).await?;
    Ok(())
}

async fn limits(s: Space) -> Result<()> {
    s.service_account().await?;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    s.api.post(&s.core("limitranges"), &range).is(201).await?;
    let made = eventually("the limits", || async {
        let made = s.api.post(&format!("{}?dryRun=All", s.core("pods")), &s.pod("a")).is(201).await?;
        Ok((!made["spec"]["containers"][0]["resources"]["limits"].is_null()).then_some(made))
    })
    .await?;
    ensure!(
        made["spec"]["containers"][0]["resources"]
            == json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}),
        "{made}"
    );
    ensure!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
            == "LimitRanger plugin set: cpu request for container c; cpu limit for container c",
        "{made}"
    );
    let mut big = s.pod("b");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let words = ["pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"];
    s.api.post(&s.core("pods"), &big).fails(403, "Forbidden", &words).await?;
    Ok(())
}

async fn pod_security(s: Space) -> Result<()> {
    s.service_account().await?;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "baseline"}}});
    s.api.patch(&format!("/api/v1/namespaces/{}", s.namespace), MERGE_PATCH, &label).is(200).await?;
    let words = [
        "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \
         \"RuntimeDefault\" or \"Localhost\")",
    ];
    eventually("the label", || async {
        let answer = s.api.post(&format!("{}?dryRun=All", s.core("pods")), &s.pod("a")).send().await?;
        if answer.code == 201 { Ok(None) } else { answer.fails(403, "Forbidden", &words).map(Some) }
    })
    .await?;
    let mut good = s.pod("b");
    good["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    good["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    s.api.post(&s.core("pods"), &good).is(201).await?;
    Ok(())
}

async fn validating_policies(s: Space) -> Result<()> {
    let group = "/apis/admissionregistration.k8s.io/v1";
    let name = s.unique.clone();
    let policy = json!({"metadata": {"name": name}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]},
        "variables": [{"name": "n", "expression": "size(object.data)"}],
        "validations": [{"expression": "variables.n <= 2", "message": "too much data"},
                        {"expression": "object.metadata.name != 'bad'", "messageExpression": "'no ' + object.metadata.name", "reason": "Forbidden"}]}});
    s.api.post(&format!("{group}/validatingadmissionpolicies"), &policy).is(201).await?;
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": s.namespace}}}}});
    s.api.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).is(201).await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    let mut big = s.map("big");
    big["data"] = json!({"a": "1", "b": "2", "c": "3"});
    let words = format!(
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: too much data"
    );
    eventually("the policy", || async {
        let answer = s.api.post(&path, &big).send().await?;
        if answer.code == 201 { Ok(None) } else { answer.fails(422, "Invalid", &[&words]).map(Some) }
    })
    .await?;
    s.api.post(&path, &s.map("bad")).fails(403, "Forbidden", &["denied request: no bad"]).await?;
    s.api.post(&path, &s.map("good")).is(201).await?;
    s.api.delete(&format!("{group}/validatingadmissionpolicybindings/{name}")).is(200).await?;
    s.api.delete(&format!("{group}/validatingadmissionpolicies/{name}")).is(200).await?;
    let mut wrong = policy.clone();
    wrong["spec"]["validations"] = json!([{"expression": "object.("}]);
    let words = ["spec.validations[0].expression: Invalid value: \"object.(\": compilation failed: ERROR: "];
    s.api.post(&format!("{group}/validatingadmissionpolicies"), &wrong).fails(422, "Invalid", &words).await?;
    Ok(())
}

async fn mutating_policies(s: Space) -> Result<()> {
    let group = "/apis/admissionregistration.k8s.io/v1";
    if s.api.get(&format!("{group}/mutatingadmissionpolicies")).send().await?.code == 404 {
        println!("skipped: the server has no mutating policies");
        return Ok(());
    }
    let name = s.unique.clone();
    let policy = json!({"metadata": {"name": name}, "spec": {"reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'added': 'yes'}}}"}},
                      {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('more'), value: 'x'}]"}}]}});
    s.api.post(&format!("{group}/mutatingadmissionpolicies"), &policy).is(201).await?;
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name,
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": s.namespace}}}}});
    s.api.post(&format!("{group}/mutatingadmissionpolicybindings"), &binding).is(201).await?;
    let made = eventually("the policy", || async {
        let made = s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), &s.map("a")).is(201).await?;
        Ok(made["metadata"]["labels"].is_object().then_some(made))
    })
    .await?;
    ensure!(
        made["metadata"]["labels"] == json!({"added": "yes"})
            && made["data"] == json!({"k": "v", "more": "x"}),
        "{made}"
    );
    s.api.delete(&format!("{group}/mutatingadmissionpolicybindings/{name}")).is(200).await?;
    s.api.delete(&format!("{group}/mutatingadmissionpolicies/{name}")).is(200).await?;
    Ok(())
}

async fn bad_credentials(s: Space) -> Result<()> {
    for token in ["nonsense", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.", "a.b.c"] {
        let status = s
            .api
            .with_token(token)?
            .get("/api/v1/pods")
            .fails(401, "Unauthorized", &["Unauthorized"])
            .await?;
        ensure!(status["metadata"] == json!({}), "{status}");
    }
    Ok(())
}

async fn secrets(s: Space) -> Result<()> {
    let path = s.core("secrets");
    let made = s
        .api
        .post(&path, &json!({"metadata": {"name": "a"}, "stringData": {"k": "plain"}, "data": {"b": "AQID"}}))
        .is(201)
        .await?;
    ensure!(
        made["data"] == json!({"k": "cGxhaW4=", "b": "AQID"})
            && made.get("stringData").is_none()
            && made["type"] == "Opaque",
        "{made}"
    );
    let words = ["illegal base64 data at input byte"];
    s.api
        .post(&path, &json!({"metadata": {"name": "b"}, "data": {"b": "***"}}))
        .fails(400, "BadRequest", &words)
        .await?;
    let tls = json!({"metadata": {"name": "b"}, "type": "kubernetes.io/tls", "data": {}});
    let words = ["data[tls.crt]: Required value", "data[tls.key]: Required value"];
    s.api.post(&path, &tls).fails(422, "Invalid", &words).await?;
    let words = ["type: Invalid value: \"other\": field is immutable"];
    s.api
        .patch(&format!("{path}/a"), MERGE_PATCH, &json!({"type": "other"}))
        .fails(422, "Invalid", &words)
        .await?;
    Ok(())
}
