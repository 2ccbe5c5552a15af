//! JSON to a typed value, in one pass over the bytes.
//!
//! The same walk reads bytes and existing values, built-in and custom kinds: it is a `serde` seed that carries the
//! shape. For custom types (those without a Go name) nothing is coerced: wrong types are left to validation.

mod changed;
mod embedded;
mod syntax;

pub use changed::decode_changed;
pub use syntax::error as syntax_error;

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::scalar;
use super::zero::{fill, settle, zero};
use super::{DecodeError, Decoded, Strictness};
use crate::schema::{Field, Schema, Shape, Special, TypeDef, TypeId};

const STRICT_ERRORS: usize = 100;

/// Reads one JSON object as `root`. Nesting is bounded at 128 levels.
pub fn decode(bytes: &[u8], schema: &Schema, root: TypeId, mode: Strictness) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::new(schema, mode);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = walk.root(root).deserialize(&mut reader);
    let ended = value.and_then(|value| reader.end().map(|()| value));
    match ended {
        Ok(value) => Ok(walk.finish(root, value)),
        Err(error) => Err(walk.fail.take().map_or_else(|| syntax::error(&error, bytes), DecodeError::Type)),
    }
}

/// The same over a value that exists already (a patch's result, a YAML document).
pub fn decode_value(
    value: Value,
    schema: &Schema,
    root: TypeId,
    mode: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::new(schema, mode);
    match walk.root(root).deserialize(value) {
        Ok(value) => Ok(walk.finish(root, value)),
        Err(error) => {
            Err(walk.fail.take().map_or_else(|| DecodeError::Syntax(error.to_string()), DecodeError::Type))
        }
    }
}

enum Step<'s> {
    Key(&'s Field, &'s TypeDef),
    Owned(String),
    Index(usize),
}

struct Walk<'s> {
    schema: &'s Schema,
    collect: bool,
    path: Vec<Step<'s>>,
    strict: Vec<String>,
    /// The real error behind the one handed to serde.
    fail: Option<String>,
}

impl<'s> Walk<'s> {
    fn new(schema: &'s Schema, mode: Strictness) -> Self {
        let collect = mode != Strictness::Ignore;
        Self { schema, collect, path: Vec::with_capacity(16), strict: Vec::new(), fail: None }
    }

    fn root<'w>(&'w mut self, id: TypeId) -> Seed<'w, 's> {
        let owner = self.schema.get(id);
        Seed { walk: self, kind: Kind::Root(id), owner, go: "" }
    }

    fn finish(&mut self, root: TypeId, value: Value) -> Decoded {
        let value = if value.is_null() { zero(self.schema, &Shape::Struct(root)) } else { value };
        Decoded { value, strict_errors: std::mem::take(&mut self.strict) }
    }

    fn report(&mut self, what: &str, key: &str) {
        if !self.collect || self.strict.len() >= STRICT_ERRORS {
            return;
        }
        let mut path = self.text(true);
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let error = format!("{what} field {path:?}");
        if !self.strict.contains(&error) {
            self.strict.push(error);
        }
    }

    /// The path; a type error's path leaves out indices and map keys.
    fn text(&self, whole: bool) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Index(i) if whole => out.push_str(&format!("[{i}]")),
                Step::Index(_) => {}
                Step::Owned(_) if !whole => {}
                Step::Key(..) | Step::Owned(_) => {
                    if let (Step::Key(field, owner), false) = (step, whole) {
                        for name in embedded::within(owner, field) {
                            if !out.is_empty() {
                                out.push('.');
                            }
                            out.push_str(name);
                        }
                    }
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(match step {
                        Step::Key(field, _) => &field.name,
                        Step::Owned(k) => k,
                        Step::Index(_) => "",
                    });
                }
            }
        }
        out
    }

    fn fail<E: serde::de::Error>(&mut self, message: String) -> E {
        self.fail = Some(message);
        E::custom("refused")
    }
}

enum Kind<'s> {
    Root(TypeId),
    Shape(&'s Shape),
    /// Any JSON; its duplicate keys are reported only for custom kinds.
    Any,
}

/// Reads one value; null comes back as `Value::Null` whatever the shape.
struct Seed<'w, 's> {
    walk: &'w mut Walk<'s>,
    kind: Kind<'s>,
    /// The structure whose field this is, at whatever depth of lists and maps.
    owner: &'s TypeDef,
    /// Go type of the value where its shape does not tell it.
    go: &'s str,
}

