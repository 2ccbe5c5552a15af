//! Values at run time. Data of an object is borrowed from its JSON and read through its declared type; nothing is
//! converted that no expression looks at.

mod json;

pub use json::{dynamic, wrap};

use crate::decl::{Decl, DeclKind, ListKind};
use crate::error::EvalError;
use crate::library::opaque::Opaque;
use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

/// Text that is borrowed from an object or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(DateTime<Utc>),
    /// Nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    /// An object built in an expression: `Object{...}`, `JSONPatch{...}`.
    Struct(Arc<Struct<'a>>),
    /// A type, by name.
    Type(Cow<'static, str>),
    Optional(Option<Arc<Value<'a>>>),
    Opaque(Arc<Opaque>),
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    Json(&'a [Json], &'a Decl),
    Owned(Arc<Vec<Value<'a>>>),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of a map or an object type.
    Json(&'a serde_json::Map<String, Json>, &'a Decl),
    Owned(Arc<IndexMap<Key, Value<'a>>>),
}

#[derive(Clone, Debug)]
pub struct Struct<'a> {
    pub name: Arc<str>,
    pub fields: IndexMap<Arc<str>, Value<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Arc<str>),
}

impl Key {
    pub fn of(value: &Value<'_>) -> Result<Self, EvalError> {
        Ok(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(n) => Self::Int(*n),
            // One key for one number, whichever type it came as.
            Value::Uint(n) => i64::try_from(*n).map_or(Self::Uint(*n), Self::Int),
            Value::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Self::Int(*n as i64),
            Value::Text(text) => Self::Text(Arc::from(&**text)),
            other => return Err(EvalError::new(format!("unsupported key type: {}", other.type_name()))),
        })
    }

    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::Int(*n),
            Self::Uint(n) => Value::Uint(*n),
            Self::Text(text) => Value::Text(Text::Shared(text.clone())),
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Owned(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(items, decl) => items.get(index).map(|item| wrap(item, decl.item())),
            Self::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    pub fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            Self::Owned(items) => Ok((**items).clone()),
            Self::Json(..) => self.iter().collect(),
        }
    }

    fn kind(&self) -> Option<&'a ListKind> {
        match self {
            Self::Json(_, decl) => match &decl.kind {
                DeclKind::List { kind, .. } => Some(kind),
                _ => None,
            },
            Self::Owned(_) => None,
        }
    }

    fn equals(&self, other: &List<'a>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let pairs =
            || self.iter().zip(other.iter()).all(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if a.equals(&b)));
        match self.kind() {
            // The order of sets and keyed lists says nothing.
            Some(ListKind::Set | ListKind::Map(_)) => {
                pairs()
                    || self
                        .iter()
                        .all(|a| a.is_ok_and(|a| other.iter().any(|b| b.is_ok_and(|b| a.equals(&b)))))
            }
            _ => pairs(),
        }
    }

    /// `self + other`, which for sets and keyed lists merges.
    pub fn concat(&self, other: &List<'a>) -> Result<List<'a>, EvalError> {
        let mut out = self.to_vec()?;
        match self.kind() {
            Some(ListKind::Set) => {
                for item in other.iter() {
                    let item = item?;
                    if !out.iter().any(|o| o.equals(&item)) {
                        out.push(item);
                    }
                }
            }
            Some(ListKind::Map(keys)) => {
                let same = |a: &Value<'a>, b: &Value<'a>| {
                    keys.iter().all(|k| match (a.member(k), b.member(k)) {
                        (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
                        (None, None) => true,
                        _ => false,
                    })
                };
                for item in other.iter() {
                    let item = item?;
                    match out.iter().position(|o| same(o, &item)) {
                        Some(at) => out[at] = item,
                        None => out.push(item),
                    }
                }
            }
            _ => out.extend(other.to_vec()?),
        }
        Ok(List::Owned(Arc::new(out)))
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, decl) => match &decl.kind {
                DeclKind::Object(object) => map.keys().filter(|k| object.by_json(k).is_some()).count(),
                _ => map.len(),
            },
            Self::Owned(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &Key) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(map, decl) => {
                let Key::Text(name) = key else { return None };
                get_json(map, decl, name)
            }
            Self::Owned(map) => map.get(key).cloned().map(Ok),
        }
    }

    pub fn get_text(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(map, decl) => get_json(map, decl, name),
            Self::Owned(map) => map.get(&Key::Text(Arc::from(name))).cloned().map(Ok),
        }
    }

    /// Keys as expressions see them.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Self::Json(map, decl) => match &decl.kind {
                DeclKind::Object(object) => map
                    .keys()
                    .filter_map(|k| object.by_json(k))
                    .map(|f| Key::Text(f.name.as_str().into()))
                    .collect(),
                _ => map.keys().map(|k| Key::Text(k.as_str().into())).collect(),
            },
            Self::Owned(map) => map.keys().cloned().collect(),
        }
    }

    fn equals(&self, other: &Map<'a>) -> bool {
        self.len() == other.len()
            && self
                .keys()
                .iter()
                .all(|k| matches!((self.get(k), other.get(k)), (Some(Ok(a)), Some(Ok(b))) if a.equals(&b)))
    }
}

