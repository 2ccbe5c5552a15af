//! Events about objects, written behind the caller's back.
//!
//! Recording never blocks and never fails: what does not fit the bounded queue is dropped and counted. Before an event
//! is written it is correlated as client-go does it: many similar messages become one, a repeated event becomes a
//! higher `count` on the first, and a source that floods one object is cut to a trickle.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kit::Shutdown;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

const QUEUE: usize = 1000;
const CACHE: usize = 4096;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const TRIES: u32 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[derive(Debug)]
struct Record {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

/// A handle; clones share the queue.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    sender: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

impl EventRecorder {
    /// Starts the task that writes; it ends with `stop`. `host` is the node's name for agents and empty for others.
    pub fn new(client: Client, component: &str, host: &str, stop: Shutdown) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|h| !h.is_empty()),
        };
        tokio::spawn(write(client, source, receiver, stop));
        Self { sender, dropped: Arc::default() }
    }

    /// A recorder that writes nothing.
    pub fn discard() -> Self {
        Self { sender: mpsc::channel(1).0, dropped: Arc::default() }
    }

    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let record = Record {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: jiff::Timestamp::now(),
        };
        if self.sender.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.event(&reference(about), EventType::Normal, reason, message);
    }

    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(&reference(about), EventType::Warning, reason, message);
    }

    /// Events dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

async fn write(client: Client, source: EventSource, mut receiver: mpsc::Receiver<Record>, stop: Shutdown) {
    let mut correlator = Correlator::default();
    loop {
        let record = tokio::select! {
            record = receiver.recv() => record,
            () = stop.wait() => return,
        };
        let Some(record) = record else { return };
        let Some(plan) = correlator.plan(&source, record, Instant::now()) else { continue };
        for attempt in 0..TRIES {
            match send(&client, &plan).await {
                Ok(written) => {
                    correlator.written(&plan.key, &written);
                    break;
                }
                Err(error) if crate::errors::code(&error) != 0 => {
                    debug!(%error, reason = plan.event.reason, "event refused");
                    break;
                }
                Err(error) => {
                    debug!(%error, attempt, "event not written, will retry");
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(1) * attempt.clamp(1, 10)) => {}
                        () = stop.wait() => return,
                    }
                }
            }
        }
    }
}

async fn send(client: &Client, plan: &Plan) -> Result<Event, kube::Error> {
    let namespace = plan.event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Some(name) = &plan.update {
        let patch = json!({
            "count": plan.event.count,
            "lastTimestamp": plan.event.last_timestamp,
            "message": plan.event.message,
        });
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            // It expired: begin anew.
            Err(error) if crate::errors::is_not_found(&error) => {}
            other => return other,
        }
    }
    let mut event = plan.event.clone();
    event.metadata.resource_version = None;
    api.create(&PostParams::default(), &event).await
}

