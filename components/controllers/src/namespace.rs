//! The end of a namespace: everything in it goes, then its finalizer.
//!
//! The phases and conditions are upstream's; [`conditions`] is pure.

use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::objects::{is_deleting, name};
use client::{Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use tracing::debug;

use crate::served::{Served, discover};
use crate::{Context, Error, synced};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";

struct Loop {
    client: Client,
    namespaces: Informer<Namespace>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let namespaces = cx.informers.informer::<Namespace>();
    if !synced!(cx, namespaces) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::with_limits(Duration::from_millis(20), Duration::from_secs(10))
        .named("namespace");
    let sink = queue.clone();
    namespaces.subscribe(move |change| {
        let namespace = change.object();
        if is_deleting(&namespace.metadata) && !change.is_deleted() {
            sink.add(name(&namespace.metadata).to_owned());
        }
    });
    let (sink, known) = (queue.clone(), namespaces.clone());
    cx.informers.informer::<Pod>().subscribe(move |change| {
        let namespace = client::objects::namespace(&change.object().metadata);
        if change.is_deleted()
            && known.get(&ObjectKey::cluster(namespace)).is_some_and(|n| is_deleting(&n.metadata))
        {
            sink.add(namespace.to_owned());
        }
    });
    let controller = Arc::new(Loop { client: cx.client_for(NAME), namespaces });
    client::controller::run(NAME, 5, queue, cx.stop.clone(), move |name| {
        let this = controller.clone();
        async move { this.reconcile(&name).await }
    })
    .await;
    Ok(())
}

/// What emptying found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    pub discovery: Option<String>,
    pub deletion: Vec<String>,
    /// Resource to how many objects of it remain.
    pub remaining: Vec<(String, usize)>,
    /// Finalizer to how many objects wait for it.
    pub finalizers: Vec<(String, usize)>,
}

impl Findings {
    fn count(list: &mut Vec<(String, usize)>, what: &str) {
        match list.iter_mut().find(|(known, _)| known == what) {
            Some((_, n)) => *n += 1,
            None => list.push((what.to_owned(), 1)),
        }
    }

    fn is_empty(&self) -> bool {
        self.discovery.is_none() && self.deletion.is_empty() && self.remaining.is_empty()
    }
}

impl Loop {
    async fn reconcile(&self, name: &str) -> Result<Outcome, Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let Some(cached) = self.namespaces.get(&ObjectKey::cluster(name)) else { return Ok(Outcome::DONE) };
        if !is_deleting(&cached.metadata) {
            return Ok(Outcome::DONE);
        }
        let Some(mut namespace) = client::errors::optional(api.get(name).await).map_err(Error::Api)? else {
            return Ok(Outcome::DONE);
        };
        if namespace.metadata.uid != cached.metadata.uid || !is_deleting(&namespace.metadata) {
            return Ok(Outcome::DONE);
        }
        let waits = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
        if waits.is_none_or(|f| !f.iter().any(|f| f == FINALIZER)) {
            return Ok(Outcome::DONE);
        }
        let (served, failed) = discover(&self.client).await?;
        let mut findings = Findings::default();
        if !failed.is_empty() {
            findings.discovery = Some(format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                failed.len(),
                failed.join(", ")
            ));
        }
        // Pods first (KEP-5080): what they still use, a NetworkPolicy or a Secret, outlives the last of them.
        let (pods, others): (Vec<&Served>, Vec<&Served>) = served
            .iter()
            .filter(|s| s.namespaced && s.can("delete"))
            .partition(|s| s.group_resource() == "pods");
        for resource in pods {
            self.empty(name, resource, &mut findings).await;
        }
        if findings.remaining.is_empty() && findings.deletion.is_empty() {
            for resource in others {
                self.empty(name, resource, &mut findings).await;
            }
        }
        let now = Timestamp::now();
        let old = namespace.status.clone().unwrap_or_default();
        let mut status = old.clone();
        status.phase = Some("Terminating".into());
        status.conditions = Some(conditions(old.conditions.as_deref().unwrap_or(&[]), &findings, now));
        if !findings.is_empty() && status != old {
            namespace.status = Some(status);
            match client::patch::replace_status(&api, &namespace).await {
                Ok(written) => namespace = written,
                Err(e) if client::errors::is_conflict(&e) => {}
                Err(e) => return Err(Error::Api(e)),
            }
        }
        if !findings.is_empty() {
            debug!(namespace = name, remaining = ?findings.remaining, failures = ?findings.deletion, "not empty yet");
            // What goes by itself (pods with a grace period, finalizers) sends no event about the namespace.
            return Err(Error::NotEmpty(name.to_owned()));
        }
        if let Some(spec) = &mut namespace.spec
            && let Some(finalizers) = &mut spec.finalizers
        {
            finalizers.retain(|f| f != FINALIZER);
        }
        self.finalize(&namespace).await.map_err(Error::Api)?;
        Ok(Outcome::DONE)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let path = name(&namespace.metadata);
        match api.replace_subresource("finalize", path, &PostParams::default(), namespace).await {
            Err(e) if client::errors::is_not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes everything of one resource and notes what is left.
    async fn empty(&self, namespace: &str, served: &Served, findings: &mut Findings) {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &served.resource);
        let result = self.empty_with(&api, served).await;
        let what = served.group_resource();
        match result {
            Ok(left) => {
                for meta in left {
                    Findings::count(&mut findings.remaining, &what);
                    for finalizer in meta.finalizers.iter().flatten() {
                        Findings::count(&mut findings.finalizers, finalizer);
                    }
                }
            }
            Err(e) if client::errors::is_not_found(&e) || client::errors::code(&e) == 405 => {}
            Err(e) => findings.deletion.push(crate::common::podctl::message(&e)),
        }
    }

    async fn empty_with(
        &self,
        api: &Api<DynamicObject>,
        served: &Served,
    ) -> Result<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>, kube::Error> {
        if !served.can("list") {
            return Ok(Vec::new());
        }
        let before = api.list_metadata(&ListParams::default()).await?.items;
        if before.is_empty() {
            return Ok(Vec::new());
        }
        if served.can("deletecollection") {
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        } else {
            for object in &before {
                let deleted = api.delete(name(&object.metadata), &DeleteParams::background()).await;
                client::errors::ignore_not_found(deleted)?;
            }
        }
        let after = api.list_metadata(&ListParams::default()).await?.items;
        Ok(after.into_iter().map(|o| o.metadata).collect())
    }
}

