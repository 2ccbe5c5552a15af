//! What the schema of a definition says of values: formats, list and map types, nullable, defaults, int-or-string,
//! unknown fields, embedded objects, combinations.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::http::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH};
use api::kind::{CRDS, Kind, definition};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn schemas() {
    api::run(cases![
        formats,
        unknown_formats,
        numbers,
        lists_as_sets,
        lists_as_maps,
        applied_lists,
        nullable,
        defaulting,
        int_or_string,
        preserving_unknown_fields,
        embedded_objects,
        combinations,
        sizes,
        types,
        definitions_refused,
        defaults_refused,
        old_values_stay,
    ]);
}

async fn formats(s: Space) -> Result<()> {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "date-time",
            &["2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123+02:00"],
            &["yesterday", "2026-13-24T10:00:00Z"],
        ),
        ("date", &["2026-11-24"], &["2026-11-31x", "24.11.2026"]),
        ("duration", &["1h30m", "5s", "2 days"], &["soon", "1 fortnight"]),
        ("email", &["a@example.com"], &["a at example.com"]),
        ("hostname", &["a.example.com"], &["-a", "a b"]),
        ("ipv4", &["10.0.0.1"], &["10.0.0.256", "::1"]),
        ("ipv6", &["::1", "fd00::1"], &["10.0.0.1", "g::1"]),
        ("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0", "10.0.0.0/33"]),
        ("mac", &["01:23:45:67:89:ab"], &["01:23:45"]),
        ("uri", &["https://example.com/a?b", "urn:a:b"], &["a b", "not a uri"]),
        ("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567"]),
        ("uuid3", &["6fa459ea-ee8a-3ca4-894e-db77e160355e"], &["123e4567-e89b-12d3-a456-426614174000"]),
        ("uuid4", &["16fd2706-8baf-433b-82eb-8c7fada847da"], &["6fa459ea-ee8a-3ca4-894e-db77e160355e"]),
        ("uuid5", &["886313e1-3b8a-5372-9b90-0c9aee199e5d"], &["6fa459ea-ee8a-3ca4-894e-db77e160355e"]),
        ("byte", &["aGVsbG8="], &["not base64!"]),
        ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
        ("isbn10", &["0321751043"], &["978-0321751041"]),
        ("isbn13", &["978-0321751041"], &["0321751043"]),
        ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111"]),
        ("ssn", &["111-11-1111"], &["111-111-111"]),
        ("hexcolor", &["#fff", "#FFFFFF"], &["white"]),
        ("rgbcolor", &["rgb(0,0,0)", "rgb(100,100,100)"], &["rgb(0,0)"]),
        ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f1f77"]),
        ("k8s-short-name", &["a-b"], &["A_b"]),
        ("k8s-long-name", &["a.b-c"], &["a..b"]),
    ];
    let properties: serde_json::Map<String, Value> = table
        .iter()
        .map(|(format, ..)| ((*format).to_owned(), json!({"type": "string", "format": format})))
        .collect();
    let kind = Kind::define(&s, json!({"type": "object", "properties": properties})).await?;
    let mut wrong = Vec::new();
    for (format, good, bad) in table {
        for value in *good {
            let answer = kind.dry(&json!({*format: value})).await?;
            if answer.code != 201 {
                wrong.push(format!("{format} {value:?}: {}", answer.text()));
            }
        }
        for value in *bad {
            let words = format!(
                "spec.{format}: Invalid value: {value:?}: spec.{format} in body must be of type {format}: {value:?}"
            );
            let answer = kind.dry(&json!({*format: value})).await?;
            if let Err(error) = answer.fails(422, "Invalid", &[&words]) {
                wrong.push(error.to_string());
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n  "));
    kind.end().await
}

async fn unknown_formats(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "format": "sonnet"}, "p": {"type": "string", "format": "password"}}});
    let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
    answer.is(201)?;
    ensure!(answer.warnings() == ["unrecognized format \"sonnet\""], "{:?}", answer.warnings());
    let kind = Kind::define(&s, schema).await?;
    kind.accepts(json!({"a": "anything", "p": "x"})).await?;
    kind.end().await
}

