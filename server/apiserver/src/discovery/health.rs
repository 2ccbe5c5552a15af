//! /healthz, /livez and /readyz, with `?verbose`, `?exclude=` and a path for each check.

use crate::ApiServer;
use crate::chain::Call;
use crate::http::{Body, respond};
use crate::status::ApiError;
use http::Response;
use std::fmt::Write;
use std::sync::atomic::Ordering;

type Checked = (String, Result<(), String>);

async fn checks(server: &ApiServer, endpoint: &str) -> Vec<Checked> {
    let started = server.started.load(Ordering::Acquire);
    let when_started = |why: &str| if started { Ok(()) } else { Err(why.to_owned()) };
    let mut out: Vec<Checked> = vec![("ping".into(), Ok(()))];
    let store = server.storage.store().health().await.map_err(|e| e.to_string());
    out.push(("etcd".into(), store.clone()));
    if let Some(health) = server.config.encryption.as_ref().and_then(|e| e.health()) {
        out.push(("kms-providers".into(), health));
    }
    if endpoint == "readyz" {
        out.push(("etcd-readiness".into(), store));
    }
    if endpoint != "livez" {
        // Both are done when `ApiServer::start` is.
        for hook in ["crd-informer-synced", "start-system-namespaces-controller"] {
            out.push((format!("poststarthook/{hook}"), when_started("not finished")));
        }
    }
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
    for (name, result) in &all {
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
    if !failed.is_empty() {
        return Ok(respond::text(500, format!("{report}{endpoint} check failed\n")));
    }
    if call.query.get("verbose").is_none() {
        return Ok(respond::text(200, "ok"));
    }
    Ok(respond::text(200, format!("{report}{endpoint} check passed\n")))
}
