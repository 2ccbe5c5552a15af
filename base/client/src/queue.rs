//! A work queue with client-go's semantics: an item waits at most once, is never given to two workers at the same
//! time, and one that was added while it was being worked on waits again as soon as that work is done.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::queue_stats::Stats;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// client-go's default per-item limits.
pub const BASE_DELAY: Duration = Duration::from_millis(5);
pub const MAX_DELAY: Duration = Duration::from_secs(1000);

/// A handle; clones share the queue.
#[derive(Debug)]
pub struct WorkQueue<T>(Arc<Shared<T>>);

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    base: Duration,
    max: Duration,
    /// Of a named queue.
    stats: OnceLock<Arc<Stats>>,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    /// Waiting, or to wait again once done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The items of `delayed` by sequence number, and each item's earliest deadline.
    pending: HashMap<u64, T>,
    earliest: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
    closed: bool,
    /// Of a named queue: since when items wait, and are worked on.
    stats: Option<Arc<Stats>>,
    waiting: HashMap<T, Instant>,
    working: HashMap<T, Instant>,
}

impl<T: Hash + Eq + Clone + Debug> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Hash + Eq + Clone + Debug> WorkQueue<T> {
    pub fn new() -> Self {
        Self::with_limits(BASE_DELAY, MAX_DELAY)
    }