async fn numbers(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "i32": {"type": "integer", "format": "int32"}, "i64": {"type": "integer", "format": "int64"},
        "n": {"type": "number"}, "f": {"type": "number", "format": "float"}, "d": {"type": "number", "format": "double"},
        "low": {"type": "integer", "minimum": 2}, "under": {"type": "integer", "maximum": 10, "exclusiveMaximum": true},
        "over": {"type": "number", "minimum": 0, "exclusiveMinimum": true}, "many": {"type": "integer", "multipleOf": 5}}}))
    .await?;
    for spec in [
        json!({"i": 1}),
        json!({"i": -9}),
        json!({"i32": 2147483647}),
        json!({"i64": 9223372036854775807_i64}),
        json!({"n": 1.5}),
        json!({"n": 2}),
        json!({"f": 0.25}),
        json!({"d": 1e300}),
        json!({"low": 2}),
        json!({"under": 9}),
        json!({"over": 0.1}),
        json!({"many": 15}),
    ] {
        let stored = kind.accepts(spec.clone()).await?;
        ensure!(stored == spec, "{spec}: {stored}");
    }
    for (spec, words) in [
        (
            json!({"i": 1.5}),
            "spec.i: Invalid value: \"number\": spec.i in body must be of type integer: \"number\"",
        ),
        (
            json!({"i": "1"}),
            "spec.i: Invalid value: \"string\": spec.i in body must be of type integer: \"string\"",
        ),
        (
            json!({"i32": 2147483648_i64}),
            "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.i32",
        ),
        (
            json!({"n": true}),
            "spec.n: Invalid value: \"boolean\": spec.n in body must be of type number: \"boolean\"",
        ),
        (
            json!({"low": 1}),
            "spec.low: Invalid value: 1: spec.low in body should be greater than or equal to 2",
        ),
        (json!({"under": 10}), "spec.under: Invalid value: 10: spec.under in body should be less than 10"),
        (json!({"over": 0}), "spec.over: Invalid value: 0: spec.over in body should be greater than 0"),
        (json!({"many": 7}), "spec.many: Invalid value: 7: spec.many in body should be a multiple of 5"),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.end().await
}

async fn lists_as_sets(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "texts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "numbers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "lists": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}}},
        "objects": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}}},
        "free": {"type": "array", "items": {"type": "string"}}}}))
    .await?;
    kind.accepts(json!({"texts": ["a", "b"], "numbers": [1, 2], "lists": [["a"], ["b"]], "objects": [{"a": "1"}, {"a": "2"}], "free": ["a", "a"]})).await?;
    for (spec, words) in [
        (json!({"texts": ["a", "b", "a"]}), "spec.texts[2]: Duplicate value: \"a\""),
        (json!({"numbers": [1, 1]}), "spec.numbers[1]: Duplicate value: 1"),
        (json!({"lists": [["a"], ["a"]]}), "spec.lists[1]: Duplicate value: [\"a\"]"),
        (json!({"objects": [{"a": "1"}, {"a": "1"}]}), "spec.objects[1]: Duplicate value: {\"a\":\"1\"}"),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.end().await
}

fn map_list() -> Value {
    json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
        "items": {"type": "object", "required": ["port"], "properties": {
            "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}, "note": {"type": "string"}}}})
}

async fn lists_as_maps(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {"ports": map_list()}})).await?;
    let stored = kind.accepts(json!({"ports": [{"port": 1}, {"port": 1, "protocol": "UDP"}]})).await?;
    ensure!(stored["ports"][0]["protocol"] == "TCP", "{stored}");
    kind.refuses(
        json!({"ports": [{"port": 1, "protocol": "TCP"}, {"port": 2}, {"port": 1, "note": "again"}]}),
        "spec.ports[2]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
    )
    .await?;
    kind.refuses(json!({"ports": [{"note": "x"}]}), "spec.ports[0].port: Required value").await?;
    kind.end().await
}

