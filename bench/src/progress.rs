//! Progress on standard error: one rewritten line on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ON_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// One phase of known length. [`Progress::step`] costs an addition and, rarely, a write.
pub struct Progress {
    what: String,
    total: u64,
    done: AtomicU64,
    /// What the last line said.
    written: AtomicU64,
    begun: Instant,
    shown: Mutex<Instant>,
    terminal: bool,
}

impl Progress {
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        let now = Instant::now();
        let progress = Self {
            what: what.into(),
            total,
            done: AtomicU64::new(0),
            written: AtomicU64::new(0),
            begun: now,
            shown: Mutex::new(now),
            terminal: std::io::stderr().is_terminal(),
        };
        progress.write();
        progress
    }

    /// A phase that only takes time.
    pub async fn wait(what: &str, seconds: u64) {
        let progress = Self::new(format!("{what} (seconds)"), seconds);
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            progress.step();
        }
    }

    pub fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        // Who finds it locked need not wait: someone is writing already.
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.elapsed() > if self.terminal { ON_TERMINAL } else { ELSEWHERE } {
            *shown = Instant::now();
            drop(shown);
            self.write();
        }
    }

    fn write(&self) {
        let done = self.done.load(Ordering::Relaxed);
        self.written.store(done, Ordering::Relaxed);
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let elapsed = self.begun.elapsed().as_secs_f64();
        // Nothing can be done about a closed standard error.
        let _ =
            write!(std::io::stderr(), "{start}{}: {done}/{} in {elapsed:.1} s{end}", self.what, self.total);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written.load(Ordering::Relaxed) < self.done.load(Ordering::Relaxed) {
            self.write();
        }
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}
