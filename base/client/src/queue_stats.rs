//! Figures of the named work queues of this process, under client-go's names.

use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

static QUEUES: Mutex<Vec<Weak<Stats>>> = Mutex::new(Vec::new());

/// client-go's buckets: powers of ten from ten nanoseconds.
const BOUNDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

#[derive(Debug)]
pub(crate) struct Stats {
    name: String,
    pub depth: AtomicI64,
    pub adds: AtomicU64,
    pub retries: AtomicU64,
    pub waited: Durations,
    pub worked: Durations,
}

#[derive(Debug, Default)]
pub(crate) struct Durations {
    counts: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Durations {
    pub fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.counts[at].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn render(&self, out: &mut String, metric: &str, name: &str) {
        let mut sum = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            sum += count.load(Relaxed);
            let _ = writeln!(out, "{metric}_bucket{{name=\"{name}\",le=\"{bound:e}\"}} {sum}");
        }
        let (count, seconds) = (self.count.load(Relaxed), self.nanos.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(
            out,
            "{metric}_bucket{{name=\"{name}\",le=\"+Inf\"}} {count}\n{metric}_sum{{name=\"{name}\"}} {seconds}\n\
             {metric}_count{{name=\"{name}\"}} {count}"
        );
    }
}

impl Stats {
    pub fn register(name: &str) -> Arc<Self> {
        let stats = Arc::new(Self {
            name: name.to_owned(),
            depth: AtomicI64::new(0),
            adds: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            waited: Durations::default(),
            worked: Durations::default(),
        });
        let mut queues = QUEUES.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&stats));
        stats
    }
}

/// Lines for `/metrics`.
pub fn render(out: &mut String) {
    let mut all: Vec<Arc<Stats>> = QUEUES.lock().iter().filter_map(Weak::upgrade).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    // Two queues of one name (two clusters in one process) would be one series twice.
    all.dedup_by(|a, b| a.name == b.name);
    type Figure = (&'static str, &'static str, &'static str, fn(&Stats) -> i64);
    let figures: [Figure; 3] = [
        ("workqueue_depth", "gauge", "Current depth of workqueue", |s| s.depth.load(Relaxed)),
        ("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", |s| {
            i64::try_from(s.adds.load(Relaxed)).unwrap_or(i64::MAX)
        }),
        ("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", |s| {
            i64::try_from(s.retries.load(Relaxed)).unwrap_or(i64::MAX)
        }),
    ];
    for (metric, kind, help, value) in figures {
        let _ = writeln!(out, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
        for stats in &all {
            let _ = writeln!(out, "{metric}{{name=\"{}\"}} {}", stats.name, value(stats));
        }
    }
    let mut histogram = |metric: &str, help: &str, of: fn(&Stats) -> &Durations| {
        let _ = writeln!(out, "# HELP {metric} {help}\n# TYPE {metric} histogram");
        for stats in &all {
            of(stats).render(out, metric, &stats.name);
        }
    };
    histogram(
        "workqueue_queue_duration_seconds",
        "How long in seconds an item stays in workqueue before being requested.",
        |s| &s.waited,
    );
    histogram(
        "workqueue_work_duration_seconds",
        "How long in seconds processing an item from workqueue takes.",
        |s| &s.worked,
    );
}
