//! Go's zero values, and which of them upstream writes.

use serde_json::{Map, Value};

use crate::schema::{Field, Schema, Shape, Special, TypeDef};

/// What upstream writes for a value that was never set.
pub fn zero(schema: &Schema, shape: &Shape) -> Value {
    match shape {
        Shape::Bool | Shape::Special(Special::JsonSchemaPropsOrBool) => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::String => Value::String(String::new()),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::Struct(id) => {
            let mut out = Map::new();
            fill(schema, schema.get(*id), &mut out);
            Value::Object(out)
        }
        _ => Value::Null,
    }
}

/// Adds the zero values that upstream writes for absent fields.
pub(super) fn fill(schema: &Schema, ty: &TypeDef, out: &mut Map<String, Value>) {
    for index in &ty.always {
        let field = &ty.fields[*index as usize];
        if !out.contains_key(&field.name) {
            let value = if field.pointer { Value::Null } else { zero(schema, &field.shape) };
            out.insert(field.name.clone(), value);
        }
    }
}

/// What upstream would write for this value of the field; `None` leaves it out.
pub(super) fn settle(schema: &Schema, field: &Field, value: Value) -> Option<Value> {
    if field.pointer {
        return (!value.is_null() || !field.omit_empty).then_some(value);
    }
    let value = if value.is_null() { zero(schema, &field.shape) } else { value };
    if field.omit_zero && value.is_null() {
        return None;
    }
    let empty = field.omit_empty && !field.shape.is_go_struct() && is_empty(&value);
    (!empty).then_some(value)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}
