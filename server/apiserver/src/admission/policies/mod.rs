//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy (KEP-3488, KEP-3962): CEL expressions instead of webhooks.
//!
//! Policies and bindings are taken from the watch cache and compiled once a change ([`store`]). A request is matched
//! ([`matching`]), parameters are looked up ([`params`]), and the expressions run over the request
//! ([`expression`], [`environment`]). What an expression asks of the authorizer is answered between two runs
//! ([`asked`]). [`typecheck`] and [`status`] write what the checker makes of a policy into its status.

mod asked;
pub(crate) mod environment;
pub(crate) mod expression;
mod matching;
mod mutating;
mod params;
mod patch;
pub(crate) mod status;
mod store;
mod typecheck;
mod validating;

pub(super) use asked::Asked;
pub(super) use mutating::MutatingAdmissionPolicy;
pub(super) use validating::ValidatingAdmissionPolicy;

use super::{Denied, Request};
use crate::reader::{Reader, parse, text};
use crate::schemas;
use serde_json::Value;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// Policies never see the objects that make policies: nobody is to lock themselves out.
fn exempt(r: &Request<'_>) -> bool {
    r.group == GROUP
        && matches!(
            r.resource,
            "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

/// Reads a changed object as its kind: what that does not know falls away, and what it cannot hold is an error.
pub(super) fn decode(object: &mut Value) -> Result<(), String> {
    let (api_version, kind) = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    if let Some((schema, root)) = schemas::kind_shape(group, version, &kind) {
        use machinery::codec;
        let decoded = codec::decode_value(object.take(), schema, root, codec::Strictness::Ignore);
        *object = decoded.map_err(|e| e.to_string())?.value;
    }
    Ok(())
}

/// Gives what a mutation added its defaults, as upstream does after each.
pub(super) fn default(object: &mut Value) {
    let (api_version, kind) = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    if let Some(shape) = schemas::kind_shape(group, version, &kind) {
        schemas::default_shape(shape, object);
        schemas::strategy(group, version, &kind).default(object);
    }
}

/// The request's namespace as expressions see it: null for cluster-scoped objects and for namespaces themselves.
fn namespace(reader: &dyn Reader, r: &Request<'_>) -> Result<Value, Denied> {
    if r.namespace.is_empty() || (r.group.is_empty() && r.resource == "namespaces") {
        return Ok(Value::Null);
    }
    match reader.get("", "namespaces", "", r.namespace) {
        Some(entry) => Ok(parse(&entry)),
        None => Err(Denied::not_found("namespaces", r.namespace)),
    }
}

#[cfg(test)]
mod tests;
