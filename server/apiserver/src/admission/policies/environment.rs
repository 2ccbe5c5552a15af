//! The request, as admission expressions see it.

use super::super::Request;
use crate::reader::text;
use serde_json::{Value, json};

/// `request`: an AdmissionRequest without its objects.
pub(in super::super) fn request(r: &Request<'_>, object: Option<&Value>) -> Value {
    let kind = object.or(r.old).map(|o| text(o, "/kind")).filter(|k| !k.is_empty()).unwrap_or(r.kind);
    let kind = json!({"group": r.group, "version": r.version, "kind": kind});
    let resource = json!({"group": r.group, "version": r.version, "resource": r.resource});
    let mut out = json!({
        "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
        "operation": r.operation.word(), "userInfo": r.user.to_json(), "dryRun": r.dry_run, "options": r.options,
    });
    for (key, value) in [
        ("subResource", r.subresource),
        ("requestSubResource", r.subresource),
        ("name", r.name),
        ("namespace", r.namespace),
    ] {
        if !value.is_empty() {
            out[key] = value.into();
        }
    }
    out
}
