//! Custom resources.

use crate::ApiServer;
use crate::status::ApiError;
use machinery::field::FieldErrors;
use machinery::schema::{Schema, TypeId};
use serde_json::Value;

/// What a custom resource's definition says of one of its versions.
pub struct Custom {}

impl Custom {
    pub fn selects_by(&self, _field: &str) -> bool {
        false
    }

    pub fn published_schema(&self) -> Option<Value> {
        None
    }

    pub(crate) fn scale(&self) -> Option<crate::subresources::ScalePaths> {
        None
    }

    pub fn columns(&self) -> Vec<Value> {
        Vec::new()
    }

    pub fn cells(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }

    pub fn validate(&self, _object: &Value, _old: Option<&Value>) -> FieldErrors {
        FieldErrors::default()
    }

    pub fn prepare_for_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    pub fn storage_shape(&self) -> Option<(&Schema, TypeId)> {
        None
    }
}

pub(crate) async fn start(_server: &ApiServer) -> Result<(), ApiError> {
    Ok(())
}
