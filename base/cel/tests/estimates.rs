//! Estimated costs, by hand from upstream's rules.
#![allow(clippy::unwrap_used)]

use cel::{Env, Range, compile, from_schema};
use serde_json::{Value, json};

fn estimate(schema: &Value, rule: &str) -> Range {
    let decl = from_schema(schema, false, "selfType1").unwrap();
    let env = Env::default().var("self", decl.ty()).var("oldSelf", decl.ty());
    compile(&env, rule).unwrap().estimate(Some(&decl))
}

fn field(schema: Value) -> Value {
    json!({"type": "object", "properties": {"f": schema}})
}

#[test]
fn constants_and_selects() {
    let int = field(json!({"type": "integer"}));
    assert_eq!(estimate(&int, "true"), Range::new(0, 0));
    assert_eq!(estimate(&int, "has(self.f)"), Range::new(1, 1));
    assert_eq!(estimate(&int, "self.f > 1"), Range::new(3, 3));
    assert_eq!(estimate(&int, "true || self.f > 1"), Range::new(0, 3));
    assert_eq!(estimate(&int, "[1, 2, 3].all(x, true)"), Range::new(20, 20));
}

#[test]
fn bounds_of_the_schema_count() {
    let list = |max: Option<i64>| {
        let mut schema = json!({"type": "array", "items": {"type": "string", "maxLength": 10}});
        if let Some(max) = max {
            schema["maxItems"] = max.into();
        }
        field(schema)
    };
    // Range and accumulator: 1 + 1 + 1; each round: the accumulator twice, the condition and the body.
    let each = |body: u64| 1 + 1 + 1 + body;
    assert_eq!(estimate(&list(Some(5)), "self.f.all(x, true)").max, 3 + 5 * each(0));
    assert_eq!(estimate(&list(Some(5)), "self.f.all(x, x == 'abc')").max, 3 + 5 * each(1 + 1));
    let most = (3 * 1024 * 1024 - 2) / 3;
    assert_eq!(estimate(&list(None), "self.f.all(x, true)").max, 3 + most * each(0));
    // Characters may take four bytes each.
    let text = field(json!({"type": "string", "maxLength": 100}));
    assert_eq!(estimate(&text, "self.f.startsWith(self.f)").max, 2 + 2 + 40);
    assert_eq!(estimate(&text, "self.f.contains('aaa')").max, 2 + 40);
    assert_eq!(estimate(&text, "self.f.matches('[0-9]')").max, 2 + 41 * 2);
    let values = field(json!({"type": "string", "enum": ["a", "bbbbb"]}));
    assert_eq!(estimate(&values, "self.f.lowerAscii() == 'x'").max, 2 + 1 + 1);
}

#[test]
fn unbounded_nesting_is_expensive() {
    let schema = field(json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}));
    assert!(estimate(&schema, "self.f.all(x, x.all(y, y == 'a'))").max > 10_000_000_000);
}

/// A schema of upstream's own table of estimates, with its bound.
fn shape(kind: &str, item: &str, max: Option<i64>) -> Value {
    let scalar = match item {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" => json!({"type": "string", "format": item}),
        other => json!({"type": other}),
    };
    let mut schema = match kind {
        "array" => json!({"type": "array", "items": scalar}),
        "arrayofarrays" => json!({"type": "array", "items": {"type": "array", "items": scalar}}),
        "map" => json!({"type": "object", "additionalProperties": scalar}),
        "bytes" => json!({"type": "string", "format": "byte"}),
        _ => json!({"type": "string"}),
    };
    if let Some(max) = max {
        let bound = match kind {
            "array" | "arrayofarrays" => "maxItems",
            "map" => "maxProperties",
            _ => "maxLength",
        };
        schema[bound] = max.into();
    }
    schema
}

/// Upstream's numbers: they decide which definitions are accepted. Kind, item, rule, cost without a bound, bound, cost
/// with it.
const UPSTREAM: [(&str, &str, &str, u64, i64, u64); 39] = [
    ("array", "number", "self.all(x, true)", 4718591, 10, 32),
    ("array", "string", "self.all(x, true)", 3145727, 20, 62),
    ("array", "boolean", "self.all(x, true)", 1887437, 5, 17),
    ("arrayofarrays", "number", "self.all(x, true)", 3145727, 100, 302),
    ("map", "number", "self.all(x, true)", 1348169, 10, 32),
    ("map", "string", "self.all(x, true)", 1179647, 3, 11),
    ("map", "boolean", "self.all(x, true)", 943718, 100, 302),
    ("string", "", "self.contains('test')", 314574, 10, 5),
    ("string", "", "self.startsWith('test')", 2, 15, 2),
    ("string", "", "self.endsWith('test')", 2, 30, 2),
    ("string", "", "size(self + \"hello\") > size(\"hello\")", 314578, 4, 7),
    ("array", "number", "self[1] == 0.0", 2, 5000, 2),
    ("array", "string", "self[1] == self[1]", 314577, 8, 314577),
    ("string", "", "self.matches(\"x\")", 314574, 50, 22),
    ("string", "", "\"\".matches(\"(((((((((())))))))))[0-9]\")", 7, 10, 7),
    ("string", "", "self.matches(\"\")", 1, 100, 1),
    ("array", "number", "self[3] == 0.0", 2, 0, 2),
    ("map", "number", "self[\"x\"] == 0.0", 2, 0, 2),
    ("string", "", "self == \"x\"", 2, 0, 1),
    ("bytes", "", "self == b\"x\"", 2, 0, 1),
    ("array", "number", "self.all(x, x == 0.0)", 6291454, 6291456, 25165826),
    ("array", "int-or-string", "self.all(x, true)", 4718591, 10, 32),
    ("array", "int-or-string", "self[0] == 5", 3, 10, 3),
    ("array", "boolean", "self[0] == false", 2, 25, 2),
    ("arrayofarrays", "number", "self[0][0] == -1.0", 3, 51, 3),
    ("array", "duration", "self.all(x, true)", 2359295, 5, 17),
    ("array", "duration", "self[0].getHours() == 2", 4, 525, 4),
    ("array", "date", "self.all(x, true)", 725936, 15, 47),
    ("array", "date", "self[2].getDayOfMonth() == 13", 4, 42, 4),
    ("array", "date-time", "self.all(x, true)", 428963, 25, 77),
    ("array", "date-time", "self[2].getMinutes() == 45", 4, 99, 4),
    ("map", "int-or-string", "self.all(x, true)", 1348169, 15, 47),
    ("map", "duration", "self.all(x, true)", 1048577, 5, 17),
    ("map", "date", "self.all(x, true)", 524288, 10, 32),
    ("map", "date-time", "self.all(x, true)", 349526, 25, 77),
    ("string", "", "self.find('[0-9]+') == ''", 629147, 10, 11),
    ("map", "integer", "oldSelf.size() == self.size()", 5, 10, 5),
    ("map", "date-time", "self[\"a\"] == self[\"b\"]", 8, 7, 8),
    ("map", "duration", "self[\"c\"] == self[\"d\"]", 8, 42, 8),
];

#[test]
fn estimates_are_upstreams() {
    for (kind, item, rule, free, max, bounded) in UPSTREAM {
        assert_eq!(estimate(&shape(kind, item, None), rule).max, free, "{kind} {item}: {rule}");
        assert_eq!(estimate(&shape(kind, item, Some(max)), rule).max, bounded, "{kind} {item} {max}: {rule}");
    }
}
