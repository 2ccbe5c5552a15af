//! Rules of definitions, case by case.

use super::Rules;
use super::admit::check;
use machinery::field::Path;
use serde_json::{Value, json};

fn admitted(schema: Value) -> Vec<String> {
    let at = Path::new("spec.versions[0].schema.openAPIV3Schema");
    check(&schema, &at).0.iter().map(ToString::to_string).collect()
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

fn with(mut schema: Value, pointer: &str, rules: Value) -> Value {
    schema.pointer_mut(pointer).unwrap()["x-kubernetes-validations"] = rules;
    schema
}

fn run(schema: &Value, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
    let rules = Rules::compile(schema).unwrap();
    let mut warnings = Vec::new();
    let errors = rules.validate(&new, old.as_ref(), &mut warnings);
    (errors.0.iter().map(ToString::to_string).collect(), warnings)
}

const SPEC: &str = "/properties/spec";

#[test]
fn failures_are_worded_as_upstream_does() {
    let base = object(json!({"n": {"type": "integer"}, "s": {"type": "string"}}));
    let spec = with(
        base.clone(),
        SPEC,
        json!([
            {"rule": "self.n > 1"},
            {"rule": "self.n > 2", "message": " too small "},
            {"rule": "self.n > 3", "messageExpression": "'n is ' + string(self.n)"},
            {"rule": "self.n > 4", "reason": "FieldValueForbidden", "fieldPath": ".n"},
            {"rule": "self.n > 5", "messageExpression": "''", "message": "fallback"},
            {"rule": "self.s == 'x'"},
        ]),
    );
    let (errors, _) = run(&spec, json!({"spec": {"n": 1}}), None);
    assert_eq!(
        errors,
        [
            "spec: Invalid value: failed rule: self.n > 1",
            "spec: Invalid value: too small",
            "spec: Invalid value: n is 1",
            "spec.n: Forbidden: failed rule: self.n > 4",
            "spec: Invalid value: fallback",
            "spec: Invalid value: \"object\": no such key: s evaluating rule: self.s == 'x'",
        ]
    );
    let scalar = with(base, "/properties/spec/properties/n", json!([{"rule": "self % 2 == 0"}]));
    let (errors, _) = run(&scalar, json!({"spec": {"n": 3}}), None);
    assert_eq!(errors, ["spec.n: Invalid value: 3: failed rule: self % 2 == 0"]);
}

#[test]
fn transition_rules_need_something_to_compare_with() {
    let items = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}});
    let base = object(json!({"n": {"type": "integer"}, "l": items, "o": {"type": "integer"}}));
    let schema = with(
        base,
        "/properties/spec/properties/n",
        json!([{"rule": "self == oldSelf", "message": "immutable"}]),
    );
    let schema =
        with(schema, "/properties/spec/properties/l/items", json!([{"rule": "self.v >= oldSelf.v"}]));
    let optional = json!([{"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": true}]);
    let schema = with(schema, "/properties/spec/properties/o", optional);
    assert!(admitted(schema.clone()).is_empty(), "{:?}", admitted(schema));
    let old = json!({"spec": {"n": 1, "l": [{"k": "a", "v": 1}, {"k": "b", "v": 5}], "o": 7}});
    assert!(run(&schema, json!({"spec": {"n": 1, "o": 1}}), None).0.is_empty());
    let changed = json!({"spec": {"n": 2, "l": [{"k": "b", "v": 4}, {"k": "c", "v": 0}], "o": 9}});
    assert_eq!(
        run(&schema, changed, Some(old)).0,
        ["spec.l[0]: Invalid value: failed rule: self.v >= oldSelf.v", "spec.n: Invalid value: 2: immutable",]
    );
    assert_eq!(
        run(&schema, json!({"spec": {"o": 2}}), None).0,
        ["spec.o: Invalid value: 2: failed rule: oldSelf.hasValue() || self == 1"]
    );
}