/// What to write: an update of the event `update` names, or a new one.
#[derive(Debug)]
struct Plan {
    key: Identity,
    update: Option<String>,
    event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    namespace: String,
    name: String,
    uid: String,
    kind: String,
    api_version: String,
    field_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similar {
    subject: Subject,
    kind: EventType,
    reason: String,
}

/// `message` is empty for an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    similar: Similar,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
    first: jiff::Timestamp,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

struct Recent {
    messages: HashSet<String>,
    last: Instant,
}

/// The pure part: remembers what was said and says what to write.
#[derive(Default)]
struct Correlator {
    buckets: Bounded<Subject, Bucket>,
    recent: Bounded<Similar, Recent>,
    seen: Bounded<Identity, Seen>,
}

impl Correlator {
    fn plan(&mut self, source: &EventSource, record: Record, now: Instant) -> Option<Plan> {
        let about = &record.about;
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let subject = Subject {
            namespace: text(&about.namespace),
            name: text(&about.name),
            uid: text(&about.uid),
            kind: text(&about.kind),
            api_version: text(&about.api_version),
            field_path: text(&about.field_path),
        };
        let similar = Similar { subject: subject.clone(), kind: record.kind, reason: record.reason.clone() };
        let recent = self.recent.get_or(&similar, || Recent { messages: HashSet::new(), last: now });
        if now.duration_since(recent.last) > SIMILAR_WINDOW {
            recent.messages.clear();
        }
        recent.last = now;
        if recent.messages.len() < SIMILAR_LIMIT {
            recent.messages.insert(record.message.clone());
        }
        let aggregated = recent.messages.len() >= SIMILAR_LIMIT;
        let message = if aggregated {
            format!("(combined from similar events): {}", record.message)
        } else {
            record.message.clone()
        };
        let key =
            Identity { similar, message: if aggregated { String::new() } else { record.message.clone() } };

        let bucket = self.buckets.get_or(&subject, || Bucket { tokens: BURST, filled: now });
        let refill = now.duration_since(bucket.filled).as_secs_f64() * REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let seen = self.seen.get(&key);
        let count = seen.map_or(1, |s| s.count.saturating_add(1));
        let first = seen.map_or(record.at, |s| s.first);
        let update = seen.map(|s| s.name.clone());
        let namespace = Some(subject.namespace).filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", subject.name, record.at.as_nanosecond())),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: record.about,
            reason: Some(record.reason),
            message: Some(message),
            type_: Some(record.kind.as_str().to_owned()),
            count: Some(count),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(record.at)),
            source: Some(source.clone()),
            reporting_component: source.component.clone(),
            reporting_instance: Some(source.host.clone().unwrap_or_default()),
            ..Default::default()
        };
        Some(Plan { key, update, event })
    }

    fn written(&mut self, key: &Identity, event: &Event) {
        let first = event.first_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |t| t.0);
        let name = event.metadata.name.clone().unwrap_or_default();
        let count = event.count.unwrap_or(1);
        let seen = self.seen.get_or(key, || Seen { name: name.clone(), count, first });
        seen.count = count;
        seen.first = first;
        seen.name = name;
    }
}

/// A map that forgets its oldest entries.
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    fn get_or(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            if self.order.len() >= CACHE
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_insert_with(make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record {
        Record {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("ns".into()),
                name: Some("p".into()),
                ..Default::default()
            },
            kind: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            at: jiff::Timestamp::now(),
        }
    }

    fn say(c: &mut Correlator, message: &str, now: Instant) -> Option<Plan> {
        let plan = c.plan(&EventSource::default(), record(message), now)?;
        let mut written = plan.event.clone();
        if let Some(name) = &plan.update {
            written.metadata.name = Some(name.clone());
        }
        c.written(&plan.key, &written);
        Some(plan)
    }

    #[test]
    fn a_repeated_event_counts_up_on_the_first() {
        let mut c = Correlator::default();
        let now = Instant::now();
        let first = say(&mut c, "m", now).unwrap();
        assert!(first.update.is_none());
        let second = say(&mut c, "m", now).unwrap();
        assert_eq!(second.event.count, Some(2));
        assert_eq!(second.update, first.event.metadata.name);
        let third = say(&mut c, "m", now).unwrap();
        assert_eq!(third.event.count, Some(3));
        assert_eq!(third.event.first_timestamp, first.event.first_timestamp);
    }

    #[test]
    fn many_similar_messages_become_one() {
        let mut c = Correlator::default();
        let now = Instant::now();
        for i in 0..9 {
            let plan = say(&mut c, &format!("m{i}"), now).unwrap();
            assert_eq!(plan.event.message.as_deref(), Some(format!("m{i}").as_str()));
        }
        let tenth = say(&mut c, "m9", now).unwrap();
        assert_eq!(tenth.event.message.as_deref(), Some("(combined from similar events): m9"));
        let next = say(&mut c, "m10", now).unwrap();
        assert_eq!(next.update, tenth.event.metadata.name);
        let later = say(&mut c, "m11", now + SIMILAR_WINDOW + Duration::from_secs(1)).unwrap();
        assert_eq!(later.event.message.as_deref(), Some("m11"));
    }

    #[test]
    fn a_flood_is_cut_to_a_trickle() {
        let mut c = Correlator::default();
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| say(&mut c, "m", now).is_some()).count(), 25);
        assert!(say(&mut c, "m", now + Duration::from_secs(301)).is_some());
        assert!(say(&mut c, "m", now + Duration::from_secs(302)).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut c = Bounded::default();
        for i in 0..(CACHE * 2) {
            c.get_or(&i, || ());
        }
        assert_eq!(c.map.len(), CACHE);
        assert_eq!(c.order.len(), CACHE);
    }
}
