//! One served version of one definition.

use super::columns::Column;
use super::conversion::Webhook;
use super::embedded;
use super::jsonpath::JsonPath;
use super::versions::Versions;
use crate::aggregation::priorities;
use crate::cache::{Cache, GroupResource};
use crate::registry::meta;
use crate::resolve::{Resource, Subresource};
use crate::resources::verbs;
use crate::schemas::SchemaRef;
use crate::subresources::ScalePaths;
use kinds::Strategy;
use kinds::rules::{self, Rules};
use machinery::field::{ErrorKind, FieldError, FieldErrors, Path};
use machinery::schema::structural::{Validator, compile, validator};
use machinery::schema::{Schema, TypeId};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a definition says of one of its versions beyond what every resource has.
pub struct Custom {
    /// Name of the definition.
    pub definition: String,
    pub terminating: bool,
    pub(crate) versions: Arc<Versions>,
    version: String,
    /// What a client that uses this version is told.
    pub warning: Option<String>,
    validator: Option<Validator>,
    rules: Option<Rules>,
    published: Option<Value>,
    columns: Vec<Column>,
    scale: Option<ScalePaths>,
    selectable: Vec<(String, JsonPath)>,
}

/// The strategy of every custom kind: the split of status and the rest, and generations.
struct CustomStrategy {
    status: bool,
    /// The schema, where it has embedded resources.
    embedding: Option<Value>,
}

impl Strategy for CustomStrategy {
    fn validate(&self, object: &Value) -> FieldErrors {
        self.embedding.as_ref().map(|schema| embedded::validate(schema, object)).unwrap_or_default()
    }

    fn validate_update(&self, object: &Value, _old: &Value, _subresource: &str) -> FieldErrors {
        self.validate(object)
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if self.status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::set(object, "generation", 1);
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            // Only status, and the owners of it, may change.
            let status = object.get("status").cloned();
            let owners = object["metadata"]["managedFields"].clone();
            let version = object["metadata"]["resourceVersion"].clone();
            *object = old.clone();
            meta::set(object, "managedFields", owners);
            meta::set(object, "resourceVersion", version);
            if let Some(map) = object.as_object_mut() {
                match status {
                    Some(status) => map.insert("status".into(), status),
                    None => map.remove("status"),
                };
            }
            return;
        }
        if self.status
            && let Some(map) = object.as_object_mut()
        {
            match old.get("status") {
                Some(status) => map.insert("status".into(), status.clone()),
                None => map.remove("status"),
            };
        }
        let bare = |o: &Value| {
            let mut o = o.clone();
            if let Some(map) = o.as_object_mut() {
                map.remove("metadata");
                map.remove("apiVersion");
                if self.status {
                    map.remove("status");
                }
            }
            o
        };
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
        let changed = bare(object) != bare(old);
        meta::set(object, "generation", if changed { generation + 1 } else { generation });
    }
}

impl Custom {
    pub fn selects_by(&self, field: &str) -> bool {
        self.selectable.iter().any(|(name, _)| name == field)
    }

    /// A cached object in this version, if that is known without asking.
    pub(crate) fn object(&self, entry: &crate::cache::Entry) -> Option<Value> {
        let bytes = self.versions.view(&self.version, entry).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The value of a selectable field.
    pub fn field(&self, object: &Value, field: &str) -> Option<String> {
        let (_, path) = self.selectable.iter().find(|(name, _)| name == field)?;
        Some(match path.find(object).first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        })
    }

