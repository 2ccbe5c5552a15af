//! One signal that ends a tree of tasks.

use tokio_util::sync::CancellationToken;

/// Handed to every long-running task; a clone observes the same signal, a child can be ended on its own.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything under this signal to stop. Idempotent.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once [`trigger`](Self::trigger) was called on this signal or a parent.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}
