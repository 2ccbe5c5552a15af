//! The ValidatingAdmissionPolicy plugin.

use super::super::forms::in_form;
use super::super::webhooks::Forms;
use super::super::{Denied, Form, Plugin, Request};
use super::environment;
use super::expression::{Halt, Inputs, OUT_OF_BUDGET, Scope, Verdict, verdict};
use super::matching::Criteria;
use super::params::{self, ParamKind};
use super::store::{Binding, Store};
use super::{Asked, exempt, namespace};
use crate::audit;
use crate::authorization::Authorizer;
use crate::reader::{Reader, items, text};
use async_trait::async_trait;
use kinds::expressions::environment::Has;
use kinds::expressions::{self, Conditions, Expression, Returns, Variable, any_asks};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest message an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;
/// The most of an audit annotation's value that is kept.
const MAX_ANNOTATION: usize = 10 * 1024;

/// A compiled policy.
pub(super) struct Policy {
    name: String,
    ignore_failure: bool,
    criteria: Criteria,
    params: Option<ParamKind>,
    variables: Vec<Variable>,
    conditions: Conditions,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
    /// An expression asks the authorizer.
    asks: bool,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: &'static str,
}

fn reason(text: &str) -> &'static str {
    match text {
        "Unauthorized" => "Unauthorized",
        "Forbidden" => "Forbidden",
        "RequestEntityTooLarge" => "RequestEntityTooLarge",
        _ => "Invalid",
    }
}

fn code(reason: &str) -> u16 {
    match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    }
}

fn compile(object: &Value) -> Policy {
    let spec = &object["spec"];
    let params = ParamKind::read(spec);
    let has = Has { params: params.is_some(), authorizer: true, patch_types: false };
    let (variables, env) = expressions::variables(spec, has);
    // Messages are made without the authorizer.
    let (_, plain) = expressions::variables(spec, Has { authorizer: false, ..has });
    let validation = |v: &Value| {
        let message = text(v, "/messageExpression");
        Validation {
            expression: Expression::compile(&env, text(v, "/expression"), Returns::Bool),
            message: text(v, "/message").trim().to_owned(),
            message_expression: (!message.is_empty())
                .then(|| Expression::compile(&plain, message, Returns::Text)),
            reason: reason(text(v, "/reason")),
        }
    };
    let annotation = |a: &Value| {
        let value = Expression::compile(&env, text(a, "/valueExpression"), Returns::TextOrNull);
        (text(a, "/key").to_owned(), value)
    };
    let validations: Vec<Validation> = items(spec, "/validations").iter().map(validation).collect();
    let annotations: Vec<_> = items(spec, "/auditAnnotations").iter().map(annotation).collect();
    let conditions = Conditions::compile(spec, &env);
    let asks = conditions.uses_authorizer()
        || any_asks(variables.iter().map(|v| &v.expression))
        || any_asks(validations.iter().map(|v| &v.expression))
        || any_asks(annotations.iter().map(|(_, e)| e));
    Policy {
        name: text(object, "/metadata/name").to_owned(),
        ignore_failure: text(spec, "/failurePolicy") == "Ignore",
        criteria: Criteria::read(&spec["matchConstraints"]),
        params,
        variables,
        conditions,
        validations,
        annotations,
        asks,
    }
}

/// One refusal, before the binding says what becomes of it.
struct Failure {
    index: usize,
    message: String,
    reason: &'static str,
}

#[derive(Default)]
struct Outcome {
    failures: Vec<Failure>,
    annotations: Vec<(String, String)>,
    /// Audit annotations that could not be made, where that is a refusal.
    broken: Vec<String>,
}

