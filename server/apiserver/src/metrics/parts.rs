//! Figures of single parts of the server: the store as the registry uses it, admission, identity, health checks.

use super::families::{Counters, Histograms};
use crate::admission::Operation;
use crate::cache::Parts;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::time::Duration;

/// Upstream's buckets of requests and of etcd.
pub(super) const REQUEST: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const ADMISSION: [f64; 5] = [0.005, 0.025, 0.1, 0.5, 2.5];
const WEBHOOK: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0];

pub(super) fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Requests to the store, under the names etcd's have upstream.
pub(crate) struct StoreMetrics {
    seconds: Histograms<23>,
    total: Counters,
    errors: Counters,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            seconds: Histograms::new(
                "etcd_request_duration_seconds",
                "Etcd request latency in seconds for each operation and object type.",
                &REQUEST,
            ),
            total: Counters::new(
                "etcd_requests_total",
                "Etcd request counts for each operation and object type.",
            ),
            errors: Counters::new(
                "etcd_request_errors_total",
                "Etcd failed request counts for each operation and object type.",
            ),
        }
    }
}

impl StoreMetrics {
    pub fn note(&self, operation: &'static str, key: &[u8], took: Duration, failed: bool) {
        let (group, resource) = Parts::parse(key).map_or(("", ""), |p| (p.group, p.resource));
        let series = hash((operation, group, resource));
        let labels = || format!("group=\"{group}\",operation=\"{operation}\",resource=\"{resource}\"");
        self.seconds.note(series, labels, took.as_secs_f64());
        self.total.note(series, labels);
        if failed {
            self.errors.note(series, labels);
        }
    }

    pub fn render(&self, out: &mut String) {
        self.seconds.render(out);
        self.total.render(out);
        self.errors.render(out);
    }
}

/// Admission as a whole, by plugin, and by webhook.
pub(crate) struct AdmissionMetrics {
    steps: Histograms<5>,
    plugins: Histograms<5>,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        Self {
            steps: Histograms::new(
                "apiserver_admission_step_admission_duration_seconds",
                "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
                &ADMISSION,
            ),
            plugins: Histograms::new(
                "apiserver_admission_controller_admission_duration_seconds",
                "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &ADMISSION,
            ),
        }
    }
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl AdmissionMetrics {
    pub fn step(&self, kind: &'static str, op: Operation, rejected: bool, took: Duration) {
        let op = operation(op);
        let labels = || format!("operation=\"{op}\",rejected=\"{rejected}\",type=\"{kind}\"");
        self.steps.note(hash((kind, op, rejected)), labels, took.as_secs_f64());
    }

    pub fn plugin(
        &self,
        name: &'static str,
        kind: &'static str,
        op: Operation,
        rejected: bool,
        took: Duration,
    ) {
        let op = operation(op);
        let labels = || format!("name=\"{name}\",operation=\"{op}\",rejected=\"{rejected}\",type=\"{kind}\"");
        self.plugins.note(hash((name, kind, op, rejected)), labels, took.as_secs_f64());
    }

    pub fn render(&self, out: &mut String) {
        self.steps.render(out);
        self.plugins.render(out);
    }
}

/// Calls of admission webhooks. The plugins that make them know no server, so these are figures of the process.
static WEBHOOKS: LazyLock<Histograms<7>> = LazyLock::new(|| {
    Histograms::new(
        "apiserver_admission_webhook_admission_duration_seconds",
        "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        &WEBHOOK,
    )
});

/// Notes one call; `kind` is `admit` or `validating`.
pub(crate) fn webhook_called(name: &str, kind: &'static str, op: Operation, rejected: bool, took: Duration) {
    let op = operation(op);
    let labels = || format!("name=\"{name}\",operation=\"{op}\",rejected=\"{rejected}\",type=\"{kind}\"");
    WEBHOOKS.note(hash((name, kind, op, rejected)), labels, took.as_secs_f64());
}

pub(crate) fn render_webhooks(out: &mut String) {
    WEBHOOKS.render(out);
}
