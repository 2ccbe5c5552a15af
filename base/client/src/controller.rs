//! The loop of a level-triggered controller: informers note keys, workers reconcile them.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use kit::Shutdown;
use tracing::{debug, warn};

use crate::queue::WorkQueue;

/// What to do with a key whose reconciliation went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Look again after this long, even without an event.
    pub again: Option<Duration>,
}

impl Outcome {
    pub const DONE: Self = Self { again: None };

    pub fn after(delay: Duration) -> Self {
        Self { again: Some(delay) }
    }
}

/// Runs `reconcile` on every key of `queue` with `workers` tasks until `stop`, never twice at the same time on one key.
/// A key that fails comes back with exponential back-off. Returns when all workers have finished the key they held.
pub async fn run<T, E, F, Fut>(
    name: &'static str,
    workers: usize,
    queue: WorkQueue<T>,
    stop: Shutdown,
    reconcile: F,
) where
    T: Hash + Eq + Clone + Debug + Send + Sync + 'static,
    E: Display + Send,
    F: Fn(T) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Outcome, E>> + Send,
{
    let work = || async {
        loop {
            let key = tokio::select! {
                key = queue.get() => key,
                () = stop.wait() => return,
            };
            let Some(key) = key else { return };
            match reconcile(key.clone()).await {
                Ok(outcome) => {
                    queue.forget(&key);
                    if let Some(delay) = outcome.again {
                        queue.add_after(key.clone(), delay);
                    }
                }
                Err(error) => {
                    let failures = queue.failures(&key);
                    if failures < 3 {
                        debug!(controller = name, ?key, %error, failures, "reconcile failed, will retry");
                    } else {
                        warn!(controller = name, ?key, %error, failures, "reconcile keeps failing");
                    }
                    queue.add_rate_limited(key.clone());
                }
            }
            queue.done(&key);
        }
    };
    futures::future::join_all((0..workers.max(1)).map(|_| work())).await;
    debug!(controller = name, "stopped");
}
