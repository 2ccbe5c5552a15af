//! Protobuf to values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{Token, Tokens};
use super::{MAGIC, ProtobufError};
use crate::codec::scalar::{self, Moment};
use crate::codec::zero::{fill, settle, zero};
use crate::schema::{Field, Schema, Shape, Special, TypeDef, TypeId};

const DEPTH: usize = 128;

/// `runtime.Unknown`, opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The object's message.
    pub message: &'a [u8],
    /// `application/json` where the message is JSON after all; usually empty.
    pub content_type: &'a str,
}

/// Opens the `k8s\0` envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let mut envelope = Envelope::default();
    let mut tokens = Tokens(body);
    while let Some((number, token)) = tokens.next()? {
        match number {
            1 => {
                let mut inner = Tokens(token.slice());
                while let Some((number, token)) = inner.next()? {
                    match number {
                        1 => envelope.api_version = text(token.slice()),
                        2 => envelope.kind = text(token.slice()),
                        _ => {}
                    }
                }
            }
            2 => envelope.message = token.slice(),
            4 => envelope.content_type = text(token.slice()),
            _ => {}
        }
    }
    Ok(envelope)
}

/// An object in its envelope; apiVersion and kind come from the envelope.
pub fn decode(bytes: &[u8], schema: &Schema, root: TypeId) -> Result<Value, ProtobufError> {
    let envelope = open(bytes)?;
    let mut value = decode_message(envelope.message, schema, root)?;
    if let Value::Object(object) = &mut value {
        for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
            if !text.is_empty() {
                object.insert(key.into(), text.into());
            }
        }
    }
    Ok(value)
}

/// A message alone. Numbers the schema does not know are skipped.
pub fn decode_message(bytes: &[u8], schema: &Schema, root: TypeId) -> Result<Value, ProtobufError> {
    let ty = schema.get(root);
    if !ty.proto {
        return Err(ProtobufError::NoForm(ty.name.clone()));
    }
    Reader { schema }.structure(ty, bytes, 0)
}

struct Reader<'s> {
    schema: &'s Schema,
}