impl Policy {
    /// A failure to evaluate, as the failure policy has it.
    fn failed(&self, index: usize, message: String) -> Option<Failure> {
        (!self.ignore_failure).then_some(Failure { index, message, reason: "Invalid" })
    }

    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Outcome, Halt> {
        let mut out = Outcome::default();
        if !self.conditions.is_empty() {
            let without = Inputs { namespace: &Value::Null, ..*inputs };
            match verdict(&self.conditions, &Scope::new(&without, &self.variables))? {
                Verdict::Matches => {}
                Verdict::No => return Ok(out),
                Verdict::Error(why) => {
                    out.failures.extend(self.failed(0, why));
                    return Ok(out);
                }
            }
        }
        let scope = Scope::new(inputs, &self.variables);
        let mut budget = cel::RUNTIME_BUDGET;
        let mut results = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            match scope.evaluate(&validation.expression, &mut budget) {
                Ok(result) => results.push(result),
                Err(Halt::Pending) => return Err(Halt::Pending),
                Err(Halt::OutOfBudget) => {
                    out.failures.extend(self.failed(0, OUT_OF_BUDGET.into()));
                    return Ok(out);
                }
            }
        }
        for (index, (validation, result)) in self.validations.iter().zip(results).enumerate() {
            match result {
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => match message(validation, &scope, &mut budget) {
                    Ok(message) => {
                        out.failures.push(Failure { index, message, reason: validation.reason });
                    }
                    Err(Halt::Pending) => return Err(Halt::Pending),
                    Err(Halt::OutOfBudget) => {
                        let why = format!("failed messageExpression: {OUT_OF_BUDGET}");
                        out.failures.extend(self.failed(index, why));
                    }
                },
                Err(why) => out.failures.extend(self.failed(index, why)),
            }
        }
        self.annotate(&scope, &mut out)?;
        Ok(out)
    }

    fn annotate(&self, scope: &Scope<'_>, out: &mut Outcome) -> Result<(), Halt> {
        let mut budget = cel::RUNTIME_BUDGET;
        for (key, expression) in &self.annotations {
            match scope.evaluate(expression, &mut budget) {
                Ok(Ok(value)) => {
                    let text = value.as_text().map(str::trim).unwrap_or_default();
                    if !text.is_empty() {
                        let kept: String = text.chars().take(MAX_ANNOTATION).collect();
                        out.annotations.push((key.clone(), kept));
                    }
                }
                Ok(Err(why)) if !self.ignore_failure => out.broken.push(why),
                Ok(Err(_)) => {}
                Err(Halt::Pending) => return Err(Halt::Pending),
                Err(Halt::OutOfBudget) => {
                    out.failures.clear();
                    out.failures.extend(self.failed(0, OUT_OF_BUDGET.into()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Why the validation refuses: by its message expression, its message, or its expression.
fn message(validation: &Validation, scope: &Scope<'_>, budget: &mut i64) -> Result<String, Halt> {
    if let Some(expression) = &validation.message_expression
        && let Ok(made) = scope.evaluate(expression, budget)?
    {
        let text = made.as_text().map(str::trim).unwrap_or_default();
        if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
            return Ok(text.to_owned());
        }
    }
    if !validation.message.is_empty() {
        return Ok(validation.message.clone());
    }
    Ok(format!("failed expression: {}", validation.expression.source.trim()))
}

pub(in super::super) struct ValidatingAdmissionPolicy {
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    store: Store<Policy>,
}

/// The request in the form a policy is about.
#[derive(Clone, Copy)]
struct Seen<'a> {
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    request: &'a Value,
}

/// What a request gathers over all policies.
#[derive(Default)]
struct Gathered {
    denied: Vec<(String, &'static str)>,
    audited: Vec<Value>,
}

impl ValidatingAdmissionPolicy {
    pub fn new(reader: Arc<dyn Reader>, authorizer: Arc<dyn Authorizer>) -> Self {
        let (policies, bindings) = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
        let store = Store::new(reader.clone(), policies, bindings, compile);
        Self { reader, authorizer, store }
    }

    async fn bound(
        &self,
        r: &Request<'_>,
        object: Option<&Value>,
        seen: Seen<'_>,
        policy: &Policy,
        binding: &Binding,
        asked: &Arc<Asked>,
        forms: &Forms<'_>,
        found: &mut Gathered,
    ) -> Result<Vec<(String, String)>, Denied> {
        let by = |message: &str| {
            format!(
                "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}",
                policy.name, binding.name
            )
        };
        let misconfigured = |why: String| {
            let message = by(&format!("failed to configure binding: {why}"));
            (!policy.ignore_failure).then_some((message, "Invalid"))
        };
        let matches = match &binding.criteria {
            Some(criteria) => criteria.matches(&*self.reader, r, object, forms).map(|form| form.is_some()),
            None => Ok(true),
        };
        match matches {
            Ok(true) => {}
            Ok(false) => return Ok(Vec::new()),
            Err(why) => {
                found.denied.extend(misconfigured(why));
                return Ok(Vec::new());
            }
        }
        let kind = policy.params.as_ref().map(|kind| kind.resource(&*self.reader));
        let params = match params::collect(&*self.reader, kind.as_ref(), binding.params.as_ref(), r.namespace)
        {
            Ok(params) => params,
            Err(why) => {
                found.denied.extend(misconfigured(why));
                return Ok(Vec::new());
            }
        };
        let space = namespace(&*self.reader, r)?;
        let mut annotations = Vec::new();
        for param in &params {
            let outcome = loop {
                // Values of an evaluation end before the authorizer is awaited.
                let evaluated = {
                    let inputs = Inputs {
                        object: seen.object.unwrap_or(&Value::Null),
                        old: seen.old.unwrap_or(&Value::Null),
                        request: seen.request,
                        namespace: &space,
                        params: param.as_ref(),
                        authorizer: policy.asks.then_some(asked),
                        about: r,
                    };
                    policy.evaluate(&inputs)
                };
                match evaluated {
                    Ok(outcome) => break outcome,
                    Err(_) if asked.answer().await => {}
                    Err(_) => return Err(Denied::internal("an authorization check has no answer")),
                }
            };
            for failure in &outcome.failures {
                for action in &binding.actions {
                    match action.as_str() {
                        "Deny" => found.denied.push((by(&failure.message), failure.reason)),
                        "Warn" => r.notes.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                            policy.name, binding.name, failure.message
                        )),
                        "Audit" => found.audited.push(json!({
                            "message": failure.message,
                            "policy": policy.name,
                            "binding": binding.name,
                            "expressionIndex": failure.index,
                            "validationActions": binding.actions,
                        })),
                        _ => {}
                    }
                }
            }
            annotations.extend(outcome.annotations);
            found.denied.extend(outcome.broken.iter().map(|why| (by(why), "Invalid")));
        }
        Ok(annotations)
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        !exempt(r) && !self.store.hooks().is_empty()
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let hooks = self.store.hooks();
        let forms = Forms::new(r, object);
        let mut found = Gathered::default();
        let mut request: Option<(Form, Value)> = None;
        let asked = Asked::new(self.authorizer.clone(), r.user);
        for hook in hooks.iter() {
            let policy = &*hook.policy;
            let misconfigured = |why: String| {
                let message = format!(
                    "ValidatingAdmissionPolicy '{}' denied request: failed to configure policy: {why}",
                    policy.name
                );
                (!policy.ignore_failure).then_some((message, "Invalid"))
            };
            let form = match policy.criteria.matches(&*self.reader, r, object, &forms) {
                Ok(Some(form)) => form,
                Ok(None) => continue,
                Err(why) => {
                    found.denied.extend(misconfigured(why));
                    continue;
                }
            };
            if let Some(Err(why)) = policy.params.as_ref().map(|kind| kind.resource(&*self.reader)) {
                found.denied.extend(misconfigured(why));
                continue;
            }
            let (new, old) = (in_form(r, object, form).await?, in_form(r, r.old, form).await?);
            if request.as_ref().is_none_or(|(of, _)| of != form) {
                request = Some((form.clone(), environment::request(r, object, form)));
            }
            let Some((_, request)) = &request else { continue };
            let seen = Seen { object: new.as_deref(), old: old.as_deref(), request };
            let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for binding in &hook.bindings {
                let made = self.bound(r, object, seen, policy, binding, &asked, &forms, &mut found).await?;
                for (key, value) in made {
                    let values = annotations.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
            for (key, values) in annotations {
                audit::annotate(&format!("{}/{key}", policy.name), values.join(", "));
            }
        }
        if !found.audited.is_empty() {
            found.audited.truncate(50);
            let key = "validation.policy.admission.k8s.io/validation_failure";
            audit::annotate(key, Value::Array(found.audited).to_string());
        }
        match found.denied.into_iter().next() {
            None => Ok(()),
            Some((message, reason)) => {
                Err(Denied { by_policy: true, ..Denied::new(code(reason), reason, message) })
            }
        }
    }
}