async fn applied_lists(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "ports": map_list(),
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "atoms": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
        "granular": {"type": "object", "additionalProperties": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}}))
    .await?;
    let send = |manager: &str, spec: Value| {
        let path = format!("{}/a?fieldManager={manager}", kind.path);
        s.api.call(http::Method::PATCH, &path).body(APPLY_PATCH, kind.thing("a", &spec).to_string()).send()
    };
    send("one", json!({"ports": [{"port": 1, "note": "one"}], "tags": ["a"], "atoms": ["x"], "granular": {"a": "1"}, "whole": {"a": "1"}})).await?.is(201)?;
    let both = send("two", json!({"ports": [{"port": 2}, {"port": 1, "protocol": "UDP"}], "tags": ["b"], "granular": {"b": "2"}})).await?.is(200)?;
    ensure!(
        both["spec"]["tags"] == json!(["a", "b"]) && both["spec"]["granular"] == json!({"a": "1", "b": "2"}),
        "{both}"
    );
    ensure!(both["spec"]["ports"].as_array().is_some_and(|p| p.len() == 3), "{both}");
    for (spec, words) in [
        (json!({"atoms": ["y"]}), "conflict with \"one\": .spec.atoms"),
        (json!({"whole": {"b": "1"}}), "conflict with \"one\": .spec.whole"),
        (json!({"granular": {"a": "2"}}), "conflict with \"one\": .spec.granular.a"),
        (
            json!({"ports": [{"port": 1, "note": "two"}]}),
            "conflict with \"one\": .spec.ports[port=1,protocol=\"TCP\"].note",
        ),
    ] {
        send("three", spec).await?.fails(409, "Conflict", &[words])?;
    }
    // What a manager no longer says goes, unless another says it too.
    let next = send("one", json!({"tags": [], "granular": {"a": "1"}})).await?.is(200)?;
    ensure!(next["spec"]["tags"] == json!(["b"]), "{next}");
    ensure!(next["spec"].get("atoms").is_none() && next["spec"].get("whole").is_none(), "{next}");
    ensure!(next["spec"]["ports"].as_array().is_some_and(|p| p.len() == 2), "{next}");
    kind.end().await
}

async fn nullable(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "plain": {"type": "string"}, "null": {"type": "string", "nullable": true}, "defaulted": {"type": "string", "default": "d"},
        "both": {"type": "string", "nullable": true, "default": "d"}, "list": {"type": "array", "items": {"type": "string", "nullable": true}},
        "strict": {"type": "array", "items": {"type": "string"}}, "map": {"type": "object", "additionalProperties": {"type": "string", "nullable": true}},
        "enum": {"type": "string", "nullable": true, "enum": ["a", "b"]}}}))
    .await?;
    let stored = kind
        .accepts(
            json!({"null": null, "defaulted": null, "both": null, "list": ["a", null], "map": {"x": null}}),
        )
        .await?;
    ensure!(
        stored
            == json!({"null": null, "defaulted": "d", "both": null, "list": ["a", null], "map": {"x": null}}),
        "{stored}"
    );
    let stored = kind.accepts(json!({})).await?;
    ensure!(stored == json!({"defaulted": "d", "both": "d"}), "{stored}");
    // What may not be null and has no default goes.
    ensure!(kind.accepts(json!({"plain": null})).await? == json!({"defaulted": "d", "both": "d"}));
    kind.refuses(
        json!({"strict": ["a", null]}),
        "spec.strict[1]: Invalid value: \"null\": spec.strict[1] in body must be of type string: \"null\"",
    )
    .await?;
    kind.refuses(json!({"enum": null}), "spec.enum: Unsupported value: null: supported values: \"a\", \"b\"")
        .await?;
    kind.end().await
}

