//! How cost grows: the same operations at different numbers of objects, watches and leases.

mod leases;

use crate::api::phases::{object, pod, spread};
use crate::api::{Bench, fanout, in_namespace};
use crate::cli::{ApiOptions, GrowthOptions};
use crate::figure::{Figure, MIB};
use crate::requests::{JSON, MERGE_PATCH, request};
use anyhow::{Context, Result};
use futures::AsyncReadExt;
use http::{Method, Request};
use kube::Client;
use serde_json::json;
use std::time::{Duration, Instant};

/// Requests of one latency; lists of everything are fewer.
const SAMPLES: u32 = 300;
const LISTS: u32 = 5;
const PAGES: u32 = 50;
/// About so many events are delivered at each number of watches.
const DELIVERIES: u32 = 200_000;

pub fn run(options: &GrowthOptions) -> Result<()> {
    // Every watch has a connection.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)
        .context("raise the limit of open files")?;
    let most = options.objects.iter().max().copied().unwrap_or(1);
    let api = ApiOptions {
        kubeconfig: options.kubeconfig.clone(),
        objects: most.max(1),
        connections: options.connections,
        watchers: 0,
        lists: LISTS,
        pid: options.pid.clone(),
        about: options.about.clone(),
    };
    in_namespace(&api, async |bench| {
        let mut filled = 0;
        let empty = bench.resident();
        for objects in &options.objects {
            fill(bench, filled, *objects).await?;
            filled = filled.max(*objects);
            at_objects(bench, filled, empty).await.with_context(|| format!("at {filled} objects"))?;
        }
        for watchers in &options.watchers {
            at_watchers(bench, *watchers, filled).await.with_context(|| format!("at {watchers} watches"))?;
        }
        for leases in &options.leases {
            leases::measure(bench, *leases, filled).await.with_context(|| format!("at {leases} leases"))?;
        }
        Ok(())
    })
}

async fn fill(bench: &Bench<'_>, from: u32, to: u32) -> Result<()> {
    let collection = bench.pods.clone();
    let make = move |i| request(Method::POST, &collection, JSON, pod(from + i).to_string().into_bytes());
    spread(bench, "objects created", to.saturating_sub(from), make).await.map(drop)
}

async fn at_objects(bench: &Bench<'_>, objects: u32, empty: Option<u64>) -> Result<()> {
    let at = json!({"objects": objects});
    let print = |name: &str, samples: &[Duration]| {
        bench.report.print(Figure::milliseconds(format!("growth_{name}"), samples).detail(at.clone()))
    };
    let client = &bench.clients[0];
    let pods = &bench.pods;
    let one = |i: u32| object(pods, (u64::from(i) * 7919 % u64::from(objects)) as u32);
    let list = |_| request(Method::GET, pods, JSON, vec![]);
    print("list_latency", &timed(client, LISTS, list).await?)?;
    let page = |_| request(Method::GET, &format!("{pods}?limit=500"), JSON, vec![]);
    print("page_latency", &timed(client, PAGES, page).await?)?;
    let get = |i| request(Method::GET, &one(i), JSON, vec![]);
    print("get_latency", &timed(client, SAMPLES, get).await?)?;
    let write = |i| patch(&one(i), &format!("{objects}-objects-{i}"));
    print("write_latency", &timed(client, SAMPLES, write).await?)?;
    if let (Some(now), Some(empty)) = (bench.resident(), empty) {
        let each = now.saturating_sub(empty) as f64 / 1024.0 / f64::from(objects);
        let detail = json!({"objects": objects, "kib_per_object": (each * 100.0).round() / 100.0});
        bench.report.print(Figure::new("growth_memory", now as f64 / MIB, "MiB").detail(detail))?;
    }
    Ok(())
}

async fn at_watchers(bench: &Bench<'_>, watchers: u32, filled: u32) -> Result<()> {
    let objects = (DELIVERIES / watchers.max(1)).clamp(20, 2000).min(filled);
    let fanned = fanout::measure(bench, watchers, objects).await?;
    let at = json!({"watchers": watchers, "changes": objects});
    let taken = fanned.taken;
    bench
        .report
        .print(Figure::milliseconds("growth_delivery_latency", &taken.latencies).detail(at.clone()))?;
    if let Some(cpu) = taken.cpu {
        let each = cpu.as_secs_f64() * 1e6 / taken.latencies.len() as f64;
        bench.report.print(Figure::new("growth_delivery_cpu", each, "us/event").detail(at.clone()))?;
    }
    if let Some(memory) = fanned.memory {
        let each = memory as f64 / 1024.0 / f64::from(watchers);
        bench.report.print(Figure::new("growth_watch_memory", each, "KiB/watch").detail(at))?;
    }
    Ok(())
}

fn patch(path: &str, value: &str) -> Result<Request<Vec<u8>>> {
    let patch = json!({"metadata": {"annotations": {"bench.ironclad.dev/patched": value}}});
    request(Method::PATCH, path, MERGE_PATCH, patch.to_string().into_bytes())
}

/// One request after another, each read to its end and thrown away.
async fn timed(
    client: &Client,
    count: u32,
    make: impl Fn(u32) -> Result<Request<Vec<u8>>>,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(count as usize);
    let mut buffer = vec![0; 256 * 1024];
    for i in 0..count {
        let request = make(i)?;
        let begun = Instant::now();
        let mut stream = std::pin::pin!(client.request_stream(request).await?);
        while stream.read(&mut buffer).await? > 0 {}
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}
