//! All kinds of patches, and server-side apply with its owners.

use anyhow::{Context, Result, ensure};
use api::http::{APPLY_PATCH, JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn patches() {
    api::run(cases![
        json_patches,
        json_patches_that_fail,
        merge_patches,
        strategic_patches,
        strategic_directives,
        unknown_kinds_of_patch,
        apply_creates_and_owns,
        apply_conflicts,
        apply_removes_what_is_left_out,
        apply_shares,
        apply_lists,
        apply_of_status,
        apply_refuses,
        apply_takes_over_from_update,
        managers_are_listed,
        managed_fields_can_be_reset,
    ]);
}

async fn json_patches(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    let patch = json!([
        {"op": "test", "path": "/data/k", "value": "v"},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/x~1y", "value": "1"},
        {"op": "copy", "from": "/data/k", "path": "/data/c"},
        {"op": "move", "from": "/data/k", "path": "/data/m"},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
        {"op": "replace", "path": "/metadata/labels/a", "value": "c"},
        {"op": "remove", "path": "/data/c"},
    ]);
    let done = s.api.patch(&item, JSON_PATCH, &patch).is(200).await?;
    ensure!(done["data"] == json!({"m": "v"}), "{done}");
    ensure!(done["metadata"]["labels"] == json!({"a": "c"}), "{done}");
    let patch = json!([{"op": "add", "path": "/metadata/finalizers", "value": ["e.com/a", "e.com/c"]},
                       {"op": "add", "path": "/metadata/finalizers/1", "value": "e.com/b"},
                       {"op": "add", "path": "/metadata/finalizers/-", "value": "e.com/d"},
                       {"op": "remove", "path": "/metadata/finalizers/0"}]);
    let done = s.api.patch(&item, JSON_PATCH, &patch).is(200).await?;
    ensure!(done["metadata"]["finalizers"] == json!(["e.com/b", "e.com/c", "e.com/d"]), "{done}");
    s.api
        .patch(&item, JSON_PATCH, &json!([{"op": "remove", "path": "/metadata/finalizers"}]))
        .is(200)
        .await?;
    Ok(())
}

async fn json_patches_that_fail(s: Space) -> Result<()> {
    let made = s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    for (patch, words) in [
        (
            json!([{"op": "test", "path": "/data/k", "value": "w"}]),
            "testing value /data/k failed: test failed",
        ),
        (
            json!([{"op": "remove", "path": "/data/nope"}]),
            "unable to remove nonexistent key: nope: missing value",
        ),
        (json!([{"op": "jump", "path": "/data"}]), "Unexpected kind: jump"),
        (
            json!([{"op": "add", "path": "/nope/a", "value": 1}]),
            "doc is missing path: \"/nope/a\": missing value",
        ),
    ] {
        let what = patch.to_string();
        let words = ["the server rejected our request due to an error in our request", words];
        s.api.patch(&item, JSON_PATCH, &patch).fails(422, "Invalid", &words[..1]).await.context(what)?;
    }
    let call = s.api.call(http::Method::PATCH, &item).body(JSON_PATCH, "{}");
    call.fails(400, "BadRequest", &["cannot unmarshal object into Go value of type []handlers.jsonPatchOp"])
        .await?;
    let call = s.api.call(http::Method::PATCH, &item).body(JSON_PATCH, "[");
    call.fails(400, "BadRequest", &["unexpected end of JSON input"]).await?;
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/data/k", "value": "v"})).collect();
    let words = ["The allowed maximum operations in a JSON patch is 10000, got 10001"];
    s.api.patch(&item, JSON_PATCH, &json!(many)).fails(413, "RequestEntityTooLarge", &words).await?;
    ensure!(s.api.get(&item).is(200).await? == made);
    Ok(())
}

async fn merge_patches(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    let done = s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": null, "x": "1"}})).is(200).await?;
    ensure!(done["data"] == json!({"x": "1"}), "{done}");
    let done = s.api.patch(&item, MERGE_PATCH, &json!({"data": null})).is(200).await?;
    ensure!(done.get("data").is_none(), "{done}");
    let call = s.api.call(http::Method::PATCH, &item).body(MERGE_PATCH, "{\"a\":");
    call.fails(400, "BadRequest", &[]).await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"data": {"a": 1}})).fails(422, "Invalid", &[]).await.or(s
        .api
        .patch(&item, MERGE_PATCH, &json!({"data": {"a": 1}}))
        .fails(400, "BadRequest", &[])
        .await)?;
    let words = ["metadata.name: Invalid value: \"b\": field is immutable"];
    let answer = s.api.patch(&item, MERGE_PATCH, &json!({"metadata": {"name": "b"}})).send().await?;
    let other = ["the name of the object (b) does not match the name on the URL (a)"];
    ensure!(
        answer.fails(422, "Invalid", &words).is_ok() || answer.fails(400, "BadRequest", &other).is_ok(),
        "{}",
        answer.text()
    );
    Ok(())
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"paused": true, "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                    "schedulerName": "nobody",
                    "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}, {"name": "d", "image": "i"}]}}}})
}

