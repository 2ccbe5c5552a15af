//! Update: one loop of read, change, check, compare-and-put, shared by PUT, every patch and every subresource
//! that changes its parent.

use super::{Stored, Target, meta};
use crate::ApiServer;
use crate::admission::Operation;
use crate::crd::Current;
use crate::resolve::Resource;
use crate::schemas;
use crate::status::ApiError;
use machinery::field::{FieldError, FieldErrors, Path};
use serde_json::Value;
use store::{Expect, StoreError};

/// How often a write without a precondition is tried against other writers.
const ATTEMPTS: usize = 25;

/// Computes the wanted object from the current one (storage version, `resourceVersion` included).
pub type Change<'a> = Box<dyn FnMut(&Value) -> Result<Wanted, ApiError> + Send + 'a>;

pub struct Wanted {
    pub object: Value,
    /// `managedFields` are final (an apply computed them).
    pub managed: bool,
    /// The client named the version this replaces, so a conflict is the answer and not a reason to try again.
    pub pinned: bool,
}

impl Wanted {
    /// Computed from the current object; may be computed again.
    pub fn plain(object: Value) -> Self {
        Self { object, managed: false, pinned: false }
    }
}

/// How an update differs between its callers.
#[derive(Clone, Copy, Default)]
pub struct Mode {
    /// The operation admission is told of, `Update` unless set.
    pub connect_as_create: bool,
    /// Skip the kind's preparation and validation: the change is the server's own.
    pub trusted: bool,
    /// The kind treats it as a change of the main resource, whatever the subresource.
    pub as_main: bool,
}

impl ApiServer {
    /// Changes an existing object. With a `resourceVersion` in the wanted object the first conflict is final.
    pub(crate) async fn update(
        &self,
        target: &Target<'_>,
        mut change: Change<'_>,
        mode: Mode,
        warnings: &mut Vec<String>,
    ) -> Result<Stored, ApiError> {
        let resource = target.resource;
        let mut current = self.current(resource, target.namespace, target.name).await?;
        for _ in 0..ATTEMPTS {
            let Some(old) = current else { return Err(target.not_found()) };
            let wanted = change(&old.value)?;
            let pinned = wanted.pinned;
            match self.try_update(target, &old, wanted, mode, warnings).await? {
                Outcome::Done(stored) => return Ok(stored),
                // Gone is not found, whatever version was asked for.
                Outcome::Conflict(None) => return Err(target.not_found()),
                Outcome::Conflict(_) if pinned => break,
                Outcome::Conflict(now) => current = now,
            }
        }
        Err(ApiError::modified(&resource.group, &resource.plural, target.name))
    }

