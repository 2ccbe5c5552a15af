//! Admission webhooks: servers of the test's own, asked by the cluster.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::hooks::*;
use api::http::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH};
use api::service::{Asked, Reply, Service};
use api::{Space, cases};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn webhooks() {
    api::run(cases![
        refusals,
        what_is_asked,
        deletes_and_connects,
        mutations_in_order,
        reinvocation,
        policies_and_webhooks,
        match_conditions,
        selectors,
        equivalent_versions,
        dry_run,
        warnings,
        custom_kinds,
        old_reviews,
        configurations_are_exempt,
    ]);
}

async fn refusals(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/no", |asked| {
            let status = match asked.body["request"]["name"].as_str().unwrap_or_default() {
                "message" => json!({"message": "not this one", "code": 403, "reason": "Forbidden"}),
                "reason" => json!({"reason": "Because"}),
                "low" => json!({"message": "low", "code": 200, "status": "Success"}),
                "details" => json!({"message": "all of it", "code": 418, "reason": "Teapot", "details": {"name": "pot", "kind": "kettle",
                    "causes": [{"reason": "Hot", "message": "too hot", "field": "spec.heat"}], "retryAfterSeconds": 7}}),
                "fine" => return allow(asked),
                _ => Value::Null,
            };
            review(asked, json!({"allowed": false, "status": status}))
        });
        vec![hook(service, "no", json!({}))]
    })
    .await?;
    let post = |name: &str| s.api.post(&s.core("configmaps"), &s.map(name)).send();
    let by = "admission webhook \"no.example.com\" denied the request";
    let status = post("message").await?.is(403)?;
    ensure!(
        status["message"] == format!("{by}: not this one") && status["reason"] == "Forbidden",
        "{status}"
    );
    ensure!(status.get("details").is_none_or(|d| *d == json!({})), "{status}");
    let status = post("reason").await?.is(400)?;
    ensure!(status["message"] == format!("{by}: Because") && status["reason"] == "Because", "{status}");
    let status = post("low").await?.is(400)?;
    ensure!(status["message"] == format!("{by}: low") && status["status"] == "Failure", "{status}");
    ensure!(status.get("reason").is_none(), "{status}");
    let status = post("details").await?.is(418)?;
    ensure!(status["message"] == format!("{by}: all of it") && status["reason"] == "Teapot", "{status}");
    ensure!(
        status["details"]
            == json!({"name": "pot", "kind": "kettle", "retryAfterSeconds": 7,
                      "causes": [{"reason": "Hot", "message": "too hot", "field": "spec.heat"}]}),
        "{status}"
    );
    let status = post("nothing").await?.is(400)?;
    ensure!(status["message"] == format!("{by} without explanation"), "{status}");
    post("fine").await?.is(201)?;
    hooks.end().await
}

