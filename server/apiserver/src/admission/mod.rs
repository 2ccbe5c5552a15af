//! Admission: mutate, then validate, one ordered chain of plugins under upstream's names.

mod certificates;
mod forms;
mod ingress;
mod lifecycle;
mod limits;
mod node_restriction;
mod node_taint;
mod pod_security;
pub(crate) mod policies;
mod priority;
mod quota;
mod rounds;
mod runtime_class;
mod service_account;
mod storage;
mod support;
mod tolerations;
mod webhooks;

pub use forms::{Form, Kind, Versions};
pub use quota::QuotaController;
pub use webhooks::{Answered, Endpoint, WebhookTransport};

use crate::authentication::UserInfo;
use crate::authorization::Authorizer;
use crate::reader::Reader;
use crate::status::Cause;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As AdmissionReviews and messages name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What a plugin sees. Objects are in the request's version.
pub struct Request<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub old: Option<&'a Value>,
    /// Create/Update/Patch/DeleteOptions, as sent.
    pub options: &'a Value,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// Of stored resources.
    pub versions: Option<&'a dyn Versions>,
    pub notes: Notes,
}

impl Request<'_> {
    /// The kind of what was sent.
    pub fn sent_kind(&self, object: Option<&Value>) -> Kind {
        if let Some(versions) = self.versions {
            return versions.kind();
        }
        let of = |field: &str| object.or(self.old)?[field].as_str().filter(|k| !k.is_empty());
        let (group, version) = match of("apiVersion") {
            Some(v) => v.split_once('/').unwrap_or(("", v)),
            None => (self.group, self.version),
        };
        let kind = of("kind").unwrap_or(self.kind);
        Kind { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// The request as it was sent.
    pub fn form(&self, object: Option<&Value>) -> Form {
        Form {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            resource: self.resource.to_owned(),
            kind: self.sent_kind(object),
        }
    }
}

/// What plugins leave for the one who asked them: warnings for the client, and whether an outsider changed the object.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    changed: AtomicBool,
    pub(crate) rounds: rounds::Rounds,
}

impl Notes {
    /// Sent as a `Warning` header with an accepted request.
    pub fn warn(&self, text: String) {
        self.warnings.lock().push(text);
    }

    /// A webhook or a policy changed the object: it may hold what its kind does not know.
    pub fn object_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}

/// A refusal: the HTTP code and message of the `Status` to answer with. For 403 the message is what follows
/// `<resource> "<name>" is forbidden: `.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// The refusal is worded like a 403 and names its cause, whatever its code: a policy's.
    pub by_policy: bool,
    /// What a program reads of it.
    pub cause: Option<Box<Cause>>,
    /// A `Status` that is sent as it is: a webhook's.
    pub status: Option<Box<Value>>,
}

impl Denied {
    /// With one cause in the `Status`'s details.
    pub fn because(mut self, reason: &str, message: String, field: &str) -> Self {
        self.cause = Some(Box::new(Cause { reason: reason.to_owned(), message, field: field.to_owned() }));
        self
    }

    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), by_policy: false, cause: None, status: None }
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} {name:?} not found"))
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        let denied = Self::new(500, "InternalError", format!("Internal error occurred: {text}"));
        denied.because("", text, "")
    }

    /// A `Status`, sent as it is.
    pub fn status(status: Value) -> Self {
        let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(400);
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        Self { status: Some(Box::new(status)), ..Self::new(code, "", message) }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
}

#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn handles(&self, request: &Request<'_>) -> bool;
    async fn mutate(&self, _request: &Request<'_>, _object: &mut Value) -> Result<(), Denied> {
        Ok(())
    }
    /// `object` is `None` for deletes.
    async fn validate(&self, _request: &Request<'_>, _object: Option<&Value>) -> Result<(), Denied> {
        Ok(())
    }
    /// Sent as `Warning` headers with an accepted create or update.
    fn warnings(&self, _request: &Request<'_>, _object: &Value) -> Vec<String> {
        Vec::new()
    }
}

#[derive(Clone, Default)]
pub struct AdmissionConfig {
    /// Turns StorageObjectInUseProtection on. Only where a controller takes the finalizers off again: without one,
    /// claims and volumes could never be deleted.
    pub protect_storage: bool,
    /// How webhooks are reached; `None`: over HTTPS.
    pub webhooks: Option<Arc<dyn WebhookTransport>>,
}

/// Every plugin, in upstream's order.
pub fn plugins(
    reader: &Arc<dyn Reader>,
    authorizer: &Arc<dyn Authorizer>,
    config: &AdmissionConfig,
) -> Vec<Arc<dyn Plugin>> {
    let r = || reader.clone();
    let a = || authorizer.clone();
    let mut all: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(lifecycle::NamespaceLifecycle::new(r())),
        Arc::new(limits::LimitRanger::new(r())),
        Arc::new(service_account::ServiceAccount::new(r())),
        Arc::new(node_restriction::NodeRestriction::new(r(), a())),
        Arc::new(node_taint::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity::new(r())),
        Arc::new(priority::Priority::new(r())),
        Arc::new(tolerations::DefaultTolerationSeconds),
        Arc::new(storage::DefaultStorageClass::new(r())),
    ];
    if config.protect_storage {
        all.push(Arc::new(storage::StorageObjectInUseProtection));
    }
    let rest: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(storage::PersistentVolumeClaimResize::new(r())),
        Arc::new(runtime_class::RuntimeClass::new(r())),
        Arc::new(certificates::CertificateApproval::new(a())),
        Arc::new(certificates::CertificateSigning::new(a())),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(ingress::DefaultIngressClass::new(r())),
        Arc::new(policies::MutatingAdmissionPolicy::new(r(), a())),
        Arc::new(webhooks::MutatingAdmissionWebhook::new(r(), a(), config.webhooks.clone())),
        Arc::new(policies::ValidatingAdmissionPolicy::new(r(), a())),
        Arc::new(webhooks::ValidatingAdmissionWebhook::new(r(), a(), config.webhooks.clone())),
        Arc::new(quota::ResourceQuota::new(r())),
    ];
    all.extend(rest);
    all
}