    /// Names of the selectable fields.
    pub fn selectable_fields(&self) -> Vec<String> {
        self.selectable.iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn published_schema(&self) -> Option<Value> {
        self.published.clone()
    }

    pub(crate) fn scale(&self) -> Option<ScalePaths> {
        self.scale.clone()
    }

    pub fn columns(&self) -> Vec<Value> {
        let name = json!({
            "name": "Name", "type": "string", "format": "name", "description": super::columns::name(), "priority": 0,
        });
        std::iter::once(name).chain(self.columns.iter().map(|c| c.definition.clone())).collect()
    }

    pub fn cells(&self, object: &Value) -> Vec<Value> {
        let mut out = vec![object["metadata"]["name"].clone()];
        out.extend(self.columns.iter().map(|c| c.cell(object)));
        out
    }

    /// Schema, then rules. `old` is what an update replaces: what it already got wrong is let through, and rules
    /// that would refuse it warn.
    pub fn validate(&self, object: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> FieldErrors {
        let mut errors = self.validator.as_ref().map(|v| v.validate(object)).unwrap_or_default();
        if let (Some(old), Some(schema), false) = (old, &self.published, errors.is_empty()) {
            errors = rules::unchanged(errors, schema, object, old);
        }
        let Some(rules) = &self.rules else { return errors };
        let blocking = |e: &FieldError| {
            use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if errors.0.iter().any(blocking) {
            errors.push(FieldError {
                kind: ErrorKind::Invalid,
                path: "<nil>".into(),
                bad_value: Value::Null,
                detail: "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation"
                    .into(),
            });
            return errors;
        }
        errors.extend(rules.validate(object, old, warnings));
        errors
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn compiled(version: &Value) -> Option<(SchemaRef, TypeId)> {
    shape(version).map(|(schema, root)| (SchemaRef::Custom(Arc::new(schema)), root))
}

/// The types of one version of a definition.
pub(crate) fn shape(version: &Value) -> Option<(Schema, TypeId)> {
    let schema = &version["schema"]["openAPIV3Schema"];
    let at = Path::new("openAPIV3Schema");
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = if schema.is_object() { schema } else { &any };
    match compile(schema, &at) {
        Ok(compiled) => Some(compiled),
        Err(errors) => {
            tracing::warn!(error = ?errors.aggregate(), "a stored definition's schema does not compile");
            None
        }
    }
}

/// The resources a definition serves, in discovery order.
pub(super) fn resources(cache: &Cache, definition: &Value) -> Vec<Resource> {
    let webhook = Webhook::read(&definition["spec"]["conversion"]);
    compile_all(cache, definition, webhook, |version| version["served"] == Value::Bool(true))
}

/// The resource of the storage version, served or not, whose objects are taken as they lie: for the definition's end.
pub(super) fn stored(cache: &Cache, definition: &Value) -> Option<Resource> {
    let storage = |version: &Value| version["storage"] == Value::Bool(true);
    compile_all(cache, definition, None, storage).into_iter().next()
}

/// Upstream's `defaultDeprecationWarning`, or the definition's own.
fn deprecation(group: &str, kind: &str, version: &Value, all: &[&Value]) -> Option<String> {
    if version["deprecated"] != Value::Bool(true) {
        return None;
    }
    if let Some(own) = version["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let name = text(version, "name");
    let mut warning = format!("{group}/{name} {kind} is deprecated");
    let newer = |v: &&&Value| {
        v["served"] == Value::Bool(true)
            && v["deprecated"] != Value::Bool(true)
            && priorities::rank(text(v, "name")) < priorities::rank(name)
    };
    // They are in order, the best first.
    if let Some(best) = all.iter().find(newer) {
        warning.push_str(&format!("; use {group}/{} {kind}", text(best, "name")));
    }
    Some(warning)
}

fn compile_all(
    cache: &Cache,
    definition: &Value,
    webhook: Option<Webhook>,
    wanted: impl Fn(&Value) -> bool,
) -> Vec<Resource> {
    let spec = &definition["spec"];
    // Names are those that were accepted, which a later edit may not have been yet.
    let names = if definition["status"]["acceptedNames"]["kind"].is_string() {
        &definition["status"]["acceptedNames"]
    } else {
        &spec["names"]
    };
    let group = text(spec, "group");
    let plural = text(names, "plural");
    let stored = GroupResource::new(group, plural);
    let mut versions: Vec<&Value> = list(&spec["versions"]).iter().collect();
    versions.sort_by_key(|v| priorities::rank(text(v, "name")));
    let Some(storage) = versions.iter().find(|v| v["storage"] == Value::Bool(true)) else {
        return Vec::new();
    };
    let storage_name = text(storage, "name").to_owned();
    let kind = text(names, "kind");
    let shapes: Vec<_> = versions.iter().map(|v| (text(v, "name").to_owned(), compiled(v))).collect();
    let shared = Arc::new(Versions::new(group, kind, &storage_name, shapes.clone(), webhook));
    let mut out = Vec::new();
    for (version, (name, shape)) in versions.iter().zip(shapes).filter(|(v, _)| wanted(v)) {
        let status = version["subresources"]["status"].is_object();
        let scale = &version["subresources"]["scale"];
        let mut subresources = Vec::new();
        let sub = |name: &str, group: &str, version: &str, kind: &str| Subresource {
            name: name.into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs: verbs::GPU,
        };
        if scale.is_object() {
            subresources.push(sub("scale", "autoscaling", "v1", "Scale"));
        }
        if status {
            subresources.push(sub("status", "", "", text(names, "kind")));
        }
        let pointer = |field: &str| JsonPath::parse(text(scale, field)).and_then(|p| p.pointer());
        let schema = &version["schema"]["openAPIV3Schema"];
        let custom = Custom {
            definition: meta::name(definition).to_owned(),
            terminating: meta::deleting(definition),
            versions: shared.clone(),
            version: name.clone(),
            warning: deprecation(group, kind, version, &versions),
            validator: schema.is_object().then(|| validator(schema)),
            rules: Rules::compile(schema),
            published: Some(schema.clone()).filter(Value::is_object),
            columns: super::columns::read(version),
            scale: match (pointer("specReplicasPath"), pointer("statusReplicasPath")) {
                (Some(spec), Some(status)) => {
                    let selector = pointer("labelSelectorPath").filter(|p| !p.is_empty());
                    Some(ScalePaths { spec, status, selector })
                }
                _ => None,
            },
            selectable: list(&version["selectableFields"])
                .iter()
                .filter_map(|f| {
                    let path = text(f, "jsonPath");
                    Some((path.trim_start_matches('.').to_owned(), JsonPath::parse(path)?))
                })
                .collect(),
        };
        let singular = text(names, "singular");
        let list_kind = text(names, "listKind");
        out.push(Resource {
            group: group.to_owned(),
            version: name.clone(),
            plural: plural.to_owned(),
            singular: if singular.is_empty() { kind.to_ascii_lowercase() } else { singular.to_owned() },
            kind: kind.to_owned(),
            list_kind: if list_kind.is_empty() { format!("{kind}List") } else { list_kind.to_owned() },
            namespaced: spec["scope"] == "Namespaced",
            short_names: strings(&names["shortNames"]),
            categories: strings(&names["categories"]),
            verbs: verbs::ALL,
            subresources,
            // The registry works in the request's version; what is stored is `Versions`' affair.
            storage: (group.to_owned(), name),
            cache: cache.resource(&stored),
            stored: stored.clone(),
            schema: shape,
            strategy: Arc::new(CustomStrategy {
                status,
                embedding: Some(schema).filter(|s| embedded::any(s)).cloned(),
            }),
            protobuf: false,
            ephemeral: false,
            custom: Some(Arc::new(custom)),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_the_rest_are_apart() {
        let strategy = CustomStrategy { status: true, embedding: None };
        let old = json!({"metadata": {"generation": 1}, "spec": {"a": 1}, "status": {"s": 1}});
        let mut new = json!({"metadata": {}, "spec": {"a": 2}, "status": {"s": 2}});
        strategy.prepare_for_update(&mut new, &old, "");
        assert_eq!((&new["status"]["s"], &new["metadata"]["generation"]), (&json!(1), &json!(2)));
        let mut new = json!({"metadata": {}, "spec": {"a": 2}, "status": {"s": 2}});
        strategy.prepare_for_update(&mut new, &old, "status");
        assert_eq!((&new["spec"]["a"], &new["status"]["s"]), (&json!(1), &json!(2)));
    }
}