async fn what_is_asked(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/all", allow);
        vec![hook(service, "all", json!({"timeoutSeconds": 7}))]
    })
    .await?;
    let path = s.core("configmaps");
    let made = s.make_map("a").await?;
    s.api
        .patch(&format!("{path}/a?fieldManager=me"), MERGE_PATCH, &json!({"data": {"k": "2"}}))
        .is(200)
        .await?;
    let mut next = s.map("a");
    next["data"]["k"] = json!("3");
    s.api.put(&format!("{path}/a"), &next).is(200).await?;
    s.api
        .call(http::Method::PATCH, &format!("{path}/b?fieldManager=him&force=true"))
        .body(APPLY_PATCH, s.map("b").to_string())
        .is(201)
        .await?;
    let mut named = s.map("");
    named["metadata"] = json!({"generateName": "gen-"});
    let generated = s.api.post(&path, &named).is(201).await?;
    let asked = hooks.service.asked("/all");
    ensure!(asked.len() == 5, "{}", asked.len());
    let first = &asked[0];
    ensure!(first.query == "timeout=7s", "{}", first.query);
    ensure!(first.headers["content-type"] == "application/json", "{:?}", first.headers);
    ensure!(first.body["apiVersion"] == "admission.k8s.io/v1" && first.body["kind"] == "AdmissionReview");
    let request = &first.body["request"];
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    for (field, due) in [
        ("kind", kind.clone()),
        ("requestKind", kind),
        ("resource", resource.clone()),
        ("requestResource", resource),
        ("name", json!("a")),
        ("namespace", json!(s.namespace)),
        ("operation", json!("CREATE")),
        ("oldObject", Value::Null),
        ("dryRun", json!(false)),
    ] {
        ensure!(request[field] == due, "{field}: {request}");
    }
    ensure!(request.get("subResource").is_none(), "{request}");
    ensure!(
        request["options"]["kind"] == "CreateOptions" && request["options"]["apiVersion"] == "meta.k8s.io/v1",
        "{request}"
    );
    let user = &request["userInfo"];
    ensure!(
        user["username"].is_string()
            && user["groups"].as_array().is_some_and(|g| g.contains(&json!("system:masters"))),
        "{user}"
    );
    let object = &request["object"];
    ensure!(
        object["kind"] == "ConfigMap" && object["apiVersion"] == "v1" && object["data"] == json!({"k": "v"}),
        "{object}"
    );
    ensure!(
        object["metadata"]["uid"] == made["metadata"]["uid"]
            && object["metadata"]["namespace"] == s.namespace.as_str(),
        "{object}"
    );
    ensure!(
        object["metadata"]["creationTimestamp"].is_string() && object["metadata"]["managedFields"].is_array(),
        "{object}"
    );
    ensure!(object["metadata"].get("resourceVersion").is_none(), "{object}");
    let patch = &asked[1].body["request"];
    ensure!(
        patch["operation"] == "UPDATE"
            && patch["options"]
                == json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"}),
        "{patch}"
    );
    ensure!(
        patch["oldObject"]["data"] == json!({"k": "v"}) && patch["object"]["data"] == json!({"k": "2"}),
        "{patch}"
    );
    ensure!(
        patch["oldObject"]["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"],
        "{patch}"
    );
    ensure!(patch["object"]["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "{patch}");
    let put = &asked[2].body["request"];
    ensure!(
        put["operation"] == "UPDATE"
            && put["options"]["kind"] == "UpdateOptions"
            && put["object"]["data"]["k"] == "3",
        "{put}"
    );
    let apply = &asked[3].body["request"];
    ensure!(apply["operation"] == "CREATE" && apply["name"] == "b", "{apply}");
    ensure!(
        apply["options"]
            == json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "him"}),
        "{apply}"
    );
    let generate = &asked[4].body["request"];
    ensure!(
        generate["name"] == generated["metadata"]["name"]
            && generate["object"]["metadata"]["name"] == generated["metadata"]["name"],
        "{generate}"
    );
    hooks.end().await
}

