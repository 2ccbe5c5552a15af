//! One priority level at work: its queues behind one short lock, and the figures of each schema that uses it.

use super::queues::{Details, Integral, Mode, Place, QueueSet, Start, Work};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Figures of one flow schema at one level.
pub(super) struct Series {
    pub level: Arc<str>,
    pub schema: Arc<str>,
    pub executing: AtomicI64,
    pub executing_seats: AtomicI64,
    pub waiting: AtomicI64,
    pub waiting_seats: AtomicI64,
    pub dispatched: AtomicU64,
    /// By [`REASONS`].
    pub rejected: [AtomicU64; 4],
    pub waited: Histogram<13>,
    /// Requests that waited and were then refused.
    pub waited_in_vain: Histogram<13>,
    pub ran: Histogram<13>,
    pub ran_watch: Histogram<13>,
    pub estimated: Histogram<8>,
    pub lengths: Histogram<8>,
    pub watchers: Histogram<6>,
}

pub(super) const REASONS: [&str; 4] = ["concurrency-limit", "queue-full", "time-out", "cancelled"];
pub(super) const SECONDS: [f64; 13] =
    [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
pub(super) const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
pub(super) const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
pub(super) const WATCHERS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

/// A histogram without a lock. The last cell holds what lies past all bounds; the sum is in millionths.
pub(super) struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    cells: [AtomicU64; N],
    beyond: AtomicU64,
    micros: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        }
    }

    pub fn note(&self, value: f64) {
        match self.bounds.iter().position(|bound| value <= *bound) {
            Some(at) => self.cells[at].fetch_add(1, Relaxed),
            None => self.beyond.fetch_add(1, Relaxed),
        };
        self.micros.fetch_add((value * 1e6) as u64, Relaxed);
    }

    /// Cumulative counts by bound, the count of all, and the sum.
    pub fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut sum = 0;
        let cells = self.bounds.iter().zip(&self.cells);
        let rows = cells
            .map(|(bound, cell)| {
                sum += cell.load(Relaxed);
                (*bound, sum)
            })
            .collect();
        (rows, sum + self.beyond.load(Relaxed), self.micros.load(Relaxed) as f64 / 1e6)
    }
}

impl Series {
    pub fn new(level: &str, schema: &str) -> Self {
        Self {
            level: level.into(),
            schema: schema.into(),
            executing: AtomicI64::new(0),
            executing_seats: AtomicI64::new(0),
            waiting: AtomicI64::new(0),
            waiting_seats: AtomicI64::new(0),
            dispatched: AtomicU64::new(0),
            rejected: std::array::from_fn(|_| AtomicU64::new(0)),
            waited: Histogram::new(&SECONDS),
            waited_in_vain: Histogram::new(&SECONDS),
            ran: Histogram::new(&SECONDS),
            ran_watch: Histogram::new(&SECONDS),
            estimated: Histogram::new(&SEATS),
            lengths: Histogram::new(&LENGTHS),
            watchers: Histogram::new(&WATCHERS),
        }
    }

    fn reject(&self, reason: &'static str) {
        if let Some(at) = REASONS.iter().position(|r| *r == reason) {
            self.rejected[at].fetch_add(1, Relaxed);
        }
    }
}

/// What a level may have, from its configuration and the demand seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub nominal: u32,
    pub least: u32,
    pub most: u32,
    pub current: u32,
    /// Most seats one request is taken to need; 0: no such bound.
    pub widest: u32,
    pub demand: Demand,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    pub mean: f64,
    pub deviation: f64,
    pub peak: u32,
    pub smoothed: f64,
    pub target: f64,
}

impl Demand {
    /// Decay with a half-life of five minutes at one look every ten seconds.
    const SMOOTHING: f64 = 0.977;

    pub fn update(&mut self, seen: Integral) {
        self.peak = seen.peak.round() as u32;
        if seen.elapsed <= 0.0 {
            return;
        }
        (self.mean, self.deviation) = (seen.mean, seen.deviation);
        let envelope = seen.mean + seen.deviation;
        self.smoothed = envelope.max(Self::SMOOTHING * self.smoothed + (1.0 - Self::SMOOTHING) * envelope);
    }
}

