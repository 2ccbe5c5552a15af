//! JSON, YAML and protobuf in and out, checked against a [`Schema`](crate::schema::Schema).
//!
//! Decoding yields what upstream would hold after reading the same bytes into its Go types and writing them out
//! again: unknown fields are dropped (and reported), explicit nulls of built-in kinds mean "absent", quantities and
//! times are canonical, zero values of `omitempty` fields are gone and those of the others are there.

pub mod json;
pub mod protobuf;
mod scalar;
pub mod yaml;
mod zero;

pub use json::{decode, decode_changed, decode_value};
pub use scalar::duration as parse_duration;
pub use zero::zero;

use serde_json::Value;

/// What to do with unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strictness {
    /// Drop them silently.
    Ignore,
    /// Drop and report them in [`Decoded::strict_errors`].
    #[default]
    Warn,
    /// As `Warn`; the caller refuses the request when any was reported.
    Strict,
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// In upstream's words, as `unknown field "spec.foo"`, in the order of the input, at most a hundred.
    pub strict_errors: Vec<String>,
}

/// The bytes are not an object of that kind; the text is upstream's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, YAML or protobuf.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type or format.
    #[error("{0}")]
    Type(String),
}
