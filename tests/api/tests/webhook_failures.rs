//! Webhooks that do not answer, or not as they should.

use anyhow::{Context, Result, ensure};
use api::hooks::*;
use api::service::{Asked, Reply, Service};
use api::{Space, cases};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn webhook_failures() {
    api::run(cases![unreachable, bad_answers, bad_patches, timeouts, missing_service]);
}

async fn unreachable(s: Space) -> Result<()> {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let other = Service::start().await?;
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/e500", |_| Reply::text(500, "text/plain", "broken inside"));
        service.on("/e503", |_| Reply::text(503, "text/plain", "later"));
        service.on("/e403", |_| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "who are you", "reason": "Forbidden", "code": 403});
            Reply::text(403, "application/json", status.to_string())
        });
        service.on("/e301", |_| Reply::text(301, "text/plain", "elsewhere"));
        let mut hooks = Vec::new();
        for path in ["refused", "stranger", "e500", "e503", "e403", "e404", "e301"] {
            for (prefix, policy) in [("", "Fail"), ("open-", "Ignore")] {
                let mut made = only(service, &format!("{prefix}{path}"), json!({"failurePolicy": policy}));
                made["clientConfig"]["url"] = json!(format!("{}/{path}", service.url));
                match path {
                    "refused" => made["clientConfig"]["url"] = json!(format!("https://{nobody}/refused")),
                    "stranger" => made["clientConfig"]["caBundle"] = json!(other.bundle()),
                    _ => {}
                }
                hooks.push(made);
            }
        }
        hooks
    })
    .await?;
    let url = hooks.service.url.clone();
    for (path, words) in [
        ("refused", format!("failed to call webhook: Post \"https://{nobody}/refused?timeout=10s\": dial tcp {nobody}: connect: connection refused")),
        ("stranger", format!("failed to call webhook: Post \"{url}/stranger?timeout=10s\": tls: failed to verify certificate: x509: certificate signed by unknown authority")),
        ("e500", "failed to call webhook: an error on the server (\"broken inside\") has prevented the request from succeeding".into()),
        ("e503", "failed to call webhook: the server is currently unable to handle the request".into()),
        ("e403", "failed to call webhook: who are you".into()),
        ("e404", "failed to call webhook: the server could not find the requested resource".into()),
        ("e301", "failed to call webhook: the server responded with the status code 301 but did not return more information".into()),
    ] {
        let said = s.api.post(&s.core("configmaps"), &for_hook(&s, path)).is(500).await?;
        let due = format!("Internal error occurred: failed calling webhook \"{path}.example.com\": {words}");
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with(&due), "{due} was due: {message}");
        ensure!(said["reason"] == "InternalError", "{said}");
        ensure!(said["details"]["causes"][0]["message"] == message.trim_start_matches("Internal error occurred: "), "{said}");
        s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), &for_hook(&s, &format!("open-{path}"))).is(201).await?;
    }
    hooks.end().await
}

async fn bad_answers(s: Space) -> Result<()> {
    let kinds: [(&str, fn(&Asked) -> Reply, &str); 8] = [
        (
            "text",
            |_| Reply::text(200, "text/plain", "hello"),
            "failed to call webhook: couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct",
        ),
        (
            "list",
            |_| Reply::json(&json!([])),
            "failed to call webhook: couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct",
        ),
        (
            "uid",
            |_| {
                Reply::json(
                    &json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "other", "allowed": true}}),
                )
            },
            "received invalid webhook response: expected response.uid=\"",
        ),
        (
            "nouid",
            |_| {
                Reply::json(
                    &json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"allowed": true}}),
                )
            },
            "received invalid webhook response: expected response.uid=\"",
        ),
        (
            "absent",
            |_| Reply::json(&json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})),
            "received invalid webhook response: webhook response was absent",
        ),
        (
            "nokind",
            |a| Reply::json(&json!({"response": {"uid": uid(a), "allowed": true}})),
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
        ),
        (
            "older",
            |a| {
                Reply::json(
                    &json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": uid(a), "allowed": true}}),
                )
            },
            "failed to call webhook: converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion",
        ),
        (
            "patches",
            |a| patched(a, &json!([])),
            "received invalid webhook response: validating webhook may not return response.patch",
        ),
    ];
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        let mut hooks = Vec::new();
        for (path, handler, _) in kinds {
            service.on(&format!("/{path}"), handler);
            service.on(&format!("/open-{path}"), handler);
            hooks.push(only(service, path, json!({})));
            hooks.push(only(service, &format!("open-{path}"), json!({"failurePolicy": "Ignore"})));
        }
        service.on("/typed", |a| review(a, json!({"allowed": true, "patchType": "JSONPatch"})));
        hooks.push(only(service, "typed", json!({})));
        hooks
    })
    .await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    let typed =
        ("typed", "received invalid webhook response: validating webhook may not return response.patchType");
    for (name, words) in kinds.iter().map(|(name, _, words)| (*name, *words)).chain([typed]) {
        let due = format!("Internal error occurred: failed calling webhook \"{name}.example.com\": {words}");
        s.api.post(&path, &for_hook(&s, name)).fails(500, "InternalError", &[&due]).await?;
        if name != "typed" {
            s.api.post(&path, &for_hook(&s, &format!("open-{name}"))).is(201).await?;
        }
    }
    hooks.end().await
}

