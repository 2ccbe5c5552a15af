//! Metrics under upstream's names, kept cheap: one short lock and no allocation per request once a series exists.

pub(crate) mod families;
mod parts;

pub(crate) use parts::{
    AdmissionMetrics, HookEnd, StoreMetrics, condition_excluded, render_webhooks, webhook_called,
    webhook_failed_open,
};

use crate::http::RequestInfo;
use families::{Buckets, Counters, head};
use parking_lot::Mutex;
use parts::REQUEST;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Of `apiserver_response_sizes`.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

pub struct Metrics {
    requests: Mutex<HashMap<u64, Series>>,
    mutating: AtomicI64,
    read_only: AtomicI64,
    panics: AtomicU64,
    pub(crate) tls_errors: AtomicU64,
    /// `error`, `failure`, `success`.
    authentications: [AtomicU64; 3],
    /// `allowed`, `denied`, `error`.
    authorizations: [AtomicU64; 3],
    terminated: Counters,
    checks: Mutex<HashMap<(String, &'static str), Checked>>,
    pub(crate) store: Arc<StoreMetrics>,
    pub(crate) admission: AdmissionMetrics,
    extra: Mutex<Vec<Box<dyn Fn(&mut String) + Send + Sync>>>,
}

/// One health check as last seen, and how often it went well and not.
#[derive(Default)]
struct Checked {
    ok: bool,
    success: u64,
    error: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            mutating: AtomicI64::new(0),
            read_only: AtomicI64::new(0),
            panics: AtomicU64::new(0),
            tls_errors: AtomicU64::new(0),
            authentications: Default::default(),
            authorizations: Default::default(),
            terminated: Counters::new(
                "apiserver_request_terminations_total",
                "Number of requests which apiserver terminated in self-defense.",
            ),
            checks: Mutex::default(),
            store: Arc::default(),
            admission: AdmissionMetrics::default(),
            extra: Mutex::default(),
        }
    }
}

/// Everything counted of requests that look alike.
struct Series {
    /// `component` to `version`, as requests are labelled; without `dry_run`.
    labels: String,
    dry_run: &'static str,
    codes: Vec<(u16, u64)>,
    seconds: Buckets<23>,
    sizes: Option<Box<Buckets<7>>>,
    /// Long-running ones that are open.
    open: Arc<AtomicI64>,
}

/// One request in flight. Dropping it (the future was given up) ends it uncounted.
#[must_use]
pub(crate) struct InFlight<'a> {
    gauge: Option<&'a AtomicI64>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge {
            gauge.fetch_sub(1, Relaxed);
        }
    }
}

/// A long-running request that is open; kept with its response's body.
pub(crate) struct Open(Arc<AtomicI64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub info: &'a RequestInfo,
    pub dry_run: bool,
    pub long: bool,
    pub apply: bool,
    pub code: u16,
    pub took: Duration,
    /// Of a body in memory.
    pub bytes: Option<u64>,
}

