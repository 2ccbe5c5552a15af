//! Values to protobuf.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{Back, FIXED64};
use super::{MAGIC, ProtobufError};
use crate::codec::scalar;
use crate::schema::{Field, Schema, Shape, Special, TypeDef, TypeId, builtin};

/// An object in its envelope; apiVersion and kind are the value's own.
pub fn encode(value: &Value, schema: &Schema, root: TypeId) -> Result<Vec<u8>, ProtobufError> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    Ok(envelope(text("apiVersion"), text("kind"), &encode_message(value, schema, root)?))
}

/// An object's message alone, as it stands inside a list or an envelope.
pub fn encode_message(value: &Value, schema: &Schema, root: TypeId) -> Result<Vec<u8>, ProtobufError> {
    let ty = schema.get(root);
    if !ty.proto {
        return Err(ProtobufError::NoForm(ty.name.clone()));
    }
    let mut writer = Writer { schema, out: Back::default(), path: Vec::new() };
    writer.structure(ty, value)?;
    Ok(writer.out.finish())
}

/// `runtime.Unknown` around a message, with the magic before it.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut head = Back::default();
    head.bytes(2, kind.as_bytes());
    head.bytes(1, api_version.as_bytes());
    let head = head.finish();
    let mut tail = Back::default();
    tail.bytes(4, b"");
    tail.bytes(3, b"");
    let tail = tail.finish();
    let mut lengths = Back::default();
    lengths.varint(message.len() as u64);
    lengths.tag(2, 2);
    lengths.bytes(1, &head);
    let before = lengths.finish();
    let mut out = Vec::with_capacity(4 + before.len() + message.len() + tail.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&before);
    out.extend_from_slice(message);
    out.extend_from_slice(&tail);
    out
}

/// A list (`metadata=1`, `items=2`) around item messages, in its envelope. `metadata` is a `ListMeta`.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtobufError> {
    let table = builtin();
    let meta = table.by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    let meta = meta.ok_or_else(|| ProtobufError::NoForm("ListMeta".into()))?;
    let mut head = Back::default();
    head.bytes(1, &encode_message(metadata, &table.schema, meta)?);
    let mut message = head.finish();
    for item in items {
        let mut lengths = Back::default();
        lengths.varint(item.len() as u64);
        lengths.tag(2, 2);
        message.extend_from_slice(&lengths.finish());
        message.extend_from_slice(item);
    }
    Ok(envelope(api_version, kind, &message))
}

/// A `metav1.WatchEvent` message: `object` is an object in its envelope.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Back::default();
    let mark = out.len();
    out.bytes(1, object);
    out.close(mark, 2);
    out.bytes(1, kind.as_bytes());
    out.finish()
}

/// One message of a stream: four bytes of length, big endian, then the message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + message.len());
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

struct Writer<'s> {
    schema: &'s Schema,
    out: Back,
    path: Vec<&'s str>,
}

impl<'s> Writer<'s> {
    fn wrong(&self, reason: impl Into<String>) -> ProtobufError {
        ProtobufError::Value { path: self.path.join("."), reason: reason.into() }
    }

    fn structure(&mut self, ty: &'s TypeDef, value: &Value) -> Result<(), ProtobufError> {
        match value {
            Value::Object(object) => self.fields(ty, &ty.wire, 0, object),
            Value::Null => self.fields(ty, &ty.wire, 0, &Map::new()),
            _ => Err(self.wrong("expected an object")),
        }
    }

    /// Fields of one message, last first; `wire` holds those that lie `depth` embedded messages deep.
    fn fields(
        &mut self,
        ty: &'s TypeDef,
        mut wire: &'s [u32],
        depth: usize,
        object: &Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        while let Some((last, rest)) = wire.split_last() {
            let field = &ty.fields[*last as usize];
            let (number, leaf) = field.number(depth);
            if leaf {
                self.path.push(&field.name);
                self.field(field, object.get(&field.name).unwrap_or(&Value::Null))?;
                self.path.pop();
                wire = rest;
                continue;
            }
            let start = wire.partition_point(|i| ty.fields[*i as usize].number(depth).0 < number);
            let (before, inside) = wire.split_at(start);
            let mark = self.out.len();
            self.fields(ty, inside, depth + 1, object)?;
            self.out.close(mark, number);
            wire = before;
        }
        Ok(())
    }

    fn field(&mut self, field: &'s Field, value: &Value) -> Result<(), ProtobufError> {
        if value.is_null() && field.pointer {
            return Ok(());
        }
        match (&field.shape, value) {
            (Shape::List(list), _) if field.wrapped => {
                if value.is_null() {
                    return Ok(());
                }
                let mark = self.out.len();
                self.items(&list.item, 1, value)?;
                self.out.close(mark, field.proto);
                Ok(())
            }
            (Shape::List(list), _) => self.items(&list.item, field.proto, value),
            (Shape::Map(_), Value::Null) => Ok(()),
            (Shape::Map(map), Value::Object(object)) => {
                let mut keys: Vec<&String> = object.keys().collect();
                keys.sort_unstable();
                for key in keys.into_iter().rev() {
                    let mark = self.out.len();
                    if field.wrapped
                        && let Shape::List(list) = &map.value
                    {
                        let inner = self.out.len();
                        self.items(&list.item, 1, &object[key])?;
                        self.out.close(inner, 2);
                    } else {
                        self.value(&map.value, 2, &object[key])?;
                    }
                    self.out.bytes(1, key.as_bytes());
                    self.out.close(mark, field.proto);
                }
                Ok(())
            }
            (Shape::Map(_), _) => Err(self.wrong("expected an object")),
            (shape, value) => self.value(shape, field.proto, value),
        }
    }

