//! Writing pod statuses: the latest wins, one write a pod in flight, nothing when nothing changed.

use crate::api_message;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an idle status waits for a better one.
const IDLE: Duration = Duration::from_millis(60);

#[derive(Clone)]
pub struct Statuses {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    pods: Mutex<HashMap<String, Slot>>,
}

struct Slot {
    namespace: String,
    name: String,
    /// What the API holds, as far as we know.
    sent: Map<String, Value>,
    latest: Map<String, Value>,
    /// Remove the pod once the latest status is written.
    delete: bool,
    running: bool,
}

impl Statuses {
    pub fn new(client: kube::Client) -> Self {
        Self { inner: Arc::new(Inner { client, pods: Mutex::default() }) }
    }

    /// Notes the status; it is written soon. `known` is what the API holds, used the first time only. An `idle` status
    /// (everything is on its way, as expected) is written only if no better one follows at once.
    pub fn set(&self, pod: &Pod, known: Option<&PodStatus>, status: &PodStatus, idle: bool) {
        self.update(pod, known, idle, |slot| slot.latest = object(status));
    }

    /// The newest status of the pod, written or about to be.
    pub fn latest(&self, uid: &str) -> Option<PodStatus> {
        let latest = self.inner.pods.lock().get(uid)?.latest.clone();
        serde_json::from_value(Value::Object(latest)).ok()
    }

    /// Removes the pod from the API when its last status is written.
    pub fn delete(&self, pod: &Pod) {
        self.update(pod, None, false, |slot| slot.delete = true);
    }

    pub fn forget(&self, uid: &str) {
        let mut pods = self.inner.pods.lock();
        if let Some(slot) = pods.get_mut(uid) {
            slot.delete = false;
            slot.latest = slot.sent.clone();
            if !slot.running {
                pods.remove(uid);
            }
        }
    }

    fn update(&self, pod: &Pod, known: Option<&PodStatus>, idle: bool, change: impl FnOnce(&mut Slot)) {
        let (name, namespace, uid) = crate::pod::identity(pod);
        let mut pods = self.inner.pods.lock();
        let slot = pods.entry(uid.to_owned()).or_insert_with(|| {
            let sent = known.or(pod.status.as_ref()).map(object).unwrap_or_default();
            Slot {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                latest: sent.clone(),
                sent,
                delete: false,
                running: false,
            }
        });
        change(slot);
        drop(pods);
        if idle {
            let (inner, uid) = (self.inner.clone(), uid.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(IDLE).await;
                kick(&inner, &uid);
            });
        } else {
            kick(&self.inner, uid);
        }
    }
}

/// Starts writing, if there is something to write and nobody does.
fn kick(inner: &Arc<Inner>, uid: &str) {
    let mut pods = inner.pods.lock();
    let Some(slot) = pods.get_mut(uid) else { return };
    if !slot.running && (slot.delete || slot.latest != slot.sent) {
        slot.running = true;
        tokio::spawn(drive(inner.clone(), uid.to_owned()));
    }
}

enum Work {
    Patch(Value, Map<String, Value>),
    Delete,
}

async fn drive(inner: Arc<Inner>, uid: String) {
    let mut wait = Duration::from_millis(100);
    loop {
        let (api, name, work) = {
            let mut pods = inner.pods.lock();
            let Some(slot) = pods.get_mut(&uid) else { return };
            let api: Api<Pod> = Api::namespaced(inner.client.clone(), &slot.namespace);
            let work = match patch(&slot.sent, &slot.latest) {
                Some(p) => Work::Patch(p, slot.latest.clone()),
                None if slot.delete => Work::Delete,
                None => {
                    slot.running = false;
                    return;
                }
            };
            (api, slot.name.clone(), work)
        };
        let outcome = match work {
            Work::Patch(change, whole) => {
                let body = json!({"metadata": {"uid": uid}, "status": change});
                let answer = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(body)).await;
                answer.map(|_| {
                    if let Some(slot) = inner.pods.lock().get_mut(&uid) {
                        slot.sent = whole;
                    }
                })
            }
            Work::Delete => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..Default::default()
                };
                let answer = api.delete(&name, &params).await;
                answer.map(|_| {
                    if let Some(slot) = inner.pods.lock().get_mut(&uid) {
                        slot.delete = false;
                    }
                })
            }
        };
        match outcome {
            Ok(()) => wait = Duration::from_millis(100),
            // Gone, or another pod of that name by now: nothing left to say.
            Err(kube::Error::Api(s)) if s.code == 404 || (s.code == 409 && s.message.contains("uid")) => {
                inner.pods.lock().remove(&uid);
                return;
            }
            Err(error) => {
                tracing::warn!(error = api_message(&error), pod = name, "pod status not written yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
    }
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A strategic merge patch from one status to the other, `None` when they are equal. Conditions are merged by type, so
/// only those that changed are named and other writers' stay.
pub fn patch(from: &Map<String, Value>, to: &Map<String, Value>) -> Option<Value> {
    let mut out = Map::new();
    for (key, new) in to {
        let old = from.get(key);
        if old == Some(new) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => {
                let known = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let changed: Vec<Value> = new
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|c| !known.contains(c))
                    .map(|c| cleared(known, c))
                    .collect();
                if changed.is_empty() {
                    continue;
                }
                Value::Array(changed)
            }
            "podIPs" | "hostIPs" if old.is_some() => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(new.as_array().cloned().unwrap_or_default());
                Value::Array(list)
            }
            _ => new.clone(),
        };
        out.insert(key.clone(), value);
    }
    for key in from.keys().filter(|k| !to.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// A condition with an explicit null for each field it lost: merging would keep the old value.
fn cleared(known: &[Value], new: &Value) -> Value {
    let mut new = new.clone();
    if let Some(old) = known.iter().find(|c| c["type"] == new["type"]).and_then(Value::as_object)
        && let Some(map) = new.as_object_mut()
    {
        for key in old.keys() {
            map.entry(key.clone()).or_insert(Value::Null);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(v: Value) -> Map<String, Value> {
        v.as_object().cloned().expect("object")
    }

    #[test]
    fn only_differences_are_sent() {
        let a = map(json!({"phase": "Pending", "podIP": "1", "reason": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "No"}, {"type": "Other", "status": "True"}]}));
        assert_eq!(patch(&a, &a), None);
        let b = map(json!({"phase": "Running", "podIP": "1", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}));
        assert_eq!(
            patch(&a, &b),
            Some(json!({"phase": "Running", "reason": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]}))
        );
    }

    #[test]
    fn address_lists_are_replaced() {
        let a = map(json!({"podIPs": [{"ip": "1"}]}));
        let b = map(json!({"podIPs": [{"ip": "2"}]}));
        assert_eq!(patch(&a, &b), Some(json!({"podIPs": [{"$patch": "replace"}, {"ip": "2"}]})));
        assert_eq!(patch(&Map::new(), &b), Some(json!({"podIPs": [{"ip": "2"}]})));
    }
}
