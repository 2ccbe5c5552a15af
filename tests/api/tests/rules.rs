//! CEL rules of definitions: messages, paths and reasons, transitions, ratcheting, what a rule may cost and may say.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::http::{JSON_PATCH, MERGE_PATCH};
use api::kind::{CRDS, Kind, definition};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn rules() {
    api::run(cases![
        messages,
        transitions,
        optional_old_self,
        old_wrongs_stay,
        values_and_types,
        libraries,
        rules_of_metadata,
        rules_refused,
        costs_refused,
        too_dear_while_running,
        status_alone,
    ]);
}

fn rule(rule: &str) -> Value {
    json!({"rule": rule})
}

fn ruled(mut schema: Value, rules: Value) -> Value {
    schema["x-kubernetes-validations"] = rules;
    schema
}

async fn messages(s: Space) -> Result<()> {
    let text = |rules: Value| ruled(json!({"type": "string", "maxLength": 50}), rules);
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "bare": text(json!([rule("self != 'x'")])),
        "said": text(json!([{"rule": "self != 'x'", "message": "no x here"}])),
        "made": text(json!([{"rule": "self != 'x'", "messageExpression": "'not ' + self + '!'"}])),
        "both": text(json!([{"rule": "self != 'x'", "message": "static", "messageExpression": "'made of ' + self"}])),
        "fails": text(json!([{"rule": "self != 'x'", "message": "static", "messageExpression": "[self][7]"}])),
        "empty": text(json!([{"rule": "self != 'x'", "message": "static", "messageExpression": "'  '"}])),
        "lines": text(json!([{"rule": "self != 'x'", "message": "static", "messageExpression": "'a\\nb'"}])),
        "alone": text(json!([{"rule": "self != 'x'", "messageExpression": "[self][7]"}])),
        "many": text(json!([{"rule": "self != 'x'", "message": "first"}, {"rule": "size(self) > 1", "message": "second"}]))}}))
    .await?;
    for (field, words) in [
        ("bare", "failed rule: self != 'x'"),
        ("said", "no x here"),
        ("made", "not x!"),
        ("both", "made of x"),
        ("fails", "static"),
        ("empty", "static"),
        ("lines", "static"),
        ("alone", "failed rule: self != 'x'"),
    ] {
        kind.accepts(json!({field: "y"})).await?;
        let status = kind.dry(&json!({field: "x"})).await?.fails(422, "Invalid", &[])?;
        let cause = json!([{"reason": "FieldValueInvalid", "message": format!("Invalid value: \"x\": {words}"), "field": format!("spec.{field}")}]);
        ensure!(status["details"]["causes"] == cause, "{field}: {status}");
    }
    let status = kind.dry(&json!({"many": "x"})).await?.fails(422, "Invalid", &["first", "second"])?;
    ensure!(status["details"]["causes"].as_array().is_some_and(|c| c.len() == 2), "{status}");
    kind.end().await
}

async fn transitions(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "fixed": ruled(json!({"type": "string"}), json!([{"rule": "self == oldSelf", "message": "fixed"}])),
        "grows": ruled(json!({"type": "integer"}), json!([{"rule": "self >= oldSelf", "message": "it may only grow"}])),
        "kept": ruled(json!({"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}}}),
                      json!([{"rule": "!has(oldSelf.x) || has(self.x)", "message": "x is kept once set"}]))}}))
    .await?;
    let first = json!({"fixed": "a", "grows": 5, "kept": {}});
    s.api.post(&kind.path, &kind.thing("a", &first)).is(201).await?;
    let item = format!("{}/a", kind.path);
    let patch = |spec: Value| s.api.patch(&item, MERGE_PATCH, &json!({"spec": spec}));
    patch(json!({"fixed": "b"})).fails(422, "Invalid", &["spec.fixed: Invalid value: \"b\": fixed"]).await?;
    patch(json!({"grows": 4}))
        .fails(422, "Invalid", &["spec.grows: Invalid value: 4: it may only grow"])
        .await?;
    patch(json!({"grows": 6, "kept": {"x": "1"}})).is(200).await?;
    patch(json!({"kept": {"x": null, "y": "2"}}))
        .fails(422, "Invalid", &["spec.kept: Invalid value: x is kept once set"])
        .await?;
    // What was not there has no past, and what goes is not asked.
    patch(json!({"fixed": null})).is(200).await?;
    patch(json!({"fixed": "c"})).is(200).await?;
    kind.end().await
}

