//! The expressions of authentication and authorization configurations, over the `cel` crate.
//!
//! Variables are upstream's: `claims` is a map of anything, `user` a UserInfo, `request` the spec of a
//! SubjectAccessReview whose strings are all there, empty where the request says nothing.

use crate::authentication::expressions::{Compiler, Program, Scope, Yields};
use cel::decl::{DeclKind, FieldDecl, ListKind};
use cel::{Decl, Env, EvalError, PER_CALL_LIMIT, Type, Vars, value};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub struct CelCompiler;

struct Compiled {
    program: cel::Program,
    scope: Scope,
    /// Of the variable; `None`: anything.
    decl: Option<Decl>,
}

fn text() -> Decl {
    Decl::new(DeclKind::Text, 2)
}

fn texts() -> Decl {
    Decl::new(DeclKind::List { item: Arc::new(text()), kind: ListKind::Atomic }, 2)
}

fn object(name: &str, fields: Vec<(&str, Decl)>) -> Decl {
    // Names as they are: behind a dot even `namespace` is one.
    let field =
        |(name, decl): (&str, Decl)| FieldDecl { name: name.into(), json: name.into(), decl, ty: None };
    Decl::object(name, fields.into_iter().map(field))
}

fn extra() -> Decl {
    Decl::new(DeclKind::Map { key: None, value: Arc::new(texts()) }, 2)
}

fn user() -> Decl {
    object(
        "kubernetes.UserInfo",
        vec![("username", text()), ("uid", text()), ("groups", texts()), ("extra", extra())],
    )
}

const RESOURCE: [&str; 7] = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];

fn request() -> Decl {
    let requirement =
        |name: &str| object(name, vec![("key", text()), ("operator", text()), ("values", texts())]);
    let selector = |name: &str, of: &str| {
        let list = DeclKind::List { item: Arc::new(requirement(of)), kind: ListKind::Atomic };
        object(name, vec![("rawSelector", text()), ("requirements", Decl::new(list, 2))])
    };
    let mut resource: Vec<(&str, Decl)> = RESOURCE.iter().map(|name| (*name, text())).collect();
    resource.push((
        "fieldSelector",
        selector("kubernetes.FieldSelectorAttributes", "kubernetes.FieldSelectorRequirement"),
    ));
    resource.push((
        "labelSelector",
        selector("kubernetes.LabelSelectorAttributes", "kubernetes.LabelSelectorRequirement"),
    ));
    object(
        "kubernetes.SubjectAccessReviewSpec",
        vec![
            ("resourceAttributes", object("kubernetes.ResourceAttributes", resource)),
            (
                "nonResourceAttributes",
                object("kubernetes.NonResourceAttributes", vec![("path", text()), ("verb", text())]),
            ),
            ("user", text()),
            ("groups", texts()),
            ("extra", extra()),
            ("uid", text()),
        ],
    )
}

impl Scope {
    fn variable(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::User => "user",
            Self::Request => "request",
        }
    }

    fn decl(self) -> Option<Decl> {
        match self {
            Self::Claims => None,
            Self::User => Some(user()),
            Self::Request => Some(request()),
        }
    }
}

impl Compiler for CelCompiler {
    fn compile(&self, expression: &str, scope: Scope, yields: Yields) -> Result<Arc<dyn Program>, String> {
        let decl = scope.decl();
        let ty = decl.as_ref().map_or_else(|| Type::map(Type::Text, Type::Dyn), Decl::ty);
        let env = Env::default().var(scope.variable(), ty);
        let program = cel::compile(&env, expression).map_err(|e| format!("compilation failed: {e}"))?;
        // What claims yield is seen when there are claims; a condition must be one from the start.
        if yields == Yields::Bool && *program.result() != Type::Bool {
            return Err(match scope {
                Scope::Request => format!("must evaluate to bool but got {}", program.result()),
                _ => "must evaluate to bool".into(),
            });
        }
        Ok(Arc::new(Compiled { program: program.slim(), scope, decl }))
    }
}

struct One<'a>(&'static str, cel::Value<'a>);

impl<'a> Vars<'a> for One<'a> {
    fn get(&self, name: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        (name == self.0).then(|| Ok(self.1.clone()))
    }
}

