//! Printer columns. Source: apiextensions-apiserver's `tableconvertor.go`.

use super::jsonpath::JsonPath;
use crate::table::since;
use descriptions::Descriptions;
use serde_json::{Value, json};
use std::sync::OnceLock;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// One column: how it is announced, and how its cell is made.
pub struct Column {
    pub definition: Value,
    path: Option<JsonPath>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Date,
}

/// What the name column says of itself.
pub fn name() -> &'static str {
    words().0
}

/// Descriptions of `name` and `creationTimestamp`, read once.
fn words() -> (&'static str, &'static str) {
    static WORDS: OnceLock<(String, String)> = OnceLock::new();
    let (name, age) = WORDS.get_or_init(|| {
        let texts = Descriptions::load();
        let get = |field: &str| texts.get(OBJECT_META, field).unwrap_or_default();
        (get("name"), get("creationTimestamp"))
    });
    (name, age)
}

/// The columns of one version; the age where it names none.
pub fn read(version: &Value) -> Vec<Column> {
    let declared = version["additionalPrinterColumns"].as_array().map(Vec::as_slice).unwrap_or_default();
    if declared.is_empty() {
        let age = json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": words().1,
        });
        return vec![column(&age)];
    }
    let all: Vec<Column> = declared.iter().map(column).collect();
    // One that cannot be read takes them all away, as upstream.
    if all.iter().any(|c| c.path.is_none()) { Vec::new() } else { all }
}

fn column(declared: &Value) -> Column {
    let text = |f: &str| declared[f].as_str().unwrap_or_default();
    let path = text("jsonPath");
    let description = match text("description") {
        "" => format!("Custom resource definition column (in JSONPath format): {path}"),
        own => own.to_owned(),
    };
    Column {
        definition: json!({
            "name": text("name"),
            "type": text("type"),
            "format": text("format"),
            "description": description,
            "priority": declared["priority"].as_i64().unwrap_or(0),
        }),
        path: JsonPath::parse(path),
        kind: match text("type") {
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            "date" => Kind::Date,
            _ => Kind::Text,
        },
    }
}

impl Column {
    /// The first thing the path finds, if it is of the column's type.
    pub fn cell(&self, object: &Value) -> Value {
        let found = self.path.as_ref().and_then(|p| p.find(object).into_iter().next());
        let Some(found) = found.filter(|v| !v.is_null()) else { return Value::Null };
        match (self.kind, found) {
            (Kind::Text, Value::String(_)) => found.clone(),
            (Kind::Text, other) => other.to_string().into(),
            (Kind::Integer, Value::Number(n)) => match (n.as_i64(), n.as_f64()) {
                (Some(whole), _) => whole.into(),
                (None, Some(broken)) => (broken as i64).into(),
                _ => Value::Null,
            },
            (Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) => found.clone(),
            (Kind::Date, Value::String(text)) => match crate::registry::meta::parse_time(text) {
                None if !text.is_empty() => "<invalid>".into(),
                _ => since(found),
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_columns_type() {
        let of = |kind: &str, value: Value| {
            let declared = json!({"name": "C", "type": kind, "jsonPath": ".v"});
            column(&declared).cell(&json!({"v": value}))
        };
        assert_eq!(of("string", json!(3)), json!("3"));
        assert_eq!(of("string", json!({"a": [1]})), json!("{\"a\":[1]}"));
        assert_eq!(of("integer", json!(3.7)), json!(3));
        assert_eq!(of("integer", json!("3")), Value::Null);
        assert_eq!(of("boolean", json!(true)), json!(true));
        assert_eq!(of("date", json!("bogus")), json!("<invalid>"));
        assert_eq!(of("number", Value::Null), Value::Null);
    }

    #[test]
    fn columns_describe_themselves() {
        let all = read(&json!({}));
        assert_eq!(all[0].definition["name"], "Age");
        assert!(all[0].definition["description"].as_str().unwrap().starts_with("CreationTimestamp"));
        let all =
            read(&json!({"additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".a"}]}));
        assert_eq!(
            all[0].definition["description"],
            "Custom resource definition column (in JSONPath format): .a"
        );
        let broken =
            json!({"additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".a["}]});
        assert!(read(&broken).is_empty());
    }
}
