//! Compiled expressions of policies and match conditions, and their evaluation within a budget.

use super::super::Request;
use super::asked::{self, Asked};
use super::environment::{Has, env, namespace_decl, request_decl, with_variables};
use cel::library::authz::Authz;
use cel::library::opaque::Opaque;
use cel::value::{dynamic, wrap};
use cel::{ErrorKind, EvalError, PER_CALL_LIMIT, Program, Type, Vars};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What an expression must evaluate to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Returns {
    Any,
    Bool,
    Text,
    TextOrNull,
    Object,
    Patches,
}

/// An expression, compiled or not.
#[derive(Debug)]
pub(crate) struct Expression {
    pub source: String,
    /// `Err`: why not, as upstream says it.
    pub program: Result<Program, String>,
}

/// A policy's variable.
#[derive(Debug)]
pub(crate) struct Variable {
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

    fn uses_authorizer(&self) -> bool {
        let uses = |p: &Program| p.uses("authorizer") || p.uses("authorizer.requestResource");
        self.program.as_ref().is_ok_and(uses)
    }
}

/// A policy's variables, compiled in order, and the environment in which they can be named.
pub(crate) fn variables(spec: &Value, has: Has) -> (Vec<Variable>, cel::Env) {
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

/// The values of one evaluation.
pub(in super::super) struct Inputs<'a> {
    pub object: &'a Value,
    pub old: &'a Value,
    pub request: &'a Value,
    pub namespace: &'a Value,
    /// `None`: there are no parameters to speak of.
    pub params: Option<&'a Value>,
    pub authorizer: Option<&'a Arc<Asked>>,
    pub about: &'a Request<'a>,
}

/// Inputs with a policy's variables, each evaluated once, when it is first read.
pub(in super::super) struct Scope<'a> {
    inputs: &'a Inputs<'a>,
    variables: &'a [Variable],
    values: RefCell<Vec<Option<Result<cel::Value<'a>, EvalError>>>>,
    /// What variables cost since the last look.
    cost: Cell<u64>,
}

/// Nothing more can be evaluated now.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Halt {
    /// The authorizer must answer first.
    Pending,
    OutOfBudget,
}

pub(in super::super) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl<'a> Scope<'a> {
    pub fn new(inputs: &'a Inputs<'a>, variables: &'a [Variable]) -> Self {
        let values = RefCell::new(vec![None; variables.len()]);
        Self { inputs, variables, values, cost: Cell::new(0) }
    }

    /// The value, or why there is none, in upstream's words.
    pub fn evaluate(
        &self,
        expression: &Expression,
        budget: &mut i64,
    ) -> Result<Result<cel::Value<'a>, String>, Halt> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let outcome = program.eval(self, PER_CALL_LIMIT);
        if let Err(e) = &outcome.value
            && e.kind == ErrorKind::Pending
        {
            return Err(Halt::Pending);
        }
        let cost = outcome.cost.saturating_add(self.cost.take());
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        if cost > *budget {
            return Err(Halt::OutOfBudget);
        }
        *budget -= cost;
        Ok(outcome.value.map_err(|e| format!("expression '{}' resulted in error: {e}", expression.source)))
    }
}

impl<'a> Vars<'a> for Scope<'a> {
    fn get(&self, name: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        let typed = |value: &'a Value, decl: &'static cel::Decl| {
            if value.is_null() { Ok(cel::Value::Null) } else { wrap(value, decl) }
        };
        let inputs = self.inputs;
        match name {
            "object" => Some(Ok(dynamic(inputs.object))),
            "oldObject" => Some(Ok(dynamic(inputs.old))),
            "request" => Some(typed(inputs.request, request_decl())),
            "namespaceObject" => Some(typed(inputs.namespace, namespace_decl())),
            "params" => Some(Ok(inputs.params.map_or(cel::Value::Null, dynamic))),
            "authorizer" => {
                let authz = Authz::new(inputs.authorizer?.clone());
                Some(Ok(cel::Value::opaque(Opaque::Authz(authz))))
            }
            "authorizer.requestResource" => {
                let authz = Authz::resource(inputs.authorizer?.clone(), asked::question(inputs.about));
                Some(Ok(cel::Value::opaque(Opaque::Authz(authz))))
            }
            _ => None,
        }
    }

    fn variable(&self, name: &str) -> Result<cel::Value<'a>, EvalError> {
        let Some(at) = self.variables.iter().position(|v| v.name == name) else {
            return Err(EvalError::no_key(name));
        };
        if let Some(known) = &self.values.borrow()[at] {
            return known.clone();
        }
        let value = match &self.variables[at].expression.program {
            Err(why) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) => {
                let outcome = program.eval(self, PER_CALL_LIMIT);
                self.cost.set(self.cost.get().saturating_add(outcome.cost));
                outcome.value.map_err(|e| match e.kind {
                    ErrorKind::Pending => e,
                    _ => EvalError::new(format!("composited variable {name:?} fails to evaluate: {e}")),
                })
            }
        };
        self.values.borrow_mut()[at] = Some(value.clone());
        value
    }
}

/// Named conditions, all of which must hold.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<Expression>);

/// What conditions come to.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Verdict {
    Matches,
    No,
    /// None is false, and some fail.
    Error(String),
}

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

    pub(in super::super) fn verdict(&self, scope: &Scope<'_>) -> Result<Verdict, Halt> {
        let mut budget = cel::MATCH_BUDGET;
        let mut errors = Vec::new();
        for condition in &self.0 {
            match scope.evaluate(condition, &mut budget) {
                Ok(Ok(cel::Value::Bool(false))) => return Ok(Verdict::No),
                Ok(Ok(_)) => {}
                Ok(Err(why)) => errors.push(why),
                Err(Halt::Pending) => return Err(Halt::Pending),
                Err(Halt::OutOfBudget) => return Ok(Verdict::Error(OUT_OF_BUDGET.into())),
            }
        }
        Ok(match errors.len() {
            0 => Verdict::Matches,
            1 => Verdict::Error(errors.swap_remove(0)),
            _ => Verdict::Error(format!("[{}]", errors.join(", "))),
        })
    }
}

/// Whether any of them asks the authorizer.
pub(super) fn any_asks<'e>(all: impl IntoIterator<Item = &'e Expression>) -> bool {
    all.into_iter().any(Expression::uses_authorizer)
}
