//! The three patch languages that need no field owners: JSON patch, JSON merge patch, strategic merge patch.

pub mod json_patch;
pub mod merge_patch;
pub mod strategic;

use serde_json::Value;

/// A value as Go's `%v` prints decoded JSON; upstream's messages hold such prints.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut items: Vec<(&String, String)> = map.iter().map(|(k, v)| (k, go_print(v))).collect();
            items.sort();
            let items: Vec<String> = items.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}
