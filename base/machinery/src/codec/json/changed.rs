//! Decoding what a change made of an object that was decoded before: only what differs is walked.

use super::{Kind, Seed, Step, Walk};
use crate::codec::zero::{fill, settle, zero};
use crate::codec::{DecodeError, Decoded, Strictness};
use crate::schema::{Schema, Shape, TypeId};
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

/// [`decode_value`](super::decode_value) of `value`, given that `old` is the outcome of an earlier decoding as the
/// same type. For built-in types: what a custom object holds may have been stored under another schema.
pub fn decode_changed(
    value: Value,
    old: &Value,
    schema: &Schema,
    root: TypeId,
    mode: Strictness,
) -> Result<Decoded, DecodeError> {
    let (mut value, old) = match (value, old) {
        (Value::Object(value), Value::Object(old)) => (value, old),
        (value, _) => return super::decode_value(value, schema, root, mode),
    };
    let mut walk = Walk::new(schema, mode);
    match walk.changed(root, &mut value, old) {
        Ok(()) => Ok(walk.finish(root, Value::Object(value))),
        Err(error) => {
            Err(walk.fail.take().map_or_else(|| DecodeError::Syntax(error.to_string()), DecodeError::Type))
        }
    }
}

impl<'s> Walk<'s> {
    fn changed(
        &mut self,
        id: TypeId,
        new: &mut Map<String, Value>,
        old: &Map<String, Value>,
    ) -> serde_json::Result<()> {
        let schema = self.schema;
        let ty = schema.get(id);
        let differ = |(name, value): (&String, &Value)| (old.get(name) != Some(value)).then(|| name.clone());
        let names: Vec<String> = new.iter().filter_map(differ).collect();
        for name in names {
            let Some(value) = new.get_mut(&name).map(Value::take) else { continue };
            let Some(index) = ty.position(&name) else {
                new.remove(&name);
                let kind = match &ty.rest {
                    Some(shape) => Kind::of(shape),
                    None if ty.preserve_unknown => Kind::Any,
                    None => {
                        self.report("unknown", &name);
                        continue;
                    }
                };
                self.path.push(Step::Owned(name.clone()));
                let found = Seed { walk: &mut *self, kind, owner: ty, go: "" }.deserialize(value)?;
                self.path.pop();
                new.insert(name, found);
                continue;
            };
            let field = &ty.fields[index];
            self.path.push(Step::Key(field, ty));
            let value = match (&field.shape, value, old.get(&name)) {
                (Shape::Struct(below), Value::Object(mut value), Some(Value::Object(old))) => {
                    self.changed(*below, &mut value, old)?;
                    Value::Object(value)
                }
                (Shape::List(list), Value::Array(mut items), Some(Value::Array(old))) => {
                    for (at, item) in items.iter_mut().enumerate() {
                        if old.get(at) == Some(item) {
                            continue;
                        }
                        self.path.push(Step::Index(at));
                        let (kind, go) = (Kind::of(&list.item), super::inside(field.go));
                        *item = match (&list.item, item.take(), old.get(at)) {
                            (Shape::Struct(below), Value::Object(mut item), Some(Value::Object(old))) => {
                                self.changed(*below, &mut item, old)?;
                                Value::Object(item)
                            }
                            (_, item, _) => {
                                Seed { walk: &mut *self, kind, owner: ty, go }.deserialize(item)?
                            }
                        };
                        if item.is_null() {
                            *item = zero(schema, &list.item);
                        }
                        self.path.pop();
                    }
                    Value::Array(items)
                }
                (shape, value, _) => {
                    let seed = Seed { walk: &mut *self, kind: Kind::of(shape), owner: ty, go: field.go };
                    seed.deserialize(value)?
                }
            };
            self.path.pop();
            match settle(schema, field, value) {
                Some(value) => {
                    new.insert(name, value);
                }
                None => {
                    new.remove(&name);
                }
            }
        }
        fill(schema, ty, new);
        Ok(())
    }
}
