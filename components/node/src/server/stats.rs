//! What the node and its containers use, as `/stats/summary`, `/metrics/resource` and `/metrics` tell it.

use super::Api;
use crate::config::KUBELET_VERSION;
use crate::machine;
use crate::pod::{identity, labels};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use runtime::{ContainerState, ContainerStats, ContainerStatus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Instant;

/// The last reading of each cpu counter, from which the next request's rate comes.
static READINGS: LazyLock<Mutex<HashMap<String, (Instant, u64)>>> = LazyLock::new(Mutex::default);

fn rate(key: &str, usage_ns: u64) -> u64 {
    let mut readings = READINGS.lock();
    if readings.len() > 4096 {
        readings.clear();
    }
    let now = Instant::now();
    let before = readings.insert(key.to_owned(), (now, usage_ns));
    let Some((at, had)) = before else { return 0 };
    let passed = now.duration_since(at).as_nanos().max(1);
    u64::try_from(u128::from(usage_ns.saturating_sub(had)) * 1_000_000_000 / passed).unwrap_or(0)
}

struct Used {
    status: ContainerStatus,
    stats: ContainerStats,
}

async fn containers(api: &Api) -> Vec<Used> {
    let runtime = &api.shared.runtime;
    let mut out = Vec::new();
    for status in runtime.list_containers().await.unwrap_or_default() {
        if status.state != ContainerState::Running {
            continue;
        }
        if let Ok(stats) = runtime.container_stats(&status.id).await {
            out.push(Used { status, stats });
        }
    }
    out
}

/// Nanoseconds all processors of the machine were busy.
fn node_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = stat.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let total: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    total.saturating_sub(idle) * 10_000_000
}

fn cpu(key: &str, ns: u64, now: &str) -> Value {
    json!({"time": now, "usageNanoCores": rate(key, ns), "usageCoreNanoSeconds": ns})
}

fn memory(s: &ContainerStats, now: &str) -> Value {
    json!({"time": now, "workingSetBytes": s.memory_working_set_bytes, "usageBytes": s.memory_usage_bytes,
        "rssBytes": s.memory_rss_bytes})
}

fn since(ns: i64) -> Value {
    crate::pod::observed::time(ns).map_or(Value::Null, |t| Value::String(t.to_string()))
}