async fn defaulting(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "default": {}, "properties": {
        "text": {"type": "string", "default": "t"}, "number": {"type": "integer", "default": 0}, "flag": {"type": "boolean", "default": false},
        "list": {"type": "array", "default": ["a"], "items": {"type": "string"}},
        "deep": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}},
        "filled": {"type": "object", "default": {"b": "given"}, "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "string"}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"size": {"type": "integer", "default": 2}}}},
        "free": {"type": "object", "default": {"any": [1, {"thing": null}]}, "x-kubernetes-preserve-unknown-fields": true}}}))
    .await?;
    let base = json!({"text": "t", "number": 0, "flag": false, "list": ["a"], "filled": {"a": "x", "b": "given"}, "free": {"any": [1, {"thing": null}]}});
    // A default of the whole makes defaults of its parts apply.
    let bare =
        json!({"apiVersion": format!("{}/v1", kind.group), "kind": "Thing", "metadata": {"name": "bare"}});
    let made = s.api.post(&kind.path, &bare).is(201).await?;
    ensure!(made["spec"] == base, "{made}");
    let stored =
        kind.accepts(json!({"deep": {}, "items": [{}, {"size": 3}], "map": {"a": {}}, "filled": {}})).await?;
    ensure!(stored["deep"] == json!({"a": "x"}) && stored["filled"] == json!({"a": "x"}), "{stored}");
    ensure!(
        stored["items"] == json!([{"size": 1}, {"size": 3}]) && stored["map"] == json!({"a": {"size": 2}}),
        "{stored}"
    );
    // A default that comes later is read into what is stored, and stored with the next write alone.
    let item = format!("{CRDS}/things.{}", kind.group);
    let patch = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/late", "value": {"type": "string", "default": "later"}}]);
    s.api.patch(&item, JSON_PATCH, &patch).is(200).await?;
    let read = eventually("the new default", || async {
        let read = s.api.get(&format!("{}/bare", kind.path)).is(200).await?;
        Ok((read["spec"]["late"] == "later").then_some(read))
    })
    .await?;
    ensure!(read["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "{read}");
    ensure!(read["metadata"]["generation"] == 1, "{read}");
    kind.end().await
}

async fn int_or_string(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "port": {"x-kubernetes-int-or-string": true}, "bounded": {"x-kubernetes-int-or-string": true, "maximum": 9, "pattern": "^[a-z]+$"},
        "named": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "defaulted": {"x-kubernetes-int-or-string": true, "default": "25%"}}}))
    .await?;
    for spec in [
        json!({"port": 80, "defaulted": 1}),
        json!({"port": "http", "defaulted": "x"}),
        json!({"bounded": 9, "named": "a", "defaulted": 0}),
        json!({"bounded": "abc", "named": 1, "defaulted": 0}),
    ] {
        let stored = kind.accepts(spec.clone()).await?;
        ensure!(stored == spec, "{stored}");
    }
    ensure!(kind.accepts(json!({})).await? == json!({"defaulted": "25%"}));
    for (spec, words) in [
        (
            json!({"port": 1.5}),
            "spec.port: Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\"",
        ),
        (
            json!({"port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"port": {}}),
            "spec.port: Invalid value: \"object\": spec.port in body must be of type integer,string: \"object\"",
        ),
        (
            json!({"bounded": 10}),
            "spec.bounded: Invalid value: 10: spec.bounded in body should be less than or equal to 9",
        ),
        (
            json!({"bounded": "A"}),
            "spec.bounded: Invalid value: \"A\": spec.bounded in body should match '^[a-z]+$'",
        ),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.end().await
}

async fn preserving_unknown_fields(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "free": {"x-kubernetes-preserve-unknown-fields": true},
        "half": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "known": {"type": "object", "properties": {"a": {"type": "string"}}}, "text": {"type": "string"}}},
        "strict": {"type": "object", "properties": {"a": {"type": "string"}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}))
    .await?;
    let stored = kind
        .accepts(json!({"free": {"any": [1, "x", {"y": null}]}, "half": {"other": {"b": 1}, "known": {"a": "1", "gone": 1}, "text": "t"},
            "strict": {"a": "1", "gone": 1}, "map": {"x": {"a": "1", "gone": 2}}, "list": [{"a": "1", "gone": 3}], "gone": true}))
        .await?;
    ensure!(
        stored
            == json!({"free": {"any": [1, "x", {"y": null}]}, "half": {"other": {"b": 1}, "known": {"a": "1"}, "text": "t"},
            "strict": {"a": "1"}, "map": {"x": {"a": "1"}}, "list": [{"a": "1"}]}),
        "{stored}"
    );
    for value in [json!("text"), json!(7), json!([1, 2]), json!(false)] {
        ensure!(kind.accepts(json!({"free": value})).await?["free"] == value, "{value}");
    }
    kind.refuses(json!({"half": {"text": 1}}), "spec.half.text: Invalid value: \"integer\": spec.half.text in body must be of type string: \"integer\"").await?;
    // Strict clients hear of all that would fall away.
    let path = format!("{}?dryRun=All&fieldValidation=Strict", kind.path);
    let object = kind
        .thing("a", &json!({"half": {"known": {"gone": 1}, "kept": 1}, "list": [{"gone": 1}], "gone": 1}));
    let words = [
        "unknown field \"spec.gone\"",
        "unknown field \"spec.half.known.gone\"",
        "unknown field \"spec.list[0].gone\"",
    ];
    let said = s.api.post(&path, &object).fails(400, "BadRequest", &words).await?;
    ensure!(!said["message"].as_str().unwrap_or_default().contains("kept"), "{said}");
    kind.end().await
}