async fn deletes_and_connects(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/gone", |asked| match asked.body["request"]["oldObject"]["metadata"]["labels"]["keep"] == "yes" {
            true => review(asked, json!({"allowed": false, "status": {"message": "kept"}})),
            false => allow(asked),
        });
        service.on("/connect", |asked| review(asked, json!({"allowed": false, "status": {"message": "no way in"}})));
        let rules = json!([{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
        let connect = json!([{"operations": ["CONNECT"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["pods/*"]}]);
        vec![hook(service, "gone", json!({"rules": rules})), hook(service, "connect", json!({"rules": connect}))]
    })
    .await?;
    let path = s.core("configmaps");
    for (name, keep) in [("a", "no"), ("b", "no"), ("c", "yes")] {
        let mut map = s.map(name);
        map["metadata"]["labels"] = json!({"keep": keep, "set": "x"});
        s.api.post(&path, &map).is(201).await?;
    }
    let words = ["admission webhook \"gone.example.com\" denied the request: kept"];
    s.api.delete(&format!("{path}/c")).fails(400, "", &words).await?;
    s.api
        .delete(&format!("{path}/a"))
        .json(&json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}))
        .is(200)
        .await?;
    let asked = hooks.service.asked("/gone");
    let request = &asked.last().context("asked")?.body["request"];
    ensure!(
        request["operation"] == "DELETE" && request["object"].is_null() && request["name"] == "a",
        "{request}"
    );
    ensure!(
        request["oldObject"]["metadata"]["name"] == "a" && request["oldObject"]["kind"] == "ConfigMap",
        "{request}"
    );
    ensure!(
        request["options"]["kind"] == "DeleteOptions" && request["options"]["gracePeriodSeconds"] == 0,
        "{request}"
    );
    // A collection is asked about one by one.
    hooks.service.forget();
    s.api.delete(&format!("{path}?labelSelector=set%3Dx")).fails(400, "", &words).await?;
    for asked in hooks.service.asked("/gone") {
        // The request names no object; what goes is the old one.
        let request = &asked.body["request"];
        ensure!(request.get("name").is_none(), "{request}");
        ensure!(request["oldObject"]["metadata"]["labels"]["set"] == "x", "{request}");
    }
    s.service_account().await?;
    s.api.post(&s.core("pods"), &s.pod("p")).is(201).await?;
    let words = ["admission webhook \"connect.example.com\" denied the request: no way in"];
    s.api.get(&format!("{}/p/proxy/x", s.core("pods"))).fails(400, "", &words).await?;
    let asked = hooks.service.asked("/connect");
    let request = &asked.first().context("asked")?.body["request"];
    ensure!(
        request["operation"] == "CONNECT" && request["subResource"] == "proxy" && request["name"] == "p",
        "{request}"
    );
    ensure!(
        request["kind"]["kind"] == "PodProxyOptions" && request["object"]["kind"] == "PodProxyOptions",
        "{request}"
    );
    ensure!(request["object"]["path"] == "/x", "{request}");
    hooks.end().await
}

async fn mutations_in_order(s: Space) -> Result<()> {
    let add = |name: &'static str| {
        move |asked: &Asked| {
            let before =
                asked.body["request"]["object"]["data"]["order"].as_str().unwrap_or_default().to_owned();
            patched(asked, &json!([{"op": "add", "path": "/data/order", "value": before + name}]))
        }
    };
    let hooks = Hooks::start(&s, MUTATING, |service| {
        service.on("/b", add("b"));
        service.on("/a", add("a"));
        service.on("/c", add("c"));
        vec![hook(service, "b", json!({})), hook(service, "a", json!({})), hook(service, "c", json!({}))]
    })
    .await?;
    let made = s.make_map("a").await?;
    ensure!(made["data"] == json!({"k": "v", "order": "bac"}), "{made}");
    ensure!(hooks.service.order() == ["/b", "/a", "/c"], "{:?}", hooks.service.order());
    // What webhooks set belongs to nobody.
    let fields = &made["metadata"]["managedFields"];
    ensure!(fields.as_array().is_some_and(|f| f.len() == 1), "{fields}");
    ensure!(fields[0]["fieldsV1"] == json!({"f:data": {".": {}, "f:k": {}}}), "{fields}");
    // Of an update that changes nothing the webhooks are asked all the same.
    hooks.service.forget();
    let next = s.api.patch(&format!("{}/a", s.core("configmaps")), MERGE_PATCH, &json!({})).is(200).await?;
    ensure!(next["data"]["order"] == "bacbac", "{next}");
    hooks.end().await
}

async fn reinvocation(s: Space) -> Result<()> {
    let once = |label: &'static str| {
        move |asked: &Asked| {
            if asked.body["request"]["object"]["data"][label].is_string() {
                return allow(asked);
            }
            patched(asked, &json!([{"op": "add", "path": format!("/data/{label}"), "value": "x"}]))
        }
    };
    let hooks = Hooks::start(&s, MUTATING, |service| {
        for (path, label) in [("/one", "one"), ("/two", "two"), ("/three", "three"), ("/four", "four")] {
            service.on(path, once(label));
        }
        service.on("/looks", allow);
        let again = json!({"reinvocationPolicy": "IfNeeded"});
        vec![
            hook(service, "one", again.clone()),
            hook(service, "two", json!({})),
            hook(service, "looks", again.clone()),
            hook(service, "three", again.clone()),
            hook(service, "four", again),
        ]
    })
    .await?;
    s.make_map("a").await?;
    // `four` was the last to change it: it alone need not see it again. `two` did not ask to.
    let order = hooks.service.order();
    ensure!(order == ["/one", "/two", "/looks", "/three", "/four", "/one", "/looks", "/three"], "{order:?}");
    hooks.service.forget();
    let mut full = s.map("b");
    full["data"] = json!({"one": "", "two": "", "three": "", "four": ""});
    s.api.post(&s.core("configmaps"), &full).is(201).await?;
    let order = hooks.service.order();
    ensure!(order == ["/one", "/two", "/looks", "/three", "/four"], "{order:?}");
    hooks.end().await
}

