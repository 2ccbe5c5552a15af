//! Parameters of policies: which resource a kind is, and the objects a binding refers to.

use crate::reader::{Reader, items, parse, text};
use crate::resources;
use machinery::labels::Selector;
use serde_json::Value;

/// Where objects of a parameter kind lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ParamResource {
    pub group: String,
    pub plural: String,
    pub namespaced: bool,
}

/// `paramKind` of a policy.
#[derive(Clone, Debug)]
pub(super) struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

impl ParamKind {
    pub fn read(spec: &Value) -> Option<Self> {
        let kind = spec["paramKind"].as_object()?;
        let get = |k: &str| kind.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self { api_version: get("apiVersion"), kind: get("kind") })
    }

    fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// The resource of that kind, built-in or defined.
    pub fn resource(&self, reader: &dyn Reader) -> Result<ParamResource, String> {
        let (group, version) = self.group_version();
        let row =
            resources::all().iter().find(|r| r.group == group && r.version == version && r.kind == self.kind);
        if let Some(row) = row {
            let (group, plural) = (row.storage.0.to_owned(), row.plural.to_owned());
            return Ok(ParamResource { group, plural, namespaced: row.namespaced });
        }
        for entry in reader.list("apiextensions.k8s.io", "customresourcedefinitions", None) {
            if !entry.name.ends_with(group) {
                continue;
            }
            let definition = parse(&entry);
            let names = &definition["spec"]["names"];
            let served = items(&definition, "/spec/versions")
                .iter()
                .any(|v| text(v, "/name") == version && v["served"] == true);
            if text(&definition, "/spec/group") == group && names["kind"] == *self.kind && served {
                return Ok(ParamResource {
                    group: group.to_owned(),
                    plural: text(names, "/plural").to_owned(),
                    namespaced: text(&definition, "/spec/scope") == "Namespaced",
                });
            }
        }
        Err(format!(
            "failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'",
            self.kind
        ))
    }
}

/// `paramRef` of a binding.
#[derive(Clone, Debug)]
pub(super) struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Result<Selector, String>>,
    deny_absent: bool,
}

impl ParamRef {
    pub fn read(spec: &Value) -> Option<Self> {
        let reference = &spec["paramRef"];
        reference.is_object().then(|| Self {
            name: text(reference, "/name").to_owned(),
            namespace: text(reference, "/namespace").to_owned(),
            selector: reference["selector"]
                .is_object()
                .then(|| Selector::from_object(Some(&reference["selector"])).map_err(|e| e.to_string())),
            deny_absent: text(reference, "/parameterNotFoundAction") == "Deny",
        })
    }

    /// The parameters, for a request in that namespace.
    pub fn find(
        &self,
        reader: &dyn Reader,
        resource: &ParamResource,
        namespace: &str,
    ) -> Result<Vec<Value>, String> {
        let namespace = match (resource.namespaced, self.namespace.as_str()) {
            (false, "") => "",
            (false, _) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
            (true, "") if namespace.is_empty() => {
                return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped \
                            resources"
                    .into());
            }
            (true, "") => namespace,
            (true, own) => own,
        };
        let found: Vec<Value> = match (&self.selector, self.name.as_str()) {
            (None, "") => return Err("one of name or selector must be provided".into()),
            (Some(_), name) if !name.is_empty() => {
                return Err("paramRef.name and paramRef.selector are mutually exclusive".into());
            }
            (Some(Err(why)), _) => return Err(why.clone()),
            (Some(Ok(selector)), _) => {
                let within = resource.namespaced.then_some(namespace);
                let all = reader.list(&resource.group, &resource.plural, within);
                all.iter().filter(|e| selector.matches(e.labels())).map(|e| parse(e)).collect()
            }
            (None, name) => {
                let found = reader.get(&resource.group, &resource.plural, namespace, name);
                found.iter().map(|e| parse(e)).collect()
            }
        };
        if found.is_empty() && self.deny_absent {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }
}

/// What one binding's expressions run with: each parameter, or once without any.
pub(super) fn collect(
    reader: &dyn Reader,
    kind: Option<&Result<ParamResource, String>>,
    reference: Option<&ParamRef>,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    match (kind, reference) {
        (None, _) | (Some(_), None) => Ok(vec![None]),
        (Some(Err(why)), _) => Err(why.clone()),
        (Some(Ok(resource)), Some(reference)) => {
            Ok(reference.find(reader, resource, namespace)?.into_iter().map(Some).collect())
        }
    }
}
