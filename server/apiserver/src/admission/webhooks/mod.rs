//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: other servers have a say.
//!
//! Mutating hooks run one after another; the registry runs all mutating plugins once more where the object was changed
//! (`rounds`), and then those hooks are asked again that want to see it. Validating hooks run at once. A hook that
//! cannot be asked is a refusal or is passed over, as it says. A hook sees the version its rules name, whatever version
//! was sent. Sources: apiserver's `webhook/{mutating,validating}/dispatcher.go`; messages are its.

mod config;
mod review;
mod transport;

pub(super) use config::{Forms, Rule};
pub use transport::{Answered, Endpoint, WebhookTransport};

use super::forms::{in_form, out_of_form};
use super::policies::expression::{self, Inputs, Scope};
use super::policies::{self, Asked};
use super::{Denied, Form, Operation, Plugin, Request};
use crate::audit;
use crate::authorization::Authorizer;
use crate::metrics::{HookEnd, webhook_called};
use crate::reader::{Reader, text};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::{Configurations, Hook, exempt};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// Where among all hooks, and in which round, one is asked; audit annotations tell it.
#[derive(Clone, Copy)]
struct At {
    round: u8,
    index: usize,
}

impl At {
    fn key(self, what: &str) -> String {
        format!("{what}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }
}

/// A hook that is to be asked, and the objects in its form.
struct Invocation<'a> {
    form: &'a Form,
    object: Option<Cow<'a, Value>>,
    old: Option<Cow<'a, Value>>,
}

/// Why a hook's word is not an answer that lets the request pass.
enum Failed {
    /// It could not be asked, or its answer is none: what follows `failed calling webhook "<name>": `, and the code
    /// that metrics tell.
    Calling(String, u16),
    /// It said no.
    Rejected(Value),
    /// The server's own fault, whatever the failure policy.
    Internal(Denied),
}

struct Caller {
    /// `mutating` or `validating`.
    kind: &'static str,
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    transport: Arc<dyn WebhookTransport>,
    configurations: Configurations,
}

impl Caller {
    fn new(
        kind: &'static str,
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        transport: Option<Arc<dyn WebhookTransport>>,
    ) -> Self {
        let transport = transport.unwrap_or_else(|| Arc::new(transport::Https { reader: reader.clone() }));
        let resource = match kind {
            "mutating" => "mutatingwebhookconfigurations",
            _ => "validatingwebhookconfigurations",
        };
        Self { kind, reader, authorizer, transport, configurations: Configurations::new(resource) }
    }

    /// `admit` or `validating`, as metrics call it.
    fn step(&self) -> &'static str {
        if self.kind == "mutating" { "admit" } else { "validating" }
    }