/// A mutating policy runs before webhooks, and again after one changed the object.
async fn policies_and_webhooks(s: Space) -> Result<()> {
    if s.api.get(&format!("{GROUP}/mutatingadmissionpolicies")).send().await?.code == 404 {
        println!("skipped: the server has no mutating policies");
        return Ok(());
    }
    let hooks = Hooks::start(&s, MUTATING, |service| {
        service.on("/adds", |asked| {
            if asked.body["request"]["object"]["data"]["hooked"].is_string() {
                return allow(asked);
            }
            patched(asked, &json!([{"op": "add", "path": "/data/hooked", "value": "yes"}]))
        });
        vec![hook(service, "adds", json!({"reinvocationPolicy": "IfNeeded"}))]
    })
    .await?;
    let policy = json!({"metadata": {"name": s.unique}, "spec": {"reinvocationPolicy": "IfNeeded",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'size': string(size(object.data)), 'saw': has(object.data.hooked) ? 'hook' : 'none'}}}"}}]}});
    s.api.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy).is(201).await?;
    let binding = json!({"metadata": {"name": s.unique}, "spec": {"policyName": s.unique,
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": s.namespace}}}}});
    s.api.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding).is(201).await?;
    let made = eventually("the policy", || async {
        hooks.service.forget();
        let made = s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), &s.map("a")).is(201).await?;
        Ok(made["metadata"]["labels"].is_object().then_some(made))
    })
    .await?;
    ensure!(made["metadata"]["labels"] == json!({"size": "2", "saw": "hook"}), "{made}");
    let asked = hooks.service.asked("/adds");
    ensure!(asked.len() == 2, "{} times", asked.len());
    let labels = |at: usize| asked[at].body["request"]["object"]["metadata"]["labels"].clone();
    ensure!(labels(0) == json!({"size": "1", "saw": "none"}), "{}", labels(0));
    ensure!(labels(1) == json!({"size": "2", "saw": "hook"}), "{}", labels(1));
    s.api.delete(&format!("{GROUP}/mutatingadmissionpolicybindings/{}", s.unique)).is(200).await?;
    s.api.delete(&format!("{GROUP}/mutatingadmissionpolicies/{}", s.unique)).is(200).await?;
    hooks.end().await
}

