//! Administrators' access to devices that are in use: who may ask for it is said by a label of the namespace.

use crate::ApiServer;
use crate::resolve::Resource;
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use serde_json::Value;

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The requests that ask for it, or the results that grant it, as a list within the object.
fn asking<'o>(kind: &str, subresource: &str, object: &'o Value) -> Option<(&'static str, &'o Value)> {
    let (shown, pointer) = match (kind, subresource) {
        ("ResourceClaim", "") => ("spec.devices.requests", "/spec/devices/requests"),
        // Upstream names it as in a claim.
        ("ResourceClaimTemplate", "") => ("spec.devices.requests", "/spec/spec/devices/requests"),
        ("ResourceClaim", "status") => {
            ("status.allocation.devices.results", "/status/allocation/devices/results")
        }
        _ => return None,
    };
    Some((shown, object.pointer(pointer)?))
}

fn first(list: &Value) -> Option<usize> {
    let admin =
        |r: &Value| r["adminAccess"] == Value::Bool(true) || r["exactly"]["adminAccess"] == Value::Bool(true);
    list.as_array()?.iter().position(admin)
}

impl ApiServer {
    /// Refuses what asks for such access in a namespace that does not allow it. Specifications do not change, so
    /// only new ones are looked at; what was granted stays.
    pub(super) fn admin_access(
        &self,
        resource: &Resource,
        subresource: &str,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if resource.custom.is_some()
            || resource.storage.0 != "resource.k8s.io"
            || (old.is_some() && subresource.is_empty())
        {
            return errors;
        }
        let find = |o| asking(&resource.kind, subresource, o).and_then(|(shown, l)| Some((shown, first(l)?)));
        let Some((shown, at)) = find(object).filter(|_| old.and_then(find).is_none()) else {
            return errors;
        };
        let (path, namespaces) = (Path::new(shown), self.index.load().find("", "v1", "namespaces").cloned());
        let found = namespaces.and_then(|n| n.cache.get("", namespace)).and_then(|entry| entry.object().ok());
        if found.is_none_or(|n| meta::label(&n, LABEL) != Some("true")) {
            let message = format!(
                "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
            );
            errors.forbidden(&path.index(at).child("adminAccess"), message);
        }
        errors
    }
}
