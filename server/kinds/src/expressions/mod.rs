//! The CEL expressions of policies and match conditions, compiled: what a policy is refused for, and what admission
//! evaluates later.

pub mod devices;
pub mod environment;

use cel::{Program, Type};
use environment::{Has, env, with_variables};
use serde_json::Value;

/// What an expression must evaluate to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Returns {
    Any,
    Bool,
    Text,
    TextOrNull,
    Object,
    Patches,
}

/// An expression, compiled or not.
#[derive(Debug)]
pub struct Expression {
    pub source: String,
    /// `Err`: why not, as upstream says it.
    pub program: Result<Program, String>,
}

/// A policy's variable.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    pub expression: Expression,
}

impl Expression {
    pub fn compile(env: &cel::Env, source: &str, returns: Returns) -> Self {
        let program = cel::compile(env, source).map_err(|e| format!("compilation failed: {e}"));
        let program = program.and_then(|program| {
            let found = program.result();
            let fits = match returns {
                Returns::Any => true,
                Returns::Bool => *found == Type::Bool,
                Returns::Text => *found == Type::Text,
                Returns::TextOrNull => matches!(found, Type::Text | Type::Null),
                Returns::Object => matches!(found, Type::Object(o) if o.name == "Object"),
                Returns::Patches => {
                    matches!(found, Type::List(item) if matches!(&**item, Type::Object(o) if o.name == "JSONPatch"))
                }
            };
            let wanted = match returns {
                Returns::TextOrNull => "one of [string null_type]",
                Returns::Text => "string",
                Returns::Object => "Object",
                Returns::Patches => "list(JSONPatch)",
                Returns::Bool | Returns::Any => "bool",
            };
            if fits { Ok(program.slim()) } else { Err(format!("must evaluate to {wanted} but got {found}")) }
        });
        Self { source: source.to_owned(), program }
    }

    pub fn uses_authorizer(&self) -> bool {
        let uses = |p: &Program| p.uses("authorizer") || p.uses("authorizer.requestResource");
        self.program.as_ref().is_ok_and(uses)
    }
}

/// A policy's variables, compiled in order, and the environment in which they can be named.
pub fn variables(spec: &Value, has: Has) -> (Vec<Variable>, cel::Env) {
    let bare = env(has);
    let mut known: Vec<(String, Type)> = Vec::new();
    let mut out = Vec::new();
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        let source = variable["expression"].as_str().unwrap_or_default();
        let scope = with_variables(bare.clone(), &known);
        let expression = Expression::compile(&scope, source, Returns::Any);
        let ty = expression.program.as_ref().map_or(Type::Dyn, |p| p.result().clone());
        known.push((name.to_owned(), ty));
        out.push(Variable { name: name.to_owned(), expression });
    }
    (out, with_variables(bare, &known))
}

/// The expression of one of a policy's mutations.
pub fn mutation(env: &cel::Env, mutation: &Value) -> (Expression, bool) {
    let json_patch = mutation["patchType"] == "JSONPatch";
    let (at, returns) = if json_patch {
        ("/jsonPatch/expression", Returns::Patches)
    } else {
        ("/applyConfiguration/expression", Returns::Object)
    };
    (
        Expression::compile(env, mutation.pointer(at).and_then(Value::as_str).unwrap_or_default(), returns),
        json_patch,
    )
}

/// Named conditions, all of which must hold.
#[derive(Debug, Default)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn compile(spec: &Value, env: &cel::Env) -> Self {
        let all = spec["matchConditions"].as_array().into_iter().flatten();
        let source = |c: &Value| c["expression"].as_str().unwrap_or_default().to_owned();
        Self(all.map(|c| Expression::compile(env, &source(c), Returns::Bool)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn uses_authorizer(&self) -> bool {
        self.0.iter().any(Expression::uses_authorizer)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Expression> {
        self.0.iter()
    }
}

/// Whether any of them asks the authorizer.
pub fn any_asks<'e>(all: impl IntoIterator<Item = &'e Expression>) -> bool {
    all.into_iter().any(Expression::uses_authorizer)
}