async fn match_conditions(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        let conditions = |all: &[(&str, &str)]| {
            let all: Vec<_> = all.iter().map(|(name, e)| json!({"name": name, "expression": e})).collect();
            json!(all)
        };
        let mut hooks = Vec::new();
        for (path, list) in [
            ("both", vec![("a", "object.data.k == 'v'"), ("b", "request.operation == 'CREATE'")]),
            ("false", vec![("a", "true"), ("b", "object.data.k == 'other'")]),
            ("error", vec![("a", "object.data.missing == 'x'")]),
            ("falseerror", vec![("a", "object.data.missing == 'x'"), ("b", "false")]),
            ("authorizer", vec![("a", "authorizer.group('').resource('configmaps').namespace(request.namespace).check('create').allowed()")]),
        ] {
            for (name, policy) in [(path.to_owned(), "Fail"), (format!("open-{path}"), "Ignore")] {
                service.on(&format!("/{name}"), |asked| review(asked, json!({"allowed": false})));
                hooks.push(only(service, &name, json!({"failurePolicy": policy, "matchConditions": conditions(&list)})));
            }
        }
        hooks
    })
    .await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    let post = |name: &str| s.api.post(&path, &for_hook(&s, name)).send();
    for name in ["both", "authorizer", "open-both", "open-authorizer"] {
        let words =
            format!("admission webhook \"{name}.example.com\" denied the request without explanation");
        post(name).await?.fails(400, "", &[&words])?;
    }
    for name in ["false", "falseerror", "open-false", "open-error", "open-falseerror"] {
        post(name).await?.is(201).with_context(|| name.to_owned())?;
    }
    let words = [
        "configmaps \"a\" is forbidden: expression 'object.data.missing == 'x'' resulted in error: no such key: missing",
    ];
    post("error").await?.fails(403, "Forbidden", &words)?;
    hooks.end().await?;
    // Conditions that cannot be compiled are refused when they are written.
    let bad = json!({"metadata": {"name": s.unique}, "webhooks": [{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/x"}, "matchConditions": [{"name": "a", "expression": "object.("}]}]});
    let words =
        ["webhooks[0].matchConditions[0].expression: Invalid value: \"object.(\": compilation failed: "];
    s.api.post(&format!("{GROUP}/{VALIDATING}"), &bad).fails(422, "Invalid", &words).await.map(drop)
}

async fn selectors(s: Space) -> Result<()> {
    let label = format!("hooked-{}", &s.unique[s.unique.len() - 6..]);
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        for path in ["/space", "/object"] {
            service.on(path, |asked| review(asked, json!({"allowed": false})));
        }
        let space = json!({"matchExpressions": [{"key": label, "operator": "In", "values": ["yes"]}]});
        let object = json!({"matchExpressions": [{"key": "watched", "operator": "Exists"}]});
        vec![
            hook(service, "space", json!({"namespaceSelector": space})),
            hook(service, "object", json!({"objectSelector": object})),
        ]
    })
    .await?;
    let path = s.core("configmaps");
    s.make_map("a").await?;
    ensure!(hooks.service.order().is_empty(), "{:?}", hooks.service.order());
    // An object's labels count as they are and as they were.
    let mut watched = s.map("b");
    watched["metadata"]["labels"] = json!({"watched": ""});
    let words = ["admission webhook \"object.example.com\" denied the request"];
    s.api.post(&path, &watched).fails(400, "", &words).await?;
    let label_it = json!({"metadata": {"labels": {"watched": "x"}}});
    s.api.patch(&format!("{path}/a"), MERGE_PATCH, &label_it).fails(400, "", &words).await?;
    // A namespace's labels count for the objects in it.
    let patch = json!({"metadata": {"labels": {label.clone(): "yes"}}});
    s.api.patch(&format!("/api/v1/namespaces/{}", s.namespace), MERGE_PATCH, &patch).is(200).await?;
    let words = ["admission webhook \"space.example.com\" denied the request"];
    eventually("the namespace's label", || async {
        let answer = s.api.post(&format!("{path}?dryRun=All"), &s.map("c")).send().await?;
        Ok(if answer.code == 201 { None } else { Some(answer.fails(400, "", &words)?) })
    })
    .await?;
    hooks.end().await
}

/// A rule about one version is about the others too, unless it says `Exact`; the webhook then sees its own version.
async fn equivalent_versions(s: Space) -> Result<()> {
    let rule = json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    let hooks = Hooks::start(&s, MUTATING, |service| {
        service.on("/equivalent", |asked| {
            patched(
                asked,
                &json!([{"op": "add", "path": "/spec/targetCPUUtilizationPercentage", "value": 33}]),
            )
        });
        service.on("/exact", allow);
        vec![
            hook(service, "equivalent", json!({"rules": rule})),
            hook(service, "exact", json!({"rules": rule, "matchPolicy": "Exact"})),
        ]
    })
    .await?;
    let path = s.path("autoscaling/v2", "horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let object = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    let made = s.api.post(&path, &object).is(201).await?;
    ensure!(made["apiVersion"] == "autoscaling/v2", "{made}");
    ensure!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 33, "{made}");
    ensure!(hooks.service.order() == ["/equivalent"], "{:?}", hooks.service.order());
    let asked = hooks.service.asked("/equivalent");
    let request = &asked[0].body["request"];
    ensure!(
        request["kind"]
            == json!({"group": "autoscaling", "version": "v1", "kind": "HorizontalPodAutoscaler"}),
        "{request}"
    );
    ensure!(
        request["resource"]["version"] == "v1" && request["requestResource"]["version"] == "v2",
        "{request}"
    );
    ensure!(request["requestKind"]["version"] == "v2", "{request}");
    ensure!(request["object"]["apiVersion"] == "autoscaling/v1", "{request}");
    ensure!(request["object"]["spec"]["targetCPUUtilizationPercentage"] == 70, "{request}");
    hooks.service.forget();
    let old = s.path("autoscaling/v1", "horizontalpodautoscalers");
    let patch = json!({"spec": {"maxReplicas": 4}});
    let next = s.api.patch(&format!("{old}/a"), MERGE_PATCH, &patch).is(200).await?;
    ensure!(next["spec"]["targetCPUUtilizationPercentage"] == 33, "{next}");
    ensure!(hooks.service.order() == ["/equivalent", "/exact"], "{:?}", hooks.service.order());
    hooks.end().await
}

async fn dry_run(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/dry", allow);
        vec![hook(service, "dry", json!({"sideEffects": "NoneOnDryRun"}))]
    })
    .await?;
    s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), &s.map("a")).is(201).await?;
    s.make_map("a").await?;
    let asked = hooks.service.asked("/dry");
    ensure!(asked.len() == 2, "{}", asked.len());
    ensure!(asked[0].body["request"]["dryRun"] == true && asked[1].body["request"]["dryRun"] == false);
    ensure!(asked[0].body["request"]["options"]["dryRun"] == json!(["All"]), "{}", asked[0].body);
    hooks.end().await?;
    for (effects, words) in [
        (
            json!("Some"),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (Value::Null, "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"),
    ] {
        let object = json!({"metadata": {"name": s.unique}, "webhooks": [{"name": "a.example.com", "sideEffects": effects,
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/x"}}]});
        s.api.post(&format!("{GROUP}/{VALIDATING}"), &object).fails(422, "Invalid", &[words]).await?;
    }
    Ok(())
}

async fn warnings(s: Space) -> Result<()> {
    let make = |service: &Service| {
        service.on("/warns", |asked| {
            let allowed = asked.body["request"]["name"] != "no";
            review(asked, json!({"allowed": allowed, "warnings": ["first", "has \"quotes\" in it", "first"]}))
        });
        let rules = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
        vec![hook(service, "warns", json!({"rules": rules}))]
    };
    for kind in [VALIDATING, MUTATING] {
        let hooks = Hooks::start(&s, kind, make).await?;
        let path = s.core("configmaps");
        let due = ["first", "has \"quotes\" in it"];
        let answer = s.api.post(&path, &s.map("a")).send().await?;
        answer.is(201)?;
        ensure!(answer.warnings() == due, "{kind}: {:?}", answer.warnings());
        let answer = s.api.post(&path, &s.map("no")).send().await?;
        answer.is(400)?;
        ensure!(answer.warnings() == due, "{kind}, refused: {:?}", answer.warnings());
        let answer = s.api.patch(&format!("{path}/a"), JSON_PATCH, &json!([])).send().await?;
        answer.is(200)?;
        ensure!(answer.warnings() == due, "{kind}, patched: {:?}", answer.warnings());
        let answer = s.api.delete(&format!("{path}/a")).send().await?;
        answer.is(200)?;
        ensure!(answer.warnings() == due, "{kind}, deleted: {:?}", answer.warnings());
        hooks.end().await?;
    }
    Ok(())
}

async fn custom_kinds(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "color": {"type": "string", "default": "red"}}}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}});
    let definition = json!({"metadata": {"name": format!("things.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}},
            {"name": "v2", "served": true, "storage": false, "schema": schema, "subresources": {"status": {}}}]}});
    s.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).is(201).await?;
    let path = s.path(&format!("{group}/v1"), "things");
    eventually("the kind", || async { Ok((s.api.get(&path).send().await?.code == 200).then_some(())) })
        .await?;
    let hooks = Hooks::start(&s, MUTATING, |service| {
        service.on("/custom", |asked| {
            let patch = json!([{"op": "add", "path": "/spec", "value": {"size": 5, "unknown": 1}}]);
            if asked.body["request"]["operation"] == "CREATE" { patched(asked, &patch) } else { allow(asked) }
        });
        service.on("/status", allow);
        let rule = |resource: &str| json!([{"operations": ["*"], "apiGroups": [group], "apiVersions": ["v2"], "resources": [resource], "scope": "Namespaced"}]);
        vec![hook(service, "custom", json!({"rules": rule("things")})), hook(service, "status", json!({"rules": rule("*/status")}))]
    })
    .await?;
    let thing = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 1}});
    let made = s.api.post(&path, &thing).is(201).await?;
    ensure!(made["spec"] == json!({"size": 5, "color": "red"}), "{made}");
    ensure!(made["apiVersion"] == format!("{group}/v1"), "{made}");
    let asked = hooks.service.asked("/custom");
    let request = &asked[0].body["request"];
    ensure!(
        request["kind"]["version"] == "v2" && request["object"]["apiVersion"] == format!("{group}/v2"),
        "{request}"
    );
    ensure!(request["requestKind"]["version"] == "v1", "{request}");
    let patch = json!({"status": {"ok": true}});
    s.api.patch(&format!("{path}/a/status"), MERGE_PATCH, &patch).is(200).await?;
    let asked = hooks.service.asked("/status");
    let request = &asked.first().context("asked")?.body["request"];
    ensure!(
        request["subResource"] == "status"
            && request["requestSubResource"] == "status"
            && request["operation"] == "UPDATE",
        "{request}"
    );
    hooks.end().await?;
    s.api
        .delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}"))
        .is(200)
        .await
        .map(drop)
}

