//! CustomResourceDefinitions: what a schema does to the objects of a kind.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::http::{APPLY_PATCH, MERGE_PATCH};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn custom() {
    api::run(cases![
        defaults_and_pruning,
        validation,
        rules,
        ratcheting,
        status_and_scale,
        versions,
        selectable_fields,
        columns,
        unknown_fields,
        definitions_refused,
        applying,
        a_definition_goes,
    ]);
}

/// A definition of `things.<unique>.example.com` with this schema of `spec`, and the path of its objects.
struct Kind {
    name: String,
    group: String,
    path: String,
}

async fn define(s: &Space, spec: Value, more: Value) -> Result<Kind> {
    let group = format!("{}.example.com", s.unique);
    let name = format!("things.{group}");
    let mut version = json!({"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    if let (Some(version), Some(more)) = (version.as_object_mut(), more.as_object()) {
        version.extend(more.clone());
    }
    let object = definition(&group, json!([version]));
    s.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &object).is(201).await?;
    let kind = Kind { path: s.path(&format!("{group}/v1"), "things"), name, group };
    served(s, &kind).await?;
    Ok(kind)
}

fn definition(group: &str, versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
                 "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["all"]}, "versions": versions}})
}

async fn served(s: &Space, kind: &Kind) -> Result<()> {
    eventually("the kind to be served", || async {
        Ok((s.api.get(&kind.path).send().await?.code == 200).then_some(()))
    })
    .await
}

impl Kind {
    fn thing(&self, name: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{}/v1", self.group), "kind": "Thing", "metadata": {"name": name}, "spec": spec})
    }

    async fn drop(self, s: &Space) -> Result<()> {
        s.api
            .delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", self.name))
            .is(200)
            .await?;
        Ok(())
    }
}

async fn defaults_and_pruning(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "nested": {"type": "object", "default": {}, "properties": {"color": {"type": "string", "default": "red"}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true}}});
    let kind = define(&s, schema, json!({})).await?;
    let made = s
        .api
        .post(&kind.path, &kind.thing("a", json!({"pruned": 1, "free": {"kept": 1}, "port": "http"})))
        .is(201)
        .await?;
    ensure!(
        made["spec"] == json!({"size": 3, "nested": {"color": "red"}, "free": {"kept": 1}, "port": "http"}),
        "{made}"
    );
    ensure!(made["metadata"]["generation"] == 1, "{made}");
    let item = format!("{}/a", kind.path);
    let next = s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"size": null}})).is(200).await?;
    ensure!(next["spec"]["size"] == 3 && next["metadata"]["generation"] == 1, "{next}");
    let list = s.api.get(&kind.path).is(200).await?;
    ensure!(
        list["kind"] == "ThingList" && list["items"][0]["kind"] == "Thing",
        "items of custom lists bear their kind: {list}"
    );
    s.api.patch(&item, api::http::STRATEGIC_PATCH, &json!({})).send().await.and_then(|a| {
        ensure!(a.code == 415, "{} {}", a.code, a.text());
        Ok(())
    })?;
    kind.drop(&s).await
}