async fn embedded_objects(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "shaped": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}))
    .await?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {"a": "b"}, "unknown": 1}, "data": {"k": "v"}});
    let stored = kind.accepts(json!({"template": map, "shaped": {"apiVersion": "a/v1", "kind": "B", "metadata": {"name": "n"}, "spec": {"a": "1", "b": "2"}, "more": 1}})).await?;
    ensure!(
        stored["template"]["data"] == json!({"k": "v"})
            && stored["template"]["metadata"] == json!({"name": "x", "labels": {"a": "b"}}),
        "{stored}"
    );
    ensure!(
        stored["shaped"]
            == json!({"apiVersion": "a/v1", "kind": "B", "metadata": {"name": "n"}, "spec": {"a": "1"}}),
        "{stored}"
    );
    for (spec, words) in [
        (json!({"template": {"kind": "ConfigMap"}}), "spec.template.apiVersion: Required value"),
        (json!({"template": {"apiVersion": "v1"}}), "spec.template.kind: Required value"),
        (
            json!({"template": {"apiVersion": "a/b/c", "kind": "X"}}),
            "spec.template.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ),
        (
            json!({"template": {"apiVersion": "v1", "kind": "x y"}}),
            "spec.template.kind: Invalid value: \"x y\": may have mixed case, but should otherwise match: ",
        ),
        (
            json!({"template": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "labels": {"a b": "c"}}}}),
            "spec.template.metadata.labels: Invalid value: \"a b\"",
        ),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.end().await
}

