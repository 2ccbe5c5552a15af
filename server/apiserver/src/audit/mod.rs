//! Audit: what was asked, by whom, and what came of it (audit.k8s.io/v1).
//!
//! A policy decides at which level a request is recorded; backends keep the events. Without a policy there is no
//! [`Audit`], and requests pay nothing for it.

mod backend;
mod event;
mod log;
mod policy;
mod record;
mod response;
mod webhook;

pub use backend::{Delivery, Mode, Truncate};
pub use event::Event;
pub use log::{Format, LogOptions};
pub use policy::{Level, Policy, PolicyError, Stage};
pub(crate) use record::{Completion, Record, annotate, annotate_at, request_object, request_patch, scope};
pub use webhook::{Post, service};

use crate::authentication::UserInfo;
use crate::http::RequestInfo;
use crate::http::serve::PeerAddress;
use backend::{Backend, Sink};
use chrono::{DateTime, Utc};
use event::{ObjectRef, User};
use http::request::Parts;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Longer user agents are cut, as upstream does.
const USER_AGENT: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {path} cannot be opened: {source}")]
    Log { path: String, source: std::io::Error },
}

/// The policy with its backends.
pub struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
    events: AtomicU64,
    rejected: AtomicU64,
    /// Requests by the level they were given.
    levels: [AtomicU64; 4],
}

impl Audit {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            backends: Vec::new(),
            events: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            levels: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds a log file. Must be called inside the runtime, as [`with_webhook`](Self::with_webhook).
    pub fn with_log(mut self, options: LogOptions, delivery: Delivery) -> Result<Self, AuditError> {
        let path = options.path.display().to_string();
        let log = log::Log::open(options).map_err(|source| AuditError::Log { path, source })?;
        self.backends.push(Backend::new(Sink::Log(log), delivery));
        Ok(self)
    }

    /// Adds a service that event lists are posted to.
    #[must_use]
    pub fn with_webhook(mut self, post: Post, first_wait: Duration, delivery: Delivery) -> Self {
        let webhook = webhook::Webhook { post, first_wait };
        self.backends.push(Backend::new(Sink::Webhook(webhook), delivery));
        self
    }

    /// Begins a request's event; `None` when the policy is silent about it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &str,
        user: Option<&UserInfo>,
        info: &RequestInfo,
        parts: &Parts,
        received: DateTime<Utc>,
    ) -> Option<Arc<Record>> {
        let decision = self.policy.decide(user, info);
        self.levels[decision.level as usize].fetch_add(1, Relaxed);
        if decision.level == Level::None {
            return None;
        }
        let mut user_agent = crate::chain::user_agent(&parts.headers).to_owned();
        if user_agent.len() > USER_AGENT {
            let cut = (0..=USER_AGENT).rev().find(|at| user_agent.is_char_boundary(*at)).unwrap_or(0);
            user_agent.truncate(cut);
            user_agent.push_str("...TRUNCATED");
        }
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: decision.level,
            audit_id: id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: parts.uri.path_and_query().map_or_else(|| info.path.clone(), ToString::to_string),
            verb: info.verb,
            user: user.map(User::from).unwrap_or_default(),
            impersonated_user: None,
            source_ips: source_ips(parts),
            user_agent,
            object_ref: info.resource_request.then(|| ObjectRef::from(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: received,
            stage_timestamp: received,
            annotations: BTreeMap::new(),
        };
        Some(Arc::new(Record { audit: self.clone(), decision, event: Mutex::new(event) }))
    }

    async fn emit(&self, event: Arc<Event>) -> bool {
        self.events.fetch_add(1, Relaxed);
        let mut fine = true;
        for backend in &self.backends {
            let written = backend.write(&event).await;
            fine &= written || backend.mode != Mode::BlockingStrict;
        }
        fine
    }

    pub(crate) fn reject(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Waits until buffered events are written; for the end of the process.
    pub async fn flush(&self) {
        futures::future::join_all(self.backends.iter().map(Backend::flush)).await;
    }

    /// Lines for `/metrics`.
    pub(crate) fn render(&self, out: &mut String) {
        let mut counter = |name: &str, help: &str, lines: &[(String, u64)]| {
            let _ =
                writeln!(out, "# HELP apiserver_audit_{name} {help}\n# TYPE apiserver_audit_{name} counter");
            for (labels, value) in lines {
                let _ = writeln!(out, "apiserver_audit_{name}{labels} {value}");
            }
        };
        counter(
            "event_total",
            "Counter of audit events generated and sent to the audit backend.",
            &[(String::new(), self.events.load(Relaxed))],
        );
        let errors: Vec<_> = self
            .backends
            .iter()
            .map(|b| (format!("{{plugin=\"{}\"}}", b.name), b.errors.load(Relaxed)))
            .collect();
        counter(
            "error_total",
            "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
            &errors,
        );
        let levels = ["None", "Metadata", "Request", "RequestResponse"];
        let levels: Vec<_> = levels
            .iter()
            .zip(&self.levels)
            .map(|(level, count)| (format!("{{level=\"{level}\"}}"), count.load(Relaxed)))
            .collect();
        counter("level_total", "Counter of policy levels for audit events (1 per request).", &levels);
        counter(
            "requests_rejected_total",
            "Counter of apiserver requests rejected due to an error in audit logging backend.",
            &[(String::new(), self.rejected.load(Relaxed))],
        );
    }
}

/// The addresses a request came through, by its headers and its socket, each once.
fn source_ips(parts: &Parts) -> Vec<String> {
    let mut out: Vec<IpAddr> = Vec::new();
    let mut add = |ip: Option<IpAddr>| {
        if let Some(ip) = ip.filter(|ip| !out.contains(ip)) {
            out.push(ip);
        }
    };
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    for hop in header("x-forwarded-for").unwrap_or_default().split(',') {
        add(hop.trim().parse().ok());
    }
    add(header("x-real-ip").and_then(|ip| ip.trim().parse().ok()));
    add(parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip()));
    out.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
