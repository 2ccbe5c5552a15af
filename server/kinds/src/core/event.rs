//! Events, stored in their core form for both groups.

use crate::kind::{Check, Kind, Metadata};
use crate::support::{at, has, immutable, immutable_text, int, same, text};
use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::Value;

/// Events of the core group: hardly checked, for old clients' sake.
pub(super) const KIND: Kind = Kind::namespaced("", "Event")
    .named(names::path_segment)
    .metadata(Metadata::Plain)
    .validate(|o, errors| any_event(o, "reportingComponent", errors))
    .select(select);

/// Events of the newer group, in their core form.
pub(super) const NEW: Kind = Kind::namespaced("events.k8s.io", "Event")
    .checks(&[Check::MetaChange, Check::Change])
    .validate(|o, errors| {
        any_event(o, "reportingController", errors);
        new_event(o, errors);
    })
    .validate_update(change)
    .select(select);

const MOST: &[(&str, usize)] =
    &[("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)];

/// What both groups ask for. The reporter's field has a name in each.
fn any_event(object: &Value, reporter: &str, errors: &mut FieldErrors) {
    let namespace = text(at(object, "involvedObject"), "namespace");
    let own = meta::namespace(object);
    let path = Path::new("involvedObject.namespace");
    let new = !text(object, "eventTime").is_empty();
    // Events on cluster objects live in the default namespace, newer ones in kube-system too.
    let placed = match (namespace, own) {
        ("", "default") => true,
        ("", "kube-system") => new,
        ("", own) => own.is_empty(),
        _ => new || namespace == own,
    };
    if !placed {
        errors.invalid(&path, namespace, "does not match event.namespace");
    }
    if !new {
        return;
    }
    let controller = text(object, "reportingComponent");
    if controller.is_empty() {
        errors.required(&Path::new(reporter), "");
    }
    errors.invalid_each(&Path::new(reporter), controller, names::qualified_name(controller));
    for (field, most) in MOST {
        let value = text(object, field);
        if value.is_empty() && *field != "message" {
            errors.required(&Path::new(field), "");
        }
        if value.len() > *most {
            errors.invalid(&Path::new(field), "", format!("can have at most {most} characters"));
        }
    }
}

fn new_event(object: &Value, errors: &mut FieldErrors) {
    series(object, errors);
    if text(object, "eventTime").is_empty() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(object, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    let source = at(object, "source");
    for (name, unset) in [
        ("firstTimestamp", !has(object, "firstTimestamp")),
        ("lastTimestamp", !has(object, "lastTimestamp")),
        ("count", int(object, "count").unwrap_or(0) == 0),
        ("source", text(source, "component").is_empty() && text(source, "host").is_empty()),
    ] {
        if !unset {
            errors.invalid(&Path::new(name), "", "needs to be unset");
        }
    }
}

fn series(object: &Value, errors: &mut FieldErrors) {
    let series = at(object, "series");
    if series.is_null() {
        return;
    }
    if int(series, "count").unwrap_or(0) < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if !has(series, "lastObservedTime") {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}

/// Of a newer event, its series changes and nothing else.
fn change(new: &Value, old: &Value, _: &str, errors: &mut FieldErrors) {
    any_event(new, "reportingController", errors);
    if !same(new.get("series"), old.get("series")) {
        series(new, errors);
    }
    for (name, shown, is_text) in [
        ("involvedObject", "involvedObject", false),
        ("reason", "reason", true),
        ("message", "message", true),
        ("source", "source", false),
        ("firstTimestamp", "firstTimestamp", false),
        ("lastTimestamp", "lastTimestamp", false),
        ("count", "count", false),
        ("reason", "reason", true),
        ("type", "type", true),
        ("eventTime", "eventTime", false),
        ("action", "action", true),
        ("related", "related", false),
        ("reportingComponent", "reportingController", true),
        ("reportingInstance", "reportingInstance", true),
    ] {
        let path = Path::new(shown);
        if is_text {
            immutable_text(text(new, name), text(old, name), &path, errors);
        } else if name == "count" {
            let count = |o: &Value| Value::from(int(o, name).unwrap_or(0));
            immutable(&count(new), &count(old), &path, errors);
        } else {
            immutable(at(new, name), at(old, name), &path, errors);
        }
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