async fn optional_old_self(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "a": ruled(json!({"type": "integer"}), json!([{"rule": "oldSelf.hasValue() ? self == oldSelf.value() + 1 : self == 0", "optionalOldSelf": true, "message": "zero, then one more each time"}])),
        "b": ruled(json!({"type": "integer"}), json!([{"rule": "self > oldSelf.orValue(10)", "optionalOldSelf": true, "message": "more than before, or than ten"}]))}}))
    .await?;
    kind.refuses(json!({"a": 1}), "spec.a: Invalid value: 1: zero, then one more each time").await?;
    kind.refuses(json!({"b": 10}), "spec.b: Invalid value: 10: more than before, or than ten").await?;
    s.api.post(&kind.path, &kind.thing("a", &json!({"a": 0, "b": 11}))).is(201).await?;
    let at = format!("{}/a", kind.path);
    let patch = |spec: Value| s.api.patch(&at, MERGE_PATCH, &json!({"spec": spec}));
    patch(json!({"a": 2})).fails(422, "Invalid", &["spec.a: Invalid value: 2: zero"]).await?;
    patch(json!({"a": 1, "b": 12})).is(200).await?;
    for (flagged, words) in [
        (
            json!({"rule": "self > 0", "optionalOldSelf": true}),
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"rule": "self > oldSelf", "optionalOldSelf": true}),
            "compilation failed: ERROR: <input>:1:6: found no matching overload for '_>_' applied to '(int, optional_type(int))'",
        ),
    ] {
        let schema = json!({"type": "object", "properties": {"a": ruled(json!({"type": "integer"}), json!([flagged]))}});
        s.api
            .post(&format!("{CRDS}?dryRun=All"), &definition(&format!("x{}.example.com", s.unique), &schema))
            .fails(422, "Invalid", &[words])
            .await?;
    }
    kind.end().await
}

/// A rule that comes later leaves alone what an update does not touch.
async fn old_wrongs_stay(s: Space) -> Result<()> {
    let kind = Kind::define(&s, json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"},
        "l": {"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string", "maxLength": 9}, "v": {"type": "integer"}}}}}})).await?;
    let first = json!({"a": "bad", "b": "x", "l": [{"n": "one", "v": 1}, {"n": "two", "v": 1}]});
    s.api.post(&kind.path, &kind.thing("a", &first)).is(201).await?;
    let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let patch = json!([
        {"op": "add", "path": format!("{root}/a/x-kubernetes-validations"), "value": [{"rule": "self != 'bad'", "message": "not bad"}]},
        {"op": "add", "path": format!("{root}/l/items/properties/v/x-kubernetes-validations"), "value": [{"rule": "self > 5", "message": "above five"}]}]);
    s.api.patch(&kind.definition(), JSON_PATCH, &patch).is(200).await?;
    eventually("the rule", || async {
        Ok((kind.dry(&json!({"a": "bad"})).await?.code == 422).then_some(()))
    })
    .await?;
    let at = format!("{}/a", kind.path);
    let patch = |spec: Value| s.api.patch(&at, MERGE_PATCH, &json!({"spec": spec}));
    patch(json!({"b": "y"})).is(200).await?;
    // Order changes nothing for entries with keys.
    patch(json!({"l": [{"n": "two", "v": 1}, {"n": "one", "v": 1}, {"n": "three", "v": 6}]})).is(200).await?;
    patch(json!({"l": [{"n": "two", "v": 2}]}))
        .fails(422, "Invalid", &["spec.l[0].v: Invalid value: 2: above five"])
        .await?;
    patch(json!({"a": "good"})).is(200).await?;
    patch(json!({"a": "bad"})).fails(422, "Invalid", &["spec.a: Invalid value: \"bad\": not bad"]).await?;
    kind.end().await
}