pub(super) struct Level {
    pub name: Arc<str>,
    pub queues: Mutex<QueueSet>,
    pub limits: Mutex<Limits>,
    dropped: Mutex<Dropped>,
}

impl Level {
    pub fn new(name: &str, mode: Mode, limits: Limits) -> Self {
        Self {
            name: name.into(),
            queues: Mutex::new(QueueSet::new(mode, limits.current, Instant::now())),
            limits: Mutex::new(limits),
            dropped: Mutex::default(),
        }
    }

    /// Waits for seats, at most `patience`. Cancelling gives up the place in the queue, or the seats.
    pub async fn enter(
        self: &Arc<Self>,
        series: &Arc<Series>,
        hash: u64,
        work: Work,
        watch: bool,
        patience: Duration,
        details: impl FnOnce() -> Details,
    ) -> Result<Seat, u32> {
        let arrived = Instant::now();
        let started = {
            let mut queues = self.queues.lock();
            let started = queues.arrive(arrived, hash, work, details);
            if let Start::Wait(_, place, _) = &started {
                series.lengths.note(queues.length(*place) as f64);
            }
            started
        };
        series.estimated.note(f64::from(work.seats()));
        let place = match started {
            Start::Run(place) => {
                series.waited.note(0.0);
                return Ok(self.seat(series, place, work, watch, arrived));
            }
            Start::Refuse(reason) => return Err(self.refuse(series, reason)),
            Start::Wait(id, place, woken) => {
                series.waiting.fetch_add(1, Relaxed);
                series.waiting_seats.fetch_add(i64::from(work.seats()), Relaxed);
                let mut ticket =
                    Ticket { level: self, series, id, place, work, arrived, reason: Some("cancelled") };
                if !self.wait(woken, arrived + patience).await {
                    ticket.reason = Some("time-out");
                    drop(ticket);
                    return Err(self.retry_after());
                }
                ticket.reason = None;
                drop(ticket);
                place
            }
        };
        let now = Instant::now();
        series.waited.note(now.duration_since(arrived).as_secs_f64());
        Ok(self.seat(series, place, work, watch, now))
    }

    fn seat(
        self: &Arc<Self>,
        series: &Arc<Series>,
        place: Place,
        work: Work,
        watch: bool,
        now: Instant,
    ) -> Seat {
        series.dispatched.fetch_add(1, Relaxed);
        series.executing.fetch_add(1, Relaxed);
        series.executing_seats.fetch_add(i64::from(work.seats()), Relaxed);
        Seat { level: self.clone(), series: series.clone(), place, work, watch, began: now }
    }

    /// Until woken (true) or until the deadline; comes by when lingering seats are free, so that they are used.
    async fn wait(&self, mut woken: tokio::sync::oneshot::Receiver<()>, deadline: Instant) -> bool {
        loop {
            let linger = self.queues.lock().next_linger();
            let until = linger.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                biased;
                granted = &mut woken => return granted.is_ok(),
                () = tokio::time::sleep_until(until.into()) => {}
            }
            let now = tokio::time::Instant::now().into_std();
            self.queues.lock().sync(now);
            if now >= deadline {
                return woken.try_recv().is_ok();
            }
        }
    }

    fn refuse(&self, series: &Series, reason: &'static str) -> u32 {
        series.reject(reason);
        self.retry_after()
    }

    /// Notes a refusal; how many seconds the client should stay away.
    fn retry_after(&self) -> u32 {
        let second = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
        let mut dropped = self.dropped.lock();
        dropped.note(second);
        dropped.retry_after
    }
}

