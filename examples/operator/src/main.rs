//! `operator`: installs the definition of sites and reconciles them, in the cluster of `KUBECONFIG` or of its pod.

use anyhow::{Context, Result};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("operator=info,warn").init();
    let client = kube::Client::try_default().await.context("find a cluster")?;
    operator::install(&client).await?;
    tokio::select! {
        () = operator::run(client) => {}
        ended = tokio::signal::ctrl_c() => ended.context("wait for a signal")?,
    }
    Ok(())
}