async fn combinations(s: Space) -> Result<()> {
    let kind = Kind::define(
        &s,
        json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "integer"}, "d": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        "anyOf": [{"properties": {"c": {"minimum": 10}}}, {"required": ["d"]}],
        "allOf": [{"properties": {"d": {"maxLength": 3}}}],
        "not": {"properties": {"a": {"enum": ["never"]}}, "required": ["a"]}}),
    )
    .await?;
    for spec in [json!({"a": "x"}), json!({"b": "x", "c": 11}), json!({"a": "x", "c": 1, "d": "abc"})] {
        kind.accepts(spec).await?;
    }
    for (spec, words) in [
        (json!({}), "spec: Invalid value: must validate one and only one schema (oneOf). Found none valid"),
        (
            json!({"a": "x", "b": "y"}),
            "spec: Invalid value: must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
        (json!({"a": "x", "c": 1}), "spec: Invalid value: must validate at least one schema (anyOf)"),
        (json!({"a": "x", "d": "long"}), "spec.d: Too long: may not be more than 3 bytes"),
        (json!({"a": "never"}), "spec: Invalid value: must not validate the schema (not)"),
    ] {
        let answer = kind.dry(&spec).await?;
        let said = answer.is(422)?;
        let message = said["message"].as_str().unwrap_or_default();
        let (at, what) = words.split_once(": Invalid value: ").unwrap_or(("", words));
        ensure!(message.contains(at) && message.contains(what), "{spec}: {words} was due: {message}");
    }
    kind.end().await
}

async fn sizes(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "minProperties": 1, "maxProperties": 3, "properties": {
        "text": {"type": "string", "minLength": 2, "maxLength": 3}, "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "map": {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "string"}}, "x": {"type": "string"}, "y": {"type": "string"}}}))
    .await?;
    // Characters count for the least length and for the most.
    kind.accepts(json!({"text": "äöü", "list": ["a"], "map": {"a": "b"}})).await?;
    for (spec, words) in [
        (
            json!({"text": "a"}),
            "spec.text: Invalid value: \"a\": spec.text in body should be at least 2 chars long",
        ),
        (json!({"text": "abcd"}), "spec.text: Too long: may not be more than 3 bytes"),
        (json!({"list": []}), "spec.list: Invalid value: 0: spec.list in body should have at least 1 items"),
        (json!({"list": ["a", "b", "c"]}), "spec.list: Too many: 3: must have at most 2 items"),
        (
            json!({"map": {}}),
            "spec.map: Invalid value: 0: spec.map in body should have at least 1 properties",
        ),
        (json!({"map": {"a": "", "b": "", "c": ""}}), "spec.map: Too many: 3: must have at most 2 items"),
        (json!({}), "spec: Invalid value: 0: spec in body should have at least 1 properties"),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.end().await
}

async fn types(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "t": {"type": "string"}, "b": {"type": "boolean"}, "l": {"type": "array", "items": {"type": "integer"}},
        "o": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}, "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "e": {"type": "string", "enum": ["a", "b", ""]}, "n": {"type": "integer", "enum": [1, 2]}}}))
    .await?;
    for (spec, words) in [
        (
            json!({"t": 1}),
            "spec.t: Invalid value: \"integer\": spec.t in body must be of type string: \"integer\"",
        ),
        (
            json!({"t": ["a"]}),
            "spec.t: Invalid value: \"array\": spec.t in body must be of type string: \"array\"",
        ),
        (
            json!({"b": "true"}),
            "spec.b: Invalid value: \"string\": spec.b in body must be of type boolean: \"string\"",
        ),
        (
            json!({"l": {}}),
            "spec.l: Invalid value: \"object\": spec.l in body must be of type array: \"object\"",
        ),
        (
            json!({"l": [1, "2"]}),
            "spec.l[1]: Invalid value: \"string\": spec.l[1] in body must be of type integer: \"string\"",
        ),
        (
            json!({"o": "x"}),
            "spec.o: Invalid value: \"string\": spec.o in body must be of type object: \"string\"",
        ),
        (json!({"o": {}}), "spec.o.x: Required value"),
        (
            json!({"m": {"k": "x"}}),
            "spec.m.k: Invalid value: \"string\": spec.m.k in body must be of type integer: \"string\"",
        ),
        (json!({"e": "c"}), "spec.e: Unsupported value: \"c\": supported values: \"a\", \"b\", \"\""),
        (json!({"n": 3}), "spec.n: Unsupported value: 3: supported values: \"1\", \"2\""),
    ] {
        kind.refuses(spec, words).await?;
    }
    kind.refuses(
        json!("text"),
        "spec: Invalid value: \"string\": spec in body must be of type object: \"string\"",
    )
    .await?;
    kind.end().await
}

async fn definitions_refused(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let mut wrong = Vec::new();
    let at = "spec.validation.openAPIV3Schema.properties[spec]";
    for (schema, words) in [
        (
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
            ".properties[a].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "heap", "items": {"type": "string"}}}}),
            ".properties[a].x-kubernetes-list-type: Unsupported value: \"heap\": supported values: \"atomic\", \"set\", \"map\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-list-type": "set"}}}),
            ".properties[a].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            ".properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["other"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            ".properties[a].x-kubernetes-list-map-keys: Invalid value: [\"other\"]: entries must all be names of item properties",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            ".properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            ".properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-embedded-resource": true}}}),
            ".properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"b": {"type": "string"}}}]}),
            ".anyOf[0].properties[b].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            ".properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        ),
        (
            json!({"type": "object", "uniqueItems": true}),
            ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/x"}}}),
            ".properties[a].$ref: Forbidden: $ref is not supported",
        ),
    ] {
        let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
        if let Err(error) = answer.fails(422, "Invalid", &[&format!("{at}{words}")]) {
            wrong.push(format!("{schema}: {error}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n  "));
    Ok(())
}

async fn defaults_refused(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let at = "spec.validation.openAPIV3Schema.properties[spec]";
    for (schema, words) in [
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            ".properties[a].default: Invalid value: \"string\": ",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "default": "abc", "maxLength": 2}}}),
            ".properties[a].default: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": 1, "y": 2}, "properties": {"x": {"type": "integer"}}}}}),
            ".properties[a].default: Invalid value: {\"x\":1,\"y\":2}: must not have unknown fields",
        ),
        (json!({"type": "object", "properties": {"a": {"type": "string", "default": null}}}), ""),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "format": "ipv4", "default": "x"}}}),
            ".properties[a].default: Invalid value: \"x\": ",
        ),
    ] {
        let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
        if words.is_empty() {
            answer.is(201).with_context(|| schema.to_string())?;
        } else {
            answer.fails(422, "Invalid", &[&format!("{at}{words}")]).with_context(|| schema.to_string())?;
        }
    }
    Ok(())
}