impl<'s> Seed<'_, 's> {
    fn custom(&self) -> bool {
        self.owner.go.is_empty()
    }

    fn go_type(&self) -> String {
        match &self.kind {
            _ if !self.go.is_empty() => self.go.to_string(),
            Kind::Root(id) => go_name(self.walk.schema, &Shape::Struct(*id)),
            Kind::Shape(shape) => go_name(self.walk.schema, shape),
            Kind::Any => "interface {}".into(),
        }
    }

    fn mismatch<E: serde::de::Error>(self, found: &str) -> E {
        let ty = match &self.kind {
            Kind::Shape(Shape::Time | Shape::MicroTime | Shape::Duration) => "string".to_string(),
            Kind::Shape(Shape::IntOrString) => "int32".to_string(),
            _ => self.go_type(),
        };
        let path = self.walk.text(false);
        let message = if path.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {ty}")
        } else {
            format!(
                "json: cannot unmarshal {found} into Go struct field {}.{path} of type {ty}",
                self.owner.go
            )
        };
        self.walk.fail(message)
    }

    fn integer<E: serde::de::Error>(
        self,
        fits: bool,
        text: impl fmt::Display,
        value: Value,
    ) -> Result<Value, E> {
        match self.kind {
            Kind::Any => Ok(value),
            Kind::Shape(Shape::Int64 | Shape::Double) if !matches!(value, Value::Number(ref n) if n.is_f64()) => {
                Ok(value)
            }
            Kind::Shape(Shape::Double) => Ok(whole(value)),
            Kind::Shape(Shape::Int32 | Shape::IntOrString) if fits => Ok(value),
            Kind::Shape(Shape::Quantity) => self.quantity(&text.to_string()),
            Kind::Shape(Shape::RawExtension) => Ok(value),
            Kind::Shape(Shape::Special(Special::JsonSchemaPropsOrBool)) => {
                Err(self.walk.fail("boolean or JSON schema expected".into()))
            }
            Kind::Shape(Shape::Special(_)) => Ok(Value::Null),
            _ if self.custom() => Ok(value),
            Kind::Shape(Shape::Int32 | Shape::Int64 | Shape::IntOrString) => {
                self.mismatch_number(&text.to_string())
            }
            _ => Err(self.mismatch("number")),
        }
    }

    fn mismatch_number<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Err(self.mismatch(&format!("number {text}")))
    }

    fn quantity<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        match scalar::quantity(text.trim()) {
            Ok(text) => Ok(Value::String(text)),
            Err(_) if self.custom() => Ok(Value::from(text)),
            Err(message) => Err(self.walk.fail(message)),
        }
    }

    fn text<E: serde::de::Error>(self, text: &str, owned: impl FnOnce() -> String) -> Result<Value, E> {
        let Kind::Shape(shape) = &self.kind else {
            return if matches!(self.kind, Kind::Any) || self.custom() {
                Ok(Value::String(owned()))
            } else {
                Err(self.mismatch("string"))
            };
        };
        let made = match shape {
            Shape::String | Shape::IntOrString => Ok(Value::String(owned())),
            _ if self.custom() => Ok(Value::String(owned())),
            Shape::Quantity => return self.quantity(text),
            Shape::Bytes => scalar::bytes(text).map(|t| Value::from(t.as_ref())),
            Shape::Time => scalar::moment(text, false)
                .map(|t| if t.is_zero() { Value::Null } else { Value::String(t.seconds_text()) }),
            Shape::MicroTime => scalar::moment(text, true)
                .map(|t| if t.is_zero() { Value::Null } else { Value::String(t.micros_text()) }),
            Shape::Duration => scalar::duration(text).map(|d| Value::String(scalar::duration_text(d))),
            Shape::RawExtension => Ok(Value::String(owned())),
            Shape::Special(Special::JsonSchemaPropsOrBool) => Err("boolean or JSON schema expected".into()),
            Shape::Special(_) => Ok(Value::Null),
            _ => return Err(self.mismatch("string")),
        };
        made.map_err(|message| self.walk.fail(message))
    }

    fn list<'de, A: SeqAccess<'de>>(
        self,
        item: Option<(&'s Shape, &'s str)>,
        mut seq: A,
    ) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        for index in 0.. {
            self.walk.path.push(Step::Index(index));
            let (kind, go) = item.map_or((Kind::Any, ""), |(shape, go)| (Kind::of(shape), go));
            let seed = Seed { walk: &mut *self.walk, kind, owner: self.owner, go };
            let value = seq.next_element_seed(seed)?;
            self.walk.path.pop();
            let Some(value) = value else { break };
            out.push(match item {
                Some((shape, _)) if value.is_null() && !self.custom() => zero(self.walk.schema, shape),
                _ => value,
            });
        }
        Ok(Value::Array(out))
    }

    fn map<'de, A: MapAccess<'de>>(
        self,
        value: Option<(&'s Shape, &'s str)>,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let report = value.is_some() || self.custom();
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.walk.path.push(Step::Owned(key));
            let (kind, go) = value.map_or((Kind::Any, ""), |(shape, go)| (Kind::of(shape), go));
            let seed = Seed { walk: &mut *self.walk, kind, owner: self.owner, go };
            let found = map.next_value_seed(seed)?;
            let found = match value {
                Some((Shape::Bytes, _)) if found.is_null() => Value::String(String::new()),
                Some((shape, _)) if found.is_null() && !self.custom() => zero(self.walk.schema, shape),
                _ => found,
            };
            let Some(Step::Owned(key)) = self.walk.path.pop() else { continue };
            if report && out.contains_key(&key) {
                self.walk.report("duplicate", &key);
            }
            out.insert(key, found);
        }
        Ok(Value::Object(out))
    }

    fn structure<'de, A: MapAccess<'de>>(mut self, id: TypeId, mut map: A) -> Result<Value, A::Error> {
        let schema = self.walk.schema;
        let ty = schema.get(id);
        let custom = ty.go.is_empty();
        let mut out = Map::new();
        let mut seen = [0u64; 4];
        while let Some(key) = map.next_key_seed(KeySeed(ty))? {
            let index = match key {
                Key::Known(index) => index,
                Key::Unknown(name) => {
                    self.unknown(ty, name, &mut out, &mut map)?;
                    continue;
                }
            };
            let field = &ty.fields[index];
            let (word, bit) = ((index / 64).min(3), 1u64 << (index % 64));
            if seen[word] & bit != 0 && index < 256 {
                self.walk.report("duplicate", &field.name);
            }
            seen[word] |= bit;
            self.walk.path.push(Step::Key(field, ty));
            let seed = Seed { walk: &mut *self.walk, kind: Kind::of(&field.shape), owner: ty, go: field.go };
            let value = map.next_value_seed(seed)?;
            self.walk.path.pop();
            match if custom { keep(field, value) } else { settle(schema, field, value) } {
                Some(value) => out.insert(field.name.clone(), value),
                None => out.remove(&field.name),
            };
        }
        if !custom {
            fill(schema, ty, &mut out);
        }
        Ok(Value::Object(out))
    }

    fn unknown<'de, A: MapAccess<'de>>(
        &mut self,
        ty: &'s TypeDef,
        name: String,
        out: &mut Map<String, Value>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let kind = match &ty.rest {
            Some(shape) => Kind::of(shape),
            None if ty.preserve_unknown => Kind::Any,
            None => {
                self.walk.report("unknown", &name);
                map.next_value::<IgnoredAny>()?;
                return Ok(());
            }
        };
        if out.contains_key(&name) {
            self.walk.report("duplicate", &name);
        }
        self.walk.path.push(Step::Owned(name));
        let value = map.next_value_seed(Seed { walk: &mut *self.walk, kind, owner: ty, go: "" })?;
        if let Some(Step::Owned(name)) = self.walk.path.pop() {
            out.insert(name, value);
        }
        Ok(())
    }
}

