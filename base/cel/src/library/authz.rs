//! `authorizer`: questions to whoever decides what a user may do.

use super::Outcome;
use super::opaque::Opaque;
use super::signatures::{AUTHORIZER, DECISION, GROUP_CHECK, PATH_CHECK, RESOURCE_CHECK};
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use std::fmt;
use std::sync::Arc;

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// Namespace and name, where not the requester but a service account is asked about.
    pub service_account: Option<(String, String)>,
    /// A path of no resource; then only it and the verb matter.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub verb: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Decides. `None`: not known yet; the evaluation ends as pending and is begun again once the answer is there.
pub trait Authorizer: Send + Sync {
    fn decide(&self, question: &Question) -> Option<Decision>;
}

#[derive(Clone)]
pub struct Authz {
    pub step: Step,
    pub authorizer: Arc<dyn Authorizer>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Authorizer(Question),
    Path(Question),
    Group(Question),
    Resource(Question),
    Decision(Decision),
}

impl Authz {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { step: Step::Authorizer(Question::default()), authorizer }
    }

    /// The resource the request is about (`authorizer.requestResource`).
    pub fn resource(authorizer: Arc<dyn Authorizer>, question: Question) -> Self {
        Self { step: Step::Resource(question), authorizer }
    }

    pub fn type_name(&self) -> &'static str {
        match self.step {
            Step::Authorizer(_) => AUTHORIZER,
            Step::Path(_) => PATH_CHECK,
            Step::Group(_) => GROUP_CHECK,
            Step::Resource(_) => RESOURCE_CHECK,
            Step::Decision(_) => DECISION,
        }
    }
}

impl fmt::Debug for Authz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(f)
    }
}

impl PartialEq for Authz {
    fn eq(&self, other: &Self) -> bool {
        self.step == other.step
    }
}

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "path" => |args| {
            next(args, |step, path| match step {
                Step::Authorizer(_) if path.is_empty() => Err(EvalError::new("path must not be empty")),
                Step::Authorizer(q) => Ok(Step::Path(Question { path: Some(path), ..q })),
                _ => Err(EvalError::no_overload()),
            })
        },
        "group" => |args| {
            next(args, |step, group| match step {
                Step::Authorizer(q) => Ok(Step::Group(Question { group, ..q })),
                _ => Err(EvalError::no_overload()),
            })
        },
        "resource" => |args| {
            next(args, |step, resource| match step {
                Step::Group(_) if resource.is_empty() => Err(EvalError::new("resource must not be empty")),
                Step::Group(q) => Ok(Step::Resource(Question { resource, ..q })),
                _ => Err(EvalError::no_overload()),
            })
        },
        "subresource" => |args| of_resource(args, |q, subresource| Question { subresource, ..q }),
        "namespace" => |args| of_resource(args, |q, namespace| Question { namespace, ..q }),
        "name" => |args| of_resource(args, |q, name| Question { name, ..q }),
        "fieldSelector" => {
            |args| of_resource(args, |q, selector| Question { field_selector: Some(selector), ..q })
        }
        "labelSelector" => {
            |args| of_resource(args, |q, selector| Question { label_selector: Some(selector), ..q })
        }
        "serviceAccount" => service_account,
        "check" => check,
        "allowed" => |args| decision(args).map(|d| Value::Bool(d.allowed)),
        "reason" => |args| decision(args).map(|d| Value::text(d.reason.as_str())),
        "errored" => |args| decision(args).map(|d| Value::Bool(d.error.is_some())),
        "error" => |args| decision(args).map(|d| Value::text(d.error.clone().unwrap_or_default())),
        _ => return None,
    })
}

fn authz<'s>(value: Option<&'s Value<'_>>) -> Result<&'s Authz, EvalError> {
    match value {
        Some(Value::Opaque(o)) => match &**o {
            Opaque::Authz(authz) => Ok(authz),
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn next<'a>(args: &[Value<'a>], then: fn(Step, String) -> Result<Step, EvalError>) -> Outcome<'a> {
    let authz = authz(args.first())?;
    let Some(text) = args.get(1).and_then(Value::as_text) else { return Err(EvalError::no_overload()) };
    let step = then(authz.step.clone(), text.to_owned())?;
    Ok(Value::opaque(Opaque::Authz(Authz { step, authorizer: authz.authorizer.clone() })))
}

fn of_resource<'a>(args: &[Value<'a>], then: fn(Question, String) -> Question) -> Outcome<'a> {
    let authz = authz(args.first())?;
    let (Step::Resource(question), Some(text)) = (&authz.step, args.get(1).and_then(Value::as_text)) else {
        return Err(EvalError::no_overload());
    };
    let step = Step::Resource(then(question.clone(), text.to_owned()));
    Ok(Value::opaque(Opaque::Authz(Authz { step, authorizer: authz.authorizer.clone() })))
}

fn service_account<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let authz = authz(args.first())?;
    let [_, Value::Text(namespace), Value::Text(name)] = args else { return Err(EvalError::no_overload()) };
    let Step::Authorizer(question) = &authz.step else { return Err(EvalError::no_overload()) };
    if !machinery::names::name_is_subdomain(name, false).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !machinery::names::name_is_label(namespace, false).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let account = Some((namespace.to_string(), name.to_string()));
    let step = Step::Authorizer(Question { service_account: account, ..question.clone() });
    Ok(Value::opaque(Opaque::Authz(Authz { step, authorizer: authz.authorizer.clone() })))
}

fn check<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let authz = authz(args.first())?;
    let (Step::Path(question) | Step::Resource(question), Some(verb)) =
        (&authz.step, args.get(1).and_then(Value::as_text))
    else {
        return Err(EvalError::no_overload());
    };
    let question = Question { verb: verb.to_owned(), ..question.clone() };
    let decision = authz.authorizer.decide(&question).ok_or_else(EvalError::pending)?;
    let step = Step::Decision(decision);
    Ok(Value::opaque(Opaque::Authz(Authz { step, authorizer: authz.authorizer.clone() })))
}

fn decision<'s>(args: &'s [Value<'_>]) -> Result<&'s Decision, EvalError> {
    match &authz(args.first())?.step {
        Step::Decision(decision) => Ok(decision),
        _ => Err(EvalError::no_overload()),
    }
}
