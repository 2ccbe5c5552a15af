//! What a kind adds to the generic registry: defaults, strategy, validation. One small module per API group,
//! registered in [`strategy`]; never a handler of its own.

use machinery::field::FieldErrors;
use serde_json::Value;

/// Upstream's `RESTCreateStrategy`/`RESTUpdateStrategy`, reduced to what differs between kinds. All methods work
/// on objects of the version they were registered for; `subresource` is empty for the main resource.
pub trait Strategy: Send + Sync {
    /// Defaults that are code upstream (`SetDefaults_*`); static `+default=` ones are applied from the schema
    /// before this runs.
    fn default(&self, _object: &mut Value) {}
    /// Clears what a client may not set on create (status, server-owned fields). `metadata` is done generically.
    fn prepare_for_create(&self, _object: &mut Value) {}
    /// Carries over what this (sub)resource may not change, and bumps `metadata.generation` when the spec did.
    fn prepare_for_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}
    fn validate(&self, _object: &Value) -> FieldErrors {
        FieldErrors::default()
    }
    fn validate_update(&self, _object: &Value, _old: &Value, _subresource: &str) -> FieldErrors {
        FieldErrors::default()
    }
    /// Warnings sent as `Warning: 299` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// Field-selector values beyond `metadata.name` and `metadata.namespace`, as `("spec.nodeName", value)`.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// Upstream's graceful deletion: seconds of grace to give, or `None` to delete at once.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
}

struct Unlisted;
impl Strategy for Unlisted {}

pub fn strategy(_group: &str, _version: &str, _kind: &str) -> std::sync::Arc<dyn Strategy> {
    std::sync::Arc::new(Unlisted)
}

pub fn validates_metadata(_group: &str, _kind: &str) -> bool {
    false
}
