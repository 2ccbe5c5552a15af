//! Replication controllers and pod templates.

use super::{pod_defaults, pod_spec};
use crate::kind::{Kind, Metadata};
use crate::support::{at, has, members, nonnegative, preset, with_spec};
use machinery::field::{FieldErrors, Path};
use machinery::labels::Selector;
use machinery::meta;
use serde_json::Value;

pub(super) const REPLICATION_CONTROLLER: Kind = Kind::namespaced("", "ReplicationController")
    .metadata(Metadata::Both)
    .status_counting(&["replicas"])
    .generation()
    .default(default)
    .validate(validate)
    .validate_update(|new, _, subresource, errors| {
        if subresource == "status" {
            crate::apps::replica_status(at(new, "status"), &Path::new("status"), errors);
        }
    })
    .select(|o| vec![("status.replicas", at(at(o, "status"), "replicas").as_i64().unwrap_or(0).to_string())]);

pub(super) const POD_TEMPLATE: Kind = Kind::namespaced("", "PodTemplate")
    .generation_by(&["template"])
    .default(pod_defaults::template)
    .validate(|o, errors| pod_spec::template(at(o, "template"), &Path::new("template"), errors));

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "replicas", 1);
        pod_defaults::template(spec);
    });
    let labels = at(at(at(at(object, "spec"), "template"), "metadata"), "labels").clone();
    if labels.as_object().is_none_or(|l| l.is_empty()) {
        return;
    }
    if members(at(object, "spec"), "selector").next().is_none() {
        object["spec"]["selector"] = labels.clone();
    }
    if meta::labels(object).is_none_or(|l| l.is_empty()) {
        meta::set(object, "labels", labels);
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let path = Path::new("spec");
    nonnegative(spec, "minReadySeconds", &path, errors);
    let selector = at(spec, "selector").as_object();
    if selector.is_none_or(|s| s.is_empty()) {
        errors.required(&path.child("selector"), "");
    }
    if !has(spec, "replicas") {
        errors.required(&path.child("replicas"), "");
    }
    nonnegative(spec, "replicas", &path, errors);
    let at_template = path.child("template");
    if !has(spec, "template") {
        errors.required(&at_template, "");
        return;
    }
    let template = at(spec, "template");
    pod_spec::selected(&Selector::from_map(selector), template, &at_template, errors);
    pod_spec::template(template, &at_template, errors);
    pod_spec::always_running(template, "ReplicationController", &at_template, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static CONTROLLER: Kind = REPLICATION_CONTROLLER;

    #[test]
    fn selector_comes_from_the_template() {
        let mut object = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"template":
            {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        (&CONTROLLER).default(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(object["spec"]["replicas"], 1);
        assert!((&CONTROLLER).validate(&object).is_empty(), "{:?}", (&CONTROLLER).validate(&object));
        object["spec"]["selector"] = json!({"a": "c"});
        assert_eq!(
            (&CONTROLLER).validate(&object).0[0].to_string(),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
        );
    }
}
