//! What an "empty" object of a built-in kind holds.
//!
//! Upstream compares a created object with a new Go value, whose by-value structures are there, empty. So
//! `spec` of a fresh Pod belongs to nobody while `metadata.labels` belongs to its creator. Custom kinds have no
//! such skeleton.

use crate::schema::{Schema, Shape, TypeId};
use serde_json::{Map, Value};

/// The skeleton of the kind whose type is `root`.
pub(super) fn skeleton(schema: &Schema, root: TypeId) -> Value {
    Value::Object(build(schema, root, 0))
}

fn build(schema: &Schema, id: TypeId, depth: usize) -> Map<String, Value> {
    let def = schema.get(id);
    let mut out = Map::new();
    // No built-in type holds itself by value; the bound is for broken tables only.
    if depth > 12 {
        return out;
    }
    for field in def.fields.iter().filter(|f| f.always()) {
        let value = match &field.shape {
            _ if field.pointer => Value::Null,
            Shape::Struct(below) => Value::Object(build(schema, *below, depth + 1)),
            Shape::String | Shape::Duration => Value::from(""),
            Shape::Bool => Value::from(false),
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => Value::from(0),
            Shape::Double => Value::from(0.0),
            Shape::Quantity => Value::from("0"),
            _ => Value::Null,
        };
        out.insert(field.name.clone(), value);
    }
    out
}
