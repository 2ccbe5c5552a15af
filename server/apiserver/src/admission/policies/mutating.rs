//! The MutatingAdmissionPolicy plugin.

use super::super::webhooks::Forms;
use super::super::{Denied, Operation, Plugin, Request};
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
use serde_json::Value;
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

    /// What applies to the request, and the first refusal for want of configuration.
    fn invocations(&self, r: &Request<'_>, object: &Value) -> (Vec<Invocation>, Option<String>) {
        let mut out = Vec::new();
        let mut refusal: Option<String> = None;
        let reader = &*self.reader;
        let forms = Forms::new(r, Some(object));
        for hook in self.store.hooks().iter() {
            let policy = &hook.policy;
            let mut refuse = |message: String| {
                if !policy.ignore_failure {
                    refusal.get_or_insert(message);
                }
            };
            let misconfigured = |why: String| {
                format!("policy {:?} denied request: failed to configure policy: {why}", policy.name)
            };
            match policy.criteria.matches(reader, r, Some(object), &forms) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    refuse(misconfigured(why));
                    continue;
                }
            }
            let kind = policy.params.as_ref().map(|kind| kind.resource(reader));
            if let Some(Err(why)) = &kind {
                refuse(misconfigured(why.clone()));
                continue;
            }
            for binding in &hook.bindings {
                let matches = match &binding.criteria {
                    Some(criteria) => criteria.matches(reader, r, Some(object), &forms),
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
                    })),
                    Err(why) => {
                        let why = format!("failed to configure binding: {why}");
                        refuse(denied(&policy.name, &binding.name, &why));
                    }
                }
            }
        }
        (out, refusal)
    }

    async fn invoke(
        &self,
        invocation: &Invocation,
        r: &Request<'_>,
        object: &Value,
        space: &Value,
        asked: &Arc<Asked>,
    ) -> Result<Option<Value>, String> {
        loop {
            // Values of an evaluation end before the authorizer is awaited.
            let outcome = self.mutated(invocation, r, object, space, asked);
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
        space: &Value,
        asked: &Arc<Asked>,
    ) -> Result<Option<Value>, Failed> {
        let policy = &invocation.policy;
        let request = environment::request(r, Some(object), &r.form(Some(object)));
        let inputs = Inputs {
            object,
            old: r.old.unwrap_or(&Value::Null),
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
                    let shape = patch::shape(&*self.reader, r.group, r.resource, before).ok_or_else(|| {
                        let (group, version, kind) = (r.group, r.version, text(before, "/kind"));
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
        let (invocations, mut refusal) = self.invocations(r, object);
        if !invocations.is_empty() {
            let space = namespace(&*self.reader, r)?;
            let asked = Asked::new(self.authorizer.clone(), r.user);
            for invocation in &invocations {
                if second && !rounds.policies.lock().is_due(&invocation.key()) {
                    continue;
                }
                match self.invoke(invocation, r, object, &space, &asked).await {
                    Ok(Some(changed)) => {
                        if changed != *object {
                            *object = changed;
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
                        refusal.get_or_insert(message);
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
        match refusal {
            None => Ok(()),
            Some(message) => Err(Denied::new(403, "Invalid", message)),
        }
    }
}
