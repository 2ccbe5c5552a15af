//! The objects of one group-resource: an ordered, structure-sharing map and the window of its last events.
//!
//! One lock guards the map, the window and the watchers' seats, so a snapshot and the watch that continues it
//! can never disagree. Nothing waits while holding it.

use super::entry::{Entry, Event, FieldsOf, Kind, ResourceInfo};
use super::key::{self, GroupResource};
use super::watcher::{Filter, Seat, Watcher};
use super::{CacheError, Progress, WindowLimits};
use imbl::OrdMap;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(super) type Objects = OrdMap<Arc<str>, Arc<Entry>>;

/// How a read's resource version is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The state exactly as of that revision.
    Exact,
    /// Any state at least as new.
    NotOlderThan,
}

pub struct ResourceCache {
    info: Arc<ResourceInfo>,
    progress: Arc<Progress>,
    limits: WindowLimits,
    state: Mutex<State>,
    /// How many stored objects cannot be read; almost always 0, and then nobody looks further.
    unreadable: AtomicUsize,
    received: AtomicU64,
    delivered: AtomicU64,
    undecodable: AtomicU64,
}

pub(super) struct State {
    objects: Objects,
    /// What `objects` weigh.
    weight: usize,
    /// Every event of this resource at or below it is in `objects`.
    revision: u64,
    pub(super) window: Window,
    pub(super) seats: BTreeMap<u64, Seat>,
    next_seat: u64,
    namespaces: HashSet<Arc<str>>,
    /// Keys within the resource of stored objects that cannot be read.
    unreadable: BTreeSet<Box<str>>,
}

/// The last events, oldest first, each with a sequence number that seats remember their place by.
pub(super) struct Window {
    events: VecDeque<(Instant, Arc<Event>)>,
    /// Sequence number of the oldest kept event.
    pub(super) first: u64,
    /// Events at or below this revision are no longer kept.
    floor: u64,
    /// Below this, exact reads are refused though the events may be there.
    readable: u64,
    bytes: usize,
}

impl Window {
    fn new(floor: u64) -> Self {
        Self { events: VecDeque::new(), first: 0, floor, readable: 0, bytes: 0 }
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Kept events from sequence number `from` on.
    pub(super) fn since(&self, from: u64) -> impl Iterator<Item = (u64, &Arc<Event>)> {
        let skip =
            usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.events.len());
        self.events
            .range(skip..)
            .enumerate()
            .map(move |(n, (_, event))| (self.first + (skip + n) as u64, event))
    }

    /// Sequence number of the first event after `revision`.
    fn after(&self, revision: u64) -> u64 {
        self.first + self.events.partition_point(|(_, event)| event.revision <= revision) as u64
    }

    fn push(&mut self, event: Arc<Event>, limits: &WindowLimits, weight: usize) {
        self.bytes += event.cost();
        let now = Instant::now();
        self.events.push_back((now, event));
        self.trim(now, limits, weight);
    }