impl Metrics {
    pub(crate) fn begin(&self, info: &RequestInfo, long: bool) -> InFlight<'_> {
        let gauge = if long {
            None
        } else if matches!(info.verb, "get" | "list" | "watch" | "head") {
            Some(&self.read_only)
        } else {
            Some(&self.mutating)
        };
        if let Some(gauge) = gauge {
            gauge.fetch_add(1, Relaxed);
        }
        InFlight { gauge }
    }

    /// Requests that are not long-running and not yet answered.
    pub(crate) fn in_flight(&self) -> i64 {
        self.mutating.load(Relaxed) + self.read_only.load(Relaxed)
    }

    /// Counts a request. Of a long-running one, the guard says how long it is open.
    pub(crate) fn end(&self, ended: Ended<'_>) -> Option<Open> {
        let Ended { info, code, .. } = ended;
        let verb = verb(info, ended.apply);
        let scope = scope(info);
        let dry_run = if ended.dry_run { "All" } else { "" };
        // Unknown paths must not make a series each.
        let known = !info.resource_request || code != 404;
        let series = if known {
            parts::hash((verb, scope, dry_run, &info.group, &info.version, &info.resource, &info.subresource))
        } else {
            parts::hash((verb, scope, dry_run))
        };
        let labels = || {
            let of = |text: &str| if known { text.to_owned() } else { String::new() };
            format!(
                "component=\"apiserver\",group=\"{}\",resource=\"{}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{verb}\",version=\"{}\"",
                of(&info.group),
                of(&info.resource),
                of(&info.subresource),
                of(&info.version)
            )
        };
        let mut requests = self.requests.lock();
        let series = requests.entry(series).or_insert_with(|| Series {
            labels: labels(),
            dry_run,
            codes: Vec::new(),
            seconds: Buckets::default(),
            sizes: None,
            open: Arc::default(),
        });
        match series.codes.iter_mut().find(|(c, _)| *c == code) {
            Some((_, count)) => *count += 1,
            None => series.codes.push((code, 1)),
        }
        if ended.long {
            series.open.fetch_add(1, Relaxed);
            return Some(Open(series.open.clone()));
        }
        series.seconds.note(&REQUEST, ended.took.as_secs_f64());
        if let Some(bytes) = ended.bytes.filter(|_| matches!(info.verb, "get" | "list")) {
            series.sizes.get_or_insert_default().note(&SIZES, bytes as f64);
        }
        None
    }

    /// A request that was turned away or given up for the server's own good.
    pub(crate) fn terminated(&self, info: &RequestInfo, code: u16) {
        let (verb, scope) = (verb(info, false), scope(info));
        let series =
            parts::hash((verb, scope, &info.group, &info.version, &info.resource, &info.subresource, code));
        self.terminated.note(series, || {
            format!(
                "code=\"{code}\",component=\"apiserver\",group=\"{}\",resource=\"{}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{verb}\",version=\"{}\"",
                info.group, info.resource, info.subresource, info.version
            )
        });
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// 0: error, 1: failure, 2: success.
    pub(crate) fn authenticated(&self, outcome: usize) {
        self.authentications[outcome.min(2)].fetch_add(1, Relaxed);
    }

    /// 0: allowed, 1: denied, 2: error.
    pub(crate) fn authorized(&self, outcome: usize) {
        self.authorizations[outcome.min(2)].fetch_add(1, Relaxed);
    }

    pub(crate) fn checked(&self, name: &str, endpoint: &'static str, ok: bool) {
        let mut checks = self.checks.lock();
        let check = checks.entry((name.to_owned(), endpoint)).or_default();
        check.ok = ok;
        *(if ok { &mut check.success } else { &mut check.error }) += 1;
    }

    /// Adds a source of further lines (the store's, the cache's, a component's).
    pub fn register(&self, source: impl Fn(&mut String) + Send + Sync + 'static) {
        self.extra.lock().push(Box::new(source));
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(64 * 1024);
        self.render_requests(&mut out);
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        let _ = writeln!(
            out,
            "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {}\n\
             apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {}",
            self.mutating.load(Relaxed),
            self.read_only.load(Relaxed)
        );
        self.terminated.render(&mut out);
        let mut counter = |name: &str, help: &str, value: &AtomicU64| {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", value.load(Relaxed));
        };
        counter("apiserver_panics_total", "Number of requests that panicked.", &self.panics);
        counter(
            "apiserver_tls_handshake_errors_total",
            "Number of requests dropped with 'TLS handshake error from' error",
            &self.tls_errors,
        );
        head(&mut out, "authentication_attempts", "counter", "Counter of authenticated attempts.");
        for (result, count) in ["error", "failure", "success"].iter().zip(&self.authentications) {
            let _ = writeln!(out, "authentication_attempts{{result=\"{result}\"}} {}", count.load(Relaxed));
        }
        head(
            &mut out,
            "authorization_attempts_total",
            "counter",
            "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
        );
        for (result, count) in ["allowed", "denied", "error"].iter().zip(&self.authorizations) {
            let _ =
                writeln!(out, "authorization_attempts_total{{result=\"{result}\"}} {}", count.load(Relaxed));
        }
        self.render_checks(&mut out);
        self.store.render(&mut out);
        self.admission.render(&mut out);
        for source in self.extra.lock().iter() {
            source(&mut out);
        }
        out
    }

    fn render_requests(&self, out: &mut String) {
        let requests = self.requests.lock();
        let all = || requests.values();
        head(
            out,
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for series in all() {
            for (code, count) in &series.codes {
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",dry_run=\"{}\",{}}} {count}",
                    series.dry_run, series.labels
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        let help = "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.";
        head(out, name, "histogram", help);
        for series in all().filter(|s| s.seconds.count() > 0) {
            let labels = format!("dry_run=\"{}\",{}", series.dry_run, series.labels);
            series.seconds.render(&REQUEST, out, name, &labels);
        }
        let name = "apiserver_response_sizes";
        let help = "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.";
        head(out, name, "histogram", help);
        for (labels, sizes) in all().filter_map(|s| Some((&s.labels, s.sizes.as_ref()?))) {
            sizes.render(&SIZES, out, name, labels);
        }
        let name = "apiserver_longrunning_requests";
        let help = "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        head(out, name, "gauge", help);
        for series in all().filter(|s| Arc::strong_count(&s.open) > 1 || s.open.load(Relaxed) > 0) {
            let _ = writeln!(out, "{name}{{{}}} {}", series.labels, series.open.load(Relaxed));
        }
    }

    fn render_checks(&self, out: &mut String) {
        let checks = self.checks.lock();
        if checks.is_empty() {
            return;
        }
        head(
            out,
            "kubernetes_healthcheck",
            "gauge",
            "This metric records the result of a single healthcheck.",
        );
        for ((name, kind), check) in checks.iter() {
            let ok = u8::from(check.ok);
            let _ = writeln!(out, "kubernetes_healthcheck{{name=\"{name}\",type=\"{kind}\"}} {ok}");
        }
        head(
            out,
            "kubernetes_healthchecks_total",
            "counter",
            "This metric records the results of all healthcheck.",
        );
        for ((name, kind), check) in checks.iter() {
            for (status, count) in [("success", check.success), ("error", check.error)] {
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"{kind}\"}} {count}"
                    );
                }
            }
        }
    }
}

fn verb(info: &RequestInfo, apply: bool) -> &'static str {
    match info.verb {
        _ if info.resource_request && is_connect(&info.subresource) => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "other",
    }
}

fn is_connect(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward" | "proxy")
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
