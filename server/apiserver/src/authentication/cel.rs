//! The expressions of authentication and authorization configurations, in CEL.

use super::expressions::{Compiler, Program, Scope, Yields};
use cel::decl::{DYN, Decl, DeclKind, FieldDecl, ListKind};
use cel::value::wrap;
use cel::{Env, EvalError, PER_CALL_LIMIT, Type, Vars};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Compiles them.
pub struct Expressions;

struct Compiled {
    program: cel::Program,
    scope: Scope,
    yields: Yields,
}

fn string() -> Decl {
    Decl::new(DeclKind::Text, 2)
}

fn list(item: Decl) -> Decl {
    Decl::new(DeclKind::List { item: Arc::new(item), kind: ListKind::Atomic }, 2)
}

fn map(value: Decl) -> Decl {
    Decl::new(DeclKind::Map { key: None, value: Arc::new(value) }, 2)
}

/// Fields under their own names.
fn object(name: &str, fields: Vec<(&str, Decl)>) -> Decl {
    let field = |(n, decl): (&str, Decl)| FieldDecl { name: n.into(), json: n.into(), decl, ty: None };
    Decl::object(name, fields.into_iter().map(field))
}

/// Name and data of a scope's variable.
fn variable(scope: Scope) -> (&'static str, &'static Decl) {
    static CLAIMS: OnceLock<Decl> = OnceLock::new();
    static USER: OnceLock<Decl> = OnceLock::new();
    static REQUEST: OnceLock<Decl> = OnceLock::new();
    match scope {
        Scope::Claims => ("claims", CLAIMS.get_or_init(|| map(DYN.clone()))),
        Scope::User => {
            let fields = || {
                vec![
                    ("username", string()),
                    ("uid", string()),
                    ("groups", list(string())),
                    ("extra", map(list(string()))),
                ]
            };
            ("user", USER.get_or_init(|| object("kubernetes.UserInfo", fields())))
        }
        Scope::Request => ("request", REQUEST.get_or_init(request)),
    }
}

fn request() -> Decl {
    let requirement = || {
        let fields = vec![("key", string()), ("operator", string()), ("values", list(string()))];
        list(object("kubernetes.SelectorRequirement", fields))
    };
    let selector =
        |name: &str| object(name, vec![("rawSelector", string()), ("requirements", requirement())]);
    let resource = object(
        "kubernetes.ResourceAttributes",
        vec![
            ("namespace", string()),
            ("verb", string()),
            ("group", string()),
            ("version", string()),
            ("resource", string()),
            ("subresource", string()),
            ("name", string()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let other = object("kubernetes.NonResourceAttributes", vec![("path", string()), ("verb", string())]);
    object(
        "kubernetes.SubjectAccessReviewSpec",
        vec![
            ("resourceAttributes", resource),
            ("nonResourceAttributes", other),
            ("user", string()),
            ("groups", list(string())),
            ("extra", map(list(string()))),
            ("uid", string()),
        ],
    )
}

impl Compiler for Expressions {
    fn compile(&self, expression: &str, scope: Scope, yields: Yields) -> Result<Arc<dyn Program>, String> {
        let (name, decl) = variable(scope);
        let env = Env::default().var(name, decl.ty());
        let program = cel::compile(&env, expression).map_err(|e| format!("compilation failed: {e}"))?;
        let found = program.result();
        let list_of_text =
            |t: &Type| matches!(t, Type::List(item) if matches!(**item, Type::Text | Type::Dyn));
        let fits = match yields {
            Yields::Bool => *found == Type::Bool,
            Yields::Text => matches!(found, Type::Text | Type::Dyn),
            Yields::Texts => matches!(found, Type::Text | Type::Dyn | Type::Null) || list_of_text(found),
        };
        if !fits {
            let wanted = match yields {
                Yields::Bool => "bool",
                Yields::Text => "string",
                Yields::Texts => "one of [string list(string)]",
            };
            return Err(format!("must evaluate to {wanted}"));
        }
        Ok(Arc::new(Compiled { program: program.slim(), scope, yields }))
    }
}

struct One<'a> {
    name: &'static str,
    value: cel::Value<'a>,
}

impl<'a> Vars<'a> for One<'a> {
    fn get(&self, name: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        (name == self.name).then(|| Ok(self.value.clone()))
    }
}

impl Program for Compiled {
    fn evaluate(&self, value: &Value) -> Result<Value, String> {
        let (name, decl) = variable(self.scope);
        let value = wrap(value, decl).map_err(|e| e.to_string())?;
        let outcome = self.program.eval(&One { name, value }, PER_CALL_LIMIT);
        let made = outcome.value.and_then(|v| v.to_json()).map_err(|e| e.to_string())?;
        let texts = |v: &Value| v.as_array().is_some_and(|all| all.iter().all(Value::is_string));
        let fits = match self.yields {
            Yields::Bool => made.is_boolean(),
            Yields::Text => made.is_string(),
            Yields::Texts => made.is_string() || made.is_null() || texts(&made),
        };
        if fits { Ok(made) } else { Err("the expression yields a value of another type".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_see_their_scope() {
        let claims = json!({"sub": "jane", "groups": ["a", "b"], "hd": {"x": "y"}, "n": 1});
        let run = |source: &str, yields| {
            Expressions.compile(source, Scope::Claims, yields).and_then(|p| p.evaluate(&claims))
        };
        assert_eq!(run("'x:' + claims.sub", Yields::Text), Ok(json!("x:jane")));
        assert_eq!(run("claims.groups", Yields::Texts), Ok(json!(["a", "b"])));
        assert_eq!(run("claims.?missing.orValue('')", Yields::Text), Ok(json!("")));
        assert_eq!(run("claims.hd.x == 'y'", Yields::Bool), Ok(json!(true)));
        assert!(run("claims.n", Yields::Text).is_err());
        assert_eq!(run("claims.nothing == 1", Yields::Bool), Err("no such key: nothing".into()));
        assert!(run("claims.sub", Yields::Bool).is_err());
        let user = json!({"username": "system:x", "groups": ["g"]});
        let program =
            Expressions.compile("!user.username.startsWith('system:')", Scope::User, Yields::Bool).unwrap();
        assert_eq!(program.evaluate(&user), Ok(json!(false)));
        assert!(Expressions.compile("user.name == 'x'", Scope::User, Yields::Bool).is_err());
        let request =
            json!({"user": "jane", "resourceAttributes": {"namespace": "kube-system", "verb": "get"}});
        let source =
            "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'kube-system'";
        let program = Expressions.compile(source, Scope::Request, Yields::Bool).unwrap();
        assert_eq!(program.evaluate(&request), Ok(json!(true)));
    }
}