/// A place in a queue; leaving it early, for whatever reason, is a drop.
struct Ticket<'a> {
    level: &'a Arc<Level>,
    series: &'a Arc<Series>,
    id: u64,
    place: Place,
    work: Work,
    arrived: Instant,
    /// Why it was left; `None`: the request was dispatched.
    reason: Option<&'static str>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.series.waiting.fetch_sub(1, Relaxed);
        self.series.waiting_seats.fetch_sub(i64::from(self.work.seats()), Relaxed);
        let Some(reason) = self.reason else { return };
        let now = Instant::now();
        self.series.waited_in_vain.note(now.duration_since(self.arrived).as_secs_f64());
        self.series.reject(reason);
        let mut queues = self.level.queues.lock();
        if !queues.forget(now, self.place, self.id) {
            // Dispatched at the very moment it went away.
            queues.finish(now, self.place, self.work, Duration::ZERO);
        }
    }
}

/// Seats held. Dropping it gives them back.
#[must_use]
pub struct Seat {
    level: Arc<Level>,
    series: Arc<Series>,
    place: Place,
    work: Work,
    watch: bool,
    began: Instant,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = Instant::now();
        let ran = now.duration_since(self.began);
        self.level.queues.lock().finish(now, self.place, self.work, ran);
        self.series.executing.fetch_sub(1, Relaxed);
        self.series.executing_seats.fetch_sub(i64::from(self.work.seats()), Relaxed);
        let ran_of = if self.watch { &self.series.ran_watch } else { &self.series.ran };
        ran_of.note(ran.as_secs_f64());
    }
}

/// Refusals a second, from which `Retry-After` follows as upstream's does: doubled under a steady flood, one less in
/// every quiet second.
struct Dropped {
    retry_after: u32,
    raised_at: i64,
    second: i64,
    count: u32,
    history: std::collections::VecDeque<(i64, u32)>,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { retry_after: 1, raised_at: 0, second: 0, count: 0, history: [].into() }
    }
}

impl Dropped {
    const LONGEST: u32 = 32;

    fn note(&mut self, second: i64) {
        if second == self.second {
            self.count += 1;
            return;
        }
        self.history.push_back((self.second, self.count));
        while self.history.front().is_some_and(|(at, _)| self.second - at > i64::from(Self::LONGEST)) {
            self.history.pop_front();
        }
        (self.second, self.count) = (second, 1);
        let window = i64::from(self.retry_after);
        let recent = self.history.iter().filter(|(at, _)| second - at <= window && *at < second);
        let dropped: u32 = recent.map(|(_, n)| *n).sum();
        if second - self.raised_at >= window && dropped >= 3 * self.retry_after {
            self.retry_after = (self.retry_after * 2).min(Self::LONGEST);
            self.raised_at = second;
        } else if dropped < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_follows_the_flood() {
        let mut dropped = Dropped::default();
        for second in 1000..1100 {
            for _ in 0..200 {
                dropped.note(second);
            }
        }
        assert_eq!(dropped.retry_after, 32);
        for quiet in 0..40 {
            dropped.note(2000 + quiet * 100);
        }
        assert_eq!(dropped.retry_after, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_by_seats_by_time_and_by_leaving() {
        let mode = Mode::Queue { queues: 1, hand: 1, length: 10 };
        let level = Arc::new(Level::new("l", mode, Limits { current: 1, ..Limits::default() }));
        let series = Arc::new(Series::new("l", "s"));
        let enter = |patience: u64| {
            let (level, series) = (level.clone(), series.clone());
            async move {
                level
                    .enter(&series, 0, Work::ONE, false, Duration::from_millis(patience), Details::default)
                    .await
            }
        };
        let seat = enter(50).await.ok().unwrap();
        assert_eq!(enter(50).await.err(), Some(1));
        let left = tokio::time::timeout(Duration::from_millis(5), enter(60_000)).await;
        assert!(left.is_err());
        let next = tokio::spawn(enter(60_000));
        tokio::task::yield_now().await;
        drop(seat);
        let seat = next.await.unwrap().ok().unwrap();
        assert_eq!(series.executing.load(Relaxed), 1);
        drop(seat);
        assert!(level.queues.lock().idle());
        let rejected: Vec<u64> = series.rejected.iter().map(|r| r.load(Relaxed)).collect();
        assert_eq!(rejected, [0, 0, 1, 1]);
        assert_eq!(series.waiting.load(Relaxed), 0);
    }
}
