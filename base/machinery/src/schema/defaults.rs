//! Static defaults (`+default=` of built-in kinds, `default` of custom ones).
//!
//! As upstream's generated defaulters: a field gets its default where it was not set (null, or for a Go value its
//! zero), depth first for custom kinds' nested defaults. Structures that are absent are not made, except where a
//! custom schema gives the structure itself a default.

use serde_json::Value;

use super::model::{Schema, Shape, TypeId};

/// Fills the defaults of `root` into an object of that kind.
pub fn apply(schema: &Schema, root: TypeId, value: &mut Value) {
    let Value::Object(object) = value else { return };
    let ty = schema.get(root);
    let custom = ty.go.is_empty();
    for index in schema.defaulted(root) {
        let field = &ty.fields[*index as usize];
        if let Some(default) = &field.default {
            let unset = match object.get(&field.name) {
                None => true,
                Some(Value::Null) => !field.nullable,
                Some(found) => !custom && !field.pointer && is_zero(found),
            };
            // A Go default that is the zero value changes nothing but what `omitempty` hides anyway.
            let told = custom || field.pointer || !is_zero(default);
            if unset && told {
                object.insert(field.name.clone(), default.clone());
            }
        }
        if let Some(found) = object.get_mut(&field.name) {
            descend(schema, &field.shape, found);
        }
    }
    if let Some(rest) = &ty.rest {
        for (name, found) in object.iter_mut() {
            if ty.position(name).is_none() {
                descend(schema, rest, found);
            }
        }
    }
}

fn descend(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id), value @ Value::Object(_)) => apply(schema, *id, value),
        (Shape::List(list), Value::Array(items)) if is_deep(&list.item) => {
            items.iter_mut().for_each(|item| descend(schema, &list.item, item));
        }
        (Shape::Map(map), Value::Object(values)) if is_deep(&map.value) => {
            values.values_mut().for_each(|value| descend(schema, &map.value, value));
        }
        _ => {}
    }
}

fn is_deep(shape: &Shape) -> bool {
    matches!(shape, Shape::Struct(_) | Shape::List(_) | Shape::Map(_))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    #[test]
    fn protocols_default_to_tcp_wherever_they_are() {
        let b = builtin();
        let id = b.kind("apps", "v1", "Deployment").expect("Deployment");
        let mut value = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}]}}}});
        apply(&b.schema, id, &mut value);
        let ports = &value["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(
            *ports,
            json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}])
        );
        let again = value.clone();
        apply(&b.schema, id, &mut value);
        assert_eq!(value, again);
    }

    #[test]
    fn pointers_and_zeroes_are_told_apart() {
        let b = builtin();
        let id = b.kind("", "v1", "ReplicationController").expect("kind");
        let mut none = json!({"spec": {}});
        apply(&b.schema, id, &mut none);
        assert_eq!(none["spec"]["replicas"], 1);
        let mut zero = json!({"spec": {"replicas": 0}});
        apply(&b.schema, id, &mut zero);
        assert_eq!(zero["spec"]["replicas"], 0);
        assert!(zero["spec"].get("minReadySeconds").is_none());
    }
}
