//! Field paths and field errors, as upstream's `field.Path` and `field.ErrorList` word them.

use serde_json::Value;

/// The errors of one validation, in the order they were found.
#[derive(Clone, Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// As `spec.containers[0].name`.
    pub path: String,
    pub bad_value: Value,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}
