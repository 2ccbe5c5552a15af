//! Fair queuing for one priority level (KEP-1040): which request runs next.
//!
//! Pure and synchronous; the caller holds the lock and brings the time. A flow is dealt a hand of queues and takes
//! the one with the least work waiting (shuffle sharding); of the queues' oldest requests the one that would finish
//! first in virtual time runs next. Virtual time R advances at seats asked for (at most the limit) over busy queues.
//!
//! Seats of a request that has finished may linger for the work its events still cause; they are taken back when the
//! time is next brought, so whoever waits must come by at [`QueueSet::next_linger`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a request takes: seats while it runs, seats afterwards and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub initial: u32,
    pub last: u32,
    pub linger: Duration,
}

impl Work {
    pub const ONE: Self = Self { initial: 1, last: 0, linger: Duration::ZERO };

    pub fn seats(self) -> u32 {
        self.initial.max(self.last)
    }

    /// Seat-seconds, with a service time of [`SERVICE`].
    fn total(self) -> f64 {
        f64::from(self.initial) * SERVICE.as_secs_f64() + f64::from(self.last) * self.linger.as_secs_f64()
    }
}

/// How long a request is taken to run when its virtual finish is guessed.
const SERVICE: Duration = Duration::from_millis(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Counted, never limited.
    Exempt,
    /// Past the limit a request is refused.
    Reject,
    Queue {
        queues: usize,
        hand: usize,
        length: usize,
    },
}

/// What became of an arriving request.
pub(super) enum Start {
    Run(Place),
    Wait(u64, Place, oneshot::Receiver<()>),
    Refuse(&'static str),
}

/// Index of the queue a request came through; `None` where there are no queues.
pub(super) type Place = Option<u32>;

/// A request in a queue.
pub(super) struct Waiting {
    pub id: u64,
    pub work: Work,
    pub details: Box<Details>,
    wake: oneshot::Sender<()>,
}

/// What the dump of requests shows; made only for a request that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Details {
    pub schema: String,
    pub distinguisher: String,
    pub at: chrono::DateTime<chrono::Utc>,
    pub user: String,
    pub verb: String,
    pub path: String,
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
}

#[derive(Default)]
pub(super) struct Queue {
    /// R at which its next request would start.
    pub next: f64,
    pub executing: u32,
    pub seats: u32,
    pub waiting: VecDeque<Waiting>,
    pub waiting_seats: u32,
    pub waiting_initial: u32,
    pub waiting_work: f64,
}

impl Queue {
    fn busy(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
}

pub(super) struct QueueSet {
    pub mode: Mode,
    /// Seats this level may use now.
    pub limit: u32,
    pub queues: Vec<Queue>,
    pub executing: u32,
    pub seats: u32,
    pub waiting: u32,
    pub waiting_seats: u32,
    pub r: f64,
    busy: u32,
    robin: usize,
    arrivals: usize,
    ids: u64,
    at: Instant,
    pub demand: Integrator,
    lingering: VecDeque<(Instant, Place, u32)>,
    /// Times a chosen request found too few seats free.
    pub no_room: u64,
}

impl QueueSet {
    pub fn new(mode: Mode, limit: u32, now: Instant) -> Self {
        let mut set = Self {
            mode: Mode::Reject,
            limit,
            queues: Vec::new(),
            executing: 0,
            seats: 0,
            waiting: 0,
            waiting_seats: 0,
            r: 0.0,
            busy: 0,
            robin: 0,
            arrivals: 0,
            ids: 0,
            at: now,
            demand: Integrator::default(),
            lingering: VecDeque::new(),
            no_room: 0,
        };
        set.configure(mode, limit);
        set
    }

    /// Another configuration. Queues that are no longer dealt from are drained; requests in them are not lost.
    pub fn configure(&mut self, mode: Mode, limit: u32) {
        self.mode = mode;
        self.limit = limit;
        let wanted = if let Mode::Queue { queues, .. } = mode { queues } else { 0 };
        while self.queues.len() > wanted && self.queues.last().is_some_and(|q| !q.busy() && q.seats == 0) {
            self.queues.pop();
        }
        while self.queues.len() < wanted {
            self.queues.push(Queue::default());
        }
        self.dispatch();
    }

    pub fn idle(&self) -> bool {
        self.executing == 0 && self.waiting == 0
    }

