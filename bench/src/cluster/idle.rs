//! Memory and CPU of a cluster that has nothing to do.

use super::subject::Subject;
use crate::cli::ClusterOptions;
use crate::figure::{Figure, MIB, Report};
use crate::proc::{self, Cpu};
use crate::progress::Progress;
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

pub async fn measure(subject: &Subject<'_>, options: &ClusterOptions, report: &Report) -> Result<()> {
    Progress::wait("letting the cluster settle", options.settle).await;
    report.print(memory("idle_memory", subject))?;

    let (before, begun) = (Cpu::of(subject.processes()), Instant::now());
    Progress::wait("watching the CPU of the idle cluster", options.window).await;
    let used = Cpu::of(subject.processes()).since(before);
    let percent = used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let detail = json!({"used_ms": used.as_micros() as f64 / 1e3});
    report.print(Figure::new("idle_cpu", percent, "% of a core").detail(detail))
}

/// Proportional set size of every process of the cluster; the sum of resident set sizes, which counts shared pages again
/// and again, is in the detail.
pub fn memory(name: &str, subject: &Subject<'_>) -> Figure {
    let all = proc::memory(subject.processes());
    let mib = |bytes: u64| (bytes as f64 / MIB * 10.0).round() / 10.0;
    let pss: u64 = all.iter().map(|m| m.pss).sum();
    let rss: u64 = all.iter().map(|m| m.rss).sum();
    let mut programs: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    for process in &all {
        let (count, sum) = programs.entry(&process.name).or_default();
        *count += 1;
        *sum += process.pss;
    }
    let programs: Vec<_> = programs
        .iter()
        .map(|(name, (count, pss))| json!({"name": name, "processes": count, "pss_mib": mib(*pss)}))
        .collect();
    let detail = json!({"rss_mib": mib(rss), "processes": all.len(), "programs": programs});
    Figure::new(name, pss as f64 / MIB, "MiB").detail(detail)
}