/// Custom kinds: what was written stays, except a null that the schema does not allow.
fn keep(field: &Field, value: Value) -> Option<Value> {
    (!value.is_null() || field.nullable).then_some(value)
}

/// A whole double is written without its point.
fn whole(value: Value) -> Value {
    match value.as_f64() {
        Some(f) if f.fract() == 0.0 && f.abs() < 9e15 => Value::from(f as i64),
        _ => value,
    }
}

impl<'s> Kind<'s> {
    fn of(shape: &'s Shape) -> Self {
        if *shape == Shape::Any { Kind::Any } else { Kind::Shape(shape) }
    }
}

/// What `reflect.Type.String()` says of a shape.
fn go_name(schema: &Schema, shape: &Shape) -> String {
    match shape {
        Shape::Bool => "bool".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Double => "float64".into(),
        Shape::String => "string".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Duration => "v1.Duration".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::RawExtension => "runtime.RawExtension".into(),
        Shape::Any => "interface {}".into(),
        Shape::Special(Special::JsonSchemaPropsOrArray) => "v1.JSONSchemaPropsOrArray".into(),
        Shape::Special(Special::JsonSchemaPropsOrBool) => "v1.JSONSchemaPropsOrBool".into(),
        Shape::Special(Special::JsonSchemaPropsOrStringArray) => "v1.JSONSchemaPropsOrStringArray".into(),
        Shape::Struct(id) => {
            let ty = schema.get(*id);
            format!("{}.{}", ty.go_package, ty.go)
        }
        Shape::List(list) => format!("[]{}", go_name(schema, &list.item)),
        Shape::Map(map) => format!("map[string]{}", go_name(schema, &map.value)),
    }
}

