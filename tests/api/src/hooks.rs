//! Webhook configurations in force for a case, and the answers of their servers.

use crate::Space;
use crate::case::eventually;
use crate::service::{Asked, Reply, Service};
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
pub const MUTATING: &str = "mutatingwebhookconfigurations";
pub const VALIDATING: &str = "validatingwebhookconfigurations";

/// A configuration that is in force, about one namespace's objects.
pub struct Hooks<'a> {
    pub s: &'a Space,
    pub path: String,
    pub service: Service,
}

/// A webhook at `path`; `more` is added to it.
pub fn hook(service: &Service, path: &str, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{path}.example.com"),
        "clientConfig": {"url": format!("{}/{path}", service.url), "caBundle": service.bundle()},
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    if let (Some(hook), Some(more)) = (hook.as_object_mut(), more.as_object()) {
        hook.extend(more.clone());
    }
    hook
}

pub fn uid(asked: &Asked) -> Value {
    asked.body["request"]["uid"].clone()
}

pub fn review(asked: &Asked, mut response: Value) -> Reply {
    response["uid"] = uid(asked);
    Reply::json(
        &json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}),
    )
}

pub fn allow(asked: &Asked) -> Reply {
    review(asked, json!({"allowed": true}))
}

pub fn patched(asked: &Asked, patch: &Value) -> Reply {
    let patch = STANDARD.encode(patch.to_string());
    review(asked, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

impl<'a> Hooks<'a> {
    /// Puts the webhooks in force, after one that only shows that they are.
    pub async fn start(s: &'a Space, kind: &str, make: impl FnOnce(&Service) -> Vec<Value>) -> Result<Self> {
        let service = Service::start().await?;
        service.on("/marker", allow);
        let selector = json!({"objectSelector": {"matchLabels": {"marker": s.unique}}});
        let mut hooks = vec![hook(&service, "marker", selector)];
        hooks.extend(make(&service));
        let of = json!({"matchLabels": {"kubernetes.io/metadata.name": s.namespace}});
        for hook in &mut hooks {
            if hook["namespaceSelector"].is_null() {
                hook["namespaceSelector"] = of.clone();
            }
        }
        let object = json!({"metadata": {"name": s.unique}, "webhooks": hooks});
        s.api.post(&format!("{GROUP}/{kind}"), &object).is(201).await?;
        let hooks = Self { s, path: format!("{GROUP}/{kind}/{}", s.unique), service };
        let mut marker = s.map("marker");
        marker["metadata"]["labels"] = json!({"marker": s.unique});
        eventually("the webhooks", || async {
            s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), &marker).send().await?;
            Ok((!hooks.service.asked("/marker").is_empty()).then_some(()))
        })
        .await?;
        hooks.service.forget();
        Ok(hooks)
    }

    pub async fn end(self) -> Result<()> {
        self.s.api.delete(&self.path).is(200).await.map(drop)
    }
}

/// A webhook for the object of its own name alone.
pub fn only(service: &Service, path: &str, more: Value) -> Value {
    let mut made = hook(service, path, more);
    made["objectSelector"] = json!({"matchLabels": {"for": path}});
    made
}

pub fn for_hook(s: &Space, path: &str) -> Value {
    let mut map = s.map("a");
    map["metadata"]["labels"] = json!({"for": path});
    map
}
