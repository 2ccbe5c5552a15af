//! Runs until done or interrupted, so that cleaning up happens either way.

use anyhow::{Context, Result, bail};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// `work` to its end, or an error on SIGINT or SIGTERM. From the first call on these signals no longer end the process.
pub async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
