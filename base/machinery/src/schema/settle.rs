//! What storage makes of an object: built-in kinds are stored in a form without empty lists, so one that was sent empty
//! comes back as none, which JSON shows as `null` where the field is never left out.

use super::{Schema, Shape, TypeId};
use serde_json::Value;

/// Makes empty lists and maps of fields that are always written null.
pub fn settle(schema: &Schema, root: TypeId, object: &mut Value) {
    if has_empty(object) {
        structure(schema, root, object);
    }
}

/// Whether any list is empty; most objects have none and are not walked again.
fn has_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().any(has_empty),
        Value::Object(map) => map.values().any(has_empty),
        _ => false,
    }
}

fn structure(schema: &Schema, id: TypeId, value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    let def = schema.get(id);
    for (name, member) in map {
        let Some(field) = def.field(name) else { continue };
        let empty = match member {
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        // Behind a pointer, or where it is left out, nothing is written for it anyway.
        if empty && !field.omit_empty && !field.pointer {
            *member = Value::Null;
        } else {
            below(schema, &field.shape, member);
        }
    }
}

fn below(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id), value) => structure(schema, *id, value),
        (Shape::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|item| below(schema, &list.item, item));
        }
        (Shape::Map(map), Value::Object(members)) => {
            members.values_mut().for_each(|member| below(schema, &map.value, member));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use serde_json::json;

    #[test]
    fn empty_lists_that_are_always_written_become_null() {
        let root = builtin().kind("rbac.authorization.k8s.io", "v1", "Role").unwrap();
        let mut role = json!({"metadata": {"name": "r"}, "rules": []});
        settle(&builtin().schema, root, &mut role);
        assert_eq!(role["rules"], Value::Null);
        let root = builtin().kind("", "v1", "Pod").unwrap();
        let mut pod = json!({"spec": {"containers": [{"name": "c", "args": []}]}});
        settle(&builtin().schema, root, &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["args"], json!([]));
    }
}