    /// Whether a hook is to be asked, and what about.
    async fn invocation<'a>(
        &self,
        hook: &Hook,
        r: &'a Request<'_>,
        object: Option<&'a Value>,
        forms: &'a Forms<'_>,
    ) -> Result<Option<Invocation<'a>>, Denied> {
        let Some(form) = hook.interest(&*self.reader, r, object, forms)? else { return Ok(None) };
        let invocation =
            Invocation { form, object: in_form(r, object, form).await?, old: in_form(r, r.old, form).await? };
        match self.conditions(hook, r, &invocation).await {
            Ok(true) => Ok(Some(invocation)),
            Ok(false) => {
                crate::metrics::condition_excluded(&hook.name, "webhook", self.step(), r.operation);
                Ok(None)
            }
            Err(_) if hook.ignore_failure => Ok(None),
            Err(why) => Err(Denied::forbidden(why)),
        }
    }

    /// Whether all of the hook's conditions hold; `Err` where none is false and some cannot be evaluated.
    async fn conditions(
        &self,
        hook: &Hook,
        r: &Request<'_>,
        invocation: &Invocation<'_>,
    ) -> Result<bool, String> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let object = invocation.object.as_deref();
        let request = policies::environment::request(r, object, invocation.form);
        let asked = hook.conditions.uses_authorizer().then(|| Asked::new(self.authorizer.clone(), r.user));
        loop {
            let verdict = {
                let inputs = Inputs {
                    object: object.unwrap_or(&Value::Null),
                    old: invocation.old.as_deref().unwrap_or(&Value::Null),
                    request: &request,
                    namespace: &Value::Null,
                    params: None,
                    authorizer: asked.as_ref(),
                    about: r,
                };
                expression::verdict(&hook.conditions, &Scope::new(&inputs, &[]))
            };
            return match verdict {
                Ok(expression::Verdict::Matches) => Ok(true),
                Ok(expression::Verdict::No) => Ok(false),
                Ok(expression::Verdict::Error(why)) => Err(why),
                Err(_) => match &asked {
                    Some(asked) if asked.answer().await => continue,
                    _ => Err("an authorization check has no answer".into()),
                },
            };
        }
    }

    /// The `response` of an answered review that allows the request.
    async fn call(&self, hook: &Hook, r: &Request<'_>, invocation: &Invocation<'_>) -> Result<Value, Failed> {
        if r.dry_run && !hook.dry_run {
            return Err(Failed::Internal(Denied::bad_request(format!(
                "admission webhook {:?} does not support dry run",
                hook.name
            ))));
        }
        let Some(review) = hook.review else {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failed::Calling(why.into(), 400));
        };
        let endpoint = match &hook.endpoint {
            Ok(endpoint) => endpoint,
            Err(why) => return Err(Failed::Calling(format!("could not get REST client: {why}"), 500)),
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let (object, old) = (invocation.object.as_deref(), invocation.old.as_deref());
        let body = review.request(&uid, r, invocation.form, object, old);
        let call = self.transport.call(endpoint, hook.timeout, body);
        let unreached = |why: String| {
            let url = endpoint.shown(hook.timeout);
            Failed::Calling(format!("failed to call webhook: Post {url:?}: {why}"), 503)
        };
        let answer = match tokio::time::timeout(hook.timeout, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(unreached(why)),
            Err(_) => return Err(unreached("context deadline exceeded".into())),
        };
        let code = if (200..300).contains(&answer.code) { 503 } else { answer.code };
        let answer = review
            .decode(&answer)
            .map_err(|why| Failed::Calling(format!("failed to call webhook: {why}"), code))?;
        let response = review
            .verify(&uid, self.kind == "mutating", answer)
            .map_err(|why| Failed::Calling(format!("received invalid webhook response: {why}"), 503))?;
        for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
            audit::annotate(&format!("{}/{key}", hook.name), value.as_str().unwrap_or_default());
        }
        for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            r.notes.warn(warning.to_owned());
        }
        match response["allowed"] == true {
            true => Ok(response),
            false => Err(Failed::Rejected(rejection(&hook.name, &response["status"]))),
        }
    }

    /// What becomes of a failure: `Ok` where the hook is passed over.
    fn settle(
        &self,
        at: At,
        hook: &Hook,
        r: &Request<'_>,
        failed: Failed,
        began: Instant,
    ) -> Result<(), Denied> {
        let note = |rejected: bool, code: u16, why: Option<&'static str>| {
            let end = HookEnd { rejected, code, why, took: began.elapsed() };
            webhook_called(&hook.name, self.step(), r.operation, end);
        };
        match failed {
            Failed::Calling(why, code) if hook.ignore_failure => {
                note(false, code, None);
                crate::metrics::webhook_failed_open(&hook.name, self.step());
                tracing::warn!(webhook = hook.name, error = why, "failed calling webhook, failing open");
                audit::annotate(&at.key(&format!("failed-open.{}", self.kind)), hook.name.as_str());
                Ok(())
            }
            Failed::Calling(why, code) => {
                note(true, code, Some("calling_webhook_error"));
                Err(Denied::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
            }
            Failed::Rejected(status) => {
                let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(400);
                note(true, code, Some("no_error"));
                Err(Denied::status(status))
            }
            Failed::Internal(denied) => {
                note(true, 0, Some("apiserver_internal_error"));
                Err(denied)
            }
        }
    }

    fn succeeded(&self, hook: &Hook, r: &Request<'_>, began: Instant) {
        let end = HookEnd { rejected: false, code: 200, why: None, took: began.elapsed() };
        webhook_called(&hook.name, self.step(), r.operation, end);
    }
}