    async fn try_update(
        &self,
        target: &Target<'_>,
        Current { value: old, revision, stale }: &Current,
        wanted: Wanted,
        mode: Mode,
        warnings: &mut Vec<String>,
    ) -> Result<Outcome, ApiError> {
        let revision = *revision;
        let resource = target.resource;
        let strategy = &resource.strategy;
        let Wanted { object: mut new, managed, .. } = wanted;
        self.check_identity(target, old, revision, &mut new)?;
        schemas::default(resource, &mut new);
        strategy.default(&mut new);
        warnings.extend(meta::dedup_owners(&mut new, false));
        if !managed {
            schemas::manage_update(resource, Some(old), &mut new, &target.manager, target.subresource);
        }
        let options = target.options.to_value("UpdateOptions");
        let operation = if mode.connect_as_create { Operation::Create } else { Operation::Update };
        let dry_run = target.options.dry_run;
        let versions = self.forms(target);
        let request = target.admission(operation, target.name, Some(old), &options, dry_run, &versions);
        self.admit(&request, &mut new).await?;
        if request.notes.is_changed() {
            schemas::prune(resource, &mut new)?;
        }
        warnings.extend(meta::dedup_owners(&mut new, true));
        carry_identity(&mut new, old);
        let part = if mode.as_main { "" } else { target.subresource };
        if !mode.trusted {
            strategy.prepare_for_update(&mut new, old, part);
        }
        schemas::default(resource, &mut new);
        let mut allocation = self.services.allocate(resource, &mut new, Some(old))?;
        if !mode.trusted {
            let mut errors = schemas::validate_metadata_update(resource, &new, old);
            errors.0.extend(schemas::validate(resource, &new, Some(old), warnings).0);
            errors.extend(self.admin_access(resource, part, target.namespace, &new, Some(old)));
            errors.0.extend(strategy.validate_update(&new, old, part).0);
            if !errors.0.is_empty() {
                schemas::show(resource, &mut errors);
                return Err(ApiError::invalid(&resource.storage.0, &resource.kind, target.name, &errors));
            }
        }
        if part.is_empty() {
            warnings.extend(strategy.warnings(&new, Some(old)));
        }
        warnings.extend(self.admission_warnings(&request, &new));
        self.admit_validating(&request, Some(&new)).await?;
        warnings.extend(request.notes.take_warnings());
        schemas::settle(resource, &mut new);
        meta::set_revision(&mut new, revision);
        if dry_run {
            let json = serde_json::to_vec(&new).map_err(ApiError::internal)?.into();
            return Ok(Outcome::Done(Stored { value: new, json }));
        }
        if finished(resource, &new, old) {
            return self.remove(target, new, revision).await;
        }
        if same(&mut new, old) && !stale && !self.stale(target).await? {
            allocation.keep();
            let json = serde_json::to_vec(&new).map_err(ApiError::internal)?.into();
            return Ok(Outcome::Done(Stored { value: new, json }));
        }
        let key = resource.key(target.namespace, target.name);
        let value = self.stored_form(resource, &new).await?;
        match self.storage.put(key, value.clone(), Expect::Revision(revision), self.ttl(resource)).await {
            Ok(written) => {
                allocation.keep();
                meta::set_revision(&mut new, written);
                let json = self.final_form(resource, &new, &value, written)?;
                Ok(Outcome::Done(Stored { value: new, json }))
            }
            Err(StoreError::Conflict { current }) => {
                Ok(Outcome::Conflict(self.left_behind(resource, current).await?))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Whether the stored bytes should be written again though the object is the same: another key encrypts now.
    async fn stale(&self, target: &Target<'_>) -> Result<bool, ApiError> {
        match &self.config.encryption {
            None => Ok(false),
            Some(encryption) => {
                Ok(encryption.is_stale(&target.resource.key(target.namespace, target.name)).await?)
            }
        }
    }

    /// The update took the last finalizer of a deleted object away.
    async fn remove(&self, target: &Target<'_>, last: Value, revision: u64) -> Result<Outcome, ApiError> {
        let key = target.resource.key(target.namespace, target.name);
        match self.storage.delete(key, Expect::Revision(revision)).await {
            Ok(written) => {
                self.services.release(target.resource, &last);
                let mut last = last;
                meta::set_revision(&mut last, written);
                let json = serde_json::to_vec(&last).map_err(ApiError::internal)?.into();
                Ok(Outcome::Done(Stored { value: last, json }))
            }
            Err(StoreError::Conflict { current }) => {
                Ok(Outcome::Conflict(self.left_behind(target.resource, current).await?))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Name, namespace, uid and version preconditions.
    fn check_identity(
        &self,
        target: &Target<'_>,
        old: &Value,
        revision: u64,
        new: &mut Value,
    ) -> Result<(), ApiError> {
        let resource = target.resource;
        super::create::place(resource.namespaced, target.namespace, new)?;
        let name = meta::name(new);
        if name.is_empty() {
            meta::set(new, "name", target.name);
        } else if name != target.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != meta::uid(old) {
            return Err(ApiError::conflict(
                &resource.group,
                &resource.plural,
                target.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta::uid(old)
                ),
            ));
        }
        let asked = meta::text(new, "resourceVersion");
        if asked.is_empty() || asked == "0" {
            if !unconditional(resource) {
                let errors = FieldErrors(vec![FieldError::invalid(
                    &Path::new("metadata.resourceVersion"),
                    serde_json::json!(0),
                    "must be specified for an update",
                )]);
                return Err(ApiError::invalid(&resource.group, &resource.plural, target.name, &errors));
            }
        } else {
            let version = asked.parse::<u64>().map_err(|_| {
                ApiError::generic(500, "", format!("strconv.ParseUint: parsing {asked:?}: invalid syntax"))
            })?;
            if version != revision {
                return Err(ApiError::modified(&resource.group, &resource.plural, target.name));
            }
        }
        Ok(())
    }
}

enum Outcome {
    Done(Stored),
    /// What is there instead.
    Conflict(Option<Current>),
}

/// What no update may change.
fn carry_identity(new: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "name",
        "namespace",
    ] {
        meta::carry(new, old, field);
    }
}

/// A deleted object with nothing left to wait for.
pub(super) fn finished(resource: &Resource, new: &Value, old: &Value) -> bool {
    meta::deleting(old)
        && meta::finalizers(new).is_empty()
        && kind_finalizers(resource, new) == 0
        && old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Finalizers a kind keeps elsewhere: `spec.finalizers` of namespaces.
pub(super) fn kind_finalizers(resource: &Resource, object: &Value) -> usize {
    if resource.plural == "namespaces" && resource.group.is_empty() {
        object["spec"]["finalizers"].as_array().map_or(0, Vec::len)
    } else {
        0
    }
}

/// Nothing changed, apart from the times in `managedFields`: then nothing is written.
fn same(new: &mut Value, old: &Value) -> bool {
    if *new == *old {
        return true;
    }
    if !schemas::managed_fields_equal_but_time(
        &new["metadata"]["managedFields"],
        &old["metadata"]["managedFields"],
    ) {
        return false;
    }
    let fresh = new["metadata"]["managedFields"].clone();
    meta::carry(new, old, "managedFields");
    if *new == *old {
        return true;
    }
    meta::set(new, "managedFields", fresh);
    false
}

/// Kinds whose PUT must name the version it replaces.
fn unconditional(resource: &Resource) -> bool {
    if resource.custom.is_some() {
        return false;
    }
    !matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("coordination.k8s.io", _)
            | ("apiextensions.k8s.io", _)
            | ("apiregistration.k8s.io", _)
            | ("policy", "poddisruptionbudgets")
            | ("storage.k8s.io", "csidrivers" | "csinodes" | "volumeattachments" | "csistoragecapacities")
            | ("node.k8s.io", _)
            | ("admissionregistration.k8s.io", _)
            | ("internal.apiserver.k8s.io", _)
            | ("storagemigration.k8s.io", _)
    )
}

/// Kinds a PUT may create.
pub(crate) fn create_on_update(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "endpoints" | "events" | "limitranges" | "podtemplates" | "services")
            | ("events.k8s.io", "events")
            | ("coordination.k8s.io", "leases" | "leasecandidates")
            | ("rbac.authorization.k8s.io", _)
    )
}