/// The five conditions of a namespace that is going; what was never a problem is not mentioned.
pub fn conditions(old: &[NamespaceCondition], found: &Findings, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |items: &[(String, usize)], suffix: &str| {
        let mut parts: Vec<String> =
            items.iter().map(|(what, n)| format!("{what} {suffix} {n} resource instances")).collect();
        parts.sort();
        parts.join(", ")
    };
    let mut failures = found.deletion.clone();
    failures.sort();
    let all: [(&str, bool, &str, String, &str, &str); 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            found.discovery.is_some(),
            "DiscoveryFailed",
            found.discovery.clone().unwrap_or_default(),
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "GroupVersionParsingFailed",
            String::new(),
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            !failures.is_empty(),
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                failures.len(),
                failures.join(", ")
            ),
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            !found.remaining.is_empty(),
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", list(&found.remaining, "has")),
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            !found.finalizers.is_empty(),
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                list(&found.finalizers, "in")
            ),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let ours = all.each_ref().map(|c| c.0);
    let mut result: Vec<NamespaceCondition> =
        old.iter().filter(|c| !ours.contains(&c.type_.as_str())).cloned().collect();
    for (kind, bad, bad_reason, bad_words, good_reason, good_words) in all {
        let known = old.iter().find(|c| c.type_ == kind);
        let (status, reason, message) = match bad {
            true => ("True", bad_reason, bad_words),
            false => ("False", good_reason, good_words.to_owned()),
        };
        let same = known.filter(|c| c.status == status && c.reason.as_deref() == Some(reason));
        let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
        result.push(NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(since),
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_remains_and_keep_their_times() {
        let found = Findings {
            remaining: vec![("pods".into(), 2)],
            finalizers: vec![("example.com/x".into(), 1)],
            ..Default::default()
        };
        let at = Timestamp::from_second(1).unwrap();
        let first = conditions(&[], &found, at);
        let get = |l: &[NamespaceCondition], k: &str| l.iter().find(|c| c.type_ == k).cloned().unwrap();
        let remaining = get(&first, "NamespaceContentRemaining");
        assert_eq!(remaining.status, "True");
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods has 2 resource instances")
        );
        assert_eq!(get(&first, "NamespaceDeletionContentFailure").status, "False");
        let later = Timestamp::from_second(9).unwrap();
        assert_eq!(conditions(&first, &found, later), first);
        let done = conditions(&first, &Findings::default(), later);
        assert_eq!(get(&done, "NamespaceContentRemaining").last_transition_time, Some(Time(later)));
        assert_eq!(get(&done, "NamespaceDeletionContentFailure").last_transition_time, Some(Time(at)));
    }
}
