//! Durable writes of the embedded store: `throughput <directory> [seconds]`. Prints writes per second, latencies
//! and resident memory with one and with sixteen writers.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Expect, Op, Store, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: throughput <directory> [seconds]")?;
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(Path::new(&dir), Duration::from_secs(seconds)))
}

async fn run(dir: &Path, time: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let store = store::embedded::open(dir, store::embedded::Options::default())?;
    println!("opened in {:?}, resident {}", start.elapsed(), resident());
    let value = Bytes::from(vec![b'v'; 1500]);
    for writers in [1, 16] {
        let cpu = cpu_seconds();
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| tokio::spawn(write(store.clone(), value.clone(), writer, start + time)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await??);
        }
        let took = start.elapsed().as_secs_f64();
        latencies.sort_unstable();
        let at = |q: usize| latencies.get(latencies.len() * q / 1000).copied().unwrap_or_default();
        let count = latencies.len();
        println!(
            "{writers:2} writers: {:.0} writes/s, p50 {:?}, p99 {:?}, p999 {:?}, {:.0} us cpu/write, resident {}",
            count as f64 / took,
            at(500),
            at(990),
            at(999),
            (cpu_seconds() - cpu) * 1e6 / count as f64,
            resident(),
        );
    }
    let start = Instant::now();
    let range = store.range(b"", 0).await?;
    println!("range of {} keys in {:?}, resident {}", range.kvs.len(), start.elapsed(), resident());
    Ok(())
}

async fn write(
    store: Arc<dyn Store>,
    value: Bytes,
    writer: usize,
    until: Instant,
) -> Result<Vec<Duration>, store::StoreError> {
    let mut latencies = Vec::new();
    let mut known = [None; 200];
    for n in (0..).take_while(|_| Instant::now() < until) {
        let slot = &mut known[n % 200];
        let expect = slot.map_or(Expect::Any, Expect::Revision);
        let key = format!("/registry/pods/namespace-{writer}/pod-{}", n % 200).into();
        let start = Instant::now();
        let written =
            store.write(Write { key, expect, op: Op::Put { value: value.clone(), ttl: None } }).await?;
        latencies.push(start.elapsed());
        *slot = Some(written.revision);
    }
    Ok(latencies)
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("unknown").trim().to_owned()
}

/// User and system time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