async fn old_reviews(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, MUTATING, |service| {
        service.on("/old", |asked| {
            let patch = STANDARD.encode(r#"[{"op":"add","path":"/data/by","value":"v1beta1"}]"#);
            // Neither kind nor identity were asked for then.
            Reply::json(&json!({"response": {"allowed": true, "patch": patch}}))
                .after(Duration::from_millis(u64::from(asked.body.is_null())))
        });
        service.on("/both", allow);
        vec![
            hook(service, "old", json!({"admissionReviewVersions": ["v1beta1", "v1"]})),
            hook(service, "both", json!({"admissionReviewVersions": ["v7", "v1", "v1beta1"]})),
        ]
    })
    .await?;
    let made = s.make_map("a").await?;
    ensure!(made["data"]["by"] == "v1beta1", "{made}");
    ensure!(hooks.service.asked("/old")[0].body["apiVersion"] == "admission.k8s.io/v1beta1");
    ensure!(hooks.service.asked("/both")[0].body["apiVersion"] == "admission.k8s.io/v1");
    hooks.end().await?;
    let object = json!({"metadata": {"name": s.unique}, "webhooks": [{"name": "a.example.com", "sideEffects": "None",
        "admissionReviewVersions": ["v7"], "clientConfig": {"url": "https://127.0.0.1:1/x"}}]});
    let words = [
        "webhooks[0].admissionReviewVersions: Invalid value: [\"v7\"]: must include at least one of v1, v1beta1",
    ];
    s.api.post(&format!("{GROUP}/{VALIDATING}"), &object).fails(422, "Invalid", &words).await.map(drop)
}

/// Nobody can lock themselves out by a webhook about webhooks.
async fn configurations_are_exempt(s: Space) -> Result<()> {
    let hooks = Hooks::start(&s, VALIDATING, |service| {
        service.on("/never", |asked| review(asked, json!({"allowed": false})));
        let rules = json!([{"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"], "resources": ["*"]}]);
        vec![hook(service, "never", json!({"rules": rules}))]
    })
    .await?;
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    s.api.patch(&hooks.path, MERGE_PATCH, &patch).is(200).await?;
    ensure!(hooks.service.order().is_empty());
    hooks.end().await
}