/// The `Status` a refusal is answered with: the webhook's own, completed.
fn rejection(name: &str, status: &Value) -> Value {
    let mut made = match status {
        Value::Object(status) => status.clone(),
        _ => serde_json::Map::new(),
    };
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text(status, "/message"), text(status, "/reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"].as_u64().filter(|c| (400..1000).contains(c)).unwrap_or(400);
    if matches!(text(status, "/status"), "" | "Success") {
        made.insert("status".into(), "Failure".into());
    }
    made.insert("message".into(), message.into());
    made.insert("code".into(), code.into());
    made.insert("kind".into(), "Status".into());
    made.insert("apiVersion".into(), "v1".into());
    made.entry("metadata").or_insert_with(|| json!({}));
    made.retain(|_, value| !value.is_null());
    Value::Object(made)
}

pub(super) struct MutatingAdmissionWebhook(Caller);

impl MutatingAdmissionWebhook {
    pub fn new(
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        transport: Option<Arc<dyn WebhookTransport>>,
    ) -> Self {
        Self(Caller::new("mutating", reader, authorizer, transport))
    }

    /// Asks one hook; the object in its form where that was patched, and whether it is another then.
    async fn ask(
        &self,
        at: At,
        hook: &Hook,
        r: &Request<'_>,
        invocation: &Invocation<'_>,
    ) -> Result<Option<(Value, bool)>, Failed> {
        let mut patched = None;
        let outcome = match self.0.call(hook, r, invocation).await {
            Ok(response) => self.patch(at, hook, invocation, &response),
            Err(failed) => Err(failed),
        };
        let mut changed = false;
        let outcome = outcome.map(|object| {
            changed = object.as_ref().is_some_and(|o| Some(o) != invocation.object.as_deref());
            patched = object;
        });
        audit::annotate_at(audit::Level::Metadata, &at.key("mutation"), || {
            format!(
                "{{\"configuration\":{:?},\"webhook\":{:?},\"mutated\":{changed}}}",
                hook.configuration, hook.name
            )
        });
        outcome.map(|()| patched.map(|object| (object, changed)))
    }

