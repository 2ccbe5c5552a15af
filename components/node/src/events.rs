//! Event recorder: one task that writes `v1` Events, counting repeats on the object that is already there.
//!
//! Recording never waits and never fails the caller; what overflows the queue or a source's budget (25 at once, then
//! one in five minutes for one object, as upstream) is dropped.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::HashMap;
use tokio::sync::mpsc;

const QUEUE: usize = 1000;
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Normal,
    Warning,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        }
    }
}

struct Record {
    about: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// The writer ends when the last recorder is dropped.
    pub fn start(client: kube::Client, component: &'static str, host: String) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, component, host, records));
        Self { queue }
    }

    pub fn record(&self, about: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        if self.queue.try_send(Record { about, kind, reason, message, at: Timestamp::now() }).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }

    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.record(pod_reference(pod, None), kind, reason, message.into());
    }

    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(pod_reference(pod, Some(container)), kind, reason, message.into());
    }
}

/// A reference to the pod, or to one container in it the way upstream writes the field path.
pub fn pod_reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let spec = pod.spec.as_ref();
        let within = |list: Option<&Vec<k8s_openapi::api::core::v1::Container>>| {
            list.is_some_and(|l| l.iter().any(|c| c.name == name))
        };
        if within(spec.and_then(|s| s.init_containers.as_ref())) {
            format!("spec.initContainers{{{name}}}")
        } else if within(spec.map(|s| &s.containers)) {
            format!("spec.containers{{{name}}}")
        } else {
            format!("spec.ephemeralContainers{{{name}}}")
        }
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    namespace: String,
    uid: String,
    field_path: String,
    kind: Kind,
    reason: &'static str,
    message: String,
}

struct Written {
    name: String,
    count: i32,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

async fn write(
    client: kube::Client,
    component: &'static str,
    host: String,
    mut records: mpsc::Receiver<Record>,
) {
    let mut written: HashMap<Key, Written> = HashMap::new();
    let mut budgets: HashMap<String, Budget> = HashMap::new();
    while let Some(record) = records.recv().await {
        let uid = record.about.uid.clone().unwrap_or_default();
        if !spend(&mut budgets, &uid, record.at) {
            continue;
        }
        let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".into());
        let key = Key {
            namespace: namespace.clone(),
            uid,
            field_path: record.about.field_path.clone().unwrap_or_default(),
            kind: record.kind,
            reason: record.reason,
            message: record.message.clone(),
        };
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Some(seen) = written.get_mut(&key) {
            seen.count += 1;
            let patch = serde_json::json!({"count": seen.count, "lastTimestamp": Time(record.at)});
            match api.patch(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => continue,
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    written.remove(&key);
                }
                Err(error) => {
                    tracing::debug!(%error, reason = record.reason, "event not updated");
                    continue;
                }
            }
        }
        let name = format!(
            "{}.{:x}{:04x}",
            record.about.name.as_deref().unwrap_or("unknown"),
            record.at.as_nanosecond(),
            rand::random::<u16>()
        );
        let event = event(record, &name, &namespace, component, &host);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if written.len() >= REMEMBERED {
                    written.clear();
                    budgets.clear();
                }
                written.insert(key, Written { name, count: 1 });
            }
            Err(error) => tracing::debug!(%error, reason = key.reason, "event not written"),
        }
    }
}

fn event(record: Record, name: &str, namespace: &str, component: &str, host: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: record.about,
        reason: Some(record.reason.to_owned()),
        message: Some(record.message),
        type_: Some(record.kind.as_str().to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        source: Some(EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()) }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(host.to_owned()),
        ..Default::default()
    }
}

fn spend(budgets: &mut HashMap<String, Budget>, uid: &str, now: Timestamp) -> bool {
    let budget = budgets.entry(uid.to_owned()).or_insert(Budget { tokens: BURST, at: now });
    let passed = now.duration_since(budget.at).as_secs_f64().max(0.0);
    budget.tokens = (budget.tokens + passed / REFILL_SECONDS).min(BURST);
    budget.at = now;
    if budget.tokens < 1.0 {
        return false;
    }
    budget.tokens -= 1.0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chatty_object_runs_out_of_budget() {
        let mut budgets = HashMap::new();
        let t = Timestamp::UNIX_EPOCH;
        let passed = (0..40).filter(|_| spend(&mut budgets, "a", t)).count();
        assert_eq!(passed, 25);
        assert!(spend(&mut budgets, "b", t));
        let later = Timestamp::from_second(301).expect("in range");
        assert!(spend(&mut budgets, "a", later));
        assert!(!spend(&mut budgets, "a", later));
    }
}
