//! Delete: preconditions, graceful deletion, finalizers, collections.

use super::{Target, meta, update};
use crate::ApiServer;
use crate::admission::Operation;
use crate::crd::Current;
use crate::http::options::{DeleteOptions, Propagation};
use crate::resolve::Resource;
use crate::status::{self, ApiError};
use chrono::{Duration, Utc};
use serde_json::Value;
use store::{Expect, StoreError};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 25;

/// What a delete answers.
pub struct Deleted {
    /// The object, or a `Status`, in the storage version.
    pub value: Value,
    pub is_object: bool,
    pub code: u16,
    /// What admission had to say.
    pub warnings: Vec<String>,
}

/// What deleting means for one state of an object.
enum Plan {
    Remove,
    /// Mark it and wait: for finalizers, or for the grace period.
    Mark(Value),
    /// Already on its way; nothing to write.
    Pending,
}

impl ApiServer {
    pub(crate) async fn delete(
        &self,
        target: &Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.delete_with(target, options, false).await
    }

    /// A delete that admission has agreed to already, under another name.
    pub(crate) async fn delete_admitted(
        &self,
        target: &Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.delete_with(target, options, true).await
    }

    async fn delete_with(
        &self,
        target: &Target<'_>,
        options: &DeleteOptions,
        mut admitted: bool,
    ) -> Result<Deleted, ApiError> {
        let mut warnings = Vec::new();
        let mut deleted = self.delete_attempts(target, options, &mut admitted, &mut warnings).await?;
        deleted.warnings = warnings;
        Ok(deleted)
    }

    async fn delete_attempts(
        &self,
        target: &Target<'_>,
        options: &DeleteOptions,
        admitted: &mut bool,
        warnings: &mut Vec<String>,
    ) -> Result<Deleted, ApiError> {
        let resource = target.resource;
        let mut current = self.current(resource, target.namespace, target.name).await?;
        for _ in 0..ATTEMPTS {
            let Some(Current { value: mut old, revision, .. }) = current else {
                return Err(target.not_found());
            };
            check_preconditions(target, options, &old)?;
            if !*admitted {
                let versions = self.forms(target);
                let request = target.admission(
                    Operation::Delete,
                    if options.of_collection { "" } else { target.name },
                    Some(&old),
                    &options.value,
                    options.dry_run,
                    &versions,
                );
                self.admit(&request, &mut old.clone()).await?;
                self.admit_validating(&request, None).await?;
                warnings.extend(request.notes.take_warnings());
                *admitted = true;
            }
            let key = resource.key(target.namespace, target.name);
            let result = match plan(resource, &old, options)? {
                Plan::Pending => return Ok(answer(resource, old, true, options)),
                Plan::Mark(marked) => {
                    if options.dry_run {
                        return Ok(answer(resource, marked, true, options));
                    }
                    let value = self.stored_form(resource, &marked).await?;
                    let expect = Expect::Revision(revision);
                    self.storage.put(key, value, expect, self.ttl(resource)).await.map(|r| (marked, r, true))
                }
                Plan::Remove => {
                    if options.dry_run {
                        return Ok(answer(resource, old, false, options));
                    }
                    let removed = self.storage.delete(key, Expect::Revision(revision)).await;
                    if removed.is_ok() {
                        self.services.release(resource, &old);
                    }
                    meta::set_revision(&mut old, revision);
                    removed.map(|r| (old, r, false))
                }
            };
            match result {
                Ok((mut object, written, pending)) => {
                    meta::set_revision(&mut object, written);
                    return Ok(answer(resource, object, pending, options));
                }
                Err(StoreError::Conflict { current: now }) => {
                    current = self.left_behind(resource, now).await?
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(ApiError::modified(&resource.group, &resource.plural, target.name))
    }
}

fn check_preconditions(target: &Target<'_>, options: &DeleteOptions, old: &Value) -> Result<(), ApiError> {
    let resource = target.resource;
    // Upstream names the kind here, not the resource.
    let conflict = |why: String| ApiError::conflict(&resource.group, &resource.kind, target.name, &why);
    if let Some(uid) = &options.uid
        && uid != meta::uid(old)
    {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            meta::uid(old)
        )));
    }
    if let Some(version) = &options.resource_version
        && version != meta::text(old, "resourceVersion")
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            meta::text(old, "resourceVersion")
        )));
    }
    Ok(())
}