#[test]
fn what_did_not_change_warns() {
    let base = object(json!({"a": {"type": "integer"}, "b": {"type": "integer"}}));
    let schema = with(base, "/properties/spec/properties/a", json!([{"rule": "self > 0"}]));
    let old = json!({"spec": {"a": -1, "b": 1}});
    let (errors, warnings) = run(&schema, json!({"spec": {"a": -1, "b": 2}}), Some(old.clone()));
    assert_eq!(
        (errors.len(), warnings),
        (0, vec!["spec.a: Invalid value: -1: failed rule: self > 0".to_owned()])
    );
    let (errors, warnings) = run(&schema, json!({"spec": {"a": -2, "b": 1}}), Some(old));
    assert_eq!((errors.len(), warnings.len()), (1, 0));
}

#[test]
fn a_definition_is_refused_for_its_rules() {
    let base = object(json!({
        "n": {"type": "integer"},
        "l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}},
        "m": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    }));
    let place = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
    let one = |pointer: &str, rule: Value| {
        let found = admitted(with(base.clone(), pointer, json!([rule])));
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    let error = one(SPEC, json!({"rule": "self.nope == 1"}));
    assert!(
        error.starts_with(&format!(
            "{place}.x-kubernetes-validations[0].rule: Invalid value: {{\"Rule\":\"self.nope == 1\","
        )),
        "{error}"
    );
    assert!(
        error.contains(
            ": compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^"
        ),
        "{error}"
    );
    for (pointer, rule, wanted) in [
        (SPEC, json!({"rule": "self.n +"}), "Syntax error: mismatched input '<EOF>'"),
        (SPEC, json!({"rule": "self.n"}), "cel expression must evaluate to a bool"),
        (
            SPEC,
            json!({"rule": " "}),
            ".x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            SPEC,
            json!({"rule": "true", "reason": "x"}),
            "reason: Unsupported value: \"x\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
        ),
        (
            SPEC,
            json!({"rule": "true", "fieldPath": ".z"}),
            "fieldPath: Invalid value: \".z\": must be a valid path",
        ),
        (
            SPEC,
            json!({"rule": "true", "messageExpression": "1"}),
            "messageExpression must evaluate to a string",
        ),
        (
            SPEC,
            json!({"rule": "true", "optionalOldSelf": true}),
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
        (
            SPEC,
            json!({"rule": "true ||\nfalse"}),
            "message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            "/properties/spec/properties/l/items",
            json!({"rule": "self == oldSelf"}),
            "oldSelf cannot be used on the uncorrelatable portion of the schema within spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[l]",
        ),
    ] {
        let error = one(pointer, rule);
        assert!(error.contains(wanted), "{error}");
    }
    let costly =
        admitted(with(base.clone(), SPEC, json!([{"rule": "self.m.all(x, x.all(y, y.contains('abc')))"}])));
    assert!(costly[0].contains("rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"), "{costly:?}");
    assert!(costly.iter().any(|e| e.starts_with("spec.versions[0].schema.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget")), "{costly:?}");
    let bounded = with(base, SPEC, json!([{"rule": "self.l.all(x, x != '')"}, {"rule": "self.n < 5"}]));
    assert!(admitted(bounded.clone()).is_empty(), "{:?}", admitted(bounded));
}

#[test]
fn schema_errors_of_unchanged_values_are_let_through() {
    use machinery::field::{ErrorKind, FieldError, FieldErrors};
    let schema = object(
        json!({"a.b": {"type": "string"}, "l": {"type": "array", "x-kubernetes-list-map-keys": ["k"], "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}}}),
    );
    let old = json!({"spec": {"a.b": "bad", "l": [{"k": "x", "v": "bad"}]}});
    let new = json!({"spec": {"a.b": "bad", "l": [{"k": "y", "v": "bad"}, {"k": "x", "v": "bad"}]}});
    let error = |path: &str| FieldError {
        kind: ErrorKind::Invalid,
        path: path.into(),
        bad_value: Value::Null,
        detail: String::new(),
    };
    let errors = FieldErrors(["spec.a.b", "spec.l[0].v", "spec.l[1].v", "spec.c"].map(error).into());
    let left: Vec<String> =
        super::unchanged(errors, &schema, &new, &old).0.into_iter().map(|e| e.path).collect();
    assert_eq!(left, ["spec.l[0].v", "spec.c"]);
}
