//! How the schema says a value merges: as a leaf, a map, an associative list; and the field set of a value.

use super::set::{Node, PathElement, Set};
use crate::field::quote;
use crate::schema::{Field, ListKind, ListShape, Schema, Shape, TypeDef};
use serde_json::{Map, Value};

/// The merge-relevant type of one value. Where the schema is silent the value itself tells ([`Kind::Deduced`]):
/// maps are granular, lists and scalars are leaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'s> {
    Leaf,
    Deduced,
    Struct(&'s TypeDef),
    Map(&'s Shape),
    List(&'s ListShape),
}

pub(super) fn kind<'s>(schema: &'s Schema, shape: &'s Shape) -> Kind<'s> {
    match shape {
        Shape::Struct(id) => {
            let def = schema.get(*id);
            if def.atomic { Kind::Leaf } else { Kind::Struct(def) }
        }
        Shape::Map(map) if !map.atomic => Kind::Map(&map.value),
        Shape::List(list) if list.kind != ListKind::Atomic => Kind::List(list),
        // Of an object of any kind nothing is merged.
        Shape::RawExtension => Kind::Leaf,
        Shape::Any | Shape::Special(_) => Kind::Deduced,
        _ => Kind::Leaf,
    }
}

/// A field may override whether its type is atomic.
fn field_kind<'s>(schema: &'s Schema, field: &'s Field) -> Kind<'s> {
    match (&field.shape, field.atomic) {
        (Shape::Struct(_), Some(true)) => Kind::Leaf,
        (Shape::Struct(id), Some(false)) => Kind::Struct(schema.get(*id)),
        (shape, _) => kind(schema, shape),
    }
}

/// The type of a map's or struct's member, and whether the member is a declared field.
pub(super) fn member<'s>(schema: &'s Schema, of: Kind<'s>, name: &str) -> (Kind<'s>, Option<&'s Field>) {
    match of {
        Kind::Struct(def) => match def.field(name) {
            Some(field) => (field_kind(schema, field), Some(field)),
            None => (def.rest.as_deref().map_or(Kind::Deduced, |rest| kind(schema, rest)), None),
        },
        Kind::Map(value) => (kind(schema, value), None),
        _ => (Kind::Deduced, None),
    }
}

/// For a deduced type, what the value makes of it.
pub(super) fn resolve<'s>(kind: Kind<'s>, value: &Value) -> Kind<'s> {
    match kind {
        Kind::Deduced if !value.is_object() && !value.is_null() => Kind::Leaf,
        other => other,
    }
}