/// Upstream's `BeforeDelete` and the finalizer half of its generic store, as a pure function.
fn plan(resource: &Resource, old: &Value, options: &DeleteOptions) -> Result<Plan, ApiError> {
    if options.grace_period_seconds.is_some_and(|s| s < 0) {
        let mut o = options.clone();
        o.grace_period_seconds = Some(1);
        return plan(resource, old, &o);
    }
    let wanted = finalizers_for(resource, old, options);
    let blocked = !wanted.is_empty() || update::kind_finalizers(resource, old) > 0;
    let grace = resource.strategy.grace_period(old, options.grace_period_seconds);
    let deleting = meta::deleting(old);
    let unchanged = meta::finalizers(old) == wanted;

    if deleting {
        let left = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A shorter grace period may be asked for later; a longer one is ignored.
        if let Some(seconds) = options.grace_period_seconds
            && grace.is_some()
            && seconds < left
            && seconds > 0
        {
            let mut marked = old.clone();
            let began = meta::parse_time(meta::text(old, "deletionTimestamp")).unwrap_or_else(Utc::now)
                - Duration::seconds(left);
            meta::set(&mut marked, "deletionTimestamp", meta::time(began + Duration::seconds(seconds)));
            meta::set(&mut marked, "deletionGracePeriodSeconds", seconds);
            return Ok(Plan::Mark(marked));
        }
        if left > 0 && options.grace_period_seconds != Some(0) {
            return Ok(Plan::Pending);
        }
        if !blocked {
            return Ok(Plan::Remove);
        }
        if unchanged && left == 0 {
            return Ok(Plan::Pending);
        }
        let mut marked = old.clone();
        meta::set_finalizers(&mut marked, &wanted);
        meta::set(&mut marked, "deletionGracePeriodSeconds", 0);
        return Ok(Plan::Mark(marked));
    }

    let seconds = grace.unwrap_or(0).max(0);
    if seconds == 0 && !blocked {
        return Ok(Plan::Remove);
    }
    let mut marked = old.clone();
    meta::set(&mut marked, "deletionTimestamp", meta::time(Utc::now() + Duration::seconds(seconds)));
    meta::set_finalizers(&mut marked, &wanted);
    let namespace = resource.plural == "namespaces" && resource.group.is_empty();
    if !namespace {
        meta::set(&mut marked, "deletionGracePeriodSeconds", seconds);
    }
    if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        meta::set(&mut marked, "generation", generation + 1);
    }
    if namespace {
        marked["status"]["phase"] = "Terminating".into();
    }
    Ok(Plan::Mark(marked))
}

/// The finalizers the object is left with: the garbage collector's two follow the propagation policy.
fn finalizers_for(resource: &Resource, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let present = meta::finalizers(old);
    let has = |name: &str| present.contains(&name);
    let policy = options.propagation.unwrap_or_else(|| {
        if has(ORPHAN) {
            Propagation::Orphan
        } else if has(FOREGROUND) {
            Propagation::Foreground
        } else if resource.plural == "replicationcontrollers"
            || (resource.group == "batch" && resource.plural == "jobs")
        {
            // Kept from before the garbage collector existed.
            Propagation::Orphan
        } else {
            Propagation::Background
        }
    });
    let mut out: Vec<String> =
        present.iter().filter(|f| **f != ORPHAN && **f != FOREGROUND).map(|f| (*f).to_owned()).collect();
    match policy {
        Propagation::Orphan => out.push(ORPHAN.into()),
        Propagation::Foreground => out.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    // The instances of a definition go before it does.
    if resource.plural == crate::crd::controller::PLURAL
        && resource.group == crate::crd::controller::GROUP
        && !meta::deleting(old)
    {
        let instances = crate::crd::conditions::FINALIZER;
        if !has(instances) {
            out.push(instances.into());
        }
    }
    out
}

fn answer(resource: &Resource, object: Value, pending: bool, options: &DeleteOptions) -> Deleted {
    let cascading = options.value["orphanDependents"] == Value::Bool(false);
    let code = if pending && cascading { 202 } else { 200 };
    if pending || returns_object(resource) {
        return Deleted { value: object, is_object: true, code, warnings: Vec::new() };
    }
    let value = status::success(&resource.group, &resource.plural, meta::name(&object), meta::uid(&object));
    Deleted { value, is_object: false, code, warnings: Vec::new() }
}

/// Kinds whose delete answers with the object rather than a `Status`.
fn returns_object(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        (
            "",
            "pods"
                | "services"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
        ) | (
            "storage.k8s.io",
            "storageclasses" | "csidrivers" | "csinodes" | "volumeattachments" | "volumeattributesclasses"
        ) | ("resource.k8s.io", _)
            | ("apiextensions.k8s.io", "customresourcedefinitions")
    )
}