/// The Go type inside a list or map type, where the text tells it.
fn inside(go: &str) -> &str {
    if let Some(item) = go.strip_prefix("[]") {
        return item;
    }
    go.strip_prefix("map[").and_then(|rest| rest.split_once(']')).map_or("", |(_, value)| value)
}

enum Key {
    Known(usize),
    Unknown(String),
}

struct KeySeed<'s>(&'s TypeDef);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(self.0.position(key).map_or_else(|| Key::Unknown(key.to_string()), Key::Known))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.kind {
            Kind::Any | Kind::Shape(Shape::Bool | Shape::RawExtension) => Ok(Value::Bool(value)),
            Kind::Shape(Shape::Special(Special::JsonSchemaPropsOrBool)) => Ok(Value::Bool(value)),
            Kind::Shape(Shape::Special(_)) => Ok(Value::Null),
            _ if self.custom() => Ok(Value::Bool(value)),
            Kind::Shape(Shape::Quantity) => self.quantity(if value { "true" } else { "false" }),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > i64::MAX as u64 && !matches!(self.kind, Kind::Any) && !self.custom() {
            return self.integer(false, value, Value::from(value as f64));
        }
        self.integer(i32::try_from(value).is_ok(), value, Value::from(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.integer(i32::try_from(value).is_ok(), value, Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Value::from(value);
        self.integer(false, number.clone(), number)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.text(value, || value.to_string())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        if matches!(self.kind, Kind::Any | Kind::Shape(Shape::String | Shape::IntOrString)) {
            return Ok(Value::String(value));
        }
        self.visit_str(&value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        match self.kind {
            Kind::Any | Kind::Shape(Shape::RawExtension) => self.list(None, seq),
            Kind::Shape(Shape::List(list)) => {
                let go = inside(self.go);
                self.list(Some((&list.item, go)), seq)
            }
            Kind::Shape(Shape::Special(special)) => match (special, self.walk.schema.props) {
                (Special::JsonSchemaPropsOrArray, Some(props)) => {
                    // The item shape has to outlive the walk; the table holds one in `JSONSchemaProps.allOf`.
                    let ty = self.walk.schema.get(props);
                    match ty.field("allOf").map(|f| &f.shape) {
                        Some(Shape::List(list)) => self.quietly(|s| s.list(Some((&list.item, "")), seq)),
                        _ => self.list(None, seq),
                    }
                }
                (Special::JsonSchemaPropsOrStringArray, _) => self.list(Some((&Shape::String, "")), seq),
                _ => Err(self.walk.fail("boolean or JSON schema expected".into())),
            },
            _ if self.custom() => self.list(None, seq),
            Kind::Shape(Shape::Quantity) => self.quantity("["),
            _ => Err(self.mismatch("array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.kind {
            Kind::Any | Kind::Shape(Shape::RawExtension) => self.map(None, map),
            Kind::Root(id) | Kind::Shape(&Shape::Struct(id)) => self.structure(id, map),
            Kind::Shape(Shape::Map(inner)) => {
                let go = inside(self.go);
                self.map(Some((&inner.value, go)), map)
            }
            Kind::Shape(Shape::Special(_)) => match self.walk.schema.props {
                Some(props) => self.quietly(|s| s.structure(props, map)),
                None => self.map(None, map),
            },
            _ if self.custom() => self.map(None, map),
            Kind::Shape(Shape::Quantity) => self.quantity("{"),
            _ => Err(self.mismatch("object")),
        }
    }
}

impl<'w, 's> Seed<'w, 's> {
    /// Upstream unmarshals some types on their own, without the strict decoder.
    fn quietly<T>(self, read: impl for<'v> FnOnce(Seed<'v, 's>) -> T) -> T {
        let collect = std::mem::replace(&mut self.walk.collect, false);
        let Seed { walk, kind, owner, go } = self;
        let read = read(Seed { walk: &mut *walk, kind, owner, go });
        walk.collect = collect;
        read
    }
}

#[cfg(test)]
mod tests;
