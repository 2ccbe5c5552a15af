//! The event of the request that runs now, filled in from wherever something is known.
//!
//! Handlers and admission reach it through a task-local: where nothing is audited, that is one look and no more.

use super::event::{ObjectRef, Status, User, without_managed_fields};
use super::{Audit, Event, Level, Stage};
use crate::authentication::UserInfo;
use crate::http::Body;
use crate::status::ApiError;
use chrono::Utc;
use http::Response;
use parking_lot::Mutex;
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// One request's event while it is made.
pub(crate) struct Record {
    pub audit: Arc<Audit>,
    pub decision: super::policy::Decision,
    pub event: Mutex<Event>,
}

/// Runs the work with this record as the current one.
pub(crate) async fn scope<F: Future>(record: Option<Arc<Record>>, work: F) -> F::Output {
    match record {
        None => work.await,
        Some(record) => CURRENT.scope(record, work).await,
    }
}

fn current(level: Level, f: impl FnOnce(&Record)) {
    let _ = CURRENT.try_with(|record| {
        if record.decision.level >= level {
            f(record);
        }
    });
}

/// Adds an annotation to the current event. The first value of a key stays, as upstream's.
pub(crate) fn annotate(key: &str, value: impl Into<String>) {
    annotate_at(Level::Metadata, key, || value.into());
}

/// The same for events of at least this level; the value is made only for those.
pub(crate) fn annotate_at(level: Level, key: &str, value: impl FnOnce() -> String) {
    current(level, |record| {
        let mut event = record.event.lock();
        if event.annotations.contains_key(key) {
            return;
        }
        let value = value();
        // An empty reason is a reason; other annotations are left out when there is nothing to say.
        if !value.is_empty() || key.starts_with("authorization.k8s.io/") {
            event.annotations.insert(key.to_owned(), value);
        }
    });
}

/// Notes the object of the request, as decoded.
pub(crate) fn request_object(object: &Value) {
    current(Level::Metadata, |record| {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let mut event = record.event.lock();
        let of = event.object_ref.get_or_insert_default();
        let fill = |slot: &mut String, field: &str| {
            if slot.is_empty() {
                *slot = text(field);
            }
        };
        fill(&mut of.namespace, "namespace");
        fill(&mut of.name, "name");
        fill(&mut of.uid, "uid");
        fill(&mut of.resource_version, "resourceVersion");
        if record.decision.level >= Level::Request {
            event.request_object = Some(record.strip(object.clone()));
        }
    });
}

/// Notes a patch, as sent.
pub(crate) fn request_patch(patch: &[u8]) {
    current(Level::Request, |record| {
        let value = serde_json::from_slice(patch).ok().or_else(|| machinery::codec::yaml::decode(patch).ok());
        record.event.lock().request_object = value.map(Arc::new);
    });
}

impl Record {
    fn strip(&self, mut value: Value) -> Arc<Value> {
        if self.decision.omit_managed_fields {
            without_managed_fields(&mut value);
        }
        Arc::new(value)
    }

    pub fn wants_response(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    pub fn impersonated(&self, user: &UserInfo) {
        self.event.lock().impersonated_user = Some(User::from(user));
    }

    pub fn set_error(&self, error: &ApiError) {
        let value = error.to_status();
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let mut event = self.event.lock();
        event.response_status = Some(Status {
            status: text("status"),
            message: text("message"),
            reason: text("reason"),
            details: value["details"].clone(),
            code: error.code,
            ..Status::default()
        });
        if self.wants_response() {
            event.response_object = Some(Arc::new(value));
        }
    }

    /// Notes the response: its code and, at the highest level, its object.
    pub fn set_response(&self, response: &Response<Body>) {
        let code = response.status().as_u16();
        let object = if self.wants_response() { super::response::object(response) } else { None };
        let object = object.map(|o| self.strip(o));
        let mut event = self.event.lock();
        event.response_status = Some(Status { code, ..Status::default() });
        event.response_object = object;
    }

    pub fn set_failure(&self, code: u16, message: String) {
        self.event.lock().response_status = Some(Status { message, code, ..Status::default() });
    }

    pub fn set_panic(&self, why: &str) {
        self.event.lock().response_status = Some(Status {
            status: "Failure".into(),
            message: format!("APIServer panic'd: {why}"),
            reason: "InternalError".into(),
            code: 500,
            ..Status::default()
        });
    }

    /// Hands the event to the backends, if the policy wants this stage. `false`: a strict backend could not write it.
    pub async fn stage(&self, stage: Stage) -> bool {
        if self.decision.omits(stage) {
            return true;
        }
        let event = {
            let mut event = self.event.lock();
            event.stage = stage;
            event.stage_timestamp = Utc::now();
            event.clone()
        };
        self.audit.emit(Arc::new(event)).await
    }
}

/// Says that a long-running request has ended, when it is dropped with the response's body.
pub(crate) struct Completion(pub Arc<Record>);

impl Drop for Completion {
    fn drop(&mut self) {
        let record = self.0.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { record.stage(Stage::ResponseComplete).await });
        }
    }
}

impl From<&crate::http::RequestInfo> for ObjectRef {
    fn from(info: &crate::http::RequestInfo) -> Self {
        Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        }
    }
}
