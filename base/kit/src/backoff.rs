//! Growing, jittered waits between tries.

use rand::Rng;
use std::time::Duration;

/// Exponential backoff: `base`, `base * factor`, ... never above `cap`, each stretched by up to `jitter` of
/// itself so that many clients do not come back at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    cap: Duration,
    jitter: f64,
    current: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, factor: 2.0, cap, jitter: 0.2, current: base, tries: 0 }
    }

    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// 0 turns the jitter off.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter.max(0.0);
        self
    }

    /// How many waits were handed out since the start or the last [`reset`](Self::reset).
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The next wait; grows with every call.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.current.min(self.cap);
        self.tries = self.tries.saturating_add(1);
        self.current = self.current.mul_f64(self.factor).min(self.cap);
        if self.jitter == 0.0 {
            wait
        } else {
            wait.mul_f64(1.0 + rand::rng().random_range(0.0..=self.jitter))
        }
    }

    /// Waits [`next_wait`](Self::next_wait). Cancelling the future keeps the growth.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.current = self.base;
        self.tries = 0;
    }
}

/// Calls `operation` until it succeeds, `retryable` says no, or `tries` calls were made; returns the last result.
pub async fn retry<T, E, F, Fut>(
    mut backoff: Backoff,
    tries: u32,
    retryable: impl Fn(&E) -> bool,
    mut operation: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    loop {
        match operation().await {
            Err(error) if backoff.tries() + 1 < tries && retryable(&error) => backoff.wait().await,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn grows_to_the_cap_and_starts_over() {
        let mut b = Backoff::new(Duration::from_millis(10), Duration::from_millis(35)).jitter(0.0);
        let seen: Vec<u128> = (0..4).map(|_| b.next_wait().as_millis()).collect();
        assert_eq!(seen, [10, 20, 35, 35]);
        b.reset();
        assert_eq!(b.next_wait().as_millis(), 10);
    }

    #[test]
    fn jitter_stays_in_bounds() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_millis(100)).jitter(0.5);
        for _ in 0..100 {
            let w = b.next_wait();
            assert!(w >= Duration::from_millis(100) && w <= Duration::from_millis(150), "{w:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_only_what_may_be_retried() {
        let calls = Cell::new(0);
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let run = |stop_at: i32| {
            calls.set(0);
            retry(
                backoff.clone(),
                5,
                move |e: &i32| *e != stop_at,
                || {
                    calls.set(calls.get() + 1);
                    let n = calls.get();
                    async move { if n == 4 { Ok(n) } else { Err(n) } }
                },
            )
        };
        assert_eq!(run(0).await, Ok(4));
        assert_eq!(run(2).await, Err(2));
    }
}
