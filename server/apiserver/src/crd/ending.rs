//! The end of a definition: its instances are deleted, then it is let go. Source: apiextensions-apiserver's
//! `crd_finalizer.go`.

use super::conditions::{self, Condition, FINALIZER};
use super::controller::{GROUP, PLURAL};
use super::definition;
use crate::ApiServer;
use crate::cache::Filter;
use crate::http::options::DeleteOptions;
use crate::registry::meta;
use crate::registry::update::{Mode, Wanted};
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::system;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long instances may take to go before the status says so; upstream's.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);

/// Begins with the end of a definition, unless that is under way.
pub(super) fn begin(server: &ApiServer, one: &Value) {
    let (server, name) = (server.clone(), meta::name(one).to_owned());
    if !server.emptying.lock().insert(name.clone()) {
        return;
    }
    let one = one.clone();
    tokio::spawn(async move {
        end(&server, &name, &one).await;
        server.emptying.lock().remove(&name);
    });
}

async fn end(server: &ApiServer, name: &str, one: &Value) {
    let last = if overlaps(server, one) {
        Condition::terminating(
            "False",
            "OverlappingBuiltInResource",
            "instances overlap with built-in resources in storage",
        )
    } else if conditions::status_of(one, "Established") == Some("True") {
        let Some(resource) = definition::stored(&server.config.cache, one).map(Arc::new) else { return };
        if !drain(server, name, &resource).await {
            return;
        }
        Condition::terminating("False", "InstanceDeletionCompleted", "removed all instances")
    } else {
        Condition::terminating("False", "NeverEstablished", "resource was never established")
    };
    loop {
        match write(server, name, &last, true).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(definition = name, %error, "a definition could not be released"),
        }
        tokio::select! {
            () = server.shutdown.wait() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Its objects would lie where those of a built-in kind do.
fn overlaps(server: &ApiServer, one: &Value) -> bool {
    let (group, plural) = (&one["spec"]["group"], &one["spec"]["names"]["plural"]);
    server.parts.lock().builtin.iter().any(|r| *group == *r.group && *plural == *r.plural)
}

/// Deletes all instances and waits until they are gone. False when the server stops first.
async fn drain(server: &ApiServer, name: &str, resource: &Arc<Resource>) -> bool {
    let mut since = tokio::time::Instant::now();
    loop {
        let (snapshot, mut watcher) = resource.cache.snapshot_and_watch(Filter::default());
        if snapshot.is_empty() {
            return true;
        }
        let mut errors: Vec<String> = Vec::new();
        for entry in snapshot.iter().filter(|e| e.metadata().deletion_timestamp.is_none()) {
            let target = system::target(resource, "", &entry.namespace, &entry.name);
            match server.delete(&target, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) if !errors.contains(&e.message) => errors.push(e.message),
                Err(_) => {}
            }
        }
        let trouble = match errors.as_slice() {
            [] if since.elapsed() < PATIENCE => None,
            [] => {
                since = tokio::time::Instant::now();
                let why =
                    "could not confirm zero CustomResources remaining: timed out waiting for the condition";
                Some(Condition::terminating("True", "InstanceDeletionCheck", why))
            }
            [one] => Some(failed(one)),
            many => Some(failed(&format!("[{}]", many.join(", ")))),
        };
        if let Some(trouble) = &trouble
            && let Err(error) = write(server, name, trouble, false).await
        {
            tracing::debug!(definition = name, %error, "a definition's status was not written");
        }
        let wait = if trouble.is_some() { RETRY } else { PATIENCE };
        tokio::select! {
            () = server.shutdown.wait() => return false,
            () = tokio::time::sleep(wait) => {}
            _ = watcher.next(), if errors.is_empty() => {}
        }
    }
}

fn failed(why: &str) -> Condition {
    Condition::terminating("True", "InstanceDeletionFailed", format!("could not issue all deletes: {why}"))
}

/// Sets a condition; `release` lets the definition go with it.
async fn write(server: &ApiServer, name: &str, condition: &Condition, release: bool) -> Result<(), ApiError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned().ok_or_else(ApiError::no_such_path)?;
    let target = system::target(&resource, "", "", name);
    let change = Box::new(|old: &Value| {
        let mut new = old.clone();
        conditions::set(&mut new, condition);
        if release {
            let left = meta::finalizers(old).into_iter().filter(|f| *f != FINALIZER);
            let left: Vec<String> = left.map(str::to_owned).collect();
            meta::set_finalizers(&mut new, &left);
        }
        Ok(Wanted::plain(new))
    });
    let mode = Mode { trusted: true, ..Mode::default() };
    match server.update(&target, change, mode, &mut Vec::new()).await {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}