impl Program for Compiled {
    fn evaluate(&self, value: &Value) -> Result<Value, String> {
        let whole;
        let value = match self.scope {
            Scope::Claims => value,
            Scope::User => {
                whole = complete_user(value);
                &whole
            }
            Scope::Request => {
                whole = complete_request(value);
                &whole
            }
        };
        let bound = match &self.decl {
            Some(decl) => value::wrap(value, decl).map_err(|e| e.to_string())?,
            None => value::dynamic(value),
        };
        let outcome = self.program.eval(&One(self.scope.variable(), bound), PER_CALL_LIMIT);
        outcome.value.and_then(|v| v.to_json()).map_err(|e| e.to_string())
    }
}

fn fill(members: &mut Map<String, Value>, name: &str, empty: Value) {
    let missing = members.get(name).is_none_or(Value::is_null);
    if missing {
        members.insert(name.into(), empty);
    }
}

fn complete_user(value: &Value) -> Value {
    let mut members = value.as_object().cloned().unwrap_or_default();
    for name in ["username", "uid"] {
        fill(&mut members, name, "".into());
    }
    fill(&mut members, "groups", json!([]));
    fill(&mut members, "extra", json!({}));
    members.into()
}

fn complete_request(value: &Value) -> Value {
    let mut members = value.as_object().cloned().unwrap_or_default();
    for name in ["user", "uid"] {
        fill(&mut members, name, "".into());
    }
    fill(&mut members, "groups", json!([]));
    fill(&mut members, "extra", json!({}));
    for (part, names) in
        [("resourceAttributes", &RESOURCE[..]), ("nonResourceAttributes", &["path", "verb"][..])]
    {
        if let Some(inner) = members.get_mut(part).and_then(Value::as_object_mut) {
            for name in names {
                fill(inner, name, "".into());
            }
        }
    }
    members.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, scope: Scope, yields: Yields, value: Value) -> Result<Value, String> {
        CelCompiler.compile(text, scope, yields)?.evaluate(&value)
    }

    #[test]
    fn claims_are_anything() {
        let claims = json!({"sub": "jane", "roles": ["a", "b"], "n": 3, "email_verified": true});
        let ask = |text: &str, yields: Yields| run(text, Scope::Claims, yields, claims.clone());
        assert_eq!(ask("'oidc:' + claims.sub", Yields::Text), Ok(json!("oidc:jane")));
        assert_eq!(ask("claims.roles", Yields::Texts), Ok(json!(["a", "b"])));
        assert_eq!(ask("claims.n == 3 && claims.email_verified", Yields::Bool), Ok(json!(true)));
        assert_eq!(ask("claims.?missing.orValue('x')", Yields::Text), Ok(json!("x")));
        assert!(ask("claims.missing", Yields::Text).unwrap_err().contains("no such key"));
        assert_eq!(ask("claims.sub", Yields::Bool).unwrap_err(), "must evaluate to bool");
        assert!(ask("claims.", Yields::Bool).unwrap_err().starts_with("compilation failed: ERROR: <input>"));
        assert!(ask("user.username", Yields::Text).unwrap_err().contains("undeclared reference"));
    }

    #[test]
    fn users_are_typed() {
        let user = json!({"username": "system:x", "groups": ["g"]});
        let ask = |text: &str| run(text, Scope::User, Yields::Bool, user.clone());
        assert_eq!(ask("!user.username.startsWith('system:')"), Ok(json!(false)));
        assert_eq!(
            ask("user.groups.all(g, g == 'g') && user.uid == '' && size(user.extra) == 0"),
            Ok(json!(true))
        );
        assert!(ask("user.name == 'x'").unwrap_err().contains("undefined field"));
    }

    #[test]
    fn requests_have_all_their_strings() {
        let spec = json!({"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods"}});
        let ask = |text: &str| run(text, Scope::Request, Yields::Bool, spec.clone());
        assert_eq!(
            ask("has(request.resourceAttributes) && request.resourceAttributes.namespace == ''"),
            Ok(json!(true))
        );
        assert_eq!(ask("has(request.nonResourceAttributes)"), Ok(json!(false)));
        assert_eq!(ask("'system:masters' in request.groups"), Ok(json!(false)));
        assert_eq!(ask("request.user").unwrap_err(), "must evaluate to bool but got string");
        assert!(ask("request.nonResourceAttributes.path == '/x'").is_err());
    }
}