fn containers(object: &Value) -> Vec<String> {
    let list = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    list.map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn strategic_patches(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    s.api.post(&path, &deployment("d")).is(201).await?;
    let item = format!("{path}/d");
    let send = |pod: Value| {
        s.api.patch(&item, STRATEGIC_PATCH, &json!({"spec": {"template": {"spec": pod}}})).send()
    };
    let done = send(json!({"containers": [{"name": "d", "image": "j"}, {"name": "e", "image": "k"}]}))
        .await?
        .is(200)?;
    ensure!(
        containers(&done) == ["d", "e", "c"] || containers(&done) == ["c", "d", "e"],
        "{:?}",
        containers(&done)
    );
    let spec = &done["spec"]["template"]["spec"]["containers"];
    ensure!(spec.as_array().into_iter().flatten().any(|c| c["name"] == "d" && c["image"] == "j"), "{spec}");
    let done = send(
        json!({"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}, {"name": "A", "$patch": "delete"}]}]}),
    );
    let done = done.await?.is(200)?;
    let c = done["spec"]["template"]["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["name"] == "c");
    ensure!(c.is_some_and(|c| c["env"] == json!([{"name": "B", "value": "2"}])), "{done}");
    let done = send(json!({"containers": [{"name": "e", "$patch": "delete"}]})).await?.is(200)?;
    ensure!(!containers(&done).contains(&"e".to_owned()), "{done}");
    let answer = send(json!({"containers": [{"image": "x"}]})).await?;
    ensure!(
        [400, 422, 500].contains(&answer.code)
            && answer.text().contains("does not contain declared merge key: name"),
        "{}",
        answer.text()
    );
    Ok(())
}

async fn strategic_directives(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    s.api.post(&path, &deployment("d")).is(201).await?;
    let item = format!("{path}/d");
    let send = |pod: Value| {
        s.api.patch(&item, STRATEGIC_PATCH, &json!({"spec": {"template": {"spec": pod}}})).is(200)
    };
    let done = send(json!({"$setElementOrder/containers": [{"name": "d"}, {"name": "c"}], "containers": [{"name": "c", "image": "z"}]})).await?;
    ensure!(containers(&done) == ["d", "c"], "{:?}", containers(&done));
    let done = send(json!({"containers": [{"$patch": "replace"}, {"name": "only", "image": "i"}]})).await?;
    ensure!(containers(&done) == ["only"], "{:?}", containers(&done));
    let patch = json!({"metadata": {"finalizers": ["e.com/a", "e.com/b"], "labels": {"x": "1", "y": "2"}}});
    s.api.patch(&item, STRATEGIC_PATCH, &patch).is(200).await?;
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["e.com/a"], "labels": {"$patch": "replace", "z": "3"}}});
    let done = s.api.patch(&item, STRATEGIC_PATCH, &patch).is(200).await?;
    ensure!(done["metadata"]["finalizers"] == json!(["e.com/b"]), "{done}");
    ensure!(done["metadata"]["labels"] == json!({"z": "3"}), "{done}");
    s.api.patch(&item, STRATEGIC_PATCH, &json!({"metadata": {"finalizers": null}})).is(200).await?;
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let done = s.api.patch(&item, STRATEGIC_PATCH, &patch).is(200).await?;
    ensure!(done["spec"]["strategy"] == json!({"type": "Recreate"}), "{done}");
    Ok(())
}

async fn unknown_kinds_of_patch(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    let answer = s.api.patch(&item, JSON, &json!({})).send().await?;
    let status = answer.fails(415, "UnsupportedMediaType", &["415: Unsupported Media Type"])?;
    ensure!(status["details"] == json!({}), "{status}");
    Ok(())
}

fn apply_to(s: &Space, manager: &str, force: bool, name: &str, data: Value) -> api::Call {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let force = if force { "&force=true" } else { "" };
    let path = format!("{}/{name}?fieldManager={manager}{force}", s.core("configmaps"));
    s.api.call(http::Method::PATCH, &path).body(APPLY_PATCH, object.to_string())
}

async fn apply_creates_and_owns(s: Space) -> Result<()> {
    let made = apply_to(&s, "one", false, "a", json!({"k": "v"})).is(201).await?;
    let entry = &made["metadata"]["managedFields"];
    ensure!(entry.as_array().is_some_and(|e| e.len() == 1), "{made}");
    ensure!(entry[0]["manager"] == "one" && entry[0]["operation"] == "Apply", "{entry}");
    ensure!(entry[0]["fieldsV1"] == json!({"f:data": {"f:k": {}}}), "{entry}");
    let again = apply_to(&s, "one", false, "a", json!({"k": "v"})).is(200).await?;
    ensure!(again == made, "the same again is no change: {again}");
    Ok(())
}

async fn apply_conflicts(s: Space) -> Result<()> {
    apply_to(&s, "one", false, "a", json!({"k": "v", "l": "v"})).is(201).await?;
    let words = ["Apply failed with 1 conflict: conflict with \"one\": .data.k"];
    let status = apply_to(&s, "two", false, "a", json!({"k": "w"})).fails(409, "Conflict", &words).await?;
    let cause =
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.k"}]);
    ensure!(status["details"]["causes"] == cause, "{status}");
    let words = ["Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.k\n- .data.l"];
    apply_to(&s, "two", false, "a", json!({"k": "w", "l": "w"})).fails(409, "Conflict", &words).await?;
    let forced = apply_to(&s, "two", true, "a", json!({"k": "w"})).is(200).await?;
    ensure!(forced["data"] == json!({"k": "w", "l": "v"}), "{forced}");
    // Now the first one would have to force.
    let words = ["conflict with \"two\": .data.k"];
    apply_to(&s, "one", false, "a", json!({"k": "v", "l": "v"})).fails(409, "Conflict", &words).await?;
    // An update takes over without asking, and conflicts later under its own name.
    let item = format!("{}/a?fieldManager=three", s.core("configmaps"));
    s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": "x"}})).is(200).await?;
    let words = ["conflict with \"three\" using v1", ".data.k"];
    apply_to(&s, "two", false, "a", json!({"k": "w"})).fails(409, "Conflict", &words).await?;
    Ok(())
}

async fn apply_removes_what_is_left_out(s: Space) -> Result<()> {
    apply_to(&s, "one", false, "a", json!({"k": "v", "l": "v"})).is(201).await?;
    let less = apply_to(&s, "one", false, "a", json!({"l": "v"})).is(200).await?;
    ensure!(less["data"] == json!({"l": "v"}), "{less}");
    let item = format!("{}/a", s.core("configmaps"));
    s.api.patch(&item, MERGE_PATCH, &json!({"data": {"other": "1"}})).is(200).await?;
    let less = apply_to(&s, "one", false, "a", json!({"m": "v"})).is(200).await?;
    ensure!(less["data"] == json!({"m": "v", "other": "1"}), "{less}");
    Ok(())
}

async fn apply_shares(s: Space) -> Result<()> {
    apply_to(&s, "one", false, "a", json!({"k": "v"})).is(201).await?;
    let shared = apply_to(&s, "two", false, "a", json!({"k": "v"})).is(200).await?;
    let managers = shared["metadata"]["managedFields"].as_array().map(Vec::len);
    ensure!(managers == Some(2), "{shared}");
    let kept = apply_to(&s, "one", false, "a", json!({})).is(200).await?;
    ensure!(kept["data"] == json!({"k": "v"}), "{kept}");
    let gone = apply_to(&s, "two", false, "a", json!({})).is(200).await?;
    ensure!(gone.get("data").is_none(), "{gone}");
    Ok(())
}

async fn apply_lists(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    let send = |manager: &str, object: Value| {
        let path = format!("{path}/d?fieldManager={manager}");
        s.api.call(http::Method::PATCH, &path).body(APPLY_PATCH, object.to_string()).send()
    };
    send("one", deployment("d")).await?.is(201)?;
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {
        "containers": [{"name": "side", "image": "s", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}});
    let done = send("two", other).await?.is(200)?;
    ensure!(containers(&done) == ["c", "d", "side"], "{:?}", containers(&done));
    let mut less = deployment("d");
    less["spec"]["template"]["spec"]["containers"].as_array_mut().context("containers")?.remove(1);
    let done = send("one", less).await?.is(200)?;
    ensure!(containers(&done) == ["c", "side"], "{:?}", containers(&done));
    let entries = done["metadata"]["managedFields"].as_array().context("managedFields")?;
    let two = entries.iter().find(|e| e["manager"] == "two").context("two")?;
    let owned = &two["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"side\"}"];
    ensure!(owned["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]["."] == json!({}), "{two}");
    let mut twice = deployment("d");
    let list = twice["spec"]["template"]["spec"]["containers"].as_array_mut().context("containers")?;
    list.push(list[0].clone());
    let answer = send("one", twice).await?;
    ensure!(
        answer.code == 500 && answer.text().contains("duplicate entries for key [name=\\\"c\\\"]"),
        "{} {}",
        answer.code,
        answer.text()
    );
    Ok(())
}

async fn apply_of_status(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    s.api.post(&path, &deployment("d")).is(201).await?;
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"conditions": [{"type": "Sunny", "status": "True"}]}, "spec": {"replicas": 3}});
    let sub = format!("{path}/d/status?fieldManager=weather");
    let done = s.api.call(http::Method::PATCH, &sub).body(APPLY_PATCH, status.to_string()).is(200).await?;
    ensure!(done["spec"]["replicas"] == 0, "{done}");
    let entries = done["metadata"]["managedFields"].as_array().context("managedFields")?;
    let entry = entries.iter().find(|e| e["manager"] == "weather").context("weather")?;
    ensure!(entry["subresource"] == "status" && entry["fieldsV1"].get("f:spec").is_none(), "{entry}");
    ensure!(entry["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Sunny\"}"].is_object(), "{entry}");
    Ok(())
}

