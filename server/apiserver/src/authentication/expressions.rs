//! The seam to CEL: what authentication and authorization configurations ask of it.
//!
//! A configuration with expressions is compiled once, when it is read; a server without a compiler refuses it then,
//! in one sentence, instead of treating a condition it cannot check as met.

use serde_json::Value;
use std::sync::Arc;

/// Which variable an expression sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `claims`: the token's claims, of any type.
    Claims,
    /// `user`: authentication.k8s.io/v1 UserInfo.
    User,
    /// `request`: the spec of an authorization.k8s.io/v1 SubjectAccessReview.
    Request,
}

/// What an expression must yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    Bool,
    Text,
    /// One string, a list of strings, or null.
    Texts,
}

/// A compiled expression.
pub trait Program: Send + Sync {
    /// With the scope's variable bound to `value`.
    fn evaluate(&self, value: &Value) -> Result<Value, String>;
}

pub trait Compiler: Send + Sync {
    fn compile(&self, expression: &str, scope: Scope, yields: Yields) -> Result<Arc<dyn Program>, String>;
}

/// Why a configuration with expressions is refused.
pub const NO_COMPILER: &str =
    "it holds CEL expressions, which this server cannot evaluate yet; use claims and plain values instead";
