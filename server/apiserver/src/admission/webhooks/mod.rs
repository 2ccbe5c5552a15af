//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: other servers have a say.
//!
//! Mutating hooks run one after another, and once more where a later one changed what they saw and they asked for
//! that; validating hooks run at once. A hook that cannot be asked is a refusal or is passed over, as it says.

mod config;
mod transport;

pub(super) use config::Rule;
pub use transport::{Endpoint, WebhookTransport};

use super::policies::expression::{self, Inputs, Scope};
use super::policies::{self, Asked};
use super::{Denied, Operation, Plugin, Request};
use crate::audit;
use crate::authorization::Authorizer;
use crate::reader::{Reader, text};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use config::{Configurations, Hook, Interest, exempt};
use serde_json::{Value, json};
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

struct Caller {
    /// `mutating` or `validating`.
    kind: &'static str,
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    transport: Arc<dyn WebhookTransport>,
    configurations: Configurations,
}

/// What a hook said: a JSON patch, maybe.
type Verdict = Result<Option<Value>, Denied>;

impl Caller {
    fn review(r: &Request<'_>, object: Option<&Value>, uid: &str) -> Bytes {
        let kind = object.or(r.old).map(|o| text(o, "/kind")).filter(|k| !k.is_empty()).unwrap_or(r.kind);
        let kind = json!({"group": r.group, "version": r.version, "kind": kind});
        let resource = json!({"group": r.group, "version": r.version, "resource": r.resource});
        let mut request = json!({
            "uid": uid,
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "operation": r.operation.word(),
            "userInfo": r.user.to_json(),
            "object": object,
            "oldObject": r.old,
            "dryRun": r.dry_run,
            "options": r.options,
        });
        for (key, value) in [
            ("subResource", r.subresource),
            ("requestSubResource", r.subresource),
            ("name", r.name),
            ("namespace", r.namespace),
        ] {
            if !value.is_empty() {
                request[key] = value.into();
            }
        }
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        review.to_string().into()
    }

    /// Asks one hook. A failure to ask is `Ok(None)` where the hook is to be ignored then.
    async fn ask(&self, at: At, hook: &Hook, r: &Request<'_>, object: Option<&Value>) -> Verdict {
        let interest = hook.interest(&*self.reader, r, object);
        let outcome = match interest {
            Interest::No => return Ok(None),
            Interest::Unknown(why) => Err(why),
            Interest::Yes => match self.conditions(hook, r, object).await {
                Ok(false) => return Ok(None),
                Err(_) if hook.ignore_failure => return Ok(None),
                Err(why) => return Err(Denied::forbidden(why)),
                Ok(true) if r.dry_run && !hook.dry_run => {
                    return Err(Denied::bad_request(format!(
                        "admission webhook {:?} does not support dry run",
                        hook.name
                    )));
                }
                Ok(true) => {
                    let began = Instant::now();
                    let outcome = self.call(hook, r, object).await;
                    let rejected = !outcome.as_ref().is_ok_and(|answer| answer["allowed"] == true);
                    let kind = if self.kind == "mutating" { "admit" } else { "validating" };
                    crate::metrics::webhook_called(&hook.name, kind, r.operation, rejected, began.elapsed());
                    outcome
                }
            },
        };
        let answer = match outcome {
            Ok(answer) => answer,
            Err(why) if hook.ignore_failure => {
                tracing::warn!(webhook = hook.name, error = why, "failed calling webhook, failing open");
                let key = at.key(&format!("failed-open.{}", self.kind));
                audit::annotate(&key, hook.name.as_str());
                return Ok(None);
            }
            Err(why) => {
                return Err(Denied::internal(format!("failed calling webhook {:?}: {why}", hook.name)));
            }
        };
        for (key, value) in answer["auditAnnotations"].as_object().into_iter().flatten() {
            audit::annotate(&format!("{}/{key}", hook.name), value.as_str().unwrap_or_default());
        }
        if answer["allowed"] == true {
            return Ok(Some(answer));
        }
        let (message, reason) = (text(&answer, "/status/message"), text(&answer, "/status/reason"));
        let by = format!("admission webhook {:?} denied the request", hook.name);
        let message = match (message, reason) {
            ("", "") => format!("{by} without explanation"),
            ("", reason) => format!("{by}: {reason}"),
            (message, _) => format!("{by}: {message}"),
        };
        let code = answer.pointer("/status/code").and_then(Value::as_u64).unwrap_or(0);
        let code = u16::try_from(code).ok().filter(|c| (400..600).contains(c)).unwrap_or(400);
        // No reason of our own: the message is complete and is not wrapped.
        Err(Denied::new(code, "", message))
    }