async fn values_and_types(s: Space) -> Result<()> {
    let with = |schema: Value, text: &str| ruled(schema, json!([{"rule": text, "message": "no"}]));
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "duration": with(json!({"type": "string", "format": "duration"}), "self < duration('1h')"),
        "time": with(json!({"type": "string", "format": "date-time"}), "self > timestamp('2020-01-01T00:00:00Z')"),
        "date": with(json!({"type": "string", "format": "date"}), "self.getFullYear() > 2020"),
        "bytes": with(json!({"type": "string", "format": "byte"}), "size(self) == 3"),
        "mixed": with(json!({"x-kubernetes-int-or-string": true}), "type(self) == int ? self > 1 : self == '50%'"),
        "number": with(json!({"type": "number"}), "self > 0.5"),
        "null": with(json!({"type": "string", "nullable": true, "maxLength": 9}), "self != 'x'"),
        "free": with(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "integer"}}}), "self.known > 0"),
        "set": with(json!({"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 5}}), "self == ['a', 'b']"),
        "object": with(json!({"type": "object", "properties": {"if": {"type": "integer"}, "a-b": {"type": "integer"}, "__x__": {"type": "integer"}}}), "self.__if__ + self.a__dash__b + self.__underscores__x__underscores__ == 6")}}))
    .await?;
    for (field, good, bad) in [
        ("duration", json!("30m"), json!("2h")),
        ("time", json!("2026-01-01T00:00:00Z"), json!("2019-01-01T00:00:00Z")),
        ("date", json!("2026-01-01"), json!("2019-01-01")),
        ("bytes", json!("YWJj"), json!("YWI=")),
        ("mixed", json!(2), json!(1)),
        ("mixed", json!("50%"), json!("51%")),
        ("number", json!(1), json!(0.25)),
        ("null", json!(null), json!("x")),
        ("free", json!({"known": 1, "other": true}), json!({"known": 0})),
        // Sets are equal in any order.
        ("set", json!(["b", "a"]), json!(["a"])),
        ("object", json!({"if": 1, "a-b": 2, "__x__": 3}), json!({"if": 0, "a-b": 0, "__x__": 0})),
    ] {
        kind.accepts(json!({field: good})).await?;
        kind.refuses(json!({field: bad}), &format!("spec.{field}: Invalid value: ")).await?;
    }
    kind.end().await
}

