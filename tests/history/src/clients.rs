//! Clients that write, read, list and watch a few keys at once, and note what they asked and were told.

use crate::linear::{Ask, Operation, Told};
use crate::watch::{Change, Listed, Story, Watched};
use anyhow::{Context, Result, bail};
use api::http::{Answer, Api, MERGE_PATCH};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KEYS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// The key whose creation tells watchers that nothing more comes.
const LAST: &str = "zz-last";

/// Everything that was noted in one round.
#[derive(Default)]
pub struct Notes {
    pub operations: BTreeMap<String, Vec<Operation>>,
    pub story: Story,
}

/// What all clients of one round share.
pub struct Round {
    api: Api,
    path: String,
    clock: Instant,
    values: AtomicU64,
    /// The newest version that anybody was told of.
    told: AtomicU64,
    stop: AtomicBool,
    notes: Mutex<Notes>,
}

fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn value(object: &Value) -> Option<u64> {
    object["data"]["v"].as_str()?.parse().ok()
}

fn change(object: &Value, gone: bool) -> Option<Change> {
    let key = object["metadata"]["name"].as_str()?.to_owned();
    let value = if gone { None } else { Some(value(object)?) };
    Some(Change { key, version: version(object)?, value })
}

/// The keys of this suite; the cluster's own config maps are not.
fn ours(object: &Value) -> bool {
    object["metadata"]["labels"]["history"] == "yes"
}

impl Round {
    pub async fn new(api: Api) -> Result<Arc<Self>> {
        let namespace = format!("history-{:08x}", rand::random::<u32>());
        let body = json!({"metadata": {"name": namespace}});
        api.post("/api/v1/namespaces", &body).is(201).await?;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let (values, told) = (AtomicU64::new(1), AtomicU64::new(0));
        let (stop, notes) = (AtomicBool::new(false), Mutex::new(Notes::default()));
        Ok(Arc::new(Self { api, path, clock: Instant::now(), values, told, stop, notes }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn notes<T>(&self, with: impl FnOnce(&mut Notes) -> T) -> T {
        with(&mut self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// What was noted; the clients must have ended.
    pub fn take(&self) -> Notes {
        self.notes(std::mem::take)
    }

    fn object(&self, key: &str, value: u64) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": key, "labels": {"history": "yes"}},
               "data": {"v": value.to_string()}})
    }

    /// Writes and reads until stopped.
    pub async fn client(self: Arc<Self>) {
        // What this client last saw of each key: it swaps from there.
        let mut known: BTreeMap<String, u64> = BTreeMap::new();
        while !self.stopped() {
            let (dice, key) = {
                let mut random = rand::rng();
                (random.random_range(0..100), format!("k{}", random.random_range(0..KEYS)))
            };
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            let ask = match dice {
                0..20 => Ask::Create { value },
                20..45 => match known.get(&key) {
                    Some(from) => Ask::Swap { value, from: *from },
                    None => Ask::Read,
                },
                45..60 => Ask::Put { value },
                60..70 => Ask::Delete,
                _ => Ask::Read,
            };
            self.operate(&key, ask, dice % 2 == 0, &mut known).await;
            if dice == 99 {
                self.list().await;
            }
        }
    }

    async fn operate(&self, key: &str, ask: Ask, patch: bool, known: &mut BTreeMap<String, u64>) {
        let item = format!("{}/{key}", self.path);
        let call = match ask {
            Ask::Create { value } => self.api.post(&self.path, &self.object(key, value)),
            Ask::Swap { value, from } => {
                let mut object = self.object(key, value);
                object["metadata"]["resourceVersion"] = json!(from.to_string());
                self.api.put(&item, &object)
            }
            Ask::Put { value } if patch => {
                self.api.patch(&item, MERGE_PATCH, &json!({"data": {"v": value.to_string()}}))
            }
            Ask::Put { value } => self.api.put(&item, &self.object(key, value)),
            Ask::Delete => self.api.delete(&item),
            Ask::Read => self.api.get(&item),
        };
        let begun = self.now();
        let answer = tokio::time::timeout(PATIENCE, call.send()).await;
        let ended = self.now();
        let answer = answer.ok().and_then(Result::ok);
        let Some(told) = outcome(ask, answer.as_ref()) else {
            // Refused for reasons that have nothing to do with the key: it is certain that nothing happened.
            if let Some(value) = written(ask) {
                self.notes(|n| n.story.refused.push((key.to_owned(), value)));
            }
            return tokio::time::sleep(Duration::from_millis(20)).await;
        };
        match told {
            Told::Done { version } | Told::Saw { version, .. } => {
                known.insert(key.to_owned(), version);
                self.told.fetch_max(version, Ordering::SeqCst);
            }
            Told::Missing | Told::Deleted => drop(known.remove(key)),
            _ => {}
        }
        if told == Told::Unknown {
            // The server is down; it will be back soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if ask == Ask::Read {
                return;
            }
        }
        self.notes(|notes| {
            match (told, written(ask)) {
                (Told::Done { version }, value) => {
                    notes.story.written.push(Change { key: key.to_owned(), version, value });
                }
                (Told::Exists | Told::Missing | Told::Conflict, Some(value)) => {
                    notes.story.refused.push((key.to_owned(), value));
                }
                _ => {}
            }
            let operation = Operation { ask, told, begun, ended };
            notes.operations.entry(key.to_owned()).or_default().push(operation);
        });
    }

    /// A consistent list, noted.
    async fn list(&self) -> Option<u64> {
        let floor = self.told.load(Ordering::SeqCst);
        let call = self.api.get(&format!("{}?labelSelector=history%3Dyes", self.path));
        let answer = tokio::time::timeout(PATIENCE, call.send()).await.ok()?.ok()?;
        let list = answer.is(200).ok()?;
        let at = version(&list)?;
        let items = list["items"].as_array()?.iter().filter_map(|i| change(i, false)).collect();
        self.notes(|n| n.story.listed.push(Listed { at, floor, items }));
        Some(at)
    }

    /// Watches until it has seen the last key, going on where it was after every end of the stream. Some watch from a
    /// list, some resume; `fresh` says which.
    pub async fn watcher(self: Arc<Self>, fresh: bool) -> Result<()> {
        let mut from = None;
        let end = Duration::from_secs(90);
        let mut deadline: Option<Instant> = None;
        loop {
            if self.stopped() && Instant::now() > *deadline.get_or_insert(Instant::now() + end) {
                bail!("a watcher did not see the last key, from {from:?}");
            }
            let at = match from {
                Some(at) if !fresh => at,
                _ => match self.list().await {
                    Some(at) => at,
                    None => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let mut watched = Watched { from: at, ..Watched::default() };
            let finished = self.session(&mut watched).await;
            let newest = watched.events.last().map_or(at, |e| e.version).max(watched.until);
            self.notes(|n| n.story.watched.push(watched));
            match finished {
                Ok(true) => return Ok(()),
                Ok(false) => from = Some(newest),
                // Too old: begin with a list.
                Err(_) => from = None,
            }
        }
    }

    /// One stream; true when the last key was seen, an error when the version is too old.
    async fn session(&self, watched: &mut Watched) -> Result<bool> {
        let query = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds=7&resourceVersion={}&labelSelector=history%3Dyes",
            self.path, watched.from
        );
        let opened = tokio::time::timeout(PATIENCE, self.api.get(&query).watch()).await;
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.to_string().contains(": 410 ") => return Err(error),
            _ => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(false);
            }
        };
        while let Ok(Some(event)) = stream.next().await {
            let object = &event["object"];
            let kind = event["type"].as_str().unwrap_or_default();
            match kind {
                "BOOKMARK" => watched.until = watched.until.max(version(object).unwrap_or(0)),
                "ADDED" | "MODIFIED" | "DELETED" => {
                    let change = change(object, kind == "DELETED").context("an event without a version")?;
                    let last = change.key == LAST;
                    watched.events.push(change);
                    if last {
                        return Ok(true);
                    }
                }
                _ => bail!("{event}"),
            }
        }
        Ok(false)
    }

