//! What holds whatever the input.

use cel::{Env, EvalError, NoVars, Type, Value, Vars, compile};
use proptest::prelude::*;

struct Two(Value<'static>, Value<'static>);

impl Vars<'static> for Two {
    fn get(&self, name: &str) -> Option<Result<Value<'static>, EvalError>> {
        match name {
            "a" => Some(Ok(self.0.clone())),
            "b" => Some(Ok(self.1.clone())),
            _ => None,
        }
    }
}

fn run(source: &str, a: Value<'static>, b: Value<'static>) -> Result<Value<'static>, String> {
    let env = Env::default().var("a", Type::Dyn).var("b", Type::Dyn);
    let program = compile(&env, source).map_err(|e| e.to_string())?;
    program.eval(&Two(a, b), cel::PER_CALL_LIMIT).value.map_err(|e| e.to_string())
}

fn number() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        (-5i64..5).prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<f64>().prop_map(Value::Double),
        (-5i64..5).prop_map(|n| Value::Double(n as f64 / 2.0)),
    ]
}

/// Sources that look like expressions, and sources that do not.
fn source() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a",
        "1",
        "2u",
        "1.5",
        "'x'",
        "b'y'",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "&&",
        "||",
        "==",
        "<",
        "in",
        ".all(x,",
        ".map(x,",
        "has(",
        "x",
        ".?f",
        "[?",
        "null",
        "true",
        "size(",
        "optional.of(",
        "Object{",
        "`q`",
        "//c\n",
        "'",
        "\"",
        "r'",
        "\\",
        "\u{e9}",
    ]);
    prop_oneof![prop::collection::vec(pieces, 0..40).prop_map(|p| p.join(" ")), any::<String>()]
}

proptest! {
    #[test]
    fn no_source_panics(source in source()) {
        let env = Env::default().var("a", Type::Dyn);
        if let Ok(program) = compile(&env, &source) {
            let _ = program.estimate(None);
            let _ = program.eval(&Two(Value::Int(1), Value::Int(2)), 10_000);
        }
    }

    #[test]
    fn integers_never_wrap(a in any::<i64>(), b in any::<i64>()) {
        for (source, wanted) in [
            ("a + b", a.checked_add(b)), ("a - b", a.checked_sub(b)), ("a * b", a.checked_mul(b)),
        ] {
            match (run(source, Value::Int(a), Value::Int(b)), wanted) {
                (Ok(Value::Int(got)), Some(wanted)) => prop_assert_eq!(got, wanted),
                (Err(error), None) => prop_assert_eq!(error, "integer overflow"),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn comparisons_agree(a in number(), b in number()) {
        let truth = |source: &str| match run(source, a.clone(), b.clone()) {
            Ok(Value::Bool(b)) => Some(b),
            _ => None,
        };
        if let Some(less) = truth("a < b") {
            prop_assert_eq!(Some(!less), truth("a >= b"));
            prop_assert_eq!(truth("a <= b"), Some(less || truth("a == b") == Some(true)));
            prop_assert_eq!(truth("a > b"), truth("b < a"));
        }
        prop_assert_eq!(truth("a == b"), truth("b == a"));
        prop_assert_eq!(truth("a == b").map(|e| !e), truth("a != b"));
    }

    #[test]
    fn has_tells_what_select_finds(keys in prop::collection::btree_set("[a-c]", 0..4), wanted in "[a-c]") {
        let entries: Vec<String> = keys.iter().map(|k| format!("'{k}': 1")).collect();
        let map = format!("{{{}}}", entries.join(", "));
        let env = Env::default();
        let eval = |source: String| compile(&env, &source).unwrap().eval(&NoVars, 1000).value;
        let has = matches!(eval(format!("has({map}.{wanted})")), Ok(Value::Bool(true)));
        prop_assert_eq!(has, keys.contains(&wanted));
        prop_assert_eq!(has, eval(format!("{map}.{wanted}")).is_ok());
        prop_assert_eq!(has, matches!(eval(format!("{map}.?{wanted}.hasValue()")), Ok(Value::Bool(true))));
    }

    #[test]
    fn names_come_back(name in "[a-zA-Z_./-][a-zA-Z0-9_./-]{0,12}") {
        if let Some(escaped) = cel::names::escape(&name) {
            prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }
    }
}

#[test]
fn depth_is_bounded() {
    let deep = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    for (open, close) in [("(", ")"), ("[", "]"), ("-(", ")"), ("{1: ", "}"), ("size([", "])")] {
        let error = compile(&Env::default(), &deep(open, close, 5_000)).unwrap_err().to_string();
        assert!(error.contains("recursion limit exceeded"), "{open}: {error}");
    }
    for long in ["1 + ", "a.", "1 < "] {
        assert!(compile(&Env::default(), &format!("{}1", long.repeat(10_000))).is_err());
    }
    let ors = format!("{}true", "false || ".repeat(5_000));
    assert!(compile(&Env::default(), &ors).is_ok());
}
