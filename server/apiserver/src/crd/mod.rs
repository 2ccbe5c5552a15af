//! Custom resources: definitions become [`Resource`]s like any other, with a schema and a strategy of their own.
//!
//! [`definition`] turns one version of a CustomResourceDefinition into a resource; [`controller`] follows the
//! definitions, accepts their names, and swaps the resource index.

mod columns;
pub(crate) mod conditions;
pub(crate) mod controller;
mod conversion;
mod definition;
mod embedded;
mod ending;
mod jsonpath;
mod versions;

pub use definition::Custom;
pub(crate) use definition::shape;
pub(crate) use versions::{Current, convert, current, prepare, read, to_storage, view};

use crate::ApiServer;
use crate::status::ApiError;

/// Serves what is already defined, and follows what will be.
pub(crate) async fn start(server: &ApiServer) -> Result<(), ApiError> {
    controller::start(server).await
}