    /// Makes the last key, whatever it takes.
    pub async fn finish(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            let call = self.api.post(&self.path, &self.object(LAST, value));
            match tokio::time::timeout(PATIENCE, call.send()).await {
                Ok(Ok(answer)) if answer.code == 201 || answer.code == 409 => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        bail!("the server does not come back")
    }
}

fn written(ask: Ask) -> Option<u64> {
    match ask {
        Ask::Create { value } | Ask::Swap { value, .. } | Ask::Put { value } => Some(value),
        Ask::Delete | Ask::Read => None,
    }
}

/// What an answer says of the operation; `None` where it was refused without being looked at.
fn outcome(ask: Ask, answer: Option<&Answer>) -> Option<Told> {
    let Some(answer) = answer else { return Some(Told::Unknown) };
    let object = answer.json().unwrap_or_default();
    let reason = object["reason"].as_str().unwrap_or_default();
    match (answer.code, ask) {
        (200, Ask::Delete) => Some(Told::Deleted),
        (200, Ask::Read) if ours(&object) => {
            value(&object).zip(version(&object)).map(|(value, version)| Told::Saw { value, version })
        }
        (200 | 201, _) => {
            version(&object).map_or(Some(Told::Unknown), |version| Some(Told::Done { version }))
        }
        (404, Ask::Create { .. }) => Some(Told::Unknown),
        (404, _) => Some(Told::Missing),
        (409, Ask::Create { .. }) if reason == "AlreadyExists" => Some(Told::Exists),
        (409, Ask::Swap { .. }) => Some(Told::Conflict),
        // Contended beyond the server's own attempts.
        (409 | 429, _) => None,
        _ => Some(Told::Unknown),
    }
}
