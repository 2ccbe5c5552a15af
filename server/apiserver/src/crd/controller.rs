//! Follows definitions: accepts names, sets conditions, swaps the index, and empties what is deleted.

use super::conditions::{self, FINALIZER, Taken};
use super::{definition, ending};
use crate::ApiServer;
use crate::cache::{Filter, GroupResource};
use crate::registry::meta;
use crate::registry::update::{Mode, Wanted};
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::system;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const GROUP: &str = "apiextensions.k8s.io";
pub(crate) const PLURAL: &str = "customresourcedefinitions";
const RETRY: Duration = Duration::from_secs(1);
/// How long a write may be under way; see [`settle`].
const SETTLING: Duration = Duration::from_secs(60);

pub(super) async fn start(server: &ApiServer) -> Result<(), ApiError> {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    let (snapshot, mut watcher) = cache.snapshot_and_watch(Filter::default());
    let mut compiled = Compiled::default();
    let mut settled = true;
    if !snapshot.is_empty() {
        settled = sync(server, &mut compiled).await;
    }
    let server = server.clone();
    tokio::spawn(async move {
        loop {
            let retry = async {
                if settled { std::future::pending().await } else { tokio::time::sleep(RETRY).await }
            };
            tokio::select! {
                () = server.shutdown.wait() => return,
                () = retry => {}
                event = watcher.next() => match event {
                    Ok(_) => while let Ok(Some(_)) = watcher.try_next() {},
                    // Too slow, or reloaded: begin again from what there is.
                    Err(_) => watcher = cache.snapshot_and_watch(Filter::default()).1,
                },
            }
            settled = sync(&server, &mut compiled).await;
        }
    });
    Ok(())
}

/// What each definition compiled to, by its uid and what matters of it, so that one change compiles one definition.
type Compiled = HashMap<(String, String), Vec<Arc<Resource>>>;

fn definitions(server: &ApiServer) -> Vec<Value> {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    cache.snapshot().iter().filter_map(|e| e.object().ok()).collect()
}

/// Brings index and status in line with the definitions there are. Level-triggered; false where a status could not be
/// written and is to be tried again.
async fn sync(server: &ApiServer, compiled: &mut Compiled) -> bool {
    let mut all = definitions(server);
    let mut changed = Vec::new();
    for at in 0..all.len() {
        // Names are given one after the other, so that two who ask at once do not both get one.
        if let Some(planned) = conditions::plan(&all[at], &all, builtin(server, &all[at])) {
            all[at] = planned;
            changed.push(at);
        }
    }
    // Served first: who reads that a definition is established finds its resources there.
    serve(server, compiled, &all);
    let mut settled = true;
    for at in changed {
        if let Err(error) = write(server, meta::name(&all[at]), all[at].clone()).await {
            settled &= error.is_conflict() || error.is_not_found();
            tracing::debug!(definition = meta::name(&all[at]), %error, "a definition's status was not written");
        }
    }
    let ending = |one: &&Value| meta::deleting(one) && meta::finalizers(one).contains(&FINALIZER);
    for one in all.iter().filter(ending) {
        ending::begin(server, one);
    }
    settled
}

/// Puts the resources of established definitions into the index.
fn serve(server: &ApiServer, compiled: &mut Compiled, all: &[Value]) {
    let mut custom: Vec<Arc<Resource>> = Vec::new();
    let mut kept = Compiled::default();
    for one in all.iter().filter(|one| conditions::status_of(one, "Established") == Some("True")) {
        let key = (meta::uid(one).to_owned(), shape_of(one));
        let resources = compiled.remove(&key).unwrap_or_else(|| {
            definition::resources(&server.config.cache, one).into_iter().map(Arc::new).collect()
        });
        custom.extend(resources.iter().cloned());
        kept.insert(key, resources);
    }
    *compiled = kept;
    let (fresh, same): (Vec<Arc<Resource>>, bool) = {
        let parts = server.parts.lock();
        let known = |r: &&Arc<Resource>| parts.custom.iter().any(|k| Arc::ptr_eq(k, r));
        let fresh: Vec<_> = custom.iter().filter(|r| !known(r)).cloned().collect();
        let same = fresh.is_empty() && parts.custom.len() == custom.len();
        (fresh, same)
    };
    if !same {
        server.reindex(|parts| parts.custom = custom);
        settle(server, fresh);
    }
}

/// What of a definition its resources are made from; its status moves more often.
fn shape_of(one: &Value) -> String {
    let deleting = meta::deleting(one);
    format!("{}|{}|{deleting}", one["spec"], one["status"]["acceptedNames"])
}

/// Once nobody writes under an earlier form any more, stored objects need no second look.
fn settle(server: &ApiServer, fresh: Vec<Arc<Resource>>) {
    if fresh.is_empty() {
        return;
    }
    let server = server.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = server.shutdown.wait() => return,
            () = tokio::time::sleep(SETTLING) => {}
        }
        let revision = server.storage.cache().revision();
        for custom in fresh.iter().filter_map(|r| r.custom.as_ref()) {
            custom.versions.settle(revision);
        }
    });
}

/// Names of the group's built-in resources.
fn builtin(server: &ApiServer, one: &Value) -> Taken {
    let group = one["spec"]["group"].as_str().unwrap_or_default();
    let parts = server.parts.lock();
    let rows = parts.builtin.iter().filter(|r| r.group == group);
    let mut taken = Taken::default();
    for row in rows {
        taken.resources.extend([row.plural.clone(), row.singular.clone()]);
        taken.resources.extend(row.short_names.iter().cloned());
        taken.kinds.extend([row.kind.clone(), row.list_kind.clone()]);
    }
    taken
}

/// Writes a definition as computed from one version of it.
async fn write(server: &ApiServer, name: &str, object: Value) -> Result<(), ApiError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned().ok_or_else(ApiError::no_such_path)?;
    let target = system::target(&resource, "status", "", name);
    let change =
        Box::new(move |_: &Value| Ok(Wanted { object: object.clone(), managed: false, pinned: true }));
    let mode = Mode { trusted: true, ..Mode::default() };
    let stored = server.update(&target, change, mode, &mut Vec::new()).await?;
    let version = meta::text(&stored.value, "resourceVersion").parse().unwrap_or(0);
    server.storage.cache().wait_for(version, Duration::from_secs(3)).await?;
    Ok(())
}
