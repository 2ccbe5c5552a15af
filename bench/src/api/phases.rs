//! Phases in which each connection sends one request after another.

use super::{Bench, Taken};
use crate::progress::Progress;
use crate::requests::{APPLY_PATCH, JSON, MERGE_PATCH, request};
use anyhow::{Context, Result};
use http::{Method, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const UNIT: &str = "operations/s";
/// Pods are spread over this many labels, so a selector takes this part of them.
const GROUPS: u32 = 50;

pub async fn before_watch(bench: &Bench<'_>) -> Result<()> {
    let (pods, objects, lists) = (bench.pods.clone(), bench.options.objects, bench.options.lists);
    let collection = pods.clone();
    phase(bench, "create", objects, move |i| {
        request(Method::POST, &collection, JSON, pod(i).to_string().into_bytes())
    })
    .await?;
    let collection = pods.clone();
    phase(bench, "get", objects, move |i| request(Method::GET, &object(&collection, i), JSON, vec![]))
        .await?;
    let collection = pods.clone();
    phase(bench, "list", lists, move |_| request(Method::GET, &collection, JSON, vec![])).await?;
    let collection = pods.clone();
    phase(bench, "list_by_label", lists, move |i| {
        let path = format!("{collection}?labelSelector=group%3Dg{}", i % GROUPS);
        request(Method::GET, &path, JSON, vec![])
    })
    .await?;
    let collection = pods.clone();
    phase(bench, "merge_patch", objects, move |i| {
        let patch = json!({"metadata": {"annotations": {"bench.ironclad.dev/patched": i.to_string()}}});
        request(Method::PATCH, &object(&collection, i), MERGE_PATCH, patch.to_string().into_bytes())
    })
    .await?;
    phase(bench, "apply", objects, move |i| {
        let applied = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name(i), "labels": {"applied": format!("a{i}")}}});
        let path = format!("{}?fieldManager=bench&force=true", object(&pods, i));
        request(Method::PATCH, &path, APPLY_PATCH, applied.to_string().into_bytes())
    })
    .await
}

pub async fn delete(bench: &Bench<'_>) -> Result<()> {
    let pods = bench.pods.clone();
    phase(bench, "delete", bench.options.objects, move |i| {
        request(Method::DELETE, &object(&pods, i), JSON, vec![])
    })
    .await
}

pub fn name(index: u32) -> String {
    format!("bench-{index:06}")
}

pub fn object(pods: &str, index: u32) -> String {
    format!("{pods}/{}", name(index))
}

async fn phase(
    bench: &Bench<'_>,
    phase: &str,
    count: u32,
    make: impl Fn(u32) -> Result<Request<Vec<u8>>> + Send + Sync + 'static,
) -> Result<()> {
    let taken = spread(bench, phase, count, make).await.with_context(|| format!("phase {phase}"))?;
    bench.print(phase, UNIT, &taken)
}

/// Sends `count` requests over all connections; the first error ends it.
pub async fn spread(
    bench: &Bench<'_>,
    phase: &str,
    count: u32,
    make: impl Fn(u32) -> Result<Request<Vec<u8>>> + Send + Sync + 'static,
) -> Result<Taken> {
    let progress = Arc::new(Progress::new(phase, count.into()));
    let (make, next) = (Arc::new(make), Arc::new(AtomicU32::new(0)));
    let (cpu, begun) = (bench.cpu(), Instant::now());
    // Dropping the set, as on an interrupt, ends its tasks.
    let mut workers = JoinSet::new();
    for client in &bench.clients {
        let (client, make) = (client.clone(), make.clone());
        let (next, progress) = (next.clone(), progress.clone());
        workers.spawn(async move {
            let mut latencies: Vec<Duration> = vec![];
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(latencies);
                }
                let request = make(index)?;
                let begun = Instant::now();
                client.request_text(request).await?;
                latencies.push(begun.elapsed());
                progress.step();
            }
        });
    }
    let mut latencies = vec![];
    while let Some(ended) = workers.join_next().await {
        latencies.extend(ended??);
    }
    let elapsed = begun.elapsed();
    let cpu = cpu.and_then(|before| Some(bench.cpu()?.since(before)));
    Ok(Taken { elapsed, latencies, cpu })
}

/// A pod of the usual size that no scheduler takes.
pub fn pod(index: u32) -> Value {
    json!({
        "metadata": {
            "name": name(index),
            "labels": {"app": "bench", "group": format!("g{}", index % GROUPS)},
            "annotations": {"bench.ironclad.dev/about": "made by a benchmark; no node runs it"},
        },
        "spec": {
            "schedulerName": "none",
            "containers": [{
                "name": "main",
                "image": "registry.example/application:1.0",
                "args": ["--listen=:8080", "--log-level=info"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [
                    {"name": "MODE", "value": "production"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }],
        },
    })
}
