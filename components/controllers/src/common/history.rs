//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had.

use std::collections::HashSet;
use std::sync::Arc;

use client::objects::{StringMap, controller_of, controller_ref, entry, name, namespace, uid};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::hash::template_hash;

pub const HASH: &str = "controller-revision-hash";

/// What a revision stores: a patch that puts the template in place.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or(Value::Null);
    value["$patch"] = json!("replace");
    json!({"spec": {"template": value}})
}

/// The template that a revision stores.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// The hash that the pods of a revision carry.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    entry(revision.metadata.labels.as_ref(), HASH).unwrap_or("")
}

/// An owner's revisions, oldest first.
pub fn of_owner(
    owner: &ObjectMeta,
    all: impl IntoIterator<Item = Arc<ControllerRevision>>,
) -> Vec<Arc<ControllerRevision>> {
    let mut own: Vec<_> =
        all.into_iter().filter(|r| controller_of(&r.metadata).is_some_and(|o| o.uid == uid(owner))).collect();
    own.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| name(&a.metadata).cmp(name(&b.metadata))));
    own
}

/// What the history needs so that its newest revision is `template`.
#[derive(Debug)]
pub enum Step {
    Current(Arc<ControllerRevision>),
    /// An older one becomes the newest again.
    Renumber(Box<ControllerRevision>),
    Create(Box<ControllerRevision>),
}

pub fn plan<O>(
    owner: &O,
    wanted: &PodTemplateSpec,
    labels: StringMap,
    collisions: Option<i32>,
    revisions: &[Arc<ControllerRevision>],
) -> Step
where
    O: Resource<DynamicType = ()>,
{
    let wanted_data = data(wanted);
    let newest = revisions.last().map_or(0, |r| r.revision);
    let same = revisions.iter().rev().find(|r| r.data.as_ref().is_some_and(|d| d.0 == wanted_data));
    match same {
        Some(r) if r.revision == newest => Step::Current(r.clone()),
        Some(r) => Step::Renumber(Box::new(ControllerRevision { revision: newest + 1, ..(**r).clone() })),
        None => {
            let hash = template_hash(wanted, collisions);
            let mut labels = labels;
            labels.insert(HASH.into(), hash.clone());
            Step::Create(Box::new(ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{hash}", name(owner.meta()))),
                    namespace: owner.meta().namespace.clone(),
                    labels: Some(labels),
                    owner_references: Some(vec![controller_ref(owner)]),
                    ..Default::default()
                },
                data: Some(RawExtension(wanted_data)),
                revision: newest + 1,
            }))
        }
    }
}

/// Carries the step out. `Ok(None)`: the name is taken by another template, so the collision count must grow.
pub async fn act(client: &Client, step: Step) -> Result<Option<Arc<ControllerRevision>>, kube::Error> {
    match step {
        Step::Current(r) => Ok(Some(r)),
        Step::Renumber(r) => {
            let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace(&r.metadata));
            Ok(Some(Arc::new(api.replace(name(&r.metadata), &PostParams::default(), &r).await?)))
        }
        Step::Create(r) => {
            let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace(&r.metadata));
            match api.create(&PostParams::default(), &r).await {
                Ok(made) => Ok(Some(Arc::new(made))),
                Err(e) if client::errors::is_already_exists(&e) => {
                    let found = api.get(name(&r.metadata)).await?;
                    let same = found.data.as_ref().map(|d| &d.0) == r.data.as_ref().map(|d| &d.0);
                    Ok(same.then(|| Arc::new(found)))
                }
                Err(e) => Err(e),
            }
        }
    }
}

/// Deletes the oldest revisions beyond `limit` whose hash is not among `used`.
pub async fn clean(
    client: &Client,
    revisions: &[Arc<ControllerRevision>],
    used: &HashSet<&str>,
    limit: i32,
) -> Result<(), kube::Error> {
    let unused: Vec<_> = revisions
        .iter()
        .filter(|r| !used.contains(hash_of(r)) && !used.contains(name(&r.metadata)))
        .collect();
    let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for r in &unused[..surplus] {
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace(&r.metadata));
        client::errors::ignore_not_found(api.delete(name(&r.metadata), &DeleteParams::default()).await)?;
    }
    Ok(())
}