    fn trim(&mut self, now: Instant, limits: &WindowLimits, weight: usize) {
        let most = (weight / 3).clamp(limits.bytes, limits.most_bytes.max(limits.bytes));
        while let Some((at, oldest)) = self.events.front() {
            let kept = self.events.len();
            let full = kept > limits.events || self.bytes > most;
            let stale = now.duration_since(*at) > limits.age && kept > limits.keep;
            if kept <= limits.floor || !(full || stale) {
                break;
            }
            self.bytes -= oldest.cost();
            self.floor = oldest.revision;
            self.first += 1;
            self.events.pop_front();
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    fn restart(&mut self, floor: u64) {
        self.first = self.end();
        self.events.clear();
        self.bytes = 0;
        self.floor = floor;
    }
}

impl ResourceCache {
    pub(super) fn new(
        resource: GroupResource,
        fields: FieldsOf,
        progress: Arc<Progress>,
        limits: WindowLimits,
        loaded_at: u64,
    ) -> Self {
        Self {
            info: Arc::new(ResourceInfo { resource, fields }),
            progress,
            limits,
            state: Mutex::new(State {
                objects: Objects::new(),
                weight: 0,
                revision: loaded_at,
                window: Window::new(loaded_at),
                seats: BTreeMap::new(),
                next_seat: 0,
                namespaces: HashSet::new(),
                unreadable: BTreeSet::new(),
            }),
            unreadable: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            undecodable: AtomicU64::new(0),
        }
    }

    pub fn resource(&self) -> &GroupResource {
        &self.info.resource
    }

    /// The newest state of one object; `namespace` is empty for cluster-scoped resources.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.state.lock().objects.get(key::path(namespace, name).as_str()).cloned()
    }

    /// How many stored objects cannot be read (decrypted, mostly) and are therefore in no snapshot.
    pub fn unreadable(&self) -> usize {
        self.unreadable.load(Ordering::Acquire)
    }

    /// The first of them in a namespace (`None` or empty: of all), as `namespace/name`.
    pub fn first_unreadable(&self, namespace: Option<&str>) -> Option<String> {
        if self.unreadable() == 0 {
            return None;
        }
        let prefix = namespace.filter(|ns| !ns.is_empty()).map(|ns| format!("{ns}/")).unwrap_or_default();
        self.state.lock().unreadable.iter().find(|path| path.starts_with(&prefix)).map(ToString::to_string)
    }

    /// Whether this object is stored but cannot be read.
    pub fn is_unreadable(&self, namespace: &str, name: &str) -> bool {
        self.unreadable() > 0 && self.state.lock().unreadable.contains(key::path(namespace, name).as_str())
    }

    /// Notes an object that is there but cannot be read. Watchers begin again, and hear of it when they list.
    pub(super) fn mark_unreadable(&self, path: &str, revision: u64) {
        self.undecodable.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.revision = state.revision.max(revision);
        if let Some(gone) = state.objects.remove(path) {
            state.weight -= gone.json.len();
        }
        state.unreadable.insert(path.into());
        self.unreadable.store(state.unreadable.len(), Ordering::Release);
        state.window.restart(state.revision);
        for seat in state.seats.values_mut() {
            seat.end();
        }
    }

    /// Events of the store, since the start.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Events sent to watching clients, since the start.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Stored values met that could not be read, since the start.
    pub fn undecodable(&self) -> u64 {
        self.undecodable.load(Ordering::Relaxed)
    }

    pub fn note_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub fn len(&self) -> usize {
        self.state.lock().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest state. O(1).
    pub fn snapshot(&self) -> Snapshot {
        let reached = self.progress.revision();
        let state = self.state.lock();
        Snapshot { revision: reached.max(state.revision), objects: state.objects.clone() }
    }

    /// The state at `revision`, or one at least as new. Waits at most `patience` for the cache to get there.
    pub async fn snapshot_at(
        &self,
        revision: u64,
        how: Match,
        patience: Duration,
    ) -> Result<Snapshot, CacheError> {
        self.progress.wait_for(revision, patience).await?;
        match how {
            Match::NotOlderThan => Ok(self.snapshot()),
            Match::Exact => self.exactly(revision),
        }
    }

    /// Rebuilds an old state by undoing the events after it; structure sharing keeps that cheap.
    fn exactly(&self, revision: u64) -> Result<Snapshot, CacheError> {
        let state = self.state.lock();
        let window = &state.window;
        let oldest = window.floor.max(window.readable);
        if revision < oldest {
            return Err(CacheError::Expired { requested: revision, oldest });
        }
        let mut objects = state.objects.clone();
        let undo: Vec<Arc<Event>> =
            window.since(window.after(revision)).map(|(_, event)| event.clone()).collect();
        drop(state);
        for event in undo.iter().rev() {
            let path = key::path(&event.entry.namespace, &event.entry.name);
            match &event.prev {
                Some(prev) => drop(objects.insert(path.into(), prev.clone())),
                None => drop(objects.remove(path.as_str())),
            }
        }
        Ok(Snapshot { revision, objects })
    }

    /// Events after `after` (`None`: from now on) that pass `filter`. `Expired` when the window no longer reaches
    /// back that far. A revision the cache has not reached yet is fine: what comes at or below it is left out.
    pub fn watch(self: &Arc<Self>, after: Option<u64>, filter: Filter) -> Result<Watcher, CacheError> {
        let reached = self.progress.revision();
        let mut state = self.state.lock();
        let after = after.unwrap_or_else(|| reached.max(state.revision));
        if after < state.window.floor {
            return Err(CacheError::Expired { requested: after, oldest: state.window.floor });
        }
        Ok(self.seat(&mut state, after, filter))
    }

    /// The newest state and a watch that continues it without gap or overlap.
    pub fn snapshot_and_watch(self: &Arc<Self>, filter: Filter) -> (Snapshot, Watcher) {
        let reached = self.progress.revision();
        let mut state = self.state.lock();
        let revision = reached.max(state.revision);
        let snapshot = Snapshot { revision, objects: state.objects.clone() };
        let watcher = self.seat(&mut state, revision, filter);
        (snapshot, watcher)
    }

    fn seat(self: &Arc<Self>, state: &mut MutexGuard<'_, State>, after: u64, filter: Filter) -> Watcher {
        let from = state.window.after(after);
        let id = state.next_seat;
        state.next_seat += 1;
        let (seat, notify) =
            Seat::new(filter, after, if from == state.window.end() { Seat::NOTHING } else { from });
        state.seats.insert(id, seat);
        Watcher::new(self.clone(), id, after, notify)
    }

    pub fn watchers(&self) -> usize {
        self.state.lock().seats.len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn reached(&self) -> u64 {
        self.progress.revision()
    }

    /// How long an event may wait for others after watchers were last woken: about what waking them all takes, so
    /// that a busy resource with many watchers sends each of them several events at once, and a quiet one, or one
    /// with few watchers, waits for nothing.
    pub(super) fn pace(&self) -> Duration {
        const EACH: Duration = Duration::from_micros(10);
        const SHORTEST: Duration = Duration::from_millis(1);
        const LONGEST: Duration = Duration::from_millis(10);
        let all = EACH * u32::try_from(self.watchers()).unwrap_or(u32::MAX).min(1000);
        if all < SHORTEST { Duration::ZERO } else { all.min(LONGEST) }
    }

    /// Wakes the watchers that have something to take.
    pub(super) fn call(&self) {
        self.state.lock().seats.values_mut().for_each(Seat::call);
    }

    /// Takes in one store event, which watchers are told of by [`call`](Self::call): `value` is the new stored form, `None` for a deletion.
    pub(super) fn apply(&self, path: &str, value: Option<&[u8]>, revision: u64) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if revision < state.revision {
            tracing::error!(resource = %self.info.resource, path, revision, at = state.revision, "store event out of order left out");
            return;
        }
        state.revision = revision;
        if !state.unreadable.is_empty() && state.unreadable.remove(path) {
            self.unreadable.store(state.unreadable.len(), Ordering::Release);
        }
        let event = match value {
            Some(value) => {
                let Some(entry) = self.entry(&mut state.namespaces, path, value, revision) else { return };
                let entry = Arc::new(entry);
                let prev = state.objects.insert(path.into(), entry.clone());
                state.weight += entry.json.len();
                state.weight -= prev.as_ref().map_or(0, |prev| prev.json.len());
                let kind = if prev.is_some() { Kind::Modified } else { Kind::Added };
                Event { kind, entry, prev, revision }
            }
            None => {
                let Some(prev) = state.objects.remove(path) else { return };
                state.weight -= prev.json.len();
                Event {
                    kind: Kind::Deleted,
                    entry: Arc::new(prev.deleted_at(revision)),
                    prev: Some(prev),
                    revision,
                }
            }
        };
        let event = Arc::new(event);
        let sequence = state.window.end();
        for seat in state.seats.values_mut() {
            seat.offer(sequence, &event);
        }
        state.window.push(event, &self.limits, state.weight);
    }

    /// Replaces everything by a fresh load; what happened in between is unknown, so every watcher must relist.
    pub(super) fn reload<'a>(&self, objects: impl Iterator<Item = (&'a str, &'a [u8], u64)>, revision: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut fresh = Objects::new();
        for (path, value, modified) in objects {
            let entry = match state.objects.get(path) {
                Some(known) if known.revision == modified => known.clone(),
                _ => match self.entry(&mut state.namespaces, path, value, modified) {
                    Some(entry) => Arc::new(entry),
                    None => continue,
                },
            };
            fresh.insert(path.into(), entry);
        }
        state.weight = fresh.values().map(|entry| entry.json.len()).sum();
        state.objects = fresh;
        state.unreadable.clear();
        self.unreadable.store(0, Ordering::Release);
        state.revision = revision;
        state.window.restart(revision);
        for seat in state.seats.values_mut() {
            seat.end();
        }
    }

    /// Gives a fresh load the history that led to it: `events` of the store, oldest first, all after `floor` and
    /// none after the load.
    pub(super) fn remember<'a>(&self, floor: u64, events: impl Iterator<Item = (&'a str, &'a store::Event)>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.window.restart(floor);
        let mut latest: HashMap<&str, Arc<Entry>> = HashMap::new();
        for (path, event) in events {
            let known = latest.remove(path).filter(|entry| entry.revision == event.prev_revision);
            let prev = match (known, &event.prev) {
                (Some(known), _) => Some(known),
                (None, None) => None,
                (None, Some(value)) => {
                    self.entry(&mut state.namespaces, path, value, event.prev_revision).map(Arc::new)
                }
            };
            let event = match &event.value {
                Some(value) => {
                    let current =
                        state.objects.get(path).filter(|entry| entry.revision == event.revision).cloned();
                    let entry = match current {
                        Some(current) => Some(current),
                        None => self.entry(&mut state.namespaces, path, value, event.revision).map(Arc::new),
                    };
                    let Some(entry) = entry else { continue };
                    latest.insert(path, entry.clone());
                    let kind = if prev.is_some() { Kind::Modified } else { Kind::Added };
                    Event { kind, entry, prev, revision: event.revision }
                }
                None => {
                    let Some(prev) = prev else { continue };
                    let entry = Arc::new(prev.deleted_at(event.revision));
                    Event { kind: Kind::Deleted, entry, prev: Some(prev), revision: event.revision }
                }
            };
            state.window.push(Arc::new(event), &self.limits, state.weight);
        }
    }