impl Reader<'_> {
    fn structure(&self, ty: &TypeDef, bytes: &[u8], level: usize) -> Result<Value, ProtobufError> {
        if level > DEPTH {
            return Err(ProtobufError::TooDeep);
        }
        let mut found = Map::new();
        self.fields(ty, &ty.wire, 0, bytes, &mut found, level)?;
        let mut out = Map::new();
        for (name, value) in found {
            if let Some(field) = ty.field(&name)
                && let Some(value) = settle(self.schema, field, value)
            {
                out.insert(name, value);
            }
        }
        fill(self.schema, ty, &mut out);
        Ok(Value::Object(out))
    }

    fn fields(
        &self,
        ty: &TypeDef,
        wire: &[u32],
        depth: usize,
        bytes: &[u8],
        out: &mut Map<String, Value>,
        level: usize,
    ) -> Result<(), ProtobufError> {
        let mut tokens = Tokens(bytes);
        while let Some((number, token)) = tokens.next()? {
            let at = |i: &u32| ty.fields[*i as usize].number(depth).0;
            let start = wire.partition_point(|i| at(i) < number);
            let end = wire.partition_point(|i| at(i) <= number);
            let Some(first) = wire[start..end].first() else { continue };
            let field = &ty.fields[*first as usize];
            if field.number(depth).1 {
                self.field(field, token, out, level)?;
            } else {
                self.fields(ty, &wire[start..end], depth + 1, token.slice(), out, level)?;
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        token: Token,
        out: &mut Map<String, Value>,
        level: usize,
    ) -> Result<(), ProtobufError> {
        match &field.shape {
            Shape::List(list) if field.wrapped => {
                let items = self.wrapped(&list.item, token.slice(), level)?;
                out.insert(field.name.clone(), items);
            }
            Shape::List(list) => {
                let item = self.value(&list.item, token, level)?;
                let slot = out.entry(field.name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = slot {
                    items.push(item);
                }
            }
            Shape::Map(map) => {
                let (mut key, mut value) = (String::new(), None);
                let mut entry = Tokens(token.slice());
                while let Some((number, token)) = entry.next()? {
                    match number {
                        1 => key = String::from_utf8_lossy(token.slice()).into_owned(),
                        2 => {
                            value = Some(match &map.value {
                                Shape::List(list) => self.wrapped(&list.item, token.slice(), level)?,
                                shape => self.value(shape, token, level)?,
                            });
                        }
                        _ => {}
                    }
                }
                let value = value.unwrap_or_else(|| zero(self.schema, &map.value));
                let slot = out.entry(field.name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(values) = slot {
                    values.insert(key, value);
                }
            }
            shape => {
                let value = self.value(shape, token, level)?;
                out.insert(field.name.clone(), value);
            }
        }
        Ok(())
    }

    fn wrapped(&self, item: &Shape, bytes: &[u8], level: usize) -> Result<Value, ProtobufError> {
        let mut items = Vec::new();
        let mut tokens = Tokens(bytes);
        while let Some((number, token)) = tokens.next()? {
            if number == 1 {
                items.push(self.value(item, token, level)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn value(&self, shape: &Shape, token: Token, level: usize) -> Result<Value, ProtobufError> {
        let text = |bytes: &[u8]| Value::String(String::from_utf8_lossy(bytes).into_owned());
        Ok(match shape {
            Shape::Bool => Value::Bool(token.int() != 0),
            Shape::Int32 => Value::from(token.int() as i32),
            Shape::Int64 => Value::from(token.int() as i64),
            Shape::Double => match token {
                Token::Fixed64(bytes) => {
                    let double = f64::from_le_bytes(bytes);
                    let whole = double.fract() == 0.0 && double.abs() < 9e15;
                    if whole { Value::from(double as i64) } else { Value::from(double) }
                }
                _ => Value::from(0),
            },
            Shape::String => text(token.slice()),
            Shape::Bytes => Value::String(STANDARD.encode(token.slice())),
            Shape::Quantity => match field_of(token.slice(), 1)? {
                Some(token) => {
                    let spelt = String::from_utf8_lossy(token.slice()).into_owned();
                    let reason = |reason| ProtobufError::Value { path: "quantity".into(), reason };
                    Value::String(scalar::quantity(&spelt).map_err(reason)?)
                }
                None => Value::from("0"),
            },
            Shape::Time | Shape::MicroTime => {
                if token.slice().is_empty() {
                    return Ok(Value::Null);
                }
                let seconds = field_of(token.slice(), 1)?.map_or(0, |t| t.int() as i64);
                let nanos = field_of(token.slice(), 2)?.map_or(0, |t| t.int() as u32) % 1_000_000_000;
                let seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
                let time = Moment { seconds, nanos };
                Value::String(if *shape == Shape::Time { time.seconds_text() } else { time.micros_text() })
            }
            Shape::Duration => {
                let nanos = field_of(token.slice(), 1)?.map_or(0, |t| t.int() as i64);
                Value::String(scalar::duration_text(nanos))
            }
            Shape::IntOrString => {
                if field_of(token.slice(), 1)?.map_or(0, |t| t.int()) == 1 {
                    field_of(token.slice(), 3)?.map_or_else(|| Value::from(""), |t| text(t.slice()))
                } else {
                    Value::from(field_of(token.slice(), 2)?.map_or(0, |t| t.int() as i32))
                }
            }
            Shape::RawExtension | Shape::Any => match field_of(token.slice(), 1)? {
                Some(raw) if !raw.slice().is_empty() => serde_json::from_slice(raw.slice())
                    .map_err(|e| ProtobufError::Value { path: "raw".into(), reason: e.to_string() })?,
                _ => Value::Null,
            },
            Shape::Special(special) => self.special(*special, token.slice(), level)?,
            Shape::Struct(id) => self.structure(self.schema.get(*id), token.slice(), level + 1)?,
            Shape::List(_) | Shape::Map(_) => Value::Null,
        })
    }

    fn special(&self, special: Special, bytes: &[u8], level: usize) -> Result<Value, ProtobufError> {
        let props = self.schema.props.ok_or_else(|| ProtobufError::NoForm("JSONSchemaProps".into()))?;
        let ty = self.schema.get(props);
        let or_bool = special == Special::JsonSchemaPropsOrBool;
        let (mut allows, mut schema, mut items) = (false, None, Vec::new());
        let mut tokens = Tokens(bytes);
        while let Some((number, token)) = tokens.next()? {
            match number {
                1 if or_bool => allows = token.int() != 0,
                1 => schema = Some(self.structure(ty, token.slice(), level + 1)?),
                2 if or_bool => schema = Some(self.structure(ty, token.slice(), level + 1)?),
                2 if special == Special::JsonSchemaPropsOrArray => {
                    items.push(self.structure(ty, token.slice(), level + 1)?);
                }
                2 => items.push(Value::String(String::from_utf8_lossy(token.slice()).into_owned())),
                _ => {}
            }
        }
        Ok(match schema {
            _ if !items.is_empty() => Value::Array(items),
            Some(schema) => schema,
            None if or_bool => Value::Bool(allows),
            None => Value::Null,
        })
    }
}

/// The last field of that number in a small message.
fn field_of(bytes: &[u8], number: u32) -> Result<Option<Token<'_>>, ProtobufError> {
    let mut tokens = Tokens(bytes);
    let mut found = None;
    while let Some((at, token)) = tokens.next()? {
        if at == number {
            found = Some(token);
        }
    }
    Ok(found)
}
