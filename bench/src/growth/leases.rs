//! Writes beside leases that are renewed, as every node's and many operators' are.

use super::{SAMPLES, patch, timed};
use crate::api::Bench;
use crate::api::phases::{object, spread};
use crate::figure::Figure;
use crate::requests::{JSON, MERGE_PATCH, request};
use anyhow::{Context, Result};
use http::Method;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Each lease is renewed this often, as kubelets do.
const PERIOD: Duration = Duration::from_secs(10);
/// How long the renewals run before anything is measured.
const SETTLE: Duration = Duration::from_secs(2);

pub async fn measure(bench: &Bench<'_>, leases: u32, filled: u32) -> Result<()> {
    let namespace = bench.pods.trim_end_matches("/pods").trim_start_matches("/api/v1").to_owned();
    let collection = format!("/apis/coordination.k8s.io/v1{namespace}/leases");
    let prefix = format!("lease-{leases}");
    let (path, name) = (collection.clone(), prefix.clone());
    spread(bench, "leases created", leases, move |i| {
        let lease = json!({"metadata": {"name": format!("{name}-{i}")}, "spec": {"holderIdentity": format!("node-{i}"),
            "leaseDurationSeconds": 40}});
        request(Method::POST, &path, JSON, lease.to_string().into_bytes())
    })
    .await?;
    // The first connection measures, the others renew, each its share in turn.
    let renewers = bench.clients.iter().skip(1).collect::<Vec<_>>();
    let mut renewing: JoinSet<Result<()>> = JoinSet::new();
    let shares = u32::try_from(renewers.len()).context("too many connections")?;
    for (share, client) in (0u32..).zip(renewers).filter(|(share, _)| *share < leases) {
        let (client, collection, prefix) = (client.clone(), collection.clone(), prefix.clone());
        renewing.spawn(async move {
            let own: Vec<u32> = (share..leases).step_by(shares as usize).collect();
            let mut pace = tokio::time::interval(PERIOD / u32::try_from(own.len())?);
            for round in 0u32.. {
                for i in &own {
                    pace.tick().await;
                    let renewed = json!({"spec": {"leaseTransitions": round}});
                    let path = format!("{collection}/{prefix}-{i}");
                    let body = renewed.to_string().into_bytes();
                    client.request_text(request(Method::PATCH, &path, MERGE_PATCH, body)?).await?;
                }
            }
            Ok(())
        });
    }
    tokio::time::sleep(SETTLE).await;
    let at = json!({"leases": leases, "renewals_per_second": f64::from(leases) / PERIOD.as_secs_f64()});
    let (cpu, begun) = (bench.cpu(), Instant::now());
    let pods = &bench.pods;
    let one = |i: u32| object(pods, (u64::from(i) * 7919 % u64::from(filled.max(1))) as u32);
    // A patch that changes nothing writes nothing: each round has values of its own.
    let writes =
        timed(&bench.clients[0], SAMPLES, |i| patch(&one(i), &format!("{leases}-leases-{i}"))).await?;
    tokio::time::sleep((PERIOD / 2).saturating_sub(begun.elapsed())).await;
    let (cpu, took) = (cpu.and_then(|before| Some(bench.cpu()?.since(before))), begun.elapsed());
    if let Some(ended) = renewing.try_join_next() {
        ended?.context("renew the leases")?;
    }
    bench.report.print(Figure::milliseconds("growth_lease_write_latency", &writes).detail(at.clone()))?;
    if let Some(cpu) = cpu {
        let share = cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
        bench.report.print(Figure::new("growth_lease_cpu", share, "% of a core").detail(at))?;
    }
    Ok(())
}
