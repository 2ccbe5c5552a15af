//! JSON as values, through its declared type, and values as JSON.

use super::{Key, List, Map, Text, Value};
use crate::decl::{DYN, Decl, DeclKind};
use crate::error::EvalError;
use serde_json::Value as Json;

/// Reads JSON as its declared type.
pub fn wrap<'a>(json: &'a Json, decl: &'a Decl) -> Result<Value<'a>, EvalError> {
    let wrong =
        |wanted: &str| Err(EvalError::new(format!("invalid data, expected {wanted}, got {}", go_type(json))));
    if json.is_null() && !matches!(decl.kind, DeclKind::Dyn) {
        return if decl.nullable {
            Ok(Value::Null)
        } else {
            Err(EvalError::new("invalid data, got null for schema with nullable=false"))
        };
    }
    Ok(match (&decl.kind, json) {
        (DeclKind::Dyn, _) => dynamic(json),
        (DeclKind::IntOrString, Json::String(text)) => Value::Text(Text::Borrowed(text)),
        (DeclKind::IntOrString, Json::Number(n)) if n.is_i64() => Value::Int(n.as_i64().unwrap_or_default()),
        (DeclKind::IntOrString, _) => {
            return Err(EvalError::new(
                "invalid data, expected XIntOrString value to be either a string or integer",
            ));
        }
        (DeclKind::Bool, Json::Bool(b)) => Value::Bool(*b),
        (DeclKind::Bool, _) => return wrong("bool"),
        (DeclKind::Int, Json::Number(n)) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => return wrong("int"),
        },
        (DeclKind::Int, _) => return wrong("int"),
        (DeclKind::Double, Json::Number(n)) => Value::Double(n.as_f64().unwrap_or_default()),
        (DeclKind::Double, _) => return wrong("float"),
        (DeclKind::Text, Json::String(text)) => Value::Text(Text::Borrowed(text)),
        (DeclKind::Bytes | DeclKind::Duration | DeclKind::Date | DeclKind::Timestamp, Json::String(text)) => {
            return formatted(text, &decl.kind);
        }
        (DeclKind::List { .. }, Json::Array(items)) => Value::List(List::Json(items, decl)),
        (DeclKind::List { .. }, _) => {
            return Err(EvalError::new(
                "invalid data, expected an array for the provided schema with type=array",
            ));
        }
        (DeclKind::Map { .. } | DeclKind::Object(_), Json::Object(map)) => Value::Map(Map::Json(map, decl)),
        (DeclKind::Map { .. } | DeclKind::Object(_), _) => {
            return Err(EvalError::new(
                "invalid data, expected a map for the provided schema with type=object",
            ));
        }
        _ => return wrong("string"),
    })
}

/// JSON without a declared type: whole numbers are ints.
pub fn dynamic(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => Value::Double(n.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::Text(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::Json(items, &DYN)),
        Json::Object(map) => Value::Map(Map::Json(map, &DYN)),
    }
}

fn formatted<'a>(text: &'a str, kind: &DeclKind) -> Result<Value<'a>, EvalError> {
    use crate::library::time;
    Ok(match kind {
        DeclKind::Bytes => {
            use base64::Engine;
            let data = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|e| EvalError::new(format!("Invalid byte formatted string {text}: {e}")))?;
            Value::Bytes(data.into())
        }
        DeclKind::Duration => Value::Duration(time::parse_openapi_duration(text).ok_or_else(|| {
            EvalError::new(format!("Invalid duration {text}: time: invalid duration {text:?}"))
        })?),
        DeclKind::Date => Value::Timestamp(
            time::parse_date(text)
                .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}")))?,
        ),
        _ => Value::Timestamp(
            time::parse_date_time(text)
                .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}")))?,
        ),
    })
}

fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

impl Value<'_> {
    /// The value as JSON; `None` for what JSON cannot say.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        use base64::Engine;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(n) => serde_json::Number::from_f64(*n).map_or(Json::Null, Json::Number),
            Self::Text(text) => Json::String(text.to_string()),
            Self::Bytes(data) => base64::engine::general_purpose::STANDARD.encode(data).into(),
            Self::Timestamp(at) => crate::library::time::show_timestamp(at).into(),
            Self::Duration(nanos) => crate::library::time::show_duration(*nanos).into(),
            Self::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Self::List(List::Owned(items)) => {
                Json::Array(items.iter().map(Value::to_json).collect::<Result<_, _>>()?)
            }
            Self::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Self::Map(Map::Owned(map)) => {
                let mut out = serde_json::Map::new();
                for (key, value) in &**map {
                    let key = match key {
                        Key::Text(text) => text.to_string(),
                        Key::Bool(b) => b.to_string(),
                        Key::Int(n) => n.to_string(),
                        Key::Uint(n) => n.to_string(),
                    };
                    out.insert(key, value.to_json()?);
                }
                Json::Object(out)
            }
            Self::Struct(s) => {
                let mut out = serde_json::Map::new();
                for (name, value) in &s.fields {
                    let name = crate::names::unescape(name).unwrap_or_else(|| name.to_string());
                    out.insert(name, value.to_json()?);
                }
                Json::Object(out)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Opaque(o) => match o.show() {
                Some(text) => text.into(),
                None => return Err(EvalError::new(format!("unsupported type: {}", self.type_name()))),
            },
            other => return Err(EvalError::new(format!("unsupported type: {}", other.type_name()))),
        })
    }
}
