//! Create.

use super::{Stored, Target, meta};
use crate::ApiServer;
use crate::admission::Operation;
use crate::schemas;
use crate::status::ApiError;
use serde_json::Value;
use store::Expect;

/// Upstream tries a generated name this often.
const NAME_ATTEMPTS: usize = 8;

impl ApiServer {
    /// Creates `object` (decoded, in the storage version). `managed`: field management was already done, by an
    /// apply that turned out to create.
    pub(crate) async fn create(
        &self,
        target: &Target<'_>,
        object: Value,
        managed: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Stored, ApiError> {
        let generated = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
        if !generated {
            return self.try_create(target, object, managed, warnings).await;
        }
        for attempt in 1.. {
            let tried = self.try_create(target, object.clone(), managed, warnings).await;
            match tried {
                Err(e) if e.reason == "AlreadyExists" => {
                    if attempt < NAME_ATTEMPTS {
                        continue;
                    }
                    let mut e = e;
                    e.message.push_str(", the server was not able to generate a unique name for the object");
                    if let Some(d) = &mut e.details {
                        d.retry_after_seconds = 1;
                    }
                    return Err(e);
                }
                other => return other,
            }
        }
        Err(ApiError::internal("no name was tried"))
    }

    async fn try_create(
        &self,
        target: &Target<'_>,
        mut object: Value,
        managed: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Stored, ApiError> {
        let resource = target.resource;
        if resource.custom.as_ref().is_some_and(|c| c.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::generic(405, "MethodNotAllowed", why).on(
                &resource.group,
                &resource.plural,
                "",
            ));
        }
        let options = target.options.to_value("CreateOptions");
        let dry_run = target.options.dry_run;
        if !meta::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created")
                .with_code(500, ""));
        }
        place(resource.namespaced, target.namespace, &mut object)?;
        // System fields come before admission, which may look at them.
        let given = meta::name(&object).to_owned();
        if given.is_empty() {
            let base = meta::text(&object, "generateName").to_owned();
            if !base.is_empty() {
                meta::set(&mut object, "name", meta::generate_name(&base));
            }
        }
        meta::set(&mut object, "uid", uuid::Uuid::new_v4().to_string());
        meta::set(&mut object, "creationTimestamp", meta::now());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            meta::set(&mut object, field, Value::Null);
        }
        let strategy = &resource.strategy;
        schemas::default(resource, &mut object);
        strategy.default(&mut object);
        // What admission and the kind's own preparation add belongs to nobody.
        warnings.extend(meta::dedup_owners(&mut object, false));
        if !managed {
            schemas::manage_update(resource, None, &mut object, &target.manager, target.subresource);
        }
        let name = meta::name(&object).to_owned();
        let versions = self.forms(target);
        let request = target.admission(Operation::Create, &name, None, &options, dry_run, &versions);
        self.admit(&request, &mut object).await?;
        if request.notes.is_changed() {
            schemas::prune(resource, &mut object)?;
        }
        warnings.extend(meta::dedup_owners(&mut object, true));
        strategy.prepare_for_create(&mut object);
        strategy.attribute(&mut object, target.user);
        schemas::default(resource, &mut object);
        let mut allocation = self.services.allocate(resource, &mut object, None)?;
        let mut errors = schemas::validate_metadata(resource, &object);
        errors.0.extend(schemas::validate(resource, &object, None, warnings).0);
        errors.extend(self.admin_access(resource, "", target.namespace, &object, None));
        errors.0.extend(strategy.validate(&object).0);
        if !errors.0.is_empty() {
            schemas::show(resource, &mut errors);
            return Err(ApiError::invalid(&resource.storage.0, &resource.kind, meta::name(&object), &errors));
        }
        for text in strategy.warnings(&object, None) {
            warnings.push(text);
        }
        warnings.extend(self.admission_warnings(&request, &object));
        self.admit_validating(&request, Some(&object)).await?;
        warnings.extend(request.notes.take_warnings());
        schemas::settle(resource, &mut object);
        if dry_run {
            // Nothing is written, but a taken name is still an error.
            if self.storage.get(resource, target.namespace, &name).await?.is_some() {
                return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
            }
            let json = self.encode(&object)?;
            return Ok(Stored { value: object, json });
        }
        let key = resource.key(target.namespace, &name);
        let value = self.stored_form(resource, &object).await?;
        let revision =
            self.storage.put(key, value.clone(), Expect::Absent, self.ttl(resource)).await.map_err(|e| {
                match e {
                    store::StoreError::Conflict { .. } => {
                        let there = resource.cache.get(target.namespace, &name);
                        if there.and_then(|entry| entry.object().ok()).is_some_and(|o| meta::deleting(&o)) {
                            ApiError::being_deleted(&resource.group, &resource.plural, &name)
                        } else {
                            ApiError::already_exists(&resource.group, &resource.plural, &name)
                        }
                    }
                    other => other.into(),
                }
            })?;
        allocation.keep();
        meta::set_revision(&mut object, revision);
        Ok(Stored { json: self.final_form(resource, &object, &value, revision)?, value: object })
    }
}

/// Upstream's `EnsureObjectNamespaceMatchesRequestNamespace`.
pub(super) fn place(namespaced: bool, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    if !namespaced {
        meta::set(object, "namespace", Value::Null);
        return Ok(());
    }
    let own = meta::namespace(object);
    if own.is_empty() {
        meta::set(object, "namespace", namespace);
    } else if own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