pub(super) fn as_map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// The path element of an item of an associative list.
pub(super) fn item_element(schema: &Schema, list: &ListShape, item: &Value) -> Result<PathElement, String> {
    let ListKind::Map(keys) = &list.kind else {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(PathElement::Value(scalar.clone())),
        };
    };
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let def = match &list.item {
        Shape::Struct(id) => Some(schema.get(*id)),
        _ => None,
    };
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(value) = map.get(key) {
            found.push((key.clone(), value.clone()));
        } else if let Some(default) = def.and_then(|d| d.field(key)).and_then(key_default) {
            found.push((key.clone(), default));
        }
    }
    if found.is_empty() {
        let keys: Vec<String> = keys.iter().map(|k| quote(k)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(PathElement::Key(found))
}

/// What a key is where an item does not say: its default, or the zero value of what Go always writes.
fn key_default(field: &Field) -> Option<Value> {
    field.default.clone().or_else(|| match field.shape {
        _ if !field.always() || field.pointer => None,
        Shape::String => Some("".into()),
        Shape::Int32 | Shape::Int64 => Some(0.into()),
        _ => None,
    })
}

/// The set of fields a configuration names: what an applier owns.
pub(super) fn field_set(schema: &Schema, root: Kind<'_>, value: &Value) -> Set {
    node_of(schema, root, value).children
}

fn node_of(schema: &Schema, of: Kind<'_>, value: &Value) -> Node {
    match resolve(of, value) {
        Kind::Leaf => Node::leaf(),
        Kind::List(list) => {
            let mut node = Node::default();
            let item_kind = kind(schema, &list.item);
            for item in value.as_array().into_iter().flatten() {
                let Ok(element) = item_element(schema, list, item) else { continue };
                // An entry that occurs twice is owned as a whole.
                let twice = node.children.get(&element).is_some();
                let child = if twice { Set::default() } else { node_of(schema, item_kind, item).children };
                let entry = node.children.entry(element);
                entry.member = true;
                entry.children = child;
            }
            node
        }
        of => {
            let mut children = Vec::new();
            let Some(map) = value.as_object() else { return Node::default() };
            for (name, value) in map {
                let (below, field) = member(schema, of, name);
                let mut node = node_of(schema, below, value);
                node.member |=
                    value.is_null() || value.as_object().is_some_and(Map::is_empty) || field.is_none();
                if !node.is_empty() {
                    children.push((PathElement::Field(name.clone()), node));
                }
            }
            children.sort_by(|a, b| a.0.cmp(&b.0));
            Node { member: false, children: Set(children) }
        }
    }
}

/// Makes every declared field that has members below it a member too.
pub(super) fn ensure_fields(schema: &Schema, of: Kind<'_>, set: &mut Set) {
    for (element, node) in &mut set.0 {
        if node.children.is_empty() {
            continue;
        }
        let below = match (of, &*element) {
            (_, PathElement::Field(name)) => {
                let (below, field) = member(schema, of, name);
                node.member |= field.is_some();
                below
            }
            (Kind::List(list), _) => kind(schema, &list.item),
            _ => Kind::Deduced,
        };
        ensure_fields(schema, below, &mut node.children);
    }
}

/// Checks an applied configuration against the schema, as upstream does before merging: unknown fields, values
/// of the wrong kind, list items without or with the same key.
pub(super) fn check(
    schema: &Schema,
    shape: &Shape,
    value: &Value,
    path: &mut String,
    errors: &mut Vec<String>,
) {
    let at = path.len();
    match shape {
        Shape::Struct(id) => {
            let def = schema.get(*id);
            let Some(map) = value.as_object() else {
                if !value.is_null() {
                    errors.push(format!("{path}: expected map, got {}", got(value)));
                }
                return;
            };
            for (name, below) in map {
                path.push('.');
                path.push_str(name);
                match def.field(name) {
                    Some(field) => check(schema, &field.shape, below, path, errors),
                    None if def.preserve_unknown || def.embedded_resource || def.rest.is_some() => {}
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(at);
            }
        }
        Shape::Map(map) => match value {
            Value::Object(members) => {
                for (name, below) in members {
                    path.push('.');
                    path.push_str(name);
                    check(schema, &map.value, below, path, errors);
                    path.truncate(at);
                }
            }
            Value::Null => {}
            other => errors.push(format!("{path}: expected map, got {}", got(other))),
        },
        Shape::List(list) => match value {
            Value::Array(items) => {
                let mut seen = Set::default();
                for (i, item) in items.iter().enumerate() {
                    if list.kind == ListKind::Atomic {
                        path.push_str(&format!("[{i}]"));
                    } else {
                        match item_element(schema, list, item) {
                            Err(e) => {
                                errors.push(format!("{path}: element {i}: {e}"));
                                continue;
                            }
                            Ok(element) => {
                                let entry = seen.entry(element.clone());
                                if entry.member {
                                    errors.push(format!("{path}: duplicate entries for key {element}"));
                                    continue;
                                }
                                entry.member = true;
                                path.push_str(&element.to_string());
                            }
                        }
                    }
                    check(schema, &list.item, item, path, errors);
                    path.truncate(at);
                }
            }
            Value::Null => {}
            other => errors.push(format!("{path}: expected list, got {}", got(other))),
        },
        Shape::Bool if !value.is_boolean() && !value.is_null() => wrong("boolean", value, path, errors),
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Duration
            if !value.is_string() && !value.is_null() =>
        {
            wrong("string", value, path, errors);
        }
        Shape::Int32 | Shape::Int64 | Shape::Double if !value.is_number() && !value.is_null() => {
            let found = match value {
                Value::Bool(_) => "bool",
                Value::String(_) => "string",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            errors.push(format!("{path}: expected numeric (int or float), got {found}"));
        }
        _ => {}
    }
}

fn got(value: &Value) -> String {
    format!("&{{{}}}", value.as_str().map_or_else(|| value.to_string(), String::from))
}

fn wrong(expected: &str, value: &Value, path: &str, errors: &mut Vec<String>) {
    let shown = match value {
        Value::String(s) => format!("&value.valueUnstructured{{Value:{}}}", quote(s)),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    };
    errors.push(format!("{path}: expected {expected}, got {shown}"));
}
