//! The MutatingAdmissionPolicy plugin.

use super::super::forms::{in_form, out_of_form};
use super::super::webhooks::Forms;
use super::super::{Denied, Form, Operation, Plugin, Request};
use super::environment;
use super::expression::{Halt, Inputs, OUT_OF_BUDGET, Scope, Verdict, verdict};
use super::matching::Criteria;
use super::params::{self, ParamKind};
use super::store::{Binding, Store};
use super::{Asked, exempt, namespace, patch};
use crate::authorization::Authorizer;
use crate::reader::{Reader, items, text};
use async_trait::async_trait;
use kinds::expressions::environment::Has;
use kinds::expressions::{Conditions, Expression, Variable, any_asks, mutation, variables};
use serde_json::{Value, json};
use std::sync::Arc;

/// A compiled policy.
pub(super) struct Policy {
    name: String,
    ignore_failure: bool,
    reinvoke: bool,
    criteria: Criteria,
    params: Option<ParamKind>,
    variables: Vec<Variable>,
    conditions: Conditions,
    mutations: Vec<Mutation>,
    asks: bool,
}

struct Mutation {
    expression: Expression,
    json_patch: bool,
}

fn compile(object: &Value) -> Policy {
    let spec = &object["spec"];
    let params = ParamKind::read(spec);
    let has = Has { params: params.is_some(), authorizer: true, patch_types: true };
    let (variables, env) = variables(spec, has);
    let mutations: Vec<Mutation> = items(spec, "/mutations")
        .iter()
        .map(|m| {
            let (expression, json_patch) = mutation(&env, m);
            Mutation { expression, json_patch }
        })
        .collect();
    let conditions = Conditions::compile(spec, &env);
    let asks = conditions.uses_authorizer()
        || any_asks(variables.iter().map(|v| &v.expression))
        || any_asks(mutations.iter().map(|m| &m.expression));
    Policy {
        name: text(object, "/metadata/name").to_owned(),
        ignore_failure: text(spec, "/failurePolicy") == "Ignore",
        reinvoke: text(spec, "/reinvocationPolicy") == "IfNeeded",
        criteria: Criteria::read(&spec["matchConstraints"]),
        params,
        variables,
        conditions,
        mutations,
        asks,
    }
}

/// One policy as one binding and one parameter call for it.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    param: Option<Value>,
    /// What of the request it is about.
    form: Form,
}

impl Invocation {
    /// Unique among all invocations for a request.
    fn key(&self) -> String {
        let of = |field: &str| self.param.as_ref().map_or("", |p| text(p, field));
        let (namespace, name) = (of("/metadata/namespace"), of("/metadata/name"));
        format!("{}/{}/{namespace}/{name}", self.policy.name, self.binding.name)
    }
}

/// Why a policy's changes were not made.
enum Failed {
    Pending,
    Because(String),
}

impl From<Halt> for Failed {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Pending => Self::Pending,
            Halt::OutOfBudget => Self::Because(OUT_OF_BUDGET.into()),
        }
    }
}

pub(in super::super) struct MutatingAdmissionPolicy {
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    store: Store<Policy>,
}

impl MutatingAdmissionPolicy {
    pub fn new(reader: Arc<dyn Reader>, authorizer: Arc<dyn Authorizer>) -> Self {
        let (policies, bindings) = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        let store = Store::new(reader.clone(), policies, bindings, compile);
        Self { reader, authorizer, store }
    }

    /// What applies to the request, and refusals for want of configuration.
    fn invocations(&self, r: &Request<'_>, object: &Value) -> (Vec<Invocation>, Refusals) {
        let mut out = Vec::new();
        let mut refusals = Refusals::new();
        let reader = &*self.reader;
        let forms = Forms::new(r, Some(object));
        for hook in self.store.hooks().iter() {
            let policy = &hook.policy;
            let mut refuse = |message: String| {
                if !policy.ignore_failure {
                    refusals.push((message, "Forbidden"));
                }
            };
            let misconfigured = |why: String| {
                format!("policy {:?} denied request: failed to configure policy: {why}", policy.name)
            };
            let form = match policy.criteria.matches(reader, r, Some(object), &forms) {
                Ok(Some(form)) => form,
                Ok(None) => continue,
                Err(why) => {
                    refuse(misconfigured(why));
                    continue;
                }
            };
            let kind = policy.params.as_ref().map(|kind| kind.resource(reader));
            if let Some(Err(why)) = &kind {
                refuse(misconfigured(why.clone()));
                continue;
            }
            for binding in &hook.bindings {
                let matches = match &binding.criteria {
                    Some(criteria) => {
                        criteria.matches(reader, r, Some(object), &forms).map(|form| form.is_some())
                    }
                    None => Ok(true),
                };
                let params = matches.and_then(|matches| match matches {
                    false => Ok(Vec::new()),
                    true => params::collect(reader, kind.as_ref(), binding.params.as_ref(), r.namespace),
                });
                match params {
                    Ok(params) => out.extend(params.into_iter().map(|param| Invocation {
                        policy: policy.clone(),
                        binding: binding.clone(),
                        param,
                        form: form.clone(),
                    })),
                    Err(why) => {
                        let why = format!("failed to configure binding: {why}");
                        refuse(denied(&policy.name, &binding.name, &why));
                    }
                }
            }
        }
        (out, refusals)
    }

