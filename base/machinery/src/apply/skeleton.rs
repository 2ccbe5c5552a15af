//! What an "empty" object of a built-in kind holds.
//!
//! Upstream compares a created object with a new Go value, whose by-value structures are there, empty. So
//! `spec` of a fresh Pod belongs to nobody while `metadata.labels` belongs to its creator. Custom kinds have no
//! such skeleton.

use crate::schema::{Schema, Shape, TypeId};
use serde_json::{Map, Value};

/// Structures that upstream's types hold by value wherever they occur in a top-level path.
fn by_value(owner: &str, field: &str, ty: &str) -> bool {
    let short = |name: &str| name.rsplit('.').next().unwrap_or("").to_string();
    let (owner, ty) = (short(owner), short(ty));
    match field {
        "metadata" | "spec" | "status" => true,
        "template" => owner != "ReplicationControllerSpec",
        "strategy" | "updateStrategy" | "jobTemplate" | "loadBalancer" | "daemonEndpoints" | "nodeInfo" => {
            true
        }
        "scaleTargetRef" | "roleRef" | "involvedObject" | "backend" => true,
        "source" => ty == "EventSource" || ty == "VolumeAttachmentSource",
        "names" | "acceptedNames" => ty == "CustomResourceDefinitionNames",
        "kubeletEndpoint" => true,
        _ => false,
    }
}

/// The skeleton of the kind whose type is `root`.
pub(super) fn skeleton(schema: &Schema, root: TypeId) -> Value {
    Value::Object(build(schema, root, 0))
}

fn build(schema: &Schema, id: TypeId, depth: usize) -> Map<String, Value> {
    let mut out = Map::new();
    if depth > 6 {
        return out;
    }
    let def = schema.get(id);
    for field in &def.fields {
        match &field.shape {
            Shape::Struct(below) => {
                let named = by_value(&def.name, &field.name, &schema.get(*below).name);
                // A custom-looking pointer without omitempty encodes as null.
                if named && !is_pointer(&def.name, &field.name) {
                    out.insert(field.name.clone(), Value::Object(build(schema, *below, depth + 1)));
                } else if !field.omit_empty {
                    out.insert(field.name.clone(), Value::Null);
                }
            }
            Shape::Map(_) | Shape::List(_) if !field.omit_empty => {
                out.insert(field.name.clone(), Value::Null);
            }
            _ => {}
        }
    }
    out
}

/// `spec`, `metadata` or `status` that upstream holds by pointer.
fn is_pointer(owner: &str, field: &str) -> bool {
    let owner = owner.rsplit('.').next().unwrap_or("");
    matches!(
        (owner, field),
        ("ControllerRevision", _) | ("Scale", "selector") | ("PersistentVolumeClaimTemplate", "metadata")
    ) || (field == "metadata" && owner.ends_with("List"))
}
