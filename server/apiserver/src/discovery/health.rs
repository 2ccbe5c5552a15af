//! /healthz, /livez and /readyz, with `?verbose`, `?exclude=` and a path for each check.

use crate::ApiServer;
use crate::chain::Call;
use crate::http::{Body, respond};
use crate::status::ApiError;
use http::Response;
use std::fmt::Write;
use std::sync::atomic::Ordering;

type Checked = (String, Result<(), String>);

/// What [`ApiServer::start`] does before it returns, under upstream's names.
const HOOKS: [&str; 10] = [
    "generic-apiserver-start-informers",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-config-producer",
    "start-apiextensions-controllers",
    "crd-informer-synced",
    "start-system-namespaces-controller",
    "bootstrap-controller",
    "start-kubernetes-service-cidr-controller",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
];

async fn checks(server: &ApiServer, endpoint: &str) -> Vec<Checked> {
    let started = server.started.load(Ordering::Acquire);
    let when_started = || if started { Ok(()) } else { Err("not finished".to_owned()) };
    let mut out: Vec<Checked> = vec![("ping".into(), Ok(())), ("log".into(), Ok(()))];
    let store = server.storage.store().health().await.map_err(|e| e.to_string());
    out.push(("etcd".into(), store.clone()));
    if let Some(health) = server.config.encryption.as_ref().and_then(|e| e.health()) {
        out.push(("kms-providers".into(), health));
    }
    if endpoint == "readyz" {
        out.push(("etcd-readiness".into(), store));
        // The cache is loaded before there is a server.
        out.push(("informer-sync".into(), Ok(())));
    }
    out.extend(HOOKS.iter().map(|hook| (format!("poststarthook/{hook}"), when_started())));
    if endpoint == "readyz" {
        let more = server.checks.lock().clone();
        out.extend(more.into_iter().map(|(name, check)| (name, check())));
        let stopping = server.stopping.load(Ordering::Acquire);
        out.push(("shutdown".into(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
    }
    out
}

pub(super) async fn answer(
    server: &ApiServer,
    call: &Call,
    parts: &[&str],
) -> Result<Response<Body>, ApiError> {
    let endpoint = parts.first().copied().unwrap_or("healthz");
    let all = checks(server, endpoint).await;
    if parts.len() > 1 {
        let name = parts[1..].join("/");
        return match all.into_iter().find(|(n, _)| *n == name) {
            None => Err(ApiError::no_such_path()),
            Some((_, Ok(()))) => Ok(respond::text(200, "ok")),
            Some((_, Err(why))) => Ok(respond::text(500, format!("internal server error: {why}\n"))),
        };
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut report = String::new();
    let mut failed = Vec::new();
    let kind = match endpoint {
        "livez" => "livez",
        "readyz" => "readyz",
        _ => "healthz",
    };
    for (name, result) in &all {
        if !excluded.contains(&name.as_str()) {
            server.metrics.checked(name, kind, result.is_ok());
        }
        if excluded.contains(&name.as_str()) {
            let _ = writeln!(report, "[+]{name} excluded: ok");
            continue;
        }
        match result {
            Ok(()) => {
                let _ = writeln!(report, "[+]{name} ok");
            }
            Err(why) => {
                tracing::debug!(check = %name, %why, "a health check failed");
                let _ = writeln!(report, "[-]{name} failed: reason withheld");
                failed.push(name.as_str());
            }
        }
    }
    let mut unknown: Vec<&str> =
        excluded.into_iter().filter(|name| !all.iter().any(|(known, _)| known == name)).collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let _ = writeln!(
            report,
            "warn: some health checks cannot be excluded: no matches for {}",
            names.join(", ")
        );
    }
    if !failed.is_empty() {
        return Ok(respond::text(500, format!("{report}{endpoint} check failed\n")));
    }
    if call.query.get("verbose").is_none() {
        return Ok(respond::text(200, "ok"));
    }
    Ok(respond::text(200, format!("{report}{endpoint} check passed\n")))
}