    /// A queue whose rate-limited adds wait `base * 2^failures`, at most `max`.
    pub fn with_limits(base: Duration, max: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BinaryHeap::new(),
                pending: HashMap::new(),
                earliest: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
                closed: false,
                stats: None,
                waiting: HashMap::new(),
                working: HashMap::new(),
            }),
            wake: Notify::new(),
            base,
            max,
            stats: OnceLock::new(),
        }))
    }

    /// Keeps figures of this queue under a name ([`queue_stats::render`](crate::queue_stats::render)).
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        let stats = self.0.stats.get_or_init(|| Stats::register(name)).clone();
        self.0.state.lock().stats = Some(stats);
        self
    }

    /// Makes `item` wait, unless it already does.
    pub fn add(&self, item: T) {
        let woke = self.0.state.lock().add(item);
        if woke {
            self.0.wake.notify_one();
        }
    }

    /// Adds `item` after `delay`; of several delayed adds of one item the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = Instant::now() + delay;
        {
            let mut state = self.0.state.lock();
            if state.closed || state.earliest.get(&item).is_some_and(|(known, _)| *known <= at) {
                return;
            }
            state.sequence += 1;
            let sequence = state.sequence;
            if let Some((_, old)) = state.earliest.insert(item.clone(), (at, sequence)) {
                state.pending.remove(&old);
            }
            state.pending.insert(sequence, item);
            state.delayed.push(Reverse((at, sequence)));
        }
        self.0.wake.notify_one();
    }

    /// Adds `item` after a delay that doubles with each call until [`forget`](Self::forget).
    pub fn add_rate_limited(&self, item: T) {
        if let Some(stats) = self.0.stats.get() {
            stats.retries.fetch_add(1, Relaxed);
        }
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let exponent = (*failures).min(31);
            *failures = failures.saturating_add(1);
            self.0.base.saturating_mul(1u32 << exponent).min(self.0.max)
        };
        self.add_after(item, delay);
    }

    /// How often `item` was added rate-limited since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// Items waiting now, delayed ones left out.
    pub fn len(&self) -> usize {
        self.0.state.lock().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing is added any more; workers drain what waits and then get `None`.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_waiters();
        self.0.wake.notify_one();
    }

    /// The next item, or `None` once the queue is closed and empty. Whoever gets an item must call
    /// [`done`](Self::done). Cancel-safe: a dropped future takes nothing.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.0.wake.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let deadline = {
                let mut state = self.0.state.lock();
                state.promote(Instant::now());
                if let Some(item) = state.queue.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    state.begin(&item);
                    let more = !state.queue.is_empty() || state.closed || !state.delayed.is_empty();
                    drop(state);
                    if more {
                        // The wake that this worker used up may have stood for more than one item.
                        self.0.wake.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    drop(state);
                    self.0.wake.notify_one();
                    return None;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match deadline {
                Some(at) => {
                    tokio::select! {
                        () = &mut notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on an item that [`get`](Self::get) returned.
    pub fn done(&self, item: &T) {
        let woke = {
            let mut state = self.0.state.lock();
            state.processing.remove(item);
            state.end(item);
            let again = state.dirty.contains(item);
            if again {
                state.queue.push_back(item.clone());
                state.depth();
            }
            again
        };
        if woke {
            self.0.wake.notify_one();
        }
    }
}

impl<T: Hash + Eq + Clone> State<T> {
    /// Whether a worker has something new to do.
    fn add(&mut self, item: T) -> bool {
        if self.closed || !self.dirty.insert(item.clone()) {
            return false;
        }
        if let Some(stats) = &self.stats {
            stats.adds.fetch_add(1, Relaxed);
            self.waiting.entry(item.clone()).or_insert_with(Instant::now);
        }
        if self.processing.contains(&item) {
            return false;
        }
        self.queue.push_back(item);
        self.depth();
        true
    }

    fn depth(&self) {
        if let Some(stats) = &self.stats {
            stats.depth.store(i64::try_from(self.queue.len()).unwrap_or(i64::MAX), Relaxed);
        }
    }

    fn begin(&mut self, item: &T) {
        let Some(stats) = &self.stats else { return };
        let now = Instant::now();
        if let Some(since) = self.waiting.remove(item) {
            stats.waited.note(now - since);
        }
        self.working.insert(item.clone(), now);
        self.depth();
    }

    fn end(&mut self, item: &T) {
        if let (Some(stats), Some(since)) = (&self.stats, self.working.remove(item)) {
            stats.worked.note(since.elapsed());
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            let live = self.pending.contains_key(&sequence);
            if live && at > now {
                break;
            }
            self.delayed.pop();
            if let Some(item) = self.pending.remove(&sequence) {
                self.earliest.remove(&item);
                self.add(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn named_queues_are_counted() {
        let queue = WorkQueue::<u8>::new().named("counted");
        queue.add(1);
        queue.add(1);
        queue.add(2);
        let item = queue.get().await.unwrap();
        let text = || {
            let mut out = String::new();
            crate::queue_stats::render(&mut out);
            out
        };
        assert!(text().contains("workqueue_depth{name=\"counted\"} 1\n"));
        assert!(text().contains("workqueue_adds_total{name=\"counted\"} 2\n"));
        queue.add_rate_limited(item);
        queue.done(&item);
        assert!(text().contains("workqueue_retries_total{name=\"counted\"} 1\n"));
        assert!(text().contains("workqueue_work_duration_seconds_count{name=\"counted\"} 1\n"));
        drop(queue);
        assert!(!text().contains("counted"));
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8),
        AddAfter(u8, u8),
        Get,
        Done,
        Advance(u8),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec(
            prop_oneof![
                (0u8..5).prop_map(Op::Add),
                (0u8..5, 0u8..50).prop_map(|(i, d)| Op::AddAfter(i, d)),
                Just(Op::Get),
                Just(Op::Done),
                (0u8..30).prop_map(Op::Advance),
            ],
            0..200,
        )
    }

    proptest! {
        /// No item is held twice, none is lost: every add is followed by a get that begins after it.
        #[test]
        fn an_item_is_held_once_and_never_lost(ops in ops()) {
            paused().block_on(async {
                let queue = WorkQueue::new();
                let mut held: Vec<u8> = Vec::new();
                let mut owed: HashSet<u8> = HashSet::new();
                for op in ops {
                    match op {
                        Op::Add(i) => { queue.add(i); owed.insert(i); }
                        Op::AddAfter(i, d) => { queue.add_after(i, Duration::from_millis(d.into())); owed.insert(i); }
                        Op::Get => {
                            if let Ok(Some(i)) = tokio::time::timeout(Duration::ZERO, queue.get()).await {
                                assert!(!held.contains(&i), "{i} given out twice");
                                assert!(owed.contains(&i), "{i} came from nowhere");
                                held.push(i);
                            }
                        }
                        Op::Done => if let Some(i) = held.pop() { queue.done(&i); },
                        Op::Advance(ms) => tokio::time::advance(Duration::from_millis(ms.into())).await,
                    }
                }
                for i in held.drain(..) { queue.done(&i); }
                let mut seen = HashSet::new();
                while let Ok(Some(i)) = tokio::time::timeout(Duration::from_secs(1), queue.get()).await {
                    seen.insert(i);
                    queue.done(&i);
                }
                assert!(seen.is_subset(&owed));
                assert!(queue.is_empty());
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_added_during_its_work_waits_again() {
        let queue = WorkQueue::new();
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limits_double_and_are_forgotten() {
        let queue = WorkQueue::new();
        for expected in [5u64, 10, 20, 40] {
            let start = Instant::now();
            queue.add_rate_limited(1);
            assert_eq!(queue.get().await, Some(1));
            queue.done(&1);
            assert_eq!(start.elapsed().as_millis() as u64, expected);
        }
        assert_eq!(queue.failures(&1), 4);
        queue.forget(&1);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::new();
        queue.add_after(1, Duration::from_secs(60));
        queue.add_after(1, Duration::from_secs(1));
        queue.add_after(1, Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(queue.get().await, Some(1));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        queue.done(&1);
        assert!(tokio::time::timeout(Duration::from_secs(120), queue.get()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn close_drains_and_then_ends_every_worker() {
        let queue = WorkQueue::new();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut n = 0;
                    while let Some(i) = queue.get().await {
                        queue.done(&i);
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        for i in 0..10 {
            queue.add(i);
        }
        queue.close();
        queue.add(11);
        let mut total = 0;
        for worker in workers {
            total += worker.await.unwrap();
        }
        assert_eq!(total, 10);
    }
}
