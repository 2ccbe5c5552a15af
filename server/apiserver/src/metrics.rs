//! Request metrics under upstream's names, kept cheap: one short lock and no allocation per request once a
//! series exists.

use crate::http::RequestInfo;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upstream's buckets of `apiserver_request_duration_seconds`.
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0,
];

#[derive(Default)]
pub struct Metrics {
    totals: Mutex<HashMap<u64, (String, u64)>>,
    durations: Mutex<HashMap<u64, Duration3>>,
    mutating: AtomicI64,
    read_only: AtomicI64,
    long_running: AtomicI64,
    panics: AtomicU64,
    watch_events: AtomicU64,
    extra: Mutex<Vec<Box<dyn Fn(&mut String) + Send + Sync>>>,
}

struct Duration3 {
    labels: String,
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// One request in flight.
#[must_use]
pub(crate) struct InFlight {
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Mutating,
    ReadOnly,
    Long,
}

impl Metrics {
    fn gauge(&self, kind: Kind) -> &AtomicI64 {
        match kind {
            Kind::Mutating => &self.mutating,
            Kind::ReadOnly => &self.read_only,
            Kind::Long => &self.long_running,
        }
    }

    pub(crate) fn begin(&self, info: &RequestInfo, long: bool) -> InFlight {
        let kind = if long {
            Kind::Long
        } else if matches!(info.verb, "get" | "list" | "watch" | "head") {
            Kind::ReadOnly
        } else {
            Kind::Mutating
        };
        self.gauge(kind).fetch_add(1, Ordering::Relaxed);
        InFlight { kind }
    }

    /// Requests that are not long-running and not yet answered.
    pub(crate) fn in_flight(&self) -> i64 {
        self.mutating.load(Ordering::Relaxed) + self.read_only.load(Ordering::Relaxed)
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn watch_event(&self) {
        self.watch_events.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a source of further lines (the store's, the cache's, a component's).
    pub fn register(&self, source: impl Fn(&mut String) + Send + Sync + 'static) {
        self.extra.lock().push(Box::new(source));
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (labels, count) in self.totals.lock().values() {
            let _ = writeln!(out, "apiserver_request_total{{{labels}}} {count}");
        }
        head(
            &mut out,
            "apiserver_request_duration_seconds",
            "histogram",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for d in self.durations.lock().values() {
            let mut sum = 0;
            for (bound, count) in BUCKETS.iter().zip(d.counts) {
                sum += count;
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{},le=\"{bound}\"}} {sum}",
                    d.labels
                );
            }
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{l},le=\"+Inf\"}} {c}\n\
                 apiserver_request_duration_seconds_sum{{{l}}} {s}\n\
                 apiserver_request_duration_seconds_count{{{l}}} {c}",
                l = d.labels,
                c = d.count,
                s = d.sum
            );
        }
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        let load = |g: &AtomicI64| g.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {}\n\
             apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {}",
            load(&self.mutating),
            load(&self.read_only)
        );
        head(
            &mut out,
            "apiserver_longrunning_requests",
            "gauge",
            "Gauge of all active long-running apiserver requests.",
        );
        let _ = writeln!(out, "apiserver_longrunning_requests {}", load(&self.long_running));
        head(&mut out, "apiserver_watch_events_total", "counter", "Number of events sent in watch clients.");
        let _ = writeln!(out, "apiserver_watch_events_total {}", self.watch_events.load(Ordering::Relaxed));
        head(&mut out, "apiserver_panics_total", "counter", "Number of requests that panicked.");
        let _ = writeln!(out, "apiserver_panics_total {}", self.panics.load(Ordering::Relaxed));
        for source in self.extra.lock().iter() {
            source(&mut out);
        }
        out
    }
}

impl InFlight {
    pub(crate) fn end(self, metrics: &Metrics, info: &RequestInfo, code: u16, took: Duration) {
        metrics.gauge(self.kind).fetch_sub(1, Ordering::Relaxed);
        let verb = verb(info);
        let scope = scope(info);
        let mut hasher = DefaultHasher::new();
        (verb, scope, &info.group, &info.version, &info.resource, &info.subresource).hash(&mut hasher);
        // Unknown paths must not make a series each.
        let known = !info.resource_request || code != 404;
        let series = if known { hasher.finish() } else { 0 };
        let labels = || {
            if !known {
                return format!(
                    "verb=\"{verb}\",scope=\"{scope}\",group=\"\",version=\"\",resource=\"\",subresource=\"\",component=\"apiserver\",dry_run=\"\""
                );
            }
            format!(
                "component=\"apiserver\",dry_run=\"\",group=\"{}\",resource=\"{}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{verb}\",version=\"{}\"",
                info.group, info.resource, info.subresource, info.version
            )
        };
        code.hash(&mut hasher);
        let with_code = if known { hasher.finish() } else { u64::from(code) };
        metrics
            .totals
            .lock()
            .entry(with_code)
            .or_insert_with(|| (format!("code=\"{code}\",{}", labels()), 0))
            .1 += 1;
        if matches!(self.kind, Kind::Long) {
            return;
        }
        let seconds = took.as_secs_f64();
        let mut durations = metrics.durations.lock();
        let d = durations.entry(series).or_insert_with(|| Duration3 {
            labels: labels(),
            counts: [0; BUCKETS.len()],
            count: 0,
            sum: 0.0,
        });
        d.count += 1;
        d.sum += seconds;
        if let Some(at) = BUCKETS.iter().position(|b| seconds <= *b) {
            d.counts[at] += 1;
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn verb(info: &RequestInfo) -> &'static str {
    match info.verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.resource_request {
        ""
    } else if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}
