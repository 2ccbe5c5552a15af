//! What a mutation's value does to an object.

use crate::crd;
use crate::reader::{Reader, items, parse, text};
use crate::schemas;
use cel::Value as CelValue;
use cel::value::{List, Struct};
use machinery::schema::{Schema, TypeId};
use serde_json::{Map, Value};

/// Types of the object under mutation.
pub(super) enum Shape {
    Builtin(&'static Schema, TypeId),
    Custom(Box<Schema>, TypeId),
}

/// The types of a kind, built-in or defined.
pub(super) fn shape(reader: &dyn Reader, group: &str, plural: &str, object: &Value) -> Option<Shape> {
    let api_version = text(object, "/apiVersion");
    let (_, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some((schema, root)) = schemas::kind_shape(group, version, text(object, "/kind")) {
        return Some(Shape::Builtin(schema, root));
    }
    let name = format!("{plural}.{group}");
    let entry = reader.get("apiextensions.k8s.io", "customresourcedefinitions", "", &name)?;
    let definition = parse(&entry);
    let version = items(&definition, "/spec/versions").iter().find(|v| text(v, "/name") == version)?;
    let (schema, root) = crd::shape(version)?;
    Some(Shape::Custom(Box::new(schema), root))
}

impl Shape {
    fn get(&self) -> (&Schema, TypeId) {
        match self {
            Self::Builtin(schema, root) => (schema, *root),
            Self::Custom(schema, root) => (schema, *root),
        }
    }
}

/// The object with an apply configuration (`Object{...}`) merged into it.
pub(super) fn merge(object: &Value, made: &CelValue<'_>, shape: &Shape) -> Result<Value, String> {
    let CelValue::Struct(root) = made else {
        return Err(format!(
            "unsupported return type from ApplyConfiguration expression: {}",
            made.type_name()
        ));
    };
    type_names(root).map_err(|why| format!("type mismatch: {why}"))?;
    let mut configuration = made.to_json().map_err(|e| e.to_string())?;
    for member in ["apiVersion", "kind"] {
        configuration[member] = object[member].clone();
    }
    let (schema, root) = shape.get();
    machinery::apply::overlay(schema, root, object, &configuration)
        .map_err(|why| format!("error applying patch: {why}"))
}

/// Names of built objects must follow the fields they are put into.
fn type_names(root: &Struct<'_>) -> Result<(), String> {
    let mut wrong = Vec::new();
    names(root, "Object", &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn names(built: &Struct<'_>, path: &str, wrong: &mut Vec<String>) {
    if &*built.name != path {
        wrong.push(format!(
            "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
            &*built.name
        ));
    }
    for (field, value) in &built.fields {
        below(value, &format!("{path}.{field}"), wrong);
    }
}

fn below(value: &CelValue<'_>, path: &str, wrong: &mut Vec<String>) {
    match value {
        CelValue::Struct(built) => names(built, path, wrong),
        CelValue::List(List::Owned(items)) => items.iter().for_each(|i| below(i, path, wrong)),
        _ => {}
    }
}

/// The object with a list of `JSONPatch{...}` applied. A failed `test` leaves it as it is.
pub(super) fn json_patch(object: &Value, made: &CelValue<'_>) -> Result<Value, String> {
    let CelValue::List(list) = made else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    let mut operations = Vec::with_capacity(list.len());
    for item in list.iter() {
        let item = item.map_err(|e| e.to_string())?;
        let CelValue::Struct(built) = &item else {
            return Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
                item.type_name()
            ));
        };
        let mut operation = Map::new();
        for (name, value) in &built.fields {
            if let CelValue::Struct(inner) = value {
                // Any part of an object may be built here, if only it is consistent in itself.
                let mut wrong = Vec::new();
                names(inner, &inner.name.clone(), &mut wrong);
                if !wrong.is_empty() {
                    return Err(format!("type mismatch: {}", wrong.join("\n")));
                }
            }
            let json = value.to_json().map_err(|e| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {e}")
            })?;
            operation.insert(name.to_string(), json);
        }
        operations.push(Value::Object(operation));
    }
    let mut out = object.clone();
    match machinery::patch::json_patch::apply(&mut out, &Value::Array(operations)) {
        Ok(()) => Ok(out),
        Err(e) if e.to_string().contains("test failed") => Ok(object.clone()),
        Err(e) => Err(format!("JSON Patch: {e}")),
    }
}
