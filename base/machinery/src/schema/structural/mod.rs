//! A custom resource's OpenAPI v3 schema, compiled to the same model as the built-in kinds.
//!
//! [`check`] says whether a schema may be used, [`compile`] what objects of it may hold; [`validate`] checks an object's
//! values (types, bounds, patterns) against the schema as it was written. Pruning is decoding.

pub mod check;
mod compile;
mod formats;
mod validate;

use serde_json::Value;

pub use compile::compile;
pub use validate::{Validator, validator};

use super::model::{Schema, TypeId};
use crate::codec::{Strictness, decode_value};

/// The value without what its schema does not know; `Err` only where metadata is not metadata.
pub fn prune(schema: &Schema, root: TypeId, value: Value) -> Result<Value, crate::codec::DecodeError> {
    decode_value(value, schema, root, Strictness::Ignore).map(|decoded| decoded.value)
}

#[cfg(test)]
mod tests;