    fn items(&mut self, item: &'s Shape, number: u32, value: &Value) -> Result<(), ProtobufError> {
        match value {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter().rev().try_for_each(|one| self.value(item, number, one)),
            _ => Err(self.wrong("expected an array")),
        }
    }

    /// One value with its tag; null writes Go's zero value.
    fn value(&mut self, shape: &'s Shape, number: u32, value: &Value) -> Result<(), ProtobufError> {
        let text = || match value {
            Value::Null => Ok(""),
            Value::String(text) => Ok(text.as_str()),
            _ => Err(()),
        };
        let mark = self.out.len();
        match shape {
            Shape::Bool => {
                let on = if value.is_null() { Some(false) } else { value.as_bool() };
                self.out.number(number, u64::from(on.ok_or_else(|| self.wrong("expected a boolean"))?));
                return Ok(());
            }
            Shape::Int32 | Shape::Int64 => {
                let int = if value.is_null() { Some(0) } else { value.as_i64() };
                self.out.number(number, int.ok_or_else(|| self.wrong("expected an integer"))? as u64);
                return Ok(());
            }
            Shape::Double => {
                let double = if value.is_null() { Some(0.0) } else { value.as_f64() };
                self.out.raw(&double.ok_or_else(|| self.wrong("expected a number"))?.to_le_bytes());
                self.out.tag(number, FIXED64);
                return Ok(());
            }
            Shape::String => {
                self.out.raw(text().map_err(|()| self.wrong("expected a string"))?.as_bytes());
            }
            Shape::Bytes => {
                if value.is_null() {
                    return Ok(());
                }
                let text = text().map_err(|()| self.wrong("expected base64"))?;
                let bytes = STANDARD.decode(text).map_err(|e| self.wrong(e.to_string()))?;
                self.out.raw(&bytes);
            }
            Shape::Quantity => match value {
                Value::Number(n) => self.out.bytes(1, n.to_string().as_bytes()),
                Value::Null => self.out.bytes(1, b"0"),
                _ => {
                    let text = text().map_err(|()| self.wrong("expected a quantity"))?;
                    self.out.bytes(1, text.as_bytes());
                }
            },
            Shape::Time | Shape::MicroTime if value.is_null() => {}
            Shape::Time | Shape::MicroTime => {
                let text = text().map_err(|()| self.wrong("expected a time"))?;
                let time = scalar::moment(text, *shape == Shape::MicroTime).map_err(|e| self.wrong(e))?;
                if !time.is_zero() {
                    let nanos = if *shape == Shape::MicroTime { time.nanos } else { 0 };
                    self.out.number(2, u64::from(nanos));
                    self.out.number(1, time.seconds as u64);
                }
            }
            Shape::Duration => {
                let text = text().map_err(|()| self.wrong("expected a duration"))?;
                let nanos = if text.is_empty() { Ok(0) } else { scalar::duration(text) };
                self.out.number(1, nanos.map_err(|e| self.wrong(e))? as u64);
            }
            Shape::IntOrString => {
                let (kind, int, text) = match value {
                    Value::String(text) => (1, 0, text.as_str()),
                    other => (0, other.as_i64().unwrap_or(0), ""),
                };
                self.out.bytes(3, text.as_bytes());
                self.out.number(2, int as u64);
                self.out.number(1, kind);
            }
            Shape::RawExtension | Shape::Any => {
                if !value.is_null() {
                    let raw = serde_json::to_vec(value).map_err(|e| self.wrong(e.to_string()))?;
                    self.out.bytes(1, &raw);
                }
            }
            Shape::Special(special) => self.special(*special, value)?,
            Shape::Struct(id) => self.structure(self.schema.get(*id), value)?,
            Shape::List(_) | Shape::Map(_) => return Err(self.wrong("lists of lists have no protobuf form")),
        }
        self.out.close(mark, number);
        Ok(())
    }

    fn special(&mut self, special: Special, value: &Value) -> Result<(), ProtobufError> {
        let props = self.schema.props.ok_or_else(|| ProtobufError::NoForm("JSONSchemaProps".into()))?;
        let ty = self.schema.get(props);
        let schema_number = if special == Special::JsonSchemaPropsOrBool { 2 } else { 1 };
        match value {
            Value::Object(_) => {
                let mark = self.out.len();
                self.structure(ty, value)?;
                self.out.close(mark, schema_number);
            }
            Value::Array(items) => {
                for item in items.iter().rev() {
                    let mark = self.out.len();
                    match item {
                        Value::String(text) => self.out.raw(text.as_bytes()),
                        _ => self.structure(ty, item)?,
                    }
                    self.out.close(mark, 2);
                }
            }
            _ => {}
        }
        if special == Special::JsonSchemaPropsOrBool {
            self.out.number(1, u64::from(value.is_object() || value == &Value::Bool(true)));
        }
        Ok(())
    }
}