async fn validation(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
        "count": {"type": "integer", "minimum": 1, "maximum": 10, "multipleOf": 2},
        "mode": {"type": "string", "enum": ["on", "off"]},
        "when": {"type": "string", "format": "date-time"},
        "list": {"type": "array", "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "map": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}}}});
    let kind = define(&s, schema, json!({})).await?;
    for (spec, words) in [
        (json!({}), "spec.name: Required value"),
        (
            json!({"name": "a"}),
            "spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long",
        ),
        (json!({"name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes"),
        (
            json!({"name": "AB"}),
            "spec.name: Invalid value: \"AB\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({"name": "ab", "count": 0}),
            "spec.count: Invalid value: 0: spec.count in body should be greater than or equal to 1",
        ),
        (
            json!({"name": "ab", "count": 12}),
            "spec.count: Invalid value: 12: spec.count in body should be less than or equal to 10",
        ),
        (
            json!({"name": "ab", "count": 3}),
            "spec.count: Invalid value: 3: spec.count in body should be a multiple of 2",
        ),
        (
            json!({"name": "ab", "count": "x"}),
            "spec.count: Invalid value: \"string\": spec.count in body must be of type integer: \"string\"",
        ),
        (
            json!({"name": "ab", "mode": "x"}),
            "spec.mode: Unsupported value: \"x\": supported values: \"on\", \"off\"",
        ),
        (
            json!({"name": "ab", "when": "x"}),
            "spec.when: Invalid value: \"x\": spec.when in body must be of type date-time: \"x\"",
        ),
        (json!({"name": "ab", "list": ["a", "b", "c"]}), "spec.list: Too many: 3: must have at most 2 items"),
        (json!({"name": "ab", "list": ["a", "a"]}), "spec.list[1]: Duplicate value: \"a\""),
        (
            json!({"name": "ab", "map": {"a": "x"}}),
            "spec.map.a: Invalid value: \"string\": spec.map.a in body must be of type integer: \"string\"",
        ),
        (json!({"name": "ab", "map": {"a": 1, "b": 2}}), "spec.map: Too many: 2: must have at most 1 item"),
        (json!("x"), "spec: Invalid value: \"string\": spec in body must be of type object: \"string\""),
    ] {
        let what = spec.to_string();
        let words = ["Thing.", "\"a\" is invalid: ", words];
        s.api.post(&kind.path, &kind.thing("a", spec)).fails(422, "Invalid", &words).await.context(what)?;
    }
    kind.drop(&s).await
}

async fn rules(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.low <= self.high", "message": "low must not be above high"},
            {"rule": "self.low >= 0", "messageExpression": "'low may not be negative'", "fieldPath": ".low", "reason": "FieldValueForbidden"},
            {"rule": "self.high >= oldSelf.high", "message": "high may only grow"},
            {"rule": "!oldSelf.hasValue() || oldSelf.value().low == self.low || self.low < 5", "optionalOldSelf": true, "message": "low is five at most"}],
        "properties": {"low": {"type": "integer", "minimum": -9, "maximum": 99}, "high": {"type": "integer"},
                       "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}]}}});
    let kind = define(&s, schema, json!({})).await?;
    let post = |low: i64, high: i64| {
        s.api.post(&kind.path, &kind.thing("a", json!({"low": low, "high": high, "fixed": "x"})))
    };
    post(2, 1).fails(422, "Invalid", &["spec: Invalid value: ", "low must not be above high"]).await?;
    let status = post(-1, 1).fails(422, "Invalid", &["spec.low: Forbidden: low may not be negative"]).await?;
    ensure!(status["details"]["causes"][0]["reason"] == "FieldValueForbidden", "{status}");
    post(1, 2).is(201).await?;
    let item = format!("{}/a", kind.path);
    let patch = |spec: Value| s.api.patch(&item, MERGE_PATCH, &json!({"spec": spec}));
    patch(json!({"high": 1})).fails(422, "Invalid", &["high may only grow"]).await?;
    patch(json!({"fixed": "y"}))
        .fails(422, "Invalid", &["spec.fixed: Invalid value: \"y\": fixed is immutable"])
        .await?;
    patch(json!({"low": 6, "high": 9})).fails(422, "Invalid", &["low is five at most"]).await?;
    patch(json!({"low": 4, "high": 9})).is(200).await?;
    kind.drop(&s).await
}

async fn ratcheting(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
    let kind = define(&s, schema, json!({})).await?;
    s.api.post(&kind.path, &kind.thing("a", json!({"a": "long", "b": "x"}))).is(201).await?;
    let item = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", kind.name);
    let patch = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/a/maxLength", "value": 2}]);
    s.api.patch(&item, api::http::JSON_PATCH, &patch).is(200).await?;
    let words = ["spec.a: Too long: may not be more than 2 bytes"];
    eventually("the new schema", || async {
        let answer = s
            .api
            .post(&format!("{}?dryRun=All", kind.path), &kind.thing("b", json!({"a": "long"})))
            .send()
            .await?;
        Ok(answer.fails(422, "Invalid", &words).ok())
    })
    .await?;
    // What is not touched may stay wrong; what is touched may not become so.
    let item = format!("{}/a", kind.path);
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"b": "y"}})).is(200).await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"a": "other"}})).fails(422, "Invalid", &words).await?;
    kind.drop(&s).await
}