    /// Moves time on: virtual time, the integral of demand, and lingering seats that are free again.
    pub fn sync(&mut self, now: Instant) {
        let mut freed = false;
        while let Some(&(until, place, seats)) = self.lingering.front() {
            if until > now {
                break;
            }
            self.lingering.pop_front();
            self.advance(until);
            self.release(place, seats);
            freed = true;
        }
        self.advance(now);
        if freed && self.waiting > 0 {
            self.dispatch();
        }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.at = now;
        if self.busy > 0 {
            let asked = f64::from(self.seats + self.waiting_seats).min(f64::from(self.limit));
            self.r += passed * asked / f64::from(self.busy);
        }
        self.demand.pass(passed);
    }

    /// When lingering seats are next free.
    pub fn next_linger(&self) -> Option<Instant> {
        self.lingering.front().map(|(until, ..)| *until)
    }

    fn note_demand(&mut self) {
        self.demand.set(f64::from(self.seats + self.waiting_seats));
    }

    fn room_for(&self, seats: u32) -> bool {
        match self.mode {
            Mode::Exempt => true,
            // Wider than the whole level: it runs alone.
            _ if seats > self.limit => self.executing == 0,
            _ => self.seats + seats <= self.limit,
        }
    }

    /// A request arrives. `details` is asked only when it has to wait.
    pub fn arrive(
        &mut self,
        now: Instant,
        hash: u64,
        work: Work,
        details: impl FnOnce() -> Details,
    ) -> Start {
        self.sync(now);
        let (queues, hand, length) = match self.mode {
            Mode::Queue { queues, hand, length } => (queues, hand, length),
            mode => {
                if mode == Mode::Reject && !self.room_for(work.seats()) {
                    return Start::Refuse("concurrency-limit");
                }
                self.begin(None, work);
                return Start::Run(None);
            }
        };
        let index = self.deal(hash, queues, hand);
        let place = Some(u32::try_from(index).unwrap_or(u32::MAX));
        if self.waiting == 0 && self.seats < self.limit && self.room_for(work.seats()) {
            self.open(index);
            self.robin = index;
            self.begin(place, work);
            return Start::Run(place);
        }
        if self.seats >= self.limit && self.queues[index].waiting.len() >= length {
            return Start::Refuse("queue-full");
        }
        self.open(index);
        let (wake, woken) = oneshot::channel();
        self.ids += 1;
        let id = self.ids;
        let queue = &mut self.queues[index];
        if !queue.busy() {
            self.busy += 1;
        }
        queue.waiting.push_back(Waiting { id, work, details: Box::new(details()), wake });
        queue.waiting_seats += work.seats();
        queue.waiting_initial += work.initial;
        queue.waiting_work += work.total();
        self.waiting += 1;
        self.waiting_seats += work.seats();
        self.note_demand();
        self.dispatch();
        Start::Wait(id, place, woken)
    }

    /// Length of the queue at `place`.
    pub fn length(&self, place: Place) -> usize {
        place.and_then(|p| self.queues.get(p as usize)).map_or(0, |q| q.waiting.len())
    }

    /// A queue that was idle starts at the present.
    fn open(&mut self, index: usize) {
        let r = self.r;
        let queue = &mut self.queues[index];
        if !queue.busy() {
            queue.next = r;
        }
    }

    fn begin(&mut self, place: Place, work: Work) {
        self.executing += 1;
        self.seats += work.seats();
        if let Some(queue) = place.and_then(|p| self.queues.get_mut(p as usize)) {
            if !queue.busy() {
                self.busy += 1;
            }
            queue.executing += 1;
            queue.seats += work.seats();
            queue.next += work.total();
        }
        self.note_demand();
    }

    /// The queue of a hand with the least work waiting.
    fn deal(&mut self, hash: u64, queues: usize, hand: usize) -> usize {
        let mut cards = [0usize; MAX_HAND];
        let hand = hand.clamp(1, MAX_HAND.min(queues));
        deal(hash, queues, &mut cards[..hand]);
        let offset = self.arrivals % hand;
        self.arrivals = self.arrivals.wrapping_add(1);
        let mut best = cards[offset];
        let mut least = f64::INFINITY;
        for i in 0..hand {
            let card = cards[(offset + i) % hand];
            let work = self.queues[card].waiting_work;
            if work < least {
                (best, least) = (card, work);
            }
        }
        best
    }

    /// Wakes as many as there are seats for.
    pub fn dispatch(&mut self) {
        while self.waiting > 0 && self.seats < self.limit && self.dispatch_one() {}
    }

