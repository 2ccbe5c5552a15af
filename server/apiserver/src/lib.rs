//! The Kubernetes API server.
//!
//! Reading the modules in this order reads a request's way through it: `http`, `authentication`,
//! `authorization`, `resolve`, `registry` (decode, mutate, validate, manage fields, store), `cache`, `encode`.

pub mod admission;
pub mod authentication;
pub mod authorization;
pub mod cache;
pub mod kinds;
pub mod reader;
pub mod tokens;