fn get_json<'a>(
    map: &'a serde_json::Map<String, Json>,
    decl: &'a Decl,
    name: &str,
) -> Option<Result<Value<'a>, EvalError>> {
    match &decl.kind {
        DeclKind::Object(object) => {
            let field = object.fields.get(name)?;
            map.get(&field.json).map(|v| wrap(v, &field.decl))
        }
        DeclKind::Map { value, .. } => map.get(name).map(|v| wrap(v, value)),
        _ => map.get(name).map(|v| Ok(dynamic(v))),
    }
}

impl<'a> Value<'a> {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Text::Shared(text.into().into()))
    }

    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Owned(Arc::new(items)))
    }

    pub fn map(entries: impl IntoIterator<Item = (Key, Value<'a>)>) -> Self {
        Self::Map(Map::Owned(Arc::new(entries.into_iter().collect())))
    }

    pub fn opaque(value: Opaque) -> Self {
        Self::Opaque(Arc::new(value))
    }

    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// As `type(x)` and messages name it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Struct(s) => &s.name,
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Opaque(o) => o.type_name(),
        }
    }

    /// What `size()` and the cost model count; 1 for what has no size.
    pub fn size(&self) -> u64 {
        match self {
            Self::Text(text) if text.is_ascii() => text.len() as u64,
            Self::Text(text) => text.chars().count() as u64,
            Self::Bytes(data) => data.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(value)) => value.size(),
            Self::Opaque(o) => o.size(),
            _ => 1,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A member by name: of maps, objects and built structs.
    pub fn member(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Map(map) => map.get_text(name),
            Self::Struct(s) => s.fields.get(name).cloned().map(Ok),
            _ => None,
        }
    }

    /// CEL equality: numbers compare across their types, other types never equal one another.
    pub fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
            ) => self.compare(other) == Some(Ordering::Equal),
            (Self::Text(a), Self::Text(b)) => **a == **b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b),
            (Self::Map(a), Self::Map(b)) => a.equals(b),
            (Self::Struct(a), Self::Struct(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|o| v.equals(o)))
            }
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b),
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            _ => false,
        }
    }

    /// Order, where there is one. `None` for NaN and for types that do not compare.
    pub fn compare(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Int(a), Self::Double(b)) => compare_double(i128::from(*a), *b),
            (Self::Uint(a), Self::Double(b)) => compare_double(i128::from(*a), *b),
            (Self::Double(a), Self::Int(b)) => compare_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::Double(a), Self::Uint(b)) => compare_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::Text(a), Self::Text(b)) => Some((**a).cmp(&**b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn compare_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double >= 1e20 {
        return Some(Ordering::Less);
    }
    if double <= -1e20 {
        return Some(Ordering::Greater);
    }
    let floor = double.floor();
    Some(whole.cmp(&(floor as i128)).then(if double > floor { Ordering::Less } else { Ordering::Equal }))
}
