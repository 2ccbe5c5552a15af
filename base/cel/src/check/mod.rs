//! The type checker: cel-go's, over declared variables.

pub mod estimate;
mod infer;

use crate::decl::{DYN, Decl, DeclKind, FieldDecl};
use crate::library::signatures::table;
use crate::syntax::SyntaxError;
use crate::syntax::ast::{Ast, Comprehension, Expr, Id, Kind};
use crate::types::Type;
use crate::value::Value;
use infer::Inference;
use std::collections::HashMap;

/// What names mean: variables and message types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    pub vars: HashMap<String, Type>,
    /// `Object`, its parts (`Object.spec`) and `JSONPatch` may be built, as mutations do.
    pub patch_types: bool,
    /// `cel.bind(name, value, expression)` is a macro.
    pub bindings: bool,
}

impl Env {
    pub fn var(mut self, name: impl Into<String>, ty: Type) -> Self {
        self.vars.insert(name.into(), ty);
        self
    }

    pub fn with_patch_types(mut self) -> Self {
        self.patch_types = true;
        self
    }

    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    fn message(&self, name: &str) -> Option<Type> {
        if !self.patch_types {
            return None;
        }
        let object = name == "Object" || name.starts_with("Object.");
        let decl = match name {
            "JSONPatch" => {
                let text = || Decl::new(DeclKind::Text, 2);
                let fields = [("op", text()), ("path", text()), ("from", text()), ("value", DYN.clone())];
                Decl::object(name, fields.into_iter().filter_map(|(n, d)| FieldDecl::new(n, d)))
            }
            // Nothing is known of an object's fields here.
            _ if object => Decl::object(name, []),
            _ => return None,
        };
        Some(decl.ty())
    }
}

/// What checking learned.
#[derive(Debug, Default)]
pub struct Checked {
    pub types: HashMap<Id, Type>,
    /// Overload ids of every call.
    pub overloads: HashMap<Id, Vec<&'static str>>,
    /// Identifiers and calls under their full names (`strings.quote`), where the tree spells them apart.
    pub qualified: HashMap<Id, String>,
    pub result: Option<Type>,
    /// Variables of the environment that are read.
    pub used: Vec<String>,
}

impl Checked {
    pub fn ty(&self, id: Id) -> &Type {
        self.types.get(&id).unwrap_or(&Type::Dyn)
    }
}

/// Checks a tree; all errors, in the order they stand in the source.
pub fn check(env: &Env, ast: &Ast) -> Result<Checked, Vec<SyntaxError>> {
    let mut checker = Checker {
        env,
        ast,
        out: Checked::default(),
        errors: Vec::new(),
        infer: Inference::default(),
        scopes: Vec::new(),
        mixed: false,
    };
    let result = checker.expr(&ast.root);
    if !checker.errors.is_empty() {
        checker.errors.sort_by_key(|e| e.at);
        return Err(checker.errors);
    }
    let Checker { mut out, infer, .. } = checker;
    for ty in out.types.values_mut() {
        *ty = infer.resolve(ty, true);
    }
    out.result = Some(infer.resolve(&result, true));
    Ok(out)
}

struct Checker<'e> {
    env: &'e Env,
    ast: &'e Ast,
    out: Checked,
    errors: Vec<SyntaxError>,
    infer: Inference,
    scopes: Vec<(String, Type)>,
    /// Inside the arguments of `format`, where literals may mix types.
    mixed: bool,
}

/// The dotted name of a chain of selects, if it is one.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

const TYPE_NAMES: [&str; 13] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "type",
    "null_type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "optional_type",
];