async fn status_and_scale(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
    let more = json!({"subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}});
    let kind = define(&s, schema, more).await?;
    let mut thing = kind.thing("a", json!({"replicas": 2}));
    thing["status"] = json!({"replicas": 9});
    let made = s.api.post(&kind.path, &thing).is(201).await?;
    ensure!(made.get("status").is_none() && made["metadata"]["generation"] == 1, "{made}");
    let item = format!("{}/a", kind.path);
    let patch = json!({"spec": {"replicas": 7}, "status": {"replicas": 2, "selector": "a=b"}, "metadata": {"labels": {"l": "1"}}});
    let next = s.api.patch(&format!("{item}/status"), MERGE_PATCH, &patch).is(200).await?;
    ensure!(
        next["spec"]["replicas"] == 2
            && next["status"]["replicas"] == 2
            && next["metadata"]["generation"] == 1,
        "{next}"
    );
    let scale = s.api.get(&format!("{item}/scale")).is(200).await?;
    ensure!(
        scale["spec"]["replicas"] == 2 && scale["status"] == json!({"replicas": 2, "selector": "a=b"}),
        "{scale}"
    );
    s.api.patch(&format!("{item}/scale"), MERGE_PATCH, &json!({"spec": {"replicas": 5}})).is(200).await?;
    let read = s.api.get(&item).is(200).await?;
    ensure!(read["spec"]["replicas"] == 5 && read["metadata"]["generation"] == 2, "{read}");
    kind.drop(&s).await
}

async fn versions(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}});
    let mut versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema},
                              {"name": "v1beta1", "served": true, "storage": false, "schema": schema, "deprecated": true}]);
    versions[1]["deprecationWarning"] = json!("think of v1");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let made = s.api.post(path, &definition(&group, versions)).is(201).await?;
    ensure!(made["spec"]["conversion"] == json!({"strategy": "None"}), "{made}");
    ensure!(
        made["spec"]["names"]["listKind"] == "ThingList" && made["spec"]["names"]["singular"] == "thing",
        "{made}"
    );
    let kind = Kind {
        name: format!("things.{group}"),
        path: s.path(&format!("{group}/v1"), "things"),
        group: group.clone(),
    };
    served(&s, &kind).await?;
    s.api.post(&kind.path, &kind.thing("a", json!({"a": "x"}))).is(201).await?;
    let old = s.api.get(&format!("{}/a", s.path(&format!("{group}/v1beta1"), "things"))).send().await?;
    ensure!(old.is(200)?["apiVersion"] == format!("{group}/v1beta1"), "{}", old.text());
    ensure!(old.warnings() == ["think of v1"], "{:?}", old.warnings());
    let crd = s.api.get(&format!("{path}/{}", kind.name)).is(200).await?;
    ensure!(crd["status"]["storedVersions"] == json!(["v1"]), "{crd}");
    for condition in ["NamesAccepted", "Established"] {
        let all = crd["status"]["conditions"].as_array().context("conditions")?;
        ensure!(all.iter().any(|c| c["type"] == condition && c["status"] == "True"), "{crd}");
    }
    let found = s.api.get(&format!("/apis/{group}")).is(200).await?;
    ensure!(
        found["preferredVersion"]["version"] == "v1"
            && found["versions"].as_array().is_some_and(|v| v.len() == 2),
        "{found}"
    );
    kind.drop(&s).await
}

async fn selectable_fields(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {"color": {"type": "string"}}});
    let kind = define(&s, schema, json!({"selectableFields": [{"jsonPath": ".spec.color"}]})).await?;
    for (name, color) in [("a", "red"), ("b", "blue")] {
        s.api.post(&kind.path, &kind.thing(name, json!({"color": color}))).is(201).await?;
    }
    let list = s.api.get(&format!("{}?fieldSelector=spec.color%3Dblue", kind.path)).is(200).await?;
    ensure!(
        list["items"].as_array().is_some_and(|i| i.len() == 1 && i[0]["metadata"]["name"] == "b"),
        "{list}"
    );
    let words = ["field label not supported: spec.size"];
    s.api.get(&format!("{}?fieldSelector=spec.size%3D1", kind.path)).fails(400, "BadRequest", &words).await?;
    kind.drop(&s).await
}

async fn columns(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}}}});
    let more = json!({"additionalPrinterColumns": [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "description": "how big"},
        {"name": "First", "type": "string", "jsonPath": ".spec.list[0]", "priority": 1}]});
    let kind = define(&s, schema, more).await?;
    s.api.post(&kind.path, &kind.thing("a", json!({"size": 4, "list": ["x"]}))).is(201).await?;
    let table = s.api.get(&kind.path).accept("application/json;as=Table;v=v1;g=meta.k8s.io").is(200).await?;
    ensure!(table["rows"][0]["cells"] == json!(["a", 4, "x"]), "{table}");
    ensure!(
        table["columnDefinitions"][1]
            == json!({"name": "Size", "type": "integer", "format": "", "description": "how big", "priority": 0}),
        "{table}"
    );
    kind.drop(&s).await
}

