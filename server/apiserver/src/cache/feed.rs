//! Store to cache: one load, then one watch; reconnects by itself, reloads when history was lost.

use super::key::{GroupResource, Parts, ROOT};
use super::{CacheError, ResourceCache, Shared};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use store::{Store, StoreError};
use tracing::{error, info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How often windows are looked at for history grown too old, where exact reads reach back five times as far.
const TRIM: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reads everything at one revision and makes it the state of all resources.
pub(super) async fn load(shared: &Shared, store: &dyn Store) -> Result<(), CacheError> {
    let range = store.range(ROOT.as_bytes(), 0).await?;
    let reached = shared.progress.revision();
    if range.revision < reached {
        // A store that forgot what readers have seen (restored from a backup, or a member that lags).
        let message =
            format!("the store is at revision {}, behind revision {reached} seen before", range.revision);
        return Err(CacheError::Unavailable(message));
    }
    let mut plain = Vec::with_capacity(range.kvs.len());
    let mut unreadable = Vec::new();
    for kv in range.kvs {
        match decode(shared, &kv.key, kv.value) {
            Some(value) => plain.push((kv.key, value, kv.mod_revision)),
            None => unreadable.push((kv.key, kv.mod_revision)),
        }
    }
    let mut by_resource: HashMap<(&str, &str), Vec<(&str, &[u8], u64)>> = HashMap::new();
    for (key, value, revision) in &plain {
        if let Some(parts) = Parts::parse(key) {
            by_resource
                .entry((parts.group, parts.resource))
                .or_default()
                .push((parts.path, value, *revision));
        }
    }
    shared.loaded_at.store(range.revision, Ordering::Release);
    let loaded: Vec<_> = by_resource
        .into_iter()
        .map(|((group, resource), objects)| (shared.resource(&GroupResource::new(group, resource)), objects))
        .collect();
    for known in shared.resources.read().values() {
        if !loaded.iter().any(|(resource, _)| Arc::ptr_eq(resource, known)) {
            known.reload(std::iter::empty(), range.revision);
        }
    }
    for (resource, objects) in loaded {
        resource.reload(objects.into_iter(), range.revision);
    }
    for (key, _) in &unreadable {
        if let Some(parts) = Parts::parse(key) {
            let resource = shared.resource(&GroupResource::new(parts.group, parts.resource));
            resource.mark_unreadable(parts.path, range.revision);
        }
    }
    shared.progress.advance(range.revision);
    info!(revision = range.revision, objects = plain.len(), "watch cache loaded");
    Ok(())
}

/// Right after the first [`load`]: takes over the store's recent history, so that watchers can resume.
pub(super) async fn remember(shared: &Shared, store: &dyn Store) -> Result<(), CacheError> {
    let loaded = shared.progress.revision();
    let Some((floor, mut events)) = store.recent(ROOT.as_bytes(), loaded, shared.options.resume).await?
    else {
        return Ok(());
    };
    let mut by_resource: HashMap<(&str, &str), Vec<(&str, &store::Event)>> = HashMap::new();
    events.retain_mut(|event| {
        let unreadable = |value: &mut Option<Bytes>| match value.take() {
            None => false,
            Some(stored) => {
                *value = decode(shared, &event.key, stored);
                value.is_none()
            }
        };
        let (mut value, mut prev) = (event.value.take(), event.prev.take());
        let keep = !unreadable(&mut value) && !unreadable(&mut prev);
        (event.value, event.prev) = (value, prev);
        keep
    });
    for event in &events {
        if let Some(parts) = Parts::parse(&event.key) {
            by_resource.entry((parts.group, parts.resource)).or_default().push((parts.path, event));
        }
    }
    shared.loaded_at.store(floor, Ordering::Release);
    for known in shared.resources.read().values() {
        known.remember(floor, std::iter::empty());
    }
    for ((group, resource), events) in by_resource {
        shared.resource(&GroupResource::new(group, resource)).remember(floor, events.into_iter());
    }
    Ok(())
}

fn decode(shared: &Shared, key: &[u8], value: Bytes) -> Option<Bytes> {
    if value.starts_with(crate::encryption::ENCRYPTED) {
        error!(key = %key.escape_ascii(), "a stored value is encrypted, and this server has no key for it");
        return None;
    }
    match &shared.options.decode {
        None => Some(value),
        Some(decode) => decode(key, value)
            .inspect_err(|error| error!(key = %key.escape_ascii(), %error, "stored value left out"))
            .ok(),
    }
}

/// Follows the store for ever. Any error is retried; lost history is reloaded.
pub(super) async fn follow(shared: Arc<Shared>, store: Arc<dyn Store>) {
    let mut pause = FIRST_PAUSE;
    let mut resources = HashMap::new();
    loop {
        let before = shared.progress.revision();
        let error = follow_once(&shared, &*store, &mut resources).await;
        if shared.progress.revision() > before {
            pause = FIRST_PAUSE;
        }
        warn!(%error, revision = shared.progress.revision(), "store watch ended");
        let lost = matches!(error, StoreError::Compacted(_));
        if lost && let Err(error) = load(&shared, &*store).await {
            warn!(%error, "watch cache reload failed");
        } else if lost {
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Which resources have events their watchers were not woken for, and when that may happen.
#[derive(Default)]
struct Calls {
    owed: Vec<Call>,
    /// When watchers of busy resources were last woken.
    made: HashMap<usize, Instant>,
}

struct Call {
    resource: Arc<ResourceCache>,
    at: Option<Instant>,
}

impl Calls {
    fn owe(&mut self, resource: &Arc<ResourceCache>) {
        if !self.owed.iter().any(|call| Arc::ptr_eq(&call.resource, resource)) {
            self.owed.push(Call { resource: resource.clone(), at: None });
        }
    }

    /// When the next owed call is due; never, when none is.
    async fn due(&self) {
        match self.owed.iter().filter_map(|call| call.at).min() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    fn make(&mut self, now: Instant) {
        let made = &mut self.made;
        self.owed.retain_mut(|call| {
            let key = Arc::as_ptr(&call.resource).addr();
            let at = *call.at.get_or_insert_with(|| match call.resource.pace() {
                Duration::ZERO => now,
                pace => made.get(&key).map_or(now, |last| *last + pace),
            });
            if at > now {
                return true;
            }
            call.resource.call();
            made.insert(key, now);
            false
        });
    }
}

impl Drop for Calls {
    /// What was taken in is told, also when the store's watch ended.
    fn drop(&mut self) {
        self.owed.iter().for_each(|call| call.resource.call());
    }
}

/// Which revision the cluster was at when: as an etcd that is compacted every five minutes, the cache answers exact reads
/// (pages of a long list) from no further back, however quiet their resource has been since.
struct Marks {
    /// How far back exact reads reach; zero: as far as there is history.
    exact: Duration,
    marks: VecDeque<(Instant, u64)>,
}

impl Marks {
    /// Notes the revision of now; gives the oldest that can still be read.
    fn mark(&mut self, now: Instant, revision: u64) -> u64 {
        if self.exact.is_zero() {
            return 0;
        }
        self.marks.push_back((now, revision));
        let old = self.marks.partition_point(|(at, _)| now.duration_since(*at) >= self.exact);
        self.marks.drain(..old.saturating_sub(1));
        if old > 0 { self.marks.front().map_or(0, |(_, revision)| *revision) } else { 0 }
    }
}

async fn follow_once(
    shared: &Shared,
    store: &dyn Store,
    resources: &mut HashMap<String, Arc<ResourceCache>>,
) -> StoreError {
    let mut trimmed = Instant::now();
    let exact = shared.options.window.exact;
    let every = if exact.is_zero() { TRIM } else { (exact / 5).min(TRIM) };
    let mut marks = Marks { exact, marks: VecDeque::new() };
    let mut calls = Calls::default();
    let mut batches = match store.watch(ROOT.as_bytes(), shared.progress.revision()).await {
        Ok(batches) => batches,
        Err(error) => return error,
    };
    loop {
        let next = tokio::select! {
            biased;
            () = shared.again.notified() => return StoreError::Compacted(shared.progress.revision()),
            next = batches.next() => next,
            () = calls.due() => {
                calls.make(Instant::now());
                continue;
            }
        };
        let Some(batch) = next else { break };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        for event in batch.events {
            let Some(parts) = Parts::parse(&event.key) else { continue };
            let home = event.key.len() - parts.path.len();
            let Ok(home) = std::str::from_utf8(&event.key[..home]) else { continue };
            let resource = match resources.get(home) {
                Some(known) => known.clone(),
                None => {
                    let resource = shared.resource(&GroupResource::new(parts.group, parts.resource));
                    resources.insert(home.to_owned(), resource.clone());
                    resource
                }
            };
            match event.value {
                None => resource.apply(parts.path, None, event.revision),
                Some(value) => match decode(shared, &event.key, value) {
                    Some(value) => resource.apply(parts.path, Some(&value), event.revision),
                    None => resource.mark_unreadable(parts.path, event.revision),
                },
            }
            calls.owe(&resource);
        }
        shared.progress.advance(batch.revision);
        let now = Instant::now();
        calls.make(now);
        // Even a quiet cluster renews leases, so this comes round without a timer.
        if now.duration_since(trimmed) > every {
            trimmed = now;
            let readable = marks.mark(now, batch.revision);
            shared.resources.read().values().for_each(|resource| resource.trim(now, readable));
        }
    }
    StoreError::Unavailable("the watch ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_reads_end_five_to_six_minutes_back() {
        let exact = Duration::from_secs(300);
        let (mut marks, start) = (Marks { exact, marks: VecDeque::new() }, Instant::now());
        let readable: Vec<u64> = (0..8).map(|n| marks.mark(start + TRIM * n, u64::from(n) * 10)).collect();
        assert_eq!(readable, [0, 0, 0, 0, 0, 0, 10, 20]);
        assert!(marks.marks.len() <= 6);
    }
}