pub async fn summary(api: &Api) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let used = containers(api).await;
    let mut pods: BTreeMap<String, Vec<&Used>> = BTreeMap::new();
    for u in &used {
        if let Some(uid) = u.status.labels.get(labels::POD_UID) {
            pods.entry(uid.clone()).or_default().push(u);
        }
    }
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|(uid, list)| {
            let get = |key: &str| list[0].status.labels.get(key).cloned().unwrap_or_default();
            let total = |f: fn(&ContainerStats) -> u64| list.iter().map(|u| f(&u.stats)).sum::<u64>();
            let containers: Vec<Value> = list
                .iter()
                .map(|u| {
                    let log = std::fs::metadata(&u.status.log_path).map_or(0, |m| m.len());
                    json!({
                        "name": u.status.name, "startTime": since(u.status.started_at_ns),
                        "cpu": cpu(&u.status.id, u.stats.cpu_usage_ns, &now),
                        "memory": memory(&u.stats, &now),
                        "rootfs": {"time": now, "usedBytes": u.stats.fs_used_bytes},
                        "logs": {"time": now, "usedBytes": log},
                    })
                })
                .collect();
            let sum = ContainerStats {
                cpu_usage_ns: total(|s| s.cpu_usage_ns),
                memory_working_set_bytes: total(|s| s.memory_working_set_bytes),
                memory_usage_bytes: total(|s| s.memory_usage_bytes),
                memory_rss_bytes: total(|s| s.memory_rss_bytes),
                pids: total(|s| s.pids),
                fs_used_bytes: total(|s| s.fs_used_bytes),
            };
            json!({
                "podRef": {"name": get(labels::POD_NAME), "namespace": get(labels::POD_NAMESPACE), "uid": uid},
                "startTime": since(list.iter().map(|u| u.status.started_at_ns).min().unwrap_or(0)),
                "containers": containers,
                "cpu": cpu(&uid, sum.cpu_usage_ns, &now),
                "memory": memory(&sum, &now),
                "ephemeral-storage": {"time": now, "usedBytes": sum.fs_used_bytes},
                "process_stats": {"process_count": sum.pids},
            })
        })
        .collect();
    let config = &api.shared.config;
    let total = api.shared.machine.memory_bytes;
    let free = machine::memory_available().unwrap_or(0);
    let disk = machine::filesystem(&config.data_dir).unwrap_or_default();
    let fs = json!({"time": now, "availableBytes": disk.available, "capacityBytes": disk.capacity,
        "usedBytes": disk.capacity.saturating_sub(disk.available), "inodes": disk.inodes, "inodesFree": disk.inodes_free,
        "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free)});
    json!({
        "node": {
            "nodeName": config.node_name,
            "startTime": boot_time(),
            "cpu": cpu("node", node_cpu_ns(), &now),
            "memory": {"time": now, "availableBytes": free, "usageBytes": total.saturating_sub(free),
                "workingSetBytes": total.saturating_sub(free)},
            "fs": fs, "runtime": {"imageFs": fs, "containerFs": fs},
        },
        "pods": pods,
    })
}

fn boot_time() -> Value {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines()
        .find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())
        .and_then(|s| Timestamp::from_second(s).ok())
        .map_or(Value::Null, |t| Value::String(t.to_string()))
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

pub async fn resource_metrics(api: &Api) -> String {
    let used = containers(api).await;
    let mut out = String::new();
    let of = |u: &Used| {
        let get = |key: &str| u.status.labels.get(key).cloned().unwrap_or_default();
        (get(labels::POD_NAMESPACE), get(labels::POD_NAME))
    };
    let name = |u: &Used| {
        let (ns, pod) = of(u);
        format!("{{container=\"{}\",namespace=\"{ns}\",pod=\"{pod}\"}}", u.status.name)
    };
    head(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for u in &used {
        let _ =
            writeln!(out, "container_cpu_usage_seconds_total{} {}", name(u), seconds(u.stats.cpu_usage_ns));
    }
    head(
        &mut out,
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for u in &used {
        let _ = writeln!(
            out,
            "container_memory_working_set_bytes{} {}",
            name(u),
            u.stats.memory_working_set_bytes
        );
    }
    head(
        &mut out,
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for u in &used {
        let start = seconds(u64::try_from(u.status.started_at_ns).unwrap_or(0));
        let _ = writeln!(out, "container_start_time_seconds{} {start}", name(u));
    }
    head(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(out, "node_cpu_usage_seconds_total {}", seconds(node_cpu_ns()));
    head(&mut out, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let working = api.shared.machine.memory_bytes.saturating_sub(machine::memory_available().unwrap_or(0));
    let _ = writeln!(out, "node_memory_working_set_bytes {working}");
    let mut pods: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for u in &used {
        let sum = pods.entry(of(u)).or_default();
        sum.0 += u.stats.cpu_usage_ns;
        sum.1 += u.stats.memory_working_set_bytes;
    }
    head(
        &mut out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for ((ns, pod), (ns_used, _)) in &pods {
        let _ = writeln!(
            out,
            "pod_cpu_usage_seconds_total{{namespace=\"{ns}\",pod=\"{pod}\"}} {}",
            seconds(*ns_used)
        );
    }
    head(&mut out, "pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for ((ns, pod), (_, bytes)) in &pods {
        let _ = writeln!(out, "pod_memory_working_set_bytes{{namespace=\"{ns}\",pod=\"{pod}\"}} {bytes}");
    }
    head(
        &mut out,
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.push_str("resource_scrape_error 0\n");
    out
}

pub fn metrics(api: &Api) -> String {
    let pods = api.pods.all();
    let running: usize = pods
        .iter()
        .flat_map(|p| p.status.iter().flat_map(|s| s.container_statuses.iter().flatten()))
        .filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
        .count();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "# HELP kubernetes_build_info [ALPHA] A metric with a constant '1' value labeled by version.\n\
         # TYPE kubernetes_build_info gauge\n\
         kubernetes_build_info{{git_version=\"{KUBELET_VERSION}\",major=\"1\",minor=\"36\"}} 1\n\
         # HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
         kubelet_node_name{{node=\"{}\"}} 1\n\
         # HELP kubelet_running_pods [BETA] Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
         # HELP kubelet_running_containers [BETA] Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}",
        api.shared.config.node_name,
        pods.iter().filter(|p| !crate::pod::plan::is_terminal(p) && !identity(p).2.is_empty()).count(),
    );
    out
}