async fn unknown_fields(s: Space) -> Result<()> {
    let kind =
        define(&s, json!({"type": "object", "properties": {"a": {"type": "string"}}}), json!({})).await?;
    let body = format!(
        r#"{{"apiVersion":"{}/v1","kind":"Thing","metadata":{{"name":"a"}},"spec":{{"a":"1","a":"2","b":1}}}}"#,
        kind.group
    );
    let send = |mode: &str| {
        s.api
            .call(http::Method::POST, &format!("{}?dryRun=All&fieldValidation={mode}", kind.path))
            .body("application/json", body.clone())
            .send()
    };
    for word in ["strict decoding error: ", "duplicate field \"spec.a\"", "unknown field \"spec.b\""] {
        send("Strict").await?.fails(400, "BadRequest", &[word])?;
    }
    let warned = send("Warn").await?;
    warned.is(201)?;
    let mut warnings = warned.warnings();
    warnings.sort();
    ensure!(warnings == ["duplicate field \"spec.a\"", "unknown field \"spec.b\""], "{warnings:?}");
    ensure!(send("Ignore").await?.warnings().is_empty());
    kind.drop(&s).await
}

async fn definitions_refused(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    let with = |schema: Value| {
        definition(
            &group,
            json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]),
        )
    };
    let at = "spec.validation.openAPIV3Schema";
    let field = "spec.versions[0].schema.openAPIV3Schema";
    for (schema, words) in [
        (
            json!({"type": "object", "properties": {"a": {}}}),
            ".properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            ".properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}}),
            ".properties[a].default: Invalid value: \"integer\": .properties[a].default in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self.nope("}]}}}),
            ".properties[a].x-kubernetes-validations[0].rule: Invalid value: ",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self + 1 == 2"}]}}}),
            "found no matching overload for '_+_' applied to '(string, int)'",
        ),
    ] {
        let what = schema.to_string();
        let answer = s.api.post(path, &with(schema)).send().await?;
        ensure!(answer.code == 422, "{what}: {} {}", answer.code, answer.text());
        let message = answer.json()?["message"].as_str().unwrap_or_default().to_owned();
        let words = words.replace(
            ".properties[a].default in body",
            "spec.versions[0].schema.openAPIV3Schema.properties[a].default in body",
        );
        let found = [format!("{field}{words}"), format!("{at}{words}"), words.clone()]
            .iter()
            .any(|w| message.contains(w));
        ensure!(
            found || message.contains(words.rsplit("in body").next().unwrap_or(&words)),
            "{what}: {words} was due: {message}"
        );
    }
    let mut named = with(json!({"type": "object"}));
    named["metadata"]["name"] = json!("wrong");
    let words = ["metadata.name: Invalid value: \"wrong\": must be spec.names.plural+\".\"+spec.group"];
    s.api.post(path, &named).fails(422, "Invalid", &words).await?;
    let none = definition(
        &group,
        json!([{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]),
    );
    let words = ["spec.versions: Invalid value: ", "must have exactly one version marked as storage version"];
    s.api.post(path, &none).fails(422, "Invalid", &words).await?;
    Ok(())
}

async fn applying(s: Space) -> Result<()> {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                 "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}}}});
    let kind = define(&s, schema, json!({})).await?;
    let send = |manager: &str, spec: Value| {
        let path = format!("{}/a?fieldManager={manager}", kind.path);
        s.api.call(http::Method::PATCH, &path).body(APPLY_PATCH, kind.thing("a", spec).to_string()).send()
    };
    send("one", json!({"list": [{"name": "x", "v": 1}], "whole": {"a": "1"}})).await?.is(201)?;
    let both = send("two", json!({"list": [{"name": "y", "v": 2}]})).await?.is(200)?;
    ensure!(both["spec"]["list"] == json!([{"name": "x", "v": 1}, {"name": "y", "v": 2}]), "{both}");
    send("two", json!({"whole": {"b": "2"}})).await?.fails(
        409,
        "Conflict",
        &["conflict with \"one\": .spec.whole"],
    )?;
    let words = ["conflict with \"one\": .spec.list[name=\"x\"].v"];
    send("two", json!({"list": [{"name": "x", "v": 3}]})).await?.fails(409, "Conflict", &words)?;
    kind.drop(&s).await
}

async fn a_definition_goes(s: Space) -> Result<()> {
    let kind = define(&s, json!({"type": "object"}), json!({})).await?;
    s.api.post(&kind.path, &kind.thing("a", json!({}))).is(201).await?;
    let (path, name) = (kind.path.clone(), kind.name.clone());
    let made =
        s.api.get(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")).is(200).await?;
    ensure!(made["metadata"]["finalizers"].is_null(), "{made}");
    kind.drop(&s).await?;
    eventually("the definition's end", || async {
        let item = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        Ok((s.api.get(&item).send().await?.code == 404).then_some(()))
    })
    .await?;
    eventually("the kind's end", || async { Ok((s.api.get(&path).send().await?.code == 404).then_some(())) })
        .await
}
