//! The generic registry: what every verb does to every kind.
//!
//! A write runs decode, defaults, mutate, prepare, fields, validate, store in this order, in [`create`] and
//! [`update`]; a kind takes part only through its `Strategy`. Objects are values of the storage version here;
//! the border to other versions is `schemas::convert`.

pub mod create;
pub mod delete;
mod devices;
pub mod forms;
pub mod list;
pub mod meta;
pub mod patch;
pub mod selectors;
pub mod update;
pub mod watch;

use crate::ApiServer;
use crate::admission::{Denied, Operation, Request};
use crate::authentication::UserInfo;
use crate::crd::{self, Current};
use crate::http::options::WriteOptions;
use crate::resolve::Resource;
use crate::status::ApiError;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a write is aimed at and on whose behalf.
pub struct Target<'a> {
    pub resource: &'a Arc<Resource>,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub options: &'a WriteOptions,
    /// Field manager: the `fieldManager` option, or the user agent's first word.
    pub manager: String,
}

/// An object as it was stored.
pub struct Stored {
    /// In the storage version, `resourceVersion` included.
    pub value: Value,
    /// Its final JSON.
    pub json: Bytes,
}

impl Target<'_> {
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, self.name)
    }

    fn admission<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        old: Option<&'a Value>,
        options: &'a Value,
        dry_run: bool,
        versions: &'a forms::Forms<'a>,
    ) -> Request<'a> {
        Request {
            operation,
            group: &self.resource.group,
            version: &self.resource.version,
            kind: &self.resource.kind,
            resource: &self.resource.plural,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            old,
            options,
            user: self.user,
            dry_run,
            versions: Some(versions),
            notes: Default::default(),
        }
    }
}

/// The manager's name when none was given: upstream's `prefixFromUserAgent`.
pub fn manager(option: &str, user_agent: &str) -> String {
    if !option.is_empty() {
        return option.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    prefix.chars().filter(|c| !c.is_control()).take(128).collect()
}

impl ApiServer {
    // Boxed by hand: the compiler cannot prove the futures of borrowed requests `Send` otherwise.
    pub(crate) fn admit<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a mut Value,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let metrics = &self.metrics.admission;
            let (began, op) = (Instant::now(), request.operation);
            let mut last = began;
            let mut outcome = Ok(());
            'rounds: loop {
                for plugin in &self.config.admission {
                    if plugin.handles(request) {
                        outcome = plugin.mutate(request, object).await;
                        let now = Instant::now();
                        metrics.plugin(plugin.name(), "admit", op, outcome.is_err(), now - last);
                        last = now;
                    }
                    if outcome.is_err() {
                        break 'rounds;
                    }
                }
                if !request.notes.rounds.next() {
                    break;
                }
            }
            metrics.step("admit", op, outcome.is_err(), last - began);
            outcome.map_err(|d| denied(d, request))
        })
    }

    /// Warnings of admission plugins for an accepted object.
    pub(crate) fn admission_warnings(&self, request: &Request<'_>, object: &Value) -> Vec<String> {
        let plugins = self.config.admission.iter().filter(|plugin| plugin.handles(request));
        plugins.flat_map(|plugin| plugin.warnings(request, object)).collect()
    }

    pub(crate) fn admit_validating<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let metrics = &self.metrics.admission;
            let (began, op) = (Instant::now(), request.operation);
            let mut last = began;
            let mut outcome = Ok(());
            for plugin in &self.config.admission {
                if plugin.handles(request) {
                    outcome = plugin.validate(request, object).await;
                    let now = Instant::now();
                    metrics.plugin(plugin.name(), "validate", op, outcome.is_err(), now - last);
                    last = now;
                }
                if outcome.is_err() {
                    break;
                }
            }
            metrics.step("validate", op, outcome.is_err(), last - began);
            outcome.map_err(|d| denied(d, request))
        })
    }

    /// One object as a writer needs it: parsed, in the resource's version, with the revision to expect.
    pub(crate) async fn current(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Current>, ApiError> {
        match self.storage.get(resource, namespace, name).await? {
            None => Ok(None),
            Some(entry) => crd::current(self, resource, &entry).await.map(Some),
        }
    }

    /// The same of what a conflicting writer left behind.
    pub(crate) async fn left_behind(
        &self,
        resource: &Resource,
        current: Option<store::KeyValue>,
    ) -> Result<Option<Current>, ApiError> {
        match crate::storage::parse(current)? {
            None => Ok(None),
            Some((value, revision)) => crd::read(self, resource, value, revision).await.map(Some),
        }
    }

    /// The bytes to store of an object in the resource's version.
    pub(crate) async fn stored_form(&self, resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
        match crd::to_storage(self, resource, object).await? {
            Some(converted) => self.encode(&converted),
            None => self.encode(object),
        }
    }

    /// The final bytes of an object that was stored as `stored`.
    pub(crate) fn final_form(
        &self,
        resource: &Resource,
        object: &Value,
        stored: &Bytes,
        revision: u64,
    ) -> Result<Bytes, ApiError> {
        match &resource.custom {
            Some(custom) if custom.versions.storage() != resource.version => {
                Ok(serde_json::to_vec(object).map_err(ApiError::internal)?.into())
            }
            _ => crate::storage::with_revision(stored, revision),
        }
    }

    /// Encodes without `resourceVersion`, as the store holds it.
    pub(crate) fn encode(&self, object: &Value) -> Result<Bytes, ApiError> {
        Ok(crate::cache::encode_for_store(object)?)
    }

    /// How long objects of this resource live; upstream's `--event-ttl`.
    pub(crate) fn ttl(&self, resource: &Resource) -> Option<Duration> {
        (&*resource.stored.resource == "events").then_some(Duration::from_secs(3600))
    }
}

fn denied(mut d: Denied, request: &Request<'_>) -> ApiError {
    let (status, warnings) = (d.status.take(), request.notes.take_warnings());
    let mut error = worded(d, request);
    (error.made, error.warnings) = (status, warnings);
    error
}

fn worded(d: Denied, request: &Request<'_>) -> ApiError {
    let name = request.name;
    if d.by_policy {
        return ApiError::forbidden(request.group, request.resource, name, &d.message)
            .with_code(d.code, d.reason)
            .with_cause("", d.message, "");
    }
    let error = match (d.code, d.reason) {
        // A refusal without a reason is complete as it is: a webhook's.
        (403, "Forbidden") | (0, _) => ApiError::forbidden(request.group, request.resource, name, &d.message),
        (code, reason) => ApiError::bad_request(d.message).with_code(code, reason),
    };
    match d.cause {
        Some(cause) => error.with_cause(&cause.reason, cause.message, &cause.field),
        None => error,
    }
}