/// A schema that is made stricter leaves alone what is not touched.
async fn old_values_stay(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "ip": {"type": "string"}, "set": {"type": "array", "items": {"type": "string"}}, "n": {"type": "integer"}}})).await?;
    s.api
        .post(&kind.path, &kind.thing("a", &json!({"ip": "nowhere", "set": ["a", "a"], "n": 1})))
        .is(201)
        .await?;
    let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let patch = json!([{"op": "add", "path": format!("{root}/ip/format"), "value": "ipv4"}, {"op": "add", "path": format!("{root}/n/minimum"), "value": 5},
                       {"op": "add", "path": format!("{root}/other"), "value": {"type": "string"}}]);
    s.api.patch(&format!("{CRDS}/things.{}", kind.group), JSON_PATCH, &patch).is(200).await?;
    eventually("the stricter schema", || async {
        Ok((kind.dry(&json!({"ip": "nowhere"})).await?.code == 422).then_some(()))
    })
    .await?;
    let item = format!("{}/a", kind.path);
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"other": "x"}})).is(200).await?;
    s.api
        .patch(&item, MERGE_PATCH, &json!({"spec": {"n": 2}}))
        .fails(
            422,
            "Invalid",
            &["spec.n: Invalid value: 2: spec.n in body should be greater than or equal to 5"],
        )
        .await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"ip": "10.0.0.1", "n": 7}})).is(200).await?;
    kind.end().await
}