    /// Forgets history that has grown too old since the last event; exact reads end at `readable`.
    pub(super) fn trim(&self, now: Instant, readable: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.window.trim(now, &self.limits, state.weight);
        state.window.readable = state.window.readable.max(readable);
    }

    fn entry(
        &self,
        namespaces: &mut HashSet<Arc<str>>,
        path: &str,
        value: &[u8],
        revision: u64,
    ) -> Option<Entry> {
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        let namespace = match namespaces.get(namespace) {
            Some(known) => known.clone(),
            None => {
                let fresh: Arc<str> = namespace.into();
                namespaces.insert(fresh.clone());
                fresh
            }
        };
        Entry::new(&self.info, namespace, name, value, revision)
            .inspect_err(|error| tracing::error!(resource = %self.info.resource, path, %error, "unreadable stored object left out"))
            .ok()
    }
}

/// An immutable state of one resource.
#[derive(Clone)]
pub struct Snapshot {
    pub revision: u64,
    objects: Objects,
}

impl Snapshot {
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Entry>> {
        self.objects.get(key::path(namespace, name).as_str())
    }

    /// All objects, in key order (`namespace/name`, bytewise).
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.objects.values()
    }

    /// Objects of `namespace` (`None` or empty: of all), after the key `after` (`namespace/name`) where a page ended.
    pub fn page<'a>(
        &'a self,
        namespace: Option<&str>,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        // '0' follows '/': nothing sorts between "ns/<anything>" and "ns0".
        let bounds = namespace.filter(|ns| !ns.is_empty()).map(|ns| (format!("{ns}/"), format!("{ns}0")));
        let first = bounds.as_ref().map_or("", |(first, _)| first.as_str());
        let low = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        let high = bounds.as_ref().map_or(Bound::Unbounded, |(_, end)| Bound::Excluded(end.as_str()));
        let empty = matches!((low, high), (Bound::Excluded(low), Bound::Excluded(high)) if low >= high);
        let range = (!empty).then(|| self.objects.range::<_, str>((low, high)));
        range.into_iter().flatten().map(|(_, entry)| entry)
    }
}

/// The key a page that ended with `entry` continues after.
pub fn continue_key(entry: &Entry) -> String {
    key::path(&entry.namespace, &entry.name)
}
