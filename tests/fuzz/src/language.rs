//! CEL: parse, check, estimate, evaluate within a limit.

use cel::{Env, EvalError, Type, Value, Vars, compile};
use machinery::field::quote;

const LIMIT: u64 = 10_000;

struct Object(serde_json::Value);

impl<'a> Vars<'a> for &'a Object {
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        (name == "object" || name == "self").then(|| Ok(plain(&self.0)))
    }
}

fn plain<'a>(value: &serde_json::Value) -> Value<'a> {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => {
            n.as_i64().map_or(Value::Double(n.as_f64().unwrap_or(0.0)), Value::Int)
        }
        serde_json::Value::String(s) => Value::text(s.clone()),
        serde_json::Value::Array(items) => Value::list(items.iter().map(plain).collect()),
        serde_json::Value::Object(map) => {
            Value::map(map.iter().map(|(k, v)| (cel::value::Key::Text(k.clone().into()), plain(v))))
        }
    }
}

/// No source and no evaluation panics; an evaluation that ends within its limit says so, the same each time; one that is
/// over the limit is an error; an error message quotes.
pub fn cel(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let env = Env::default().var("object", Type::Dyn).var("self", Type::Dyn);
    let program = match compile(&env, source) {
        Ok(program) => program,
        Err(error) => {
            let _ = quote(&error.to_string());
            return;
        }
    };
    let _ = program.estimate(None);
    let object = Object(
        serde_json::json!({"a": 1, "b": "text", "c": [1, 2, 3], "d": {"e": true, "f": null}, "g": 1.5}),
    );
    let first = program.eval(&&object, LIMIT);
    let second = program.eval(&&object, LIMIT);
    assert_eq!(first.cost, second.cost);
    assert_eq!(first.value.is_ok(), second.value.is_ok());
    assert!(first.value.is_err() || first.cost <= LIMIT, "{source:?} cost {} of {LIMIT}", first.cost);
}
