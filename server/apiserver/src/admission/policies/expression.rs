//! The evaluation of expressions within a budget.

use super::super::Request;
use super::asked::{self, Asked};
use cel::library::authz::Authz;
use cel::library::opaque::Opaque;
use cel::value::{dynamic, wrap};
use cel::{ErrorKind, EvalError, PER_CALL_LIMIT, Vars};
use kinds::expressions::environment::{namespace_decl, request_decl};
use kinds::expressions::{Conditions, Expression, Variable};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

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

/// What conditions come to.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Verdict {
    Matches,
    No,
    /// None is false, and some fail.
    Error(String),
}

/// Whether all of the conditions hold; the first that does not ends the search.
pub(in super::super) fn verdict(conditions: &Conditions, scope: &Scope<'_>) -> Result<Verdict, Halt> {
    let mut budget = cel::MATCH_BUDGET;
    let mut errors = Vec::new();
    for condition in conditions.iter() {
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
