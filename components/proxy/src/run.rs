//! The loop: any change of a Service or EndpointSlice wakes it, and it brings the dataplane up to date.

use crate::plan;
use client::InformerFactory;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kit::Shutdown;
use network::NetworkError;
use network::dataplane::Dataplane;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long to wait before trying again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name: decides which endpoints are local.
    pub node_name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("repair of the dataplane ended")]
    Repair(#[source] NetworkError),
}

/// Runs until `stop`. The rules stay when it returns.
///
/// The first write happens only after both kinds are known in full, so that rules of an earlier run go on serving.
pub async fn run(
    informers: InformerFactory,
    dataplane: Dataplane,
    config: Config,
    stop: Shutdown,
) -> Result<(), ProxyError> {
    let services = informers.informer::<Service>();
    let slices = informers.informer::<EndpointSlice>();
    let wake = Arc::new(Notify::new());
    let notify = wake.clone();
    services.subscribe(move |_| notify.notify_one());
    let notify = wake.clone();
    slices.subscribe(move |_| notify.notify_one());
    services.synced().await;
    slices.synced().await;

    let repair = dataplane.keep_repaired();
    tokio::pin!(repair);
    wake.notify_one();
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            ended = &mut repair => {
                if let Err(error) = ended {
                    return Err(ProxyError::Repair(error));
                }
            }
            () = wake.notified() => {
                let planned = plan(&services.list(), &slices.list(), &config.node_name);
                let (count, dataplane) = (planned.len(), dataplane.clone());
                let done = tokio::task::spawn_blocking(move || dataplane.set_services(planned)).await;
                match done {
                    Ok(Ok(())) => tracing::debug!(services = count, "dataplane is up to date"),
                    Ok(Err(error)) => {
                        tracing::error!(%error, "services could not be written to the kernel");
                        let again = wake.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(RETRY).await;
                            again.notify_one();
                        });
                    }
                    Err(error) => tracing::error!(%error, "service update was lost"),
                }
            }
        }
    }
}
