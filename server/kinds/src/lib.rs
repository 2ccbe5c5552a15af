//! What a kind adds to the generic registry: defaults, strategy, validation. One small module per API group,
//! registered in [`strategy`]; never a handler of its own.
//!
//! A kind is a row ([`Kind`]): who it is, how it is named, and a handful of functions. Rows validate the
//! whole object, metadata included. [`rules`] and [`expressions`] are the CEL that objects carry: what they must
//! satisfy to be stored, and the compiled form that the server evaluates.
//!
//! Pure functions over `serde_json::Value`: nothing here knows a request, a store or a cache.

mod admissionregistration;
mod apiextensions;
pub mod approval;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod definitions;
mod discovery;
pub mod expressions;
mod flowcontrol;
mod kind;
mod networking;
mod policy;
mod rbac;
mod resource;
pub mod rules;
mod runtimeclass;
mod scheduling;
mod storage;
mod support;
pub mod user;

pub use kind::Kind;

use crate::user::UserInfo;
use machinery::field::FieldErrors;
use serde_json::Value;
use std::sync::Arc;

/// Upstream's `RESTCreateStrategy`/`RESTUpdateStrategy`, reduced to what differs between kinds. All methods work
/// on objects of the version they were registered for; `subresource` is empty for the main resource.
pub trait Strategy: Send + Sync {
    /// Defaults that are code upstream (`SetDefaults_*`); static `+default=` ones are applied from the schema
    /// before this runs.
    fn default(&self, _object: &mut Value) {}
    /// Clears what a client may not set on create (status, server-owned fields). `metadata` is done generically.
    fn prepare_for_create(&self, _object: &mut Value) {}
    /// Writes the creator into an object that names its creator; runs after [`prepare_for_create`](Self::prepare_for_create).
    fn attribute(&self, _object: &mut Value, _user: &UserInfo) {}
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
    /// Field-selector values beyond `metadata.name` and `metadata.namespace`, as `("spec.nodeName", value)`. The
    /// names are the same for every object, `Value::Null` included.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// Upstream's graceful deletion: seconds of grace to give, or `None` to delete at once.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
}

/// What is wrong with a Service's cluster addresses and families: told before any is allocated, and alone.
pub fn service_addresses(spec: &Value) -> FieldErrors {
    let mut errors = FieldErrors::new();
    core::cluster_addresses(spec, &mut errors);
    errors
}

/// The tables of all groups.
fn tables() -> [&'static [Kind]; 17] {
    [
        core::KINDS,
        coordination::KINDS,
        runtimeclass::KINDS,
        apps::KINDS,
        batch::KINDS,
        autoscaling::KINDS,
        policy::KINDS,
        networking::KINDS,
        discovery::KINDS,
        storage::KINDS,
        rbac::KINDS,
        scheduling::KINDS,
        certificates::KINDS,
        apiextensions::KINDS,
        admissionregistration::KINDS,
        flowcontrol::KINDS,
        resource::KINDS,
    ]
}

/// The row of a built-in kind, whatever its version: rows are written for the storage version.
pub fn find(group: &str, kind: &str) -> Option<&'static Kind> {
    tables().into_iter().flatten().find(|k| k.group == group && k.kind == kind)
}

/// The strategy of a built-in kind in its storage version; kinds without a row get one that keeps status and
/// spec apart and counts generations.
pub fn strategy(group: &str, _version: &str, kind: &str) -> Arc<dyn Strategy> {
    match find(group, kind) {
        Some(row) => Arc::new(row),
        None => Arc::new(kind::Unlisted),
    }
}

/// Whether the kind's strategy validates `metadata` too; if not, the registry has to.
pub fn validates_metadata(group: &str, kind: &str) -> bool {
    find(group, kind).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unique_and_select_the_same_fields_of_nothing() {
        let mut seen = std::collections::BTreeSet::new();
        for row in tables().into_iter().flatten() {
            assert!(seen.insert((row.group, row.kind)), "{}/{} twice", row.group, row.kind);
            let names = |v: &Value| row.selectable_fields(v).iter().map(|(n, _)| *n).collect::<Vec<_>>();
            assert_eq!(names(&Value::Null), names(&serde_json::json!({"spec": {}, "status": {}})));
        }
    }

    #[test]
    fn nothing_panics_on_an_empty_object() {
        for row in tables().into_iter().flatten() {
            for object in
                [serde_json::json!({}), serde_json::json!({"metadata": {}, "spec": {}, "status": {}})]
            {
                let mut object = object;
                row.default(&mut object);
                row.prepare_for_create(&mut object);
                let old = object.clone();
                row.validate(&object);
                for subresource in
                    ["", "status", "scale", "approval", "resize", "ephemeralcontainers", "finalize"]
                {
                    let mut new = object.clone();
                    row.prepare_for_update(&mut new, &old, subresource);
                    row.validate_update(&new, &old, subresource);
                }
                row.grace_period(&object, None);
                row.warnings(&object, None);
            }
        }
    }

    #[test]
    fn every_stored_builtin_kind_that_can_be_written_has_a_row() {
        for (group, kind) in
            [("", "Pod"), ("apps", "Deployment"), ("batch", "Job"), ("coordination.k8s.io", "Lease")]
        {
            assert!(find(group, kind).is_some(), "{group}/{kind}");
        }
        assert!(find("", "Nothing").is_none());
        assert!(strategy("", "v1", "Nothing").validate(&Value::Null).is_empty());
    }
}