async fn bad_patches(s: Space) -> Result<()> {
    let with = |response: Value| move |asked: &Asked| review(asked, response.clone());
    let coded = |text: &str| STANDARD.encode(text);
    let calling = |name: &str, words: &str| {
        format!("Internal error occurred: failed calling webhook \"{name}.example.com\": {words}")
    };
    let answers = [
        ("untyped", json!({"allowed": true, "patch": coded("[]")}), calling("untyped", "received invalid webhook response: webhook returned response.patch but not response.patchType"), true),
        ("unpatched", json!({"allowed": true, "patchType": "JSONPatch"}), calling("unpatched", "received invalid webhook response: webhook returned response.patchType but not response.patch"), true),
        ("empty", json!({"allowed": true, "patchType": "", "patch": coded("[]")}), calling("empty", "received invalid webhook response: webhook returned invalid response.patchType of \"\""), true),
        ("unknown", json!({"allowed": true, "patchType": "Merge", "patch": coded("[{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"y\"}]")}), calling("unknown", "unsupported patch type \"Merge\""), true),
        ("broken", json!({"allowed": true, "patchType": "JSONPatch", "patch": coded("{{")}), calling("broken", "received undecodable patch in webhook response: "), true),
        ("object", json!({"allowed": true, "patchType": "JSONPatch", "patch": coded("{}")}), calling("object", "received undecodable patch in webhook response: "), true),
        ("remove", json!({"allowed": true, "patchType": "JSONPatch", "patch": coded("[{\"op\":\"remove\",\"path\":\"/data/none\"}]")}), "Internal error occurred: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value".into(), false),
        ("test", json!({"allowed": true, "patchType": "JSONPatch", "patch": coded("[{\"op\":\"test\",\"path\":\"/data/k\",\"value\":\"z\"}]")}), "Internal error occurred: testing value /data/k failed: test failed".into(), false),
        ("wrong", json!({"allowed": true, "patchType": "JSONPatch", "patch": coded("[{\"op\":\"add\",\"path\":\"/data\",\"value\":7}]")}), "Internal error occurred: json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string".into(), false),
    ];
    let hooks = Hooks::start(&s, MUTATING, |service| {
        let mut hooks = Vec::new();
        for (path, response, _, _) in &answers {
            for (name, policy) in [((*path).to_owned(), "Fail"), (format!("open-{path}"), "Ignore")] {
                service.on(&format!("/{name}"), with(response.clone()));
                hooks.push(only(service, &name, json!({"failurePolicy": policy})));
            }
        }
        let invalid = json!([{"op": "add", "path": "/data/bad key", "value": "x"}]);
        service.on("/invalid", move |asked| patched(asked, &invalid));
        hooks.push(only(service, "invalid", json!({})));
        let field = json!([{"op": "add", "path": "/spec", "value": {"a": 1}}]);
        service.on("/field", move |asked| patched(asked, &field));
        hooks.push(only(service, "field", json!({})));
        let replace = json!([{"op": "replace", "path": "/data/none", "value": "new"}]);
        service.on("/replace", move |asked| patched(asked, &replace));
        hooks.push(only(service, "replace", json!({})));
        let rename = json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]);
        service.on("/rename", move |asked| patched(asked, &rename));
        hooks.push(only(service, "rename", json!({})));
        hooks
    })
    .await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    for (name, _, words, ignorable) in &answers {
        s.api
            .post(&path, &for_hook(&s, name))
            .fails(500, "InternalError", &[words])
            .await
            .with_context(|| (*name).to_owned())?;
        // A patch that does not apply is the server's error and not a failed call.
        let code = if *ignorable { 201 } else { 500 };
        s.api
            .post(&path, &for_hook(&s, &format!("open-{name}")))
            .is(code)
            .await
            .with_context(|| (*name).to_owned())?;
    }
    // What a webhook makes of an object is validated like what a client sends, and unknown fields fall away.
    s.api
        .post(&path, &for_hook(&s, "invalid"))
        .fails(422, "Invalid", &["data[bad key]: Invalid value: \"bad key\""])
        .await?;
    let made = s.api.post(&path, &for_hook(&s, "field")).is(201).await?;
    ensure!(made.get("spec").is_none(), "{made}");
    // What is not there can be replaced, in upstream's library.
    let made = s.api.post(&path, &for_hook(&s, "replace")).is(201).await?;
    ensure!(made["data"]["none"] == "new", "{made}");
    let renamed = s.api.post(&path, &for_hook(&s, "rename")).send().await?;
    ensure!(renamed.code == 201 && renamed.json()?["metadata"]["name"] == "other", "{}", renamed.text());
    hooks.end().await
}

async fn timeouts(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        for path in ["/slow", "/open-slow"] {
            service.on(path, |asked| allow(asked).after(Duration::from_secs(20)));
        }
        vec![
            only(service, "slow", json!({"timeoutSeconds": 1})),
            only(service, "open-slow", json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"})),
        ]
    })
    .await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    let words = format!(
        "Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \"{}/slow?timeout=1s\": context deadline exceeded",
        hooks.service.url
    );
    s.api.post(&path, &for_hook(&s, "slow")).fails(500, "InternalError", &[&words]).await?;
    s.api.post(&path, &for_hook(&s, "open-slow")).is(201).await?;
    hooks.end().await
}

async fn missing_service(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        let mut made = only(service, "lost", json!({}));
        made["clientConfig"] = json!({"service": {"namespace": s.namespace, "name": "lost", "path": "/x"}, "caBundle": service.bundle()});
        vec![made]
    })
    .await?;
    let words = format!(
        "Internal error occurred: failed calling webhook \"lost.example.com\": failed to call webhook: Post \"https://lost.{}.svc:443/x?timeout=10s\": service \"lost\" not found",
        s.namespace
    );
    s.api.post(&s.core("configmaps"), &for_hook(&s, "lost")).fails(500, "InternalError", &[&words]).await?;
    hooks.end().await
}
