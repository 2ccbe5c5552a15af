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

static REQUESTS: LazyLock<Counters> = LazyLock::new(|| {
    Counters::new(
        "apiserver_admission_webhook_request_total",
        "Admission webhook request total, identified by name and broken out for each admission type (validating or mutating) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    )
});
static REJECTIONS: LazyLock<Counters> = LazyLock::new(|| {
    Counters::new(
        "apiserver_admission_webhook_rejection_count",
        "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    )
});
static FAILED_OPEN: LazyLock<Counters> = LazyLock::new(|| {
    Counters::new(
        "apiserver_admission_webhook_fail_open_count",
        "Admission webhook fail open count, identified by name and broken out for each admission type (validating or mutating).",
    )
});
static EXCLUSIONS: LazyLock<Counters> = LazyLock::new(|| {
    Counters::new(
        "apiserver_admission_match_condition_exclusions_total",
        "Admission match condition evaluation exclusions count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
    )
});

/// How a call ended.
#[derive(Clone, Copy)]
pub(crate) struct HookEnd {
    pub rejected: bool,
    pub code: u16,
    /// The `error_type` of a rejection.
    pub why: Option<&'static str>,
    pub took: Duration,
}

/// Notes one call; `kind` is `admit` or `validating`.
pub(crate) fn webhook_called(name: &str, kind: &'static str, op: Operation, end: HookEnd) {
    let op = operation(op);
    let HookEnd { rejected, code, why, took } = end;
    let code = code.min(600);
    let labels = || format!("name=\"{name}\",operation=\"{op}\",rejected=\"{rejected}\",type=\"{kind}\"");
    WEBHOOKS.note(hash((name, kind, op, rejected)), labels, took.as_secs_f64());
    REQUESTS.note(hash((name, kind, op, rejected, code)), || format!("code=\"{code}\",{}", labels()));
    if let Some(why) = why {
        let code = if why == "no_error" { code } else { 0 };
        REJECTIONS.note(hash((name, kind, op, why, code)), || {
            format!(
                "error_type=\"{why}\",name=\"{name}\",operation=\"{op}\",rejection_code=\"{code}\",type=\"{kind}\""
            )
        });
    }
}

/// A hook could not be asked and was passed over.
pub(crate) fn webhook_failed_open(name: &str, kind: &'static str) {
    FAILED_OPEN.note(hash((name, kind)), || format!("name=\"{name}\",type=\"{kind}\""));
}

/// A match condition kept a webhook or a policy (`of`) from a request.
pub(crate) fn condition_excluded(name: &str, of: &'static str, kind: &'static str, op: Operation) {
    let op = operation(op);
    EXCLUSIONS.note(hash((name, of, kind, op)), || {
        format!("kind=\"{of}\",name=\"{name}\",operation=\"{op}\",type=\"{kind}\"")
    });
}

pub(crate) fn render_webhooks(out: &mut String) {
    WEBHOOKS.render(out);
    REQUESTS.render(out);
    REJECTIONS.render(out);
    FAILED_OPEN.render(out);
    EXCLUSIONS.render(out);
}
