//! The request, as admission expressions see it.

use super::super::{Form, Request};
use serde_json::{Value, json};

/// `request`: an AdmissionRequest without its objects, about an object of that form.
pub(in super::super) fn request(r: &Request<'_>, object: Option<&Value>, form: &Form) -> Value {
    let mut out = json!({
        "kind": form.kind.to_json(), "resource": form.resource_json(), "requestKind": r.sent_kind(object).to_json(),
        "requestResource": {"group": r.group, "version": r.version, "resource": r.resource},
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
