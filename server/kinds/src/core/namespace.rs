//! Namespaces.

use crate::kind::{Kind, carry};
use crate::support::{at, has, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::cluster("", "Namespace")
    .named(names::name_is_label)
    .status()
    .default(default)
    .on_create(create)
    .on_update(update)
    .validate(validate)
    .validate_update(validate_update)
    .select(|o| {
        vec![("status.phase", text(at(o, "status"), "phase").into()), ("name", meta::name(o).into())]
    });

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn default(object: &mut Value) {
    let name = meta::name(object).to_string();
    if !name.is_empty() {
        meta::set_label(object, NAME_LABEL, &name);
    }
}

fn create(object: &mut Value) {
    default(object);
    let mut finalizers: Vec<String> = texts(at(object, "spec"), "finalizers").map(String::from).collect();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    object["spec"] = json!({"finalizers": finalizers});
    object["status"] = json!({"phase": "Active"});
}

fn update(object: &mut Value, old: &Value, subresource: &str) {
    match subresource {
        "" => carry(object, old, "spec"),
        "finalize" => carry(object, old, "status"),
        _ => {}
    }
}

/// Every finalizer is a qualified name, and one without a domain is Kubernetes' own.
fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.finalizers");
    for finalizer in texts(at(object, "spec"), "finalizers") {
        errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, finalizer, detail);
        }
    }
}

fn validate_update(new: &Value, _old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let finalizers = Path::new("spec.finalizers");
    for (i, finalizer) in texts(at(new, "spec"), "finalizers").enumerate() {
        errors.invalid_each(&finalizers.index(i), finalizer, names::qualified_name(finalizer));
    }
    if subresource != "status" {
        return;
    }
    let phase = text(at(new, "status"), "phase");
    let deleting = has(at(new, "metadata"), "deletionTimestamp");
    let path = Path::new("status.Phase");
    if !deleting && phase == "Terminating" {
        errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    } else if deleting && phase != "Terminating" {
        errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static NAMESPACE: Kind = KIND;

    #[test]
    fn life() {
        let mut object = json!({"metadata": {"name": "a"}});
        (&NAMESPACE).default(&mut object);
        (&NAMESPACE).prepare_for_create(&mut object);
        assert_eq!(object["metadata"]["labels"][NAME_LABEL], "a");
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(object["status"]["phase"], "Active");
        let mut new = object.clone();
        new["spec"]["finalizers"] = json!([]);
        (&NAMESPACE).prepare_for_update(&mut new, &object, "");
        assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
        new["spec"]["finalizers"] = json!([]);
        (&NAMESPACE).prepare_for_update(&mut new, &object, "finalize");
        assert_eq!(new["spec"]["finalizers"], json!([]));
        let bad = json!({"metadata": {"name": "a.b"}});
        assert_eq!(
            (&NAMESPACE).validate(&bad).0[0].to_string(),
            "metadata.name: Invalid value: \"a.b\": must not contain dots"
        );
    }
}
