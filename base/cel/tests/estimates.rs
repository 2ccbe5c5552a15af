//! Estimated costs, by hand from upstream's rules.
#![allow(clippy::unwrap_used)]

use cel::{Env, Range, compile, from_schema};
use serde_json::{Value, json};

fn estimate(schema: &Value, rule: &str) -> Range {
    let decl = from_schema(schema, false, "selfType1").unwrap();
    let env = Env::default().var("self", decl.ty());
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