    async fn invoke(
        &self,
        invocation: &Invocation,
        r: &Request<'_>,
        object: &Value,
        old: &Value,
        space: &Value,
        asked: &Arc<Asked>,
    ) -> Result<Option<Value>, String> {
        loop {
            // Values of an evaluation end before the authorizer is awaited.
            let outcome = self.mutated(invocation, r, object, old, space, asked);
            match outcome {
                Ok(changed) => return Ok(changed),
                Err(Failed::Because(why)) => return Err(why),
                Err(Failed::Pending) if asked.answer().await => {}
                Err(Failed::Pending) => return Err("an authorization check has no answer".into()),
            }
        }
    }

    /// The object as the policy's mutations leave it; `None` where it does not apply.
    fn mutated(
        &self,
        invocation: &Invocation,
        r: &Request<'_>,
        object: &Value,
        old: &Value,
        space: &Value,
        asked: &Arc<Asked>,
    ) -> Result<Option<Value>, Failed> {
        let form = &invocation.form;
        let policy = &invocation.policy;
        let request = environment::request(r, Some(object), form);
        let inputs = Inputs {
            object,
            old,
            request: &request,
            namespace: space,
            params: invocation.param.as_ref(),
            authorizer: policy.asks.then_some(asked),
            about: r,
        };
        if !policy.conditions.is_empty() {
            let without = Inputs { namespace: &Value::Null, ..inputs };
            match verdict(&policy.conditions, &Scope::new(&without, &policy.variables))? {
                Verdict::Matches => {}
                Verdict::No => return Ok(None),
                Verdict::Error(why) => return Err(Failed::Because(why)),
            }
        }
        let mut current: Option<Value> = None;
        for mutation in &policy.mutations {
            let mut next = {
                let before = current.as_ref().unwrap_or(object);
                let inputs = Inputs { object: before, ..inputs };
                let scope = Scope::new(&inputs, &policy.variables);
                let mut budget = cel::RUNTIME_BUDGET;
                let made = scope.evaluate(&mutation.expression, &mut budget)?.map_err(Failed::Because)?;
                if mutation.json_patch {
                    patch::json_patch(before, &made)
                } else {
                    let shape = patch::shape(&*self.reader, &form.group, &form.resource, before).ok_or_else(|| {
                        let (group, version, kind) = (&form.group, &form.version, text(before, "/kind"));
                        Failed::Because(format!(
                            "Resource kind {group}/{version}, Kind={kind} not found. There can be a delay between when \
                             CustomResourceDefinitions are created and when they are available."
                        ))
                    })?;
                    patch::merge(before, &made, &shape)
                }
                .map_err(Failed::Because)?
            };
            if next != *current.as_ref().unwrap_or(object) {
                super::default(&mut next);
                r.notes.object_changed();
            }
            current = Some(next);
        }
        Ok(current)
    }
}

fn denied(policy: &str, binding: &str, why: &str) -> String {
    format!("policy '{policy}' with binding '{binding}' denied request: {why}")
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        matches!(r.operation, Operation::Create | Operation::Update)
            && !exempt(r)
            && !self.store.hooks().is_empty()
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        let rounds = &r.notes.rounds;
        let second = rounds.is_second();
        rounds.policies.lock().begin(second, object);
        let mut mutated = false;
        let (invocations, mut refusals) = self.invocations(r, object);
        if !invocations.is_empty() {
            let space = namespace(&*self.reader, r)?;
            let asked = Asked::new(self.authorizer.clone(), r.user);
            for invocation in &invocations {
                if second && !rounds.policies.lock().is_due(&invocation.key()) {
                    continue;
                }
                let form = &invocation.form;
                let outcome = {
                    let old = in_form(r, r.old, form).await?;
                    let old = old.as_deref().unwrap_or(&Value::Null);
                    match in_form(r, Some(object), form).await? {
                        Some(seen) => self
                            .invoke(invocation, r, &seen, old, &space, &asked)
                            .await
                            .map(|made| made.map(|made| (made != *seen, made))),
                        None => Ok(None),
                    }
                };
                match outcome {
                    Ok(Some((changed, made))) => {
                        if changed {
                            *object = out_of_form(r, made, form).await?;
                            rounds.policies.lock().changed();
                        }
                        mutated = true;
                        rounds.want_another();
                        if invocation.policy.reinvoke {
                            rounds.policies.lock().ran(&invocation.key());
                        }
                    }
                    Ok(None) => {}
                    Err(why) if invocation.policy.ignore_failure => {
                        tracing::debug!(
                            policy = invocation.policy.name,
                            error = why,
                            "a policy was passed over"
                        );
                    }
                    Err(why) => {
                        let message = denied(&invocation.policy.name, &invocation.binding.name, &why);
                        refusals.push((message, "Invalid"));
                    }
                }
            }
        }
        let mut runs = rounds.policies.lock();
        if mutated {
            // Upstream has whoever mutated see the object once more, itself included.
            runs.changed();
        }
        runs.end(object);
        drop(runs);
        refused(r, &refusals)
    }
}

/// Messages, each with the reason that the answer has where it is the first.
type Refusals = Vec<(String, &'static str)>;

/// Upstream's `Status`: the first message as it is, and all of them as causes.
fn refused(r: &Request<'_>, refusals: &Refusals) -> Result<(), Denied> {
    let Some((message, reason)) = refusals.first() else { return Ok(()) };
    let causes: Vec<_> = refusals.iter().map(|(message, _)| json!({"message": message})).collect();
    let mut details = json!({"kind": r.resource, "causes": causes});
    for (field, value) in [("name", r.name), ("group", r.group)] {
        if !value.is_empty() {
            details[field] = value.into();
        }
    }
    Err(Denied::status(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": 403})))
}
