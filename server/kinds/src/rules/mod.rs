//! `x-kubernetes-validations`: the CEL rules of a custom resource's schema (KEP-2876, KEP-4008).
//!
//! [`Rules`] parallels the schema where rules lie; [`evaluate`] walks an object along it. [`admit`] is what a
//! definition's rules must satisfy before it is stored: they compile, and their estimated cost is bounded. Wording
//! and limits are upstream's.

pub mod admit;
mod evaluate;
mod fieldpath;
mod ratchet;

pub use ratchet::unchanged;

use cel::{Decl, Env, Program, Type};
use machinery::field::ErrorKind;
use serde_json::Value;
use std::collections::BTreeMap;

/// The rules of one schema node and of those below it.
#[derive(Debug)]
pub struct Rules {
    /// `type` of the node.
    kind: String,
    decl: Decl,
    own: Vec<Rule>,
    /// Keys of a keyed list, whose items have counterparts in the old list.
    list_keys: Option<Vec<String>>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
    properties: BTreeMap<String, Rules>,
    all_of: Vec<Rules>,
}

#[derive(Debug)]
pub struct Rule {
    /// `Err`: why it does not compile, which a stored definition's should.
    program: Result<Program, String>,
    message_expression: Option<(Program, String)>,
    /// As messages show the rule.
    shown: String,
    message: Option<String>,
    reason: ErrorKind,
    /// Appended to the node's path, normalized.
    field_path: Option<String>,
    optional_old: bool,
    uses_old: bool,
}

pub(super) const KEY: &str = "x-kubernetes-validations";

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key) == Some(&Value::Bool(true))
}

/// The environment of a rule on a node of that type.
pub(super) fn env(decl: &Decl, optional_old: bool) -> Env {
    let ty = decl.ty();
    let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
    Env::default().var("self", ty).var("oldSelf", old)
}

/// Whether any node of the schema has rules.
pub(super) fn any(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(k, v)| {
            (k == KEY && v.as_array().is_some_and(|r| !r.is_empty()))
                || (!matches!(k.as_str(), "default" | "enum" | "example") && any(v))
        }),
        Value::Array(items) => items.iter().any(any),
        _ => false,
    }
}

impl Rules {
    /// The rules of a version's schema; `None` where there are none.
    pub fn compile(schema: &Value) -> Option<Self> {
        any(schema).then(|| build(schema, schema, true)).flatten()
    }
}

/// `rules` is where rules are read, `node` where the data is declared: the same, except within `allOf`.
fn build(rules: &Value, node: &Value, root: bool) -> Option<Rules> {
    if !any(rules) {
        return None;
    }
    let decl = cel::from_schema(node, root, "selfType")?;
    let embedded = |schema: &Value| flag(schema, "x-kubernetes-embedded-resource");
    let below = |key: &str| {
        let (inner, declared) = (rules.get(key)?, node.get(key)?);
        build(inner, declared, embedded(declared)).map(Box::new)
    };
    let mut properties = BTreeMap::new();
    for (name, property) in rules.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Some(declared) = node.get("properties").and_then(|p| p.get(name)) else { continue };
        if let Some(inner) = build(property, declared, embedded(declared)) {
            properties.insert(name.clone(), inner);
        }
    }
    let own = rules.get(KEY).and_then(Value::as_array).into_iter().flatten();
    let own = own.filter_map(|rule| compile(rule, &decl, node)).collect();
    let all_of = rules.get("allOf").and_then(Value::as_array).into_iter().flatten();
    let all_of = all_of.filter_map(|inner| build(inner, node, root)).collect();
    let list_keys = (text(node, "x-kubernetes-list-type") == "map").then(|| {
        let keys = node.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    });
    Some(Rules {
        kind: text(node, "type").to_owned(),
        own,
        list_keys,
        items: below("items"),
        additional: below("additionalProperties"),
        properties,
        all_of,
        decl,
    })
}

fn compile(rule: &Value, decl: &Decl, node: &Value) -> Option<Rule> {
    let source = text(rule, "rule");
    if source.trim().is_empty() {
        return None;
    }
    let optional_old = flag(rule, "optionalOldSelf");
    let env = env(decl, optional_old);
    let program =
        cel::compile(&env, source).map(Program::slim).map_err(|e| format!("compilation failed: {e}"));
    let uses_old = program.as_ref().is_ok_and(|p| p.uses("oldSelf"));
    let message_source = text(rule, "messageExpression");
    let message_expression = (!message_source.is_empty())
        .then(|| cel::compile(&env, message_source).ok())
        .flatten()
        .map(|p| (p.slim(), message_source.to_owned()));
    let message = Some(text(rule, "message")).filter(|m| !m.is_empty()).map(|m| m.trim().to_owned());
    let reason = match text(rule, "reason") {
        "FieldValueForbidden" => ErrorKind::Forbidden,
        "FieldValueRequired" => ErrorKind::Required,
        "FieldValueDuplicate" => ErrorKind::Duplicate,
        _ => ErrorKind::Invalid,
    };
    let path = text(rule, "fieldPath");
    Some(Rule {
        program,
        message_expression,
        shown: message.clone().unwrap_or_else(|| source.trim().to_owned()),
        message,
        reason,
        field_path: Some(path).filter(|p| !p.is_empty()).and_then(|p| fieldpath::normalize(p, node).ok()),
        optional_old,
        uses_old,
    })
}

#[cfg(test)]
mod tests;
