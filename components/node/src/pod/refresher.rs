//! Keeps the content of a pod's volumes as the API has it: config maps, secrets, tokens, the pod's own labels.

use super::identity;
use crate::shared::Shared;
use crate::volumes::PodVolumes;
use k8s_openapi::api::core::v1::Pod;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between attempts to bring content up to date that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until aborted, or the pod's actor is gone.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut latest: watch::Receiver<Arc<Pod>>,
    mut made: PodVolumes,
    ips: Vec<IpAddr>,
) {
    let mut seen = latest.borrow_and_update().metadata.clone();
    let mut retry: Option<Instant> = None;
    loop {
        tokio::select! {
            () = made.changed() => {}
            changed = latest.changed() => {
                if changed.is_err() {
                    return;
                }
                let meta = latest.borrow_and_update().metadata.clone();
                if meta.labels == seen.labels && meta.annotations == seen.annotations {
                    continue;
                }
                seen = meta;
            }
            () = async { tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
        }
        let pod = latest.borrow().clone();
        let facts = shared.facts(&pod, &ips);
        retry = match made.mount(&shared.volumes, &pod, &facts).await {
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, pod = identity(&pod).2, "volume content not refreshed, will retry");
                Some(Instant::now() + RETRY)
            }
        };
    }
}