    /// Whether all of the hook's conditions hold; `Err` where none is false and some cannot be evaluated.
    async fn conditions(&self, hook: &Hook, r: &Request<'_>, object: Option<&Value>) -> Result<bool, String> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let request = policies::environment::request(r, object);
        let asked = hook.conditions.uses_authorizer().then(|| Asked::new(self.authorizer.clone(), r.user));
        loop {
            let verdict = {
                let inputs = Inputs {
                    object: object.unwrap_or(&Value::Null),
                    old: r.old.unwrap_or(&Value::Null),
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

    /// The `response` of the answered review.
    async fn call(&self, hook: &Hook, r: &Request<'_>, object: Option<&Value>) -> Result<Value, String> {
        let endpoint = hook.endpoint.as_ref().map_err(Clone::clone)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let call = self.transport.call(endpoint, Self::review(r, object, &uid));
        let post = || format!("failed to call webhook: Post {:?}", endpoint.shown(hook.timeout));
        let answer = match tokio::time::timeout(hook.timeout, call).await {
            Ok(Ok(answer)) => transport::decode(&answer).map_err(|why| format!("{}: {why}", post()))?,
            Ok(Err(why)) => return Err(format!("{}: {why}", post())),
            Err(_) => return Err(format!("{}: context deadline exceeded", post())),
        };
        let response = &answer["response"];
        if !response.is_object() || text(response, "/uid") != uid {
            let given = text(response, "/uid");
            return Err(format!(
                "received invalid webhook response: expected response.uid={uid:?}, got {given:?}"
            ));
        }
        Ok(response.clone())
    }
}

fn handles(r: &Request<'_>) -> bool {
    !exempt(r)
}

pub(super) struct MutatingAdmissionWebhook(Caller);

impl MutatingAdmissionWebhook {
    pub fn new(
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        transport: Option<Arc<dyn WebhookTransport>>,
    ) -> Self {
        Self(caller(reader, authorizer, transport, "mutatingwebhookconfigurations"))
    }

    /// Whether the object was changed.
    async fn apply(&self, at: At, hook: &Hook, r: &Request<'_>, object: &mut Value) -> Result<bool, Denied> {
        let Some(answer) = self.0.ask(at, hook, r, Some(object)).await? else { return Ok(false) };
        let changed = self.patch(at, hook, r, &answer, object)?;
        audit::annotate_at(audit::Level::Metadata, &at.key("mutation"), || {
            format!(
                "{{\"configuration\":{:?},\"webhook\":{:?},\"mutated\":{changed}}}",
                hook.configuration, hook.name
            )
        });
        Ok(changed)
    }

    fn patch(
        &self,
        at: At,
        hook: &Hook,
        r: &Request<'_>,
        answer: &Value,
        object: &mut Value,
    ) -> Result<bool, Denied> {
        let encoded = text(answer, "/patch");
        if encoded.is_empty() {
            return Ok(false);
        }
        let broken = |why: String| Denied::internal(format!("failed calling webhook {:?}: {why}", hook.name));
        if text(answer, "/patchType") != "JSONPatch" {
            return Err(broken(format!("unsupported patch type {:?}", text(answer, "/patchType"))));
        }
        let patch = STANDARD.decode(encoded).map_err(|_| broken("the patch is not base64".into()))?;
        let patch: Value = serde_json::from_slice(&patch).map_err(|e| broken(format!("the patch: {e}")))?;
        let mut changed = object.clone();
        machinery::patch::json_patch::apply(&mut changed, &patch)
            .map_err(|e| broken(format!("the patch: {e}")))?;
        if changed == *object {
            return Ok(false);
        }
        audit::annotate_at(audit::Level::Request, &at.key("patch"), || {
            format!(
                "{{\"configuration\":{:?},\"webhook\":{:?},\"patch\":{patch},\"patchType\":\"JSONPatch\"}}",
                hook.configuration, hook.name
            )
        });
        policies::default(&mut changed);
        *object = changed;
        r.notes.object_changed();
        Ok(true)
    }
}

pub(super) struct ValidatingAdmissionWebhook(Caller);

impl ValidatingAdmissionWebhook {
    pub fn new(
        reader: Arc<dyn Reader>,
        authorizer: Arc<dyn Authorizer>,
        transport: Option<Arc<dyn WebhookTransport>>,
    ) -> Self {
        Self(caller(reader, authorizer, transport, "validatingwebhookconfigurations"))
    }
}

fn caller(
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    transport: Option<Arc<dyn WebhookTransport>>,
    resource: &'static str,
) -> Caller {
    let transport = transport.unwrap_or_else(|| Arc::new(transport::Https { reader: reader.clone() }));
    let kind = if resource.starts_with("mutating") { "mutating" } else { "validating" };
    Caller { kind, reader, authorizer, transport, configurations: Configurations::new(resource) }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        handles(r)
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        let hooks = self.0.configurations.hooks(&*self.0.reader);
        let mut last_change = None;
        for (at, hook) in hooks.iter().enumerate() {
            if self.apply(At { round: 0, index: at }, hook, r, object).await? {
                last_change = Some(at);
            }
        }
        // Those that ran before the last change and want to see it.
        let earlier = hooks.iter().enumerate().take(last_change.unwrap_or(0));
        for (index, hook) in earlier.filter(|(_, h)| h.reinvoke) {
            self.apply(At { round: 1, index }, hook, r, object).await?;
        }
        Ok(())
    }

    /// Deletes have nothing to mutate, but mutating hooks may refuse them.
    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        if object.is_none() && r.operation == Operation::Delete {
            for (index, hook) in self.0.configurations.hooks(&*self.0.reader).iter().enumerate() {
                self.0.ask(At { round: 0, index }, hook, r, None).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        handles(r)
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let hooks = self.0.configurations.hooks(&*self.0.reader);
        if hooks.is_empty() {
            return Ok(());
        }
        let hooks = hooks.iter().enumerate();
        let ask = hooks.map(|(index, hook)| self.0.ask(At { round: 0, index }, hook, r, object));
        let verdicts = futures::future::join_all(ask).await;
        verdicts.into_iter().try_for_each(|verdict| verdict.map(drop))
    }
}

#[cfg(test)]
mod tests;