impl Checker<'_> {
    fn error(&mut self, at: Id, message: impl Into<String>) -> Type {
        let at = self.ast.positions.get(at as usize).copied().unwrap_or(0);
        let error = SyntaxError { at, message: message.into() };
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
        Type::Dyn
    }

    fn expr(&mut self, e: &Expr) -> Type {
        let ty = self.kind(e);
        self.out.types.insert(e.id, ty.clone());
        ty
    }

    fn kind(&mut self, e: &Expr) -> Type {
        match &e.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => match self.lookup(name) {
                Some(ty) => ty,
                None => self.error(e.id, format!("undeclared reference to '{name}' (in container '')")),
            },
            Kind::Select { operand, field, test } => self.select(e, operand, field, *test),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List { items, optional } => {
                let mut item: Option<Type> = None;
                for (i, one) in items.iter().enumerate() {
                    let mut ty = self.expr(one);
                    if optional.contains(&i) {
                        ty = self.unwrap(one, ty);
                    }
                    item = Some(self.join(one.id, item, ty));
                }
                let item = item.unwrap_or_else(|| self.infer.fresh());
                Type::list(item)
            }
            Kind::Map(entries) => {
                let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
                for entry in entries {
                    let ty = self.expr(&entry.key);
                    key = Some(self.join(entry.key.id, key, ty));
                    let mut ty = self.expr(&entry.value);
                    if entry.optional {
                        ty = self.unwrap(&entry.value, ty);
                    }
                    value = Some(self.join(entry.value.id, value, ty));
                }
                let key = key.unwrap_or_else(|| self.infer.fresh());
                let value = value.unwrap_or_else(|| self.infer.fresh());
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => {
                let Some(message) = self.env.message(name) else {
                    return self.error(e.id, format!("undeclared reference to '{name}' (in container '')"));
                };
                for field in fields {
                    let mut ty = self.expr(&field.value);
                    if field.optional {
                        ty = self.unwrap(&field.value, ty);
                    }
                    let declared = match &message {
                        Type::Object(object) if object.name == "JSONPatch" => {
                            object.fields.get(&field.name).map(|f| f.ty())
                        }
                        _ => Some(Type::Dyn),
                    };
                    match declared {
                        None => {
                            self.error(field.id, format!("undefined field '{}'", field.name));
                        }
                        Some(declared) if !self.infer.assign(&declared, &ty) => {
                            let found = self.show(&ty);
                            let message = format!(
                                "expected type of field '{}' is '{declared}' but provided type is '{found}'",
                                field.name
                            );
                            self.error(field.id, message);
                        }
                        Some(_) => {}
                    }
                }
                message
            }
            Kind::Comprehension(c) => self.comprehension(e, c),
        }
    }

    fn lookup(&mut self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return Some(ty.clone());
        }
        if let Some(ty) = self.env.vars.get(name) {
            if !self.out.used.iter().any(|u| u == name) {
                self.out.used.push(name.to_owned());
            }
            return Some(ty.clone());
        }
        if TYPE_NAMES.contains(&name) || self.env.message(name).is_some() {
            return Some(Type::Type);
        }
        let opaque = table().values().flatten().any(|o| matches!(o.result, Type::Opaque(n) if n == name));
        opaque.then_some(Type::Type)
    }

    /// The first part of a dotted name is a variable of a macro.
    fn is_local(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or(name);
        self.scopes.iter().any(|(n, _)| n == first)
    }

    fn shadowed(&self, expr: &Expr) -> bool {
        let mut at = expr;
        loop {
            match &at.kind {
                Kind::Select { operand, .. } => at = operand,
                Kind::Ident(name) => {
                    return self.scopes.iter().any(|(n, _)| n == name) || self.env.vars.contains_key(name);
                }
                _ => return true,
            }
        }
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = dotted(e)
            && (!self.shadowed(e) || (self.env.vars.contains_key(&name) && !self.is_local(&name)))
            && let Some(ty) = self.lookup(&name)
        {
            self.out.qualified.insert(e.id, name);
            return ty;
        }
        let target = self.expr(operand);
        let target = self.infer.resolve(&target, false);
        let ty = match &target {
            Type::Optional(inner) => {
                let inner = self.infer.resolve(inner, false);
                Type::optional(self.field(e, &inner, field))
            }
            other => self.field(e, other, field),
        };
        if test { Type::Bool } else { ty }
    }

    fn field(&mut self, e: &Expr, of: &Type, field: &str) -> Type {
        match of {
            Type::Dyn | Type::Any | Type::Var(_) => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => field.ty(),
                None if object.name == "Object" || object.name.starts_with("Object.") => Type::Dyn,
                None => self.error(e.id, format!("undefined field '{field}'")),
            },
            other => {
                let shown = self.show(other);
                self.error(e.id, format!("type '{shown}' does not support field selection"))
            }
        }
    }

    /// The type inside an optional entry.
    fn unwrap(&mut self, at: &Expr, ty: Type) -> Type {
        match self.infer.resolve(&ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Any => Type::Dyn,
            other => {
                let shown = self.show(&other);
                self.error(at.id, format!("expected type 'optional_type(_)' but found '{shown}'"))
            }
        }
    }

    fn show(&self, ty: &Type) -> String {
        self.infer.resolve(ty, true).to_string()
    }

    fn join(&mut self, at: Id, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        if self.infer.assign(&before, &ty) {
            return self.infer.general(&before, &ty);
        }
        if self.mixed {
            return Type::Dyn;
        }
        let (wanted, found) = (self.show(&before), self.show(&ty));
        self.error(at, format!("expected type '{wanted}' but found '{found}'"))
    }

    fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        if function == "_?._" {
            return self.optional_select(e, args);
        }
        if let Some(target) = target
            && let Some(prefix) = dotted(target)
            && !self.shadowed(target)
        {
            let name = format!("{prefix}.{function}");
            if table().contains_key(name.as_str()) {
                self.out.qualified.insert(e.id, name.clone());
                let types: Vec<Type> = args.iter().map(|a| self.expr(a)).collect();
                return self.resolve(e, &name, false, types);
            }
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            types.push(self.expr(target));
        }
        let mixed = self.mixed;
        self.mixed |= function == "format";
        types.extend(args.iter().map(|a| self.expr(a)));
        self.mixed = mixed;
        self.literals(function, args);
        let function = function.strip_prefix('.').unwrap_or(function);
        self.resolve(e, function, target.is_some(), types)
    }

    fn optional_select(&mut self, e: &Expr, args: &[Expr]) -> Type {
        let [operand, field] = args else { return Type::Dyn };
        let Kind::Literal(Value::Text(name)) = &field.kind else { return Type::Dyn };
        self.out.types.insert(field.id, Type::Text);
        let target = self.expr(operand);
        let target = match self.infer.resolve(&target, false) {
            Type::Optional(inner) => self.infer.resolve(&inner, false),
            other => other,
        };
        let name = name.to_string();
        let ty = self.field(e, &target, &name);
        self.out.overloads.insert(e.id, vec!["select_optional_field"]);
        Type::optional(ty)
    }

    /// Literal arguments whose text must make sense.
    fn literals(&mut self, function: &str, args: &[Expr]) {
        let literal = |at: usize| match args.get(at).map(|a| (a.id, &a.kind)) {
            Some((id, Kind::Literal(Value::Text(text)))) => Some((id, text.to_string())),
            _ => None,
        };
        let last = args.len().saturating_sub(1);
        let found = match function {
            "duration" => literal(0)
                .filter(|(_, t)| crate::library::time::parse_duration(t).is_none())
                .map(|(id, t)| (id, format!("invalid duration argument: time: invalid duration {t:?}"))),
            "timestamp" => literal(0)
                .filter(|(_, t)| crate::library::time::parse_timestamp(t).is_none())
                .map(|(id, t)| (id, format!("invalid timestamp argument: parsing time {t:?}"))),
            "matches" | "find" | "findAll" => {
                literal(if function == "matches" { last } else { 0 }).and_then(|(id, t)| {
                    let message = crate::library::regexes::compile(&t).err()?.message;
                    Some((id, format!("invalid {function} argument: {message}")))
                })
            }
            _ => None,
        };
        if let Some((id, message)) = found {
            self.error(id, message);
        }
    }

    fn resolve(&mut self, e: &Expr, function: &str, member: bool, args: Vec<Type>) -> Type {
        let Some(overloads) = table().get(function) else {
            return self.error(e.id, format!("undeclared reference to '{function}' (in container '')"));
        };
        let mut ids = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.member == member && o.args.len() == args.len()) {
            let mut params = HashMap::new();
            let wanted: Vec<Type> =
                overload.args.iter().map(|a| self.infer.instantiate(a, &mut params)).collect();
            if !self.infer.assign_all(&wanted, &args) {
                continue;
            }
            let made = self.infer.instantiate(&overload.result, &mut params);
            let made = self.infer.resolve(&made, false);
            ids.push(overload.id);
            result = Some(match result {
                None => made,
                Some(before) if before == made => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(ty) => {
                self.out.overloads.insert(e.id, ids);
                ty
            }
            None => {
                let shown: Vec<String> = args.iter().map(|a| self.show(a)).collect();
                let applied = match (member, shown.split_first()) {
                    (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.error(
                    e.id,
                    format!("found no matching overload for '{function}' applied to '{applied}'"),
                )
            }
        }
    }

    fn comprehension(&mut self, e: &Expr, c: &Comprehension) -> Type {
        let range = self.expr(&c.range);
        let accu = self.expr(&c.init);
        let range = self.infer.resolve(&range, false);
        let (first, second) = match &range {
            Type::List(item) if c.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Any | Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let shown = self.show(other);
                self.error(
                    c.range.id,
                    format!(
                        "expression of type '{shown}' cannot be range of a comprehension (must be list, map, or \
                         dynamic)"
                    ),
                );
                (Type::Dyn, Type::Dyn)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((c.accu.clone(), accu.clone()));
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.expr(&c.condition);
        self.expect(&c.condition, &Type::Bool, &condition);
        let step = self.expr(&c.step);
        self.expect(&c.step, &accu, &step);
        self.scopes.truncate(depth + 1);
        let result = self.expr(&c.result);
        self.scopes.truncate(depth);
        let _ = e;
        self.infer.resolve(&result, false)
    }

    fn expect(&mut self, at: &Expr, wanted: &Type, found: &Type) {
        if !self.infer.assign(wanted, found) {
            let (wanted, found) = (self.show(wanted), self.show(found));
            self.error(at.id, format!("expected type '{wanted}' but found '{found}'"));
        }
    }
}

fn literal(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::Text(_) => Type::Text,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}