    fn dispatch_one(&mut self) -> bool {
        let count = self.queues.len();
        let mut chosen: Option<(usize, f64)> = None;
        for i in 1..=count {
            let index = (self.robin + i) % count;
            let queue = &self.queues[index];
            if let Some(oldest) = queue.waiting.front() {
                let finish = queue.next + oldest.work.total();
                if chosen.is_none_or(|(_, least)| finish < least) {
                    chosen = Some((index, finish));
                }
            }
        }
        let Some((index, _)) = chosen else { return false };
        let seats = self.queues[index].waiting.front().map_or(0, |w| w.work.seats());
        if !self.room_for(seats) {
            self.no_room += 1;
            return false;
        }
        self.robin = index;
        let Some(next) = self.take(index, 0) else { return false };
        let place = Some(u32::try_from(index).unwrap_or(u32::MAX));
        self.begin(place, next.work);
        // Whoever went away in between gives its seats back when its ticket is dropped.
        let _ = next.wake.send(());
        true
    }

    fn take(&mut self, index: usize, at: usize) -> Option<Waiting> {
        let queue = self.queues.get_mut(index)?;
        let taken = queue.waiting.remove(at)?;
        queue.waiting_seats -= taken.work.seats();
        queue.waiting_initial -= taken.work.initial;
        queue.waiting_work =
            if queue.waiting.is_empty() { 0.0 } else { queue.waiting_work - taken.work.total() };
        self.waiting -= 1;
        self.waiting_seats -= taken.work.seats();
        if !queue.busy() {
            self.busy -= 1;
        }
        Some(taken)
    }

    /// Takes a request out of its queue; `false` when it has been dispatched already.
    pub fn forget(&mut self, now: Instant, place: Place, id: u64) -> bool {
        self.sync(now);
        let Some(index) = place.map(|p| p as usize) else { return false };
        let Some(at) = self.queues.get(index).and_then(|q| q.waiting.iter().position(|w| w.id == id)) else {
            return false;
        };
        self.take(index, at);
        self.note_demand();
        self.dispatch();
        true
    }

    /// A request has finished after `ran`.
    pub fn finish(&mut self, now: Instant, place: Place, work: Work, ran: Duration) {
        self.sync(now);
        self.executing -= 1;
        if let Some(queue) = place.and_then(|p| self.queues.get_mut(p as usize)) {
            queue.executing -= 1;
            if !queue.busy() {
                self.busy -= 1;
            }
            // What it took in fact, in place of the guess.
            queue.next += f64::from(work.initial) * (ran.as_secs_f64() - SERVICE.as_secs_f64());
        }
        if work.linger.is_zero() || work.last == 0 {
            self.release(place, work.seats());
        } else {
            let until = now + work.linger;
            let at = self.lingering.partition_point(|(other, ..)| *other <= until);
            self.lingering.insert(at, (until, place, work.seats()));
        }
        if self.waiting > 0 {
            self.dispatch();
        }
    }

    fn release(&mut self, place: Place, seats: u32) {
        self.seats -= seats;
        if let Some(queue) = place.and_then(|p| self.queues.get_mut(p as usize)) {
            queue.seats -= seats;
        }
        self.note_demand();
    }
}

/// The longest hand that validation lets through (upstream's dealer has the same bound).
pub const MAX_HAND: usize = 15;

/// Deals distinct cards of a deck, the hash being all the chance there is.
pub fn deal(mut hash: u64, deck: usize, hand: &mut [usize]) {
    for (i, card) in hand.iter_mut().enumerate() {
        let left = (deck - i) as u64;
        *card = (hash % left) as usize;
        hash /= left;
    }
    // The i-th number counts only the cards still in the deck.
    for i in (0..hand.len()).rev() {
        for j in (0..i).rev() {
            if hand[i] >= hand[j] {
                hand[i] += 1;
            }
        }
    }
}

/// Time-weighted mean, deviation and peak of a figure.
#[derive(Default)]
pub(super) struct Integrator {
    value: f64,
    elapsed: f64,
    sum: f64,
    squares: f64,
    peak: f64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Integral {
    pub elapsed: f64,
    pub mean: f64,
    pub deviation: f64,
    pub peak: f64,
}

impl Integrator {
    fn pass(&mut self, seconds: f64) {
        self.elapsed += seconds;
        self.sum += self.value * seconds;
        self.squares += self.value * self.value * seconds;
    }

    fn set(&mut self, value: f64) {
        self.value = value;
        self.peak = self.peak.max(value);
    }

    /// The figures since the last call.
    pub fn reset(&mut self) -> Integral {
        let mean = if self.elapsed > 0.0 { self.sum / self.elapsed } else { 0.0 };
        let variance = if self.elapsed > 0.0 { self.squares / self.elapsed - mean * mean } else { 0.0 };
        let out =
            Integral { elapsed: self.elapsed, mean, deviation: variance.max(0.0).sqrt(), peak: self.peak };
        *self = Self { value: self.value, peak: self.value, ..Self::default() };
        out
    }
}

#[cfg(test)]
mod tests;
