//! One reader of a resource's events.
//!
//! A watcher owns no queue: it remembers its place in the resource's window and takes events from there. What it
//! costs is its seat; how far it may lag is the window. One that falls out of the window is ended, and nobody waits.

use super::CacheError;
use super::entry::{Entry, Event};
use super::resource::ResourceCache;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Events taken at once.
const GULP: usize = 64;

/// Which events concern a watcher. The default is all.
#[derive(Clone, Default)]
pub struct Filter {
    pub namespace: Option<Arc<str>>,
    pub name: Option<Arc<str>>,
    /// Selectors: an event is of interest when its new or its previous state is. Runs under the resource's lock for
    /// every event: must be quick and must not block.
    pub interest: Option<Arc<dyn Fn(&Entry) -> bool + Send + Sync>>,
}

impl Filter {
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: (!namespace.is_empty()).then(|| namespace.into()), ..Self::default() }
    }

    /// Whether an object is within the scope and passes the selectors.
    pub fn admits(&self, entry: &Entry) -> bool {
        self.in_scope(entry) && self.interest.as_ref().is_none_or(|interest| interest(entry))
    }

    fn in_scope(&self, entry: &Entry) -> bool {
        self.namespace.as_ref().is_none_or(|ns| *ns == entry.namespace)
            && self.name.as_ref().is_none_or(|name| *name == entry.name)
    }

    fn concerns(&self, event: &Event) -> bool {
        self.in_scope(&event.entry)
            && self.interest.as_ref().is_none_or(|interest| {
                interest(&event.entry) || event.prev.as_ref().is_some_and(|prev| interest(prev))
            })
    }
}

/// A watcher's place, kept with the resource.
pub(super) struct Seat {
    filter: Filter,
    after: u64,
    /// The first event that concerns this watcher and was not taken yet.
    next: u64,
    /// Nothing to tell the watcher: it was woken since its next event was offered.
    called: bool,
    ended: bool,
    notify: Arc<Notify>,
}

impl Seat {
    pub(super) const NOTHING: u64 = u64::MAX;

    pub(super) fn new(filter: Filter, after: u64, next: u64) -> (Self, Arc<Notify>) {
        let notify = Arc::new(Notify::new());
        (Self { filter, after, next, called: true, ended: false, notify: notify.clone() }, notify)
    }

    /// Takes note of an event; the watcher hears of it with [`call`](Self::call).
    pub(super) fn offer(&mut self, sequence: u64, event: &Event) {
        if self.next == Self::NOTHING && event.revision > self.after && self.filter.concerns(event) {
            self.next = sequence;
            self.called = false;
        }
    }

    /// Wakes the watcher if it has not heard of its next event yet.
    pub(super) fn call(&mut self) {
        if !self.called {
            self.called = true;
            self.notify.notify_one();
        }
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        self.notify.notify_one();
    }
}

pub struct Watcher {
    cache: Arc<ResourceCache>,
    seat: u64,
    taken: VecDeque<Arc<Event>>,
    delivered: u64,
    notify: Arc<Notify>,
}

impl Watcher {
    pub(super) fn new(cache: Arc<ResourceCache>, seat: u64, after: u64, notify: Arc<Notify>) -> Self {
        Self { cache, seat, taken: VecDeque::new(), delivered: after, notify }
    }

    /// The next event, in revision order. Cancel-safe. `Expired`: this watcher was too slow, or the cache had to
    /// reload; it must list again.
    pub async fn next(&mut self) -> Result<Arc<Event>, CacheError> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            self.notify.notified().await;
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, CacheError> {
        if self.taken.is_empty() {
            self.gulp()?;
        }
        let event = self.taken.pop_front();
        if let Some(event) = &event {
            self.delivered = event.revision;
        }
        Ok(event)
    }

    /// Everything at or below this revision that concerns this watcher has been returned by [`next`](Self::next):
    /// what a bookmark says. Moves on when other resources change, too.
    pub fn progress(&self) -> u64 {
        if !self.taken.is_empty() {
            return self.delivered;
        }
        let reached = self.cache.reached();
        let state = self.cache.lock();
        match state.seats.get(&self.seat) {
            Some(seat) if seat.next == Seat::NOTHING && !seat.ended => reached.max(self.delivered),
            _ => self.delivered,
        }
    }

    fn gulp(&mut self) -> Result<(), CacheError> {
        let mut guard = self.cache.lock();
        let state = &mut *guard;
        let expired = CacheError::Expired { requested: self.delivered, oldest: state.window.floor() };
        let seat = state.seats.get_mut(&self.seat).ok_or_else(|| expired.clone())?;
        if seat.next == Seat::NOTHING {
            return if seat.ended { Err(expired) } else { Ok(()) };
        }
        if seat.next < state.window.first || seat.ended {
            seat.ended = true;
            return Err(expired);
        }
        let from = std::mem::replace(&mut seat.next, Seat::NOTHING);
        for (sequence, event) in state.window.since(from) {
            if event.revision > seat.after && seat.filter.concerns(event) {
                if self.taken.len() == GULP {
                    seat.next = sequence;
                    break;
                }
                self.taken.push_back(event.clone());
            }
        }
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.lock().seats.remove(&self.seat);
    }
}
