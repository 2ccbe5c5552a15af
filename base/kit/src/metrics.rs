//! The process's metrics: one registry, rendered in the Prometheus text format.
//!
//! Metrics are declared where they are counted, with upstream's names, and registered here once. Rendering
//! costs only when somebody scrapes.

use parking_lot::Mutex;
use prometheus_client::registry::{Metric, Registry};
use std::fmt::Write as _;
use std::sync::Arc;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// A shared registry. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a metric and hands it back. Counters are named without their `_total`; it is added when rendering.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// For what [`register`](Self::register) does not cover, as collectors.
    pub fn with<T>(&self, f: impl FnOnce(&mut Registry) -> T) -> T {
        f(&mut self.0.lock())
    }

    /// The text of `/metrics`: everything registered, then the process's own figures.
    pub fn render(&self) -> String {
        let mut open = String::with_capacity(16 << 10);
        if prometheus_client::encoding::text::encode(&mut open, &self.0.lock()).is_err() {
            open.clear();
        }
        let mut out = String::with_capacity(open.len() + 512);
        classic(&open, &mut out);
        process(&mut out);
        out
    }
}

/// OpenMetrics to the older text format, which every scraper and kubectl's strict parser read: a counter's
/// family carries its `_total`, and there is no `# EOF` or `# UNIT`.
fn classic(open: &str, out: &mut String) {
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let kind =
                lines.peek().and_then(|l| l.strip_prefix("# TYPE ")).and_then(|l| l.rsplit(' ').next());
            let suffix = if kind == Some("counter") { "_total" } else { "" };
            let _ = writeln!(out, "# HELP {name}{suffix} {}", help.strip_suffix('.').unwrap_or(help));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "unknown" => ("", "untyped"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
}

/// The figures every Prometheus client library exports. Read from /proc when asked; absent where /proc is not.
pub fn process(out: &mut String) {
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "gauge", "Number of open file descriptors", fds.count() as f64);
    }
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The command may hold spaces; fields are counted from its closing parenthesis (field 3 is the first).
    let Some((_, rest)) = stat.rsplit_once(") ") else { return };
    let field = |n: usize| rest.split(' ').nth(n - 3).and_then(|v| v.parse::<f64>().ok());
    const TICKS: f64 = 100.0;
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let help = "Total user and system CPU time spent in seconds";
        gauge("process_cpu_seconds_total", "counter", help, (user + system) / TICKS);
    }
    if let Ok(limits) = std::fs::read_to_string("/proc/self/limits") {
        let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
        if let Some(most) = line.and_then(|l| l.split_whitespace().next()).and_then(|v| v.parse::<f64>().ok())
        {
            gauge("process_max_fds", "gauge", "Maximum number of open file descriptors", most);
        }
    }
    if let Some(bytes) = field(23) {
        gauge("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes", bytes);
    }
    if let Some(pages) = field(24) {
        gauge("process_resident_memory_bytes", "gauge", "Resident memory size in bytes", pages * 4096.0);
    }
    let boot = std::fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|v| v.parse::<f64>().ok()));
    if let (Some(boot), Some(start)) = (boot, field(22)) {
        let help = "Start time of the process since unix epoch in seconds";
        gauge("process_start_time_seconds", "gauge", help, boot + start / TICKS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

    #[test]
    fn counters_keep_upstream_names() {
        let metrics = Metrics::new();
        let requests: Family<Vec<(String, String)>, Counter> =
            metrics.register("apiserver_request", "Counter of requests", Family::default());
        let inflight: Gauge =
            metrics.register("apiserver_current_inflight_requests", "Now", Gauge::default());
        requests.get_or_create(&vec![("verb".into(), "GET".into())]).inc_by(3);
        inflight.set(2);
        let text = metrics.render();
        assert!(text.contains("# TYPE apiserver_request_total counter\n"), "{text}");
        assert!(text.contains("# HELP apiserver_request_total Counter of requests\n"), "{text}");
        assert!(text.contains("apiserver_request_total{verb=\"GET\"} 3\n"), "{text}");
        assert!(text.contains("apiserver_current_inflight_requests 2\n"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(!text.contains("# EOF"));
    }
}