async fn libraries(s: Space) -> Result<()> {
    let holds = [
        "quantity('1Gi').isGreaterThan(quantity('500Mi'))",
        "quantity('1500m').asApproximateFloat() == 1.5",
        "url('https://example.com:80/a?b=c').getHostname() == 'example.com'",
        "isIP('10.0.0.1') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3')",
        "semver('1.2.3').isLessThan(semver('1.10.0'))",
        "format.dns1123Label().validate('A').hasValue()",
        "!format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "'abc'.find('b.') == 'bc'",
        "[3, 1, 2].max() == 3 && [1, 2, 3].isSorted() && [1, 2].sum() == 3",
        "'%s has %d'.format(['a', 1]) == 'a has 1'",
        "'ABC'.lowerAscii() == 'abc' && 'x'.replace('x', 'y') == 'y'",
        "[1, 2, 3].exists_one(x, x > 2)",
        "{'a': 1}.all(k, v, k == 'a' && v == 1)",
        "sets.contains([1, 2], [1])",
        "[[1], [2]].map(l, l[0]) == [1, 2]",
        "optional.of(1).orValue(2) == 1",
        "[1, 2].indexOf(2) == 1",
        "self.?none.orValue('d') == 'd'",
        "lists.range(3) == [0, 1, 2]",
    ];
    let group = format!("{}.example.com", s.unique);
    let mut wrong = Vec::new();
    for text in holds {
        let schema =
            ruled(json!({"type": "object", "properties": {"none": {"type": "string"}}}), json!([rule(text)]));
        let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
        if answer.code != 201 {
            wrong.push(format!("{text}: {}", answer.text()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let rules: Vec<Value> = holds.iter().map(|text| rule(text)).collect();
    let kind = Kind::define(
        &s,
        ruled(json!({"type": "object", "properties": {"none": {"type": "string"}}}), json!(rules)),
    )
    .await?;
    kind.accepts(json!({})).await?;
    kind.end().await
}

async fn rules_of_metadata(s: Space) -> Result<()> {
    let kind = Kind::define_with(&s, json!({"type": "object"}), |version| {
        version["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = json!([
            {"rule": "self.metadata.name.startsWith('a')", "message": "begins with a"},
            {"rule": "self.kind == 'Thing' && self.apiVersion.endsWith('/v1')"}]);
    })
    .await?;
    s.api.post(&kind.path, &kind.thing("abc", &json!({}))).is(201).await?;
    s.api
        .post(&kind.path, &kind.thing("b", &json!({})))
        .fails(422, "Invalid", &["<nil>: Invalid value: ", "begins with a"])
        .await?;
    let group = format!("x{}.example.com", s.unique);
    let mut other = definition(&group, &json!({"type": "object"}));
    let schema = &mut other["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["x-kubernetes-validations"] = json!([{"rule": "self.metadata.labels.size() > 0"}]);
    s.api
        .post(&format!("{CRDS}?dryRun=All"), &other)
        .fails(422, "Invalid", &["compilation failed: ERROR: <input>:1:14: undefined field 'labels'"])
        .await?;
    kind.end().await
}

async fn rules_refused(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let mut wrong = Vec::new();
    for (text, words) in [
        ("self.none == 1", "compilation failed: ERROR: <input>:1:5: undefined field 'none'"),
        ("self.a", "compilation failed: ERROR: <input>:1:5: undefined field"),
        ("self.text + 1 == 2", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("self.text", "cel expression must evaluate to a bool"),
        ("nothing(self.text)", "undeclared reference to 'nothing' (in container '')"),
        ("other.text == ''", "undeclared reference to 'other' (in container '')"),
        ("self.text.matches('(')", "compilation failed: "),
        ("self.list.all(x, x.none)", "undefined field 'none'"),
        ("self.text == b'x'", "found no matching overload for '_==_' applied to '(string, bytes)'"),
        ("size(self.number) > 0", "found no matching overload for 'size' applied to '(int)'"),
        ("self.text in self.number", "found no matching overload for '@in' applied to '(string, int)'"),
    ] {
        let schema = ruled(
            json!({"type": "object", "properties": {"text": {"type": "string", "maxLength": 9}, "number": {"type": "integer"},
                "list": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            json!([rule(text)]),
        );
        let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
        let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: ";
        if let Err(error) = answer.fails(422, "Invalid", &[at, words]) {
            wrong.push(format!("{text}: {error}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn costs_refused(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let list = |bound: Value, inner: Value| {
        let mut list = json!({"type": "array", "items": inner});
        if !bound.is_null() {
            list["maxItems"] = bound;
        }
        list
    };
    let texts = |bound: Value| list(bound, json!({"type": "string"}));
    for (schema, words) in [
        (
            json!({"type": "object", "properties": {"l": ruled(texts(Value::Null), json!([rule("self.all(x, self.all(y, x == y))")]))}}),
            vec![
                "properties[l].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
            ],
        ),
        (
            json!({"type": "object", "properties": {"l": list(Value::Null, ruled(json!({"type": "string"}), json!([rule("self.contains('x')")])))}}),
            vec![
                "properties[l].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of ",
            ],
        ),
        (
            json!({"type": "object", "properties": {"l": list(json!(1000), ruled(json!({"type": "string", "maxLength": 10}), json!([rule("self.matches('^[a-z]+$')")])))}}),
            vec![],
        ),
        (
            json!({"type": "object", "properties": {"l": ruled(texts(json!(10)), json!([rule("self.all(x, self.all(y, x == y || x != y))")]))}}),
            vec!["estimated rule cost exceeds budget by factor of "],
        ),
    ] {
        let answer = s.api.post(&format!("{CRDS}?dryRun=All"), &definition(&group, &schema)).send().await?;
        if words.is_empty() {
            answer.is(201).with_context(|| schema.to_string())?;
        } else {
            answer.fails(422, "Invalid", &words).with_context(|| schema.to_string())?;
        }
    }
    Ok(())
}

async fn too_dear_while_running(s: Space) -> Result<()> {
    // The estimate takes such a list for short, and a rule on it for cheap.
    let kind = Kind::define(&s, json!({"type": "object", "properties": {
        "n": ruled(json!({"type": "integer", "maximum": 3000}), json!([{"rule": "lists.range(self).all(x, lists.range(self).all(y, x + y >= 0))"}]))}})).await;
    let Ok(kind) = kind else {
        // Told before anything runs: well, too.
        return Ok(());
    };
    kind.accepts(json!({"n": 3})).await?;
    kind.refuses(json!({"n": 3000}), "call cost exceeds limit").await?;
    kind.end().await
}

/// Rules of spec are not asked when only the status is written, and the other way round.
async fn status_alone(s: Space) -> Result<()> {
    let kind = Kind::define_with(
        &s,
        ruled(
            json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
            json!([{"rule": "self.a > 0", "message": "spec"}]),
        ),
        |version| {
            version["subresources"] = json!({"status": {}});
            version["schema"]["openAPIV3Schema"]["properties"]["status"] = ruled(
                json!({"type": "object", "properties": {"b": {"type": "integer"}}}),
                json!([{"rule": "self.b > 0", "message": "status"}]),
            );
        },
    )
    .await?;
    s.api.post(&kind.path, &kind.thing("a", &json!({"a": 1}))).is(201).await?;
    let status = format!("{}/a/status", kind.path);
    s.api
        .patch(&status, MERGE_PATCH, &json!({"status": {"b": 0}}))
        .fails(422, "Invalid", &["status: Invalid value: ", "status"])
        .await?;
    s.api.patch(&status, MERGE_PATCH, &json!({"status": {"b": 1}, "spec": {"a": 0}})).is(200).await?;
    let item = format!("{}/a", kind.path);
    s.api
        .patch(&item, MERGE_PATCH, &json!({"spec": {"a": 0}, "status": {"b": 0}}))
        .fails(422, "Invalid", &["spec: Invalid value: "])
        .await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"a": 2}, "status": {"b": 0}})).is(200).await?;
    kind.end().await
}
