//! The Kubernetes API machinery as pure functions: no I/O, no clock, no global state.
//!
//! * [`schema`]: the compiled description of every kind; data, not code.
//! * [`codec`]: JSON, YAML and protobuf in and out, checked against a schema.
//! * [`patch`]: JSON patch, merge patch, strategic merge patch.
//! * [`apply`]: server-side apply and field management.
//! * [`meta`], [`names`], [`labels`], [`fields`], [`quantity`]: the words everything else is said in.
//!
//! An object is a [`serde_json::Value`]; a schema says what it may hold.

pub mod apply;
pub mod codec;
pub mod field;
pub mod fields;
pub mod labels;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
