//! Errors of evaluation.

use std::borrow::Cow;
use std::fmt;

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalError {
    pub kind: ErrorKind,
    pub message: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// An error value: `&&`, `||` and `?:` may leave it unseen.
    Value,
    /// The cost limit was passed; ends the evaluation.
    Cost,
    /// The caller's deadline passed; ends the evaluation.
    Interrupted,
    /// The authorizer must be asked first; evaluate again once it has answered.
    Pending,
}

impl EvalError {
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ErrorKind::Value, message: message.into() }
    }

    pub fn no_overload() -> Self {
        Self::new("no such overload")
    }

    pub fn no_key(key: impl fmt::Display) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    pub fn cost() -> Self {
        Self { kind: ErrorKind::Cost, message: "operation cancelled: actual cost limit exceeded".into() }
    }

    pub fn interrupted() -> Self {
        Self { kind: ErrorKind::Interrupted, message: "operation interrupted".into() }
    }

    pub fn pending() -> Self {
        Self { kind: ErrorKind::Pending, message: "authorization is not decided yet".into() }
    }

    /// Not an error value: nothing may go on.
    pub fn is_final(&self) -> bool {
        self.kind != ErrorKind::Value
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}