async fn apply_refuses(s: Space) -> Result<()> {
    let path = format!("{}/a", s.core("configmaps"));
    let send = |query: &str, body: String| {
        s.api.call(http::Method::PATCH, &format!("{path}{query}")).body(APPLY_PATCH, body)
    };
    let object = s.map("a").to_string();
    let words = ["fieldManager: Required value: is required for apply patch"];
    send("", object.clone()).fails(422, "Invalid", &words).await?;
    let long = format!("?fieldManager={}", "x".repeat(129));
    send(&long, object.clone())
        .fails(422, "Invalid", &["fieldManager: Too long: may not be more than 128 bytes"])
        .await?;
    let mut managed = s.map("a");
    managed["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    send("?fieldManager=m", managed.to_string())
        .fails(400, "BadRequest", &["metadata.managedFields must be nil"])
        .await?;
    send("?fieldManager=m", "a: [".into()).fails(400, "BadRequest", &["error decoding YAML: "]).await?;
    let mut other = s.map("b");
    other["metadata"]["name"] = json!("b");
    let answer = send("?fieldManager=m", other.to_string()).send().await?;
    ensure!(answer.code == 400, "{} {}", answer.code, answer.text());
    let force = json!({"data": {}});
    let words = ["force: Forbidden: may not be specified for non-apply patch"];
    s.make_map("a").await?;
    s.api.patch(&format!("{path}?force=true"), MERGE_PATCH, &force).fails(422, "Invalid", &words).await?;
    let mut uid = s.map("new");
    uid["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let call = s.api.call(http::Method::PATCH, &format!("{}/new?fieldManager=m", s.core("configmaps")));
    let answer = call.body(APPLY_PATCH, uid.to_string()).send().await?;
    ensure!(
        answer.code == 409
            && answer.text().contains("uid mismatch: the provided object specified uid 00000000"),
        "{} {}",
        answer.code,
        answer.text()
    );
    Ok(())
}

async fn apply_takes_over_from_update(s: Space) -> Result<()> {
    // As kubectl: client-side apply first (an annotation and an update), then server-side apply under its name.
    let mut map = s.map("a");
    map["data"]["old"] = json!("1");
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": s.namespace}, "data": {"k": "v", "old": "1"}});
    map["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    s.api
        .post(&format!("{}?fieldManager=kubectl-client-side-apply", s.core("configmaps")), &map)
        .is(201)
        .await?;
    // What is left out of the first server-side apply goes away: it was kubectl's before.
    let mut next = s.map("a");
    next["metadata"]["labels"] = json!({"server": "side"});
    let path = format!("{}/a?fieldManager=kubectl", s.core("configmaps"));
    let done = s.api.call(http::Method::PATCH, &path).body(APPLY_PATCH, next.to_string()).is(200).await?;
    let entries = done["metadata"]["managedFields"].as_array().context("managedFields")?;
    let managers: Vec<_> = entries.iter().map(|e| e["manager"].as_str().unwrap_or_default()).collect();
    ensure!(managers.contains(&"kubectl"), "{done}");
    ensure!(done["data"]["k"] == "v", "{done}");
    Ok(())
}

async fn managers_are_listed(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    let call =
        s.api.patch(&item, MERGE_PATCH, &json!({"data": {"l": "1"}})).header("user-agent", "walker/2.1 (x)");
    let done = call.is(200).await?;
    let entries = done["metadata"]["managedFields"].as_array().context("managedFields")?;
    let walker = entries.iter().find(|e| e["manager"] == "walker").context("walker")?;
    ensure!(
        walker["operation"] == "Update" && walker["fieldsV1"] == json!({"f:data": {"f:l": {}}}),
        "{done}"
    );
    let done = s
        .api
        .patch(&item, MERGE_PATCH, &json!({"data": {"l": null}}))
        .header("user-agent", "walker/2.1")
        .is(200)
        .await?;
    let entries = done["metadata"]["managedFields"].as_array().context("managedFields")?;
    ensure!(entries.iter().all(|e| e["manager"] != "walker"), "what owns nothing is not listed: {done}");
    Ok(())
}

async fn managed_fields_can_be_reset(s: Space) -> Result<()> {
    apply_to(&s, "one", false, "a", json!({"k": "v"})).is(201).await?;
    let item = format!("{}/a", s.core("configmaps"));
    let done = s.api.patch(&item, MERGE_PATCH, &json!({"metadata": {"managedFields": [{}]}})).is(200).await?;
    ensure!(done["metadata"].get("managedFields").is_none_or(|m| *m == json!([])), "{done}");
    let done = apply_to(&s, "two", false, "a", json!({"k": "w"})).send().await?;
    // What nobody is known to own belongs to what came before the first apply.
    ensure!(done.code == 409 && done.text().contains("before-first-apply"), "{} {}", done.code, done.text());
    Ok(())
}
