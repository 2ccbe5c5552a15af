//! Events, stored in their core form for both groups.

use crate::kind::Kind;
use crate::support::{at, text};
use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::Value;

pub(super) const KIND: Kind = Kind::namespaced("", "Event").validate(validate).select(select);

fn validate(object: &Value, errors: &mut FieldErrors) {
    let namespace = text(at(object, "involvedObject"), "namespace");
    let own = meta::namespace(object);
    let path = Path::new("involvedObject.namespace");
    if namespace.is_empty() {
        // Events on cluster objects live in the default namespace or in kube-system.
        if !matches!(own, "default" | "kube-system" | "") {
            errors.invalid(&path, namespace, "does not match event.namespace");
        }
    } else if namespace != own {
        errors.invalid(&path, namespace, "does not match event.namespace");
    }
    // Events of the newer group carry a time in micros and say who reports.
    if text(object, "eventTime").is_empty() {
        return;
    }
    let controller = text(object, "reportingComponent");
    if controller.is_empty() {
        errors.required(&Path::new("reportingController"), "");
    } else {
        errors.invalid_each(&Path::new("reportingController"), controller, names::qualified_name(controller));
    }
    let instance = text(object, "reportingInstance");
    if instance.is_empty() {
        errors.required(&Path::new("reportingInstance"), "");
    } else if instance.len() > 128 {
        errors.invalid(&Path::new("reportingInstance"), "", "can have at most 128 characters");
    }
    for (field, most) in [("action", 128), ("reason", 128)] {
        match text(object, field) {
            "" => errors.required(&Path::new(field), ""),
            long if long.len() > most => {
                errors.invalid(&Path::new(field), "", format!("can have at most {most} characters"));
            }
            _ => {}
        }
    }
    if text(object, "message").len() > 1024 {
        errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
    }
}

fn select(object: &Value) -> Vec<(&'static str, String)> {
    let about = at(object, "involvedObject");
    let source = match text(at(object, "source"), "component") {
        "" => text(object, "reportingComponent"),
        component => component,
    };
    let of = |name: &str| text(about, name).to_string();
    vec![
        ("involvedObject.kind", of("kind")),
        ("involvedObject.namespace", of("namespace")),
        ("involvedObject.name", of("name")),
        ("involvedObject.uid", of("uid")),
        ("involvedObject.apiVersion", of("apiVersion")),
        ("involvedObject.resourceVersion", of("resourceVersion")),
        ("involvedObject.fieldPath", of("fieldPath")),
        // The newer group's names for the same.
        ("regarding.kind", of("kind")),
        ("regarding.namespace", of("namespace")),
        ("regarding.name", of("name")),
        ("regarding.uid", of("uid")),
        ("regarding.apiVersion", of("apiVersion")),
        ("regarding.resourceVersion", of("resourceVersion")),
        ("regarding.fieldPath", of("fieldPath")),
        ("reason", text(object, "reason").into()),
        ("reportingComponent", text(object, "reportingComponent").into()),
        ("reportingController", text(object, "reportingComponent").into()),
        ("source", source.into()),
        ("type", text(object, "type").into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static EVENT: Kind = KIND;

    #[test]
    fn checks() {
        let event = |ns: &str| json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": ns}, "source": {"component": "k"}});
        assert!((&EVENT).validate(&event("a")).is_empty());
        assert_eq!(
            (&EVENT).validate(&event("b")).0[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
        assert!((&EVENT).selectable_fields(&event("a")).contains(&("source", "k".to_string())));
    }
}
