//! Stopping one container or a whole pod: preStop hook, stop signal, kill, in the right order.

use super::observed::{Spec, as_container, find};
use super::resources::is_sidecar;
use super::start::run_hook;
use crate::events::Kind;
use crate::shared::Shared;
use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerStatus, SandboxStatus};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A container always gets this long to end by itself.
const LEAST: Duration = Duration::from_secs(2);

pub fn grace_of(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(30)
}

/// preStop hook within the grace, then the stop signal with what is left of it, then SIGKILL. Returns when the
/// container has exited.
pub async fn stop_container(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    id: &str,
    grace: i64,
    message: &str,
    ips: &[IpAddr],
) {
    shared.recorder.container(pod, name, Kind::Normal, "Killing", message);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let began = Instant::now();
    let spec = as_container(pod, name);
    if let Some(c) = &spec
        && let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && !grace.is_zero()
    {
        let run = run_hook(shared, c, hook, id, ips, grace);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(container = name, error = why, "preStop hook failed");
                shared.recorder.container(
                    pod,
                    name,
                    Kind::Warning,
                    "FailedPreStopHook",
                    "PreStopHook failed",
                );
            }
            Err(_) => tracing::info!(container = name, "preStop hook did not complete in time"),
        }
    }
    let left = grace.saturating_sub(began.elapsed()).max(LEAST);
    if let Err(error) = shared.runtime.stop_container(id, left).await {
        tracing::warn!(%error, container = name, id, "container not stopped");
    }
}

/// Main and ephemeral containers at once, then sidecars in reverse order, then network and sandbox.
pub async fn stop_pod(
    shared: &Shared,
    pod: &Pod,
    alive: Vec<ContainerStatus>,
    sandbox: Option<SandboxStatus>,
    grace: i64,
    ips: &[IpAddr],
) {
    let began = Instant::now();
    let order = |name: &str| {
        let list = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        list.iter().position(|c| c.name == name)
    };
    let (sidecars, others): (Vec<_>, Vec<_>) =
        alive.into_iter().partition(|st| matches!(find(pod, &st.name), Some(Spec::Init(c)) if is_sidecar(c)));
    let kill = |st: ContainerStatus, grace: i64| async move {
        let message = format!("Stopping container {}", st.name);
        stop_container(shared, pod, &st.name, &st.id, grace, &message, ips).await;
    };
    futures::future::join_all(others.into_iter().map(|st| kill(st, grace))).await;
    let mut sidecars = sidecars;
    sidecars.sort_by_key(|st| std::cmp::Reverse(order(&st.name)));
    for st in sidecars {
        let left = grace - i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        kill(st, left.max(0)).await;
    }
    if let Some(sandbox) = sandbox {
        if !sandbox.config.host_network
            && let Err(error) = shared.network.detach(super::identity(pod).2).await
        {
            tracing::warn!(%error, pod = super::identity(pod).2, "network not released");
        }
        if let Err(error) = shared.runtime.stop_pod_sandbox(&sandbox.id).await {
            tracing::warn!(%error, sandbox = sandbox.id, "sandbox not stopped");
        }
    }
}
