//! What several plugins need.

use super::{Operation, Request};
use crate::cache::Entry;
use crate::reader::{Reader, items, parse, text};
use machinery::quantity::Quantity;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Request<'_> {
    /// The main resource, under one of these operations.
    pub(super) fn is(&self, group: &str, resource: &str, operations: &[Operation]) -> bool {
        self.group == group
            && self.resource == resource
            && self.subresource.is_empty()
            && operations.contains(&self.operation)
    }
}

pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

pub(super) fn is_mirror(pod: &Value) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// The member as an array to append to; replaces anything that is not one.
pub(super) fn list<'a>(object: &'a mut Value, member: &str) -> &'a mut Vec<Value> {
    let slot = map(object).entry(member).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("an array was just put there"),
    }
}

/// The value as an object to insert into; replaces anything that is not one.
pub(super) fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("an object was just put there"),
    }
}

/// All containers of a pod spec with the path of their list.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |kind| {
        spec[kind].as_array().into_iter().flatten().enumerate().map(move |(i, c)| (kind, i, c))
    })
}

/// An object that another writer may be about to create: looked for again until `patience` has passed.
pub(super) async fn await_object(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    patience: Duration,
) -> Option<Arc<Entry>> {
    const STEP: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    loop {
        if let Some(found) = reader.get(group, resource, namespace, name) {
            return Some(found);
        }
        if waited >= patience {
            return None;
        }
        tokio::time::sleep(STEP).await;
        waited += STEP;
    }
}

/// The class objects marked as default by this annotation: newest first, then by name.
pub(super) fn default_class(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
    annotations: &[&str],
) -> Option<(String, usize)> {
    let mut marked: Vec<(String, String)> = Vec::new();
    for entry in reader.list(group, resource, None) {
        let object = parse(&entry);
        if annotations.iter().any(|a| annotation(&object, a) == Some("true")) {
            marked.push((text(&object, "/metadata/creationTimestamp").into(), entry.name.to_string()));
        }
    }
    let count = marked.len();
    marked.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    marked.into_iter().next().map(|(_, name)| (name, count))
}

/// Names of the secrets a pod mounts or reads.
pub(super) fn secret_names(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let mut add = |name: &str| {
        if !name.is_empty() {
            out.push(name.to_owned());
        }
    };
    for (_, _, container) in containers(spec) {
        for env in items(container, "/env") {
            add(text(env, "/valueFrom/secretKeyRef/name"));
        }
        for from in items(container, "/envFrom") {
            add(text(from, "/secretRef/name"));
        }
    }
    for secret in items(spec, "/imagePullSecrets") {
        add(text(secret, "/name"));
    }
    for volume in items(spec, "/volumes") {
        add(text(volume, "/secret/secretName"));
        for source in items(volume, "/projected/sources") {
            add(text(source, "/secret/name"));
        }
        for (_, source) in volume.as_object().into_iter().flatten() {
            for reference in ["/secretRef/name", "/nodePublishSecretRef/name"] {
                add(text(source, reference));
            }
            if source["shareName"].is_string() {
                add(text(source, "/secretName"));
            }
        }
    }
    out
}

/// Resource names with their quantities.
pub(super) type Resources = BTreeMap<String, Quantity>;

pub(super) fn read_resources(value: &Value) -> Resources {
    let quantity = |v: &Value| v.as_str().and_then(|q| Quantity::parse(q).ok());
    value.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), quantity(v)?))).collect()
}

pub(super) fn add_resources(to: &mut Resources, what: &Resources) {
    for (resource, quantity) in what {
        to.entry(resource.clone()).and_modify(|q| q.add(quantity)).or_insert(*quantity);
    }
}

/// What a whole pod asks for (`member` is `requests` or `limits`): the sum of its containers and sidecars, or its
/// greediest init container; what the pod itself says; and its overhead.
pub(super) fn pod_resources(pod: &Value, member: &str) -> Resources {
    let at = |kind: &str| -> Vec<(bool, Resources)> {
        let read =
            |c: &Value| (text(c, "/restartPolicy") == "Always", read_resources(&c["resources"][member]));
        pod["spec"][kind].as_array().into_iter().flatten().map(read).collect()
    };
    let mut sum = Resources::new();
    at("containers").iter().for_each(|(_, r)| add_resources(&mut sum, r));
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for (sidecar, resources) in at("initContainers") {
        let mut now = sidecars.clone();
        add_resources(&mut now, &resources);
        if sidecar {
            add_resources(&mut sum, &resources);
            sidecars = now.clone();
        }
        for (resource, quantity) in now {
            let slot = peak.entry(resource).or_insert(quantity);
            *slot = (*slot).max(quantity);
        }
    }
    for (resource, quantity) in peak {
        let slot = sum.entry(resource).or_insert(quantity);
        *slot = (*slot).max(quantity);
    }
    sum.extend(read_resources(&pod["spec"]["resources"][member]));
    for (resource, overhead) in read_resources(&pod["spec"]["overhead"]) {
        match sum.get_mut(&resource) {
            Some(quantity) => quantity.add(&overhead),
            None if member == "requests" => drop(sum.insert(resource, overhead)),
            None => {}
        }
    }
    sum
}

#[cfg(test)]
pub(super) mod testing {
    //! Requests for unit tests.

    use super::super::{Denied, Plugin};
    use super::*;
    use crate::authentication::UserInfo;

    /// A request in parts that live as long as the test needs.
    pub struct Ask {
        pub operation: Operation,
        pub group: &'static str,
        pub resource: &'static str,
        pub subresource: &'static str,
        pub old: Option<Value>,
        pub user: UserInfo,
    }

    impl Ask {
        pub fn create(group: &'static str, resource: &'static str) -> Self {
            Self {
                operation: Operation::Create,
                group,
                resource,
                subresource: "",
                old: None,
                user: UserInfo::new("jane", &["system:authenticated"]),
            }
        }

        pub fn update(group: &'static str, resource: &'static str, old: Value) -> Self {
            Self { operation: Operation::Update, old: Some(old), ..Self::create(group, resource) }
        }

        pub fn delete(group: &'static str, resource: &'static str, old: Value) -> Self {
            Self { operation: Operation::Delete, old: Some(old), ..Self::create(group, resource) }
        }

        pub fn sub(mut self, subresource: &'static str) -> Self {
            self.subresource = subresource;
            self
        }

        pub fn by(mut self, user: UserInfo) -> Self {
            self.user = user;
            self
        }

        /// Mutates and validates, as the registry does; the object afterwards.
        pub async fn run(&self, plugin: &dyn Plugin, mut object: Value) -> Result<Value, Denied> {
            let named = if self.operation == Operation::Delete {
                self.old.clone().unwrap_or_default()
            } else {
                object.clone()
            };
            let request = Request {
                operation: self.operation,
                group: self.group,
                version: "v1",
                kind: "",
                resource: self.resource,
                subresource: self.subresource,
                namespace: text(&named, "/metadata/namespace"),
                name: text(&named, "/metadata/name"),
                old: self.old.as_ref(),
                options: &Value::Null,
                user: &self.user,
                dry_run: false,
                versions: None,
                notes: Default::default(),
            };
            if !plugin.handles(&request) {
                return Ok(object);
            }
            if self.operation == Operation::Delete {
                plugin.validate(&request, None).await?;
                return Ok(object);
            }
            plugin.mutate(&request, &mut object).await?;
            while request.notes.rounds.next() {
                plugin.mutate(&request, &mut object).await?;
            }
            plugin.validate(&request, Some(&object)).await?;
            Ok(object)
        }
    }
}
