//! Admission: mutate, then validate, one ordered chain of plugins under upstream's names.

use crate::authentication::UserInfo;
use crate::authorization::Authorizer;
use crate::reader::Reader;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What a plugin sees. Objects are in the request's version.
pub struct Request<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub old: Option<&'a Value>,
    /// Create/Update/Patch/DeleteOptions, as sent.
    pub options: &'a Value,
    pub user: &'a UserInfo,
    pub dry_run: bool,
}

/// A refusal: the HTTP code and message of the `Status` to answer with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn handles(&self, request: &Request<'_>) -> bool;
    async fn mutate(&self, _request: &Request<'_>, _object: &mut Value) -> Result<(), Denied> {
        Ok(())
    }
    /// `object` is `None` for deletes.
    async fn validate(&self, _request: &Request<'_>, _object: Option<&Value>) -> Result<(), Denied> {
        Ok(())
    }
}

/// Every plugin, in upstream's order.
pub fn plugins(_reader: &Arc<dyn Reader>, _authorizer: &Arc<dyn Authorizer>) -> Vec<Arc<dyn Plugin>> {
    Vec::new()
}