    fn patch(
        &self,
        at: At,
        hook: &Hook,
        invocation: &Invocation<'_>,
        response: &Value,
    ) -> Result<Option<Value>, Failed> {
        use machinery::patch::json_patch;
        let encoded = text(response, "/patch").replace(['\n', '\r'], "");
        if encoded.is_empty() {
            return Ok(None);
        }
        let unreadable = |why: String| {
            Failed::Calling(format!("received undecodable patch in webhook response: {why}"), 503)
        };
        let patch = STANDARD.decode(encoded).map_err(|e| unreadable(e.to_string()))?;
        let patch: Value = serde_json::from_slice(&patch)
            .map_err(|e| unreadable(machinery::codec::json::syntax_error(&e, &patch).to_string()))?;
        let Some(operations) = patch.as_array() else {
            let kind = if patch.is_object() { "object" } else { "value" };
            return Err(unreadable(format!(
                "json: cannot unmarshal {kind} into Go value of type jsonpatch.Patch"
            )));
        };
        if operations.is_empty() {
            return Ok(None);
        }
        let Some(object) = invocation.object.as_deref() else {
            return Err(Failed::Internal(Denied::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        // Old reviews named no type.
        let kind = if hook.review == Some(review::Review::V1beta1) {
            "JSONPatch"
        } else {
            text(response, "/patchType")
        };
        if kind != "JSONPatch" {
            return Err(Failed::Calling(format!("unsupported patch type {kind:?}"), 400));
        }
        let mut changed = object.clone();
        json_patch::apply(&mut changed, &patch).map_err(|e| Failed::Internal(Denied::internal(e)))?;
        policies::decode(&mut changed).map_err(|e| Failed::Internal(Denied::internal(e)))?;
        audit::annotate_at(audit::Level::Request, &at.key("patch"), || {
            format!(
                "{{\"configuration\":{:?},\"webhook\":{:?},\"patch\":{patch},\"patchType\":\"JSONPatch\"}}",
                hook.configuration, hook.name
            )
        });
        policies::default(&mut changed);
        Ok(Some(changed))
    }

    async fn round(&self, r: &Request<'_>, object: &mut Value, hooks: &[Arc<Hook>]) -> Result<(), Denied> {
        let second = r.notes.rounds.is_second();
        // There is nothing to change of what goes.
        let gone = r.operation == Operation::Delete;
        let forms = Forms::new(r, (!gone).then_some(&*object));
        for (index, hook) in hooks.iter().enumerate() {
            let patched = {
                let object = (!gone).then_some(&*object);
                let Some(invocation) = self.0.invocation(hook, r, object, &forms).await? else { continue };
                if second && !r.notes.rounds.webhooks.lock().is_due(&hook.key) {
                    continue;
                }
                let at = At { round: u8::from(second), index };
                let began = Instant::now();
                let outcome = self.ask(at, hook, r, &invocation).await;
                let form = invocation.form;
                if outcome.is_ok() {
                    self.0.succeeded(hook, r, began);
                }
                if let Ok(Some((_, true))) = &outcome {
                    r.notes.rounds.webhooks.lock().changed();
                    r.notes.rounds.want_another();
                }
                if hook.reinvoke {
                    r.notes.rounds.webhooks.lock().ran(&hook.key);
                }
                match outcome {
                    Ok(patched) => patched.map(|(object, _)| (object, form)),
                    Err(failed) => {
                        self.0.settle(at, hook, r, failed, began)?;
                        None
                    }
                }
            };
            if let Some((patched, form)) = patched {
                *object = out_of_form(r, patched, form).await?;
                r.notes.object_changed();
            }
        }
        Ok(())
    }
}

pub(super) struct ValidatingAdmissionWebhook(Caller);

impl ValidatingAdmissionWebhook {
    pub fn new(
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        transport: Option<Arc<dyn WebhookTransport>>,
    ) -> Self {
        Self(Caller::new("validating", reader, authorizer, transport))
    }

    async fn ask(
        &self,
        at: At,
        hook: &Hook,
        r: &Request<'_>,
        invocation: Invocation<'_>,
    ) -> Result<(), Denied> {
        let began = Instant::now();
        match self.0.call(hook, r, &invocation).await {
            Ok(_) => {
                self.0.succeeded(hook, r, began);
                Ok(())
            }
            Err(failed) => self.0.settle(at, hook, r, failed, began),
        }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        !exempt(r)
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        let hooks = self.0.configurations.hooks(&*self.0.reader);
        if hooks.is_empty() {
            return Ok(());
        }
        let rounds = &r.notes.rounds;
        rounds.webhooks.lock().begin(rounds.is_second(), object);
        let outcome = self.round(r, object, &hooks).await;
        rounds.webhooks.lock().end(object);
        outcome
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        !exempt(r)
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let hooks = self.0.configurations.hooks(&*self.0.reader);
        if hooks.is_empty() {
            return Ok(());
        }
        let forms = Forms::new(r, object);
        let mut relevant = Vec::new();
        for hook in &hooks {
            if let Some(invocation) = self.0.invocation(hook, r, object, &forms).await? {
                relevant.push((hook, invocation));
            }
        }
        let asks = relevant
            .into_iter()
            .enumerate()
            .map(|(index, (hook, invocation))| self.ask(At { round: 0, index }, hook, r, invocation));
        futures::future::join_all(asks).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
