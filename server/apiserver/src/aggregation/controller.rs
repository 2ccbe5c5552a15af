//! Follows APIServices: writes those of this server, says that local ones are available, and keeps one task and one
//! entry of the index for each extension.

use super::autoregister::{self, Action, Local, Memory};
use super::availability::{Verdict, is_available};
use super::extension::{self, Extension};
use super::{GROUP, PLURAL, priorities};
use crate::ApiServer;
use crate::cache::{Filter, GroupResource, ResourceCache};
use crate::http::options::DeleteOptions;
use crate::reader::{WriteError, Writer};
use crate::registry::meta;
use crate::system;
use futures::future::join_all;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// How long a failed write waits for the next try.
const RETRY: Duration = Duration::from_millis(500);

struct Running {
    spec: Value,
    extension: Arc<Extension>,
    _task: AbortOnDropHandle<()>,
}

struct State {
    memory: Memory,
    extensions: BTreeMap<String, Running>,
}

/// Begins in the background; /readyz waits for the first round.
pub(crate) fn start(server: &ApiServer) {
    let done = Arc::new(AtomicBool::new(false));
    let check = done.clone();
    server.add_ready_check(
        "autoregister-completion",
        Arc::new(
            move || {
                if check.load(Ordering::Acquire) { Ok(()) } else { Err("missing APIService".into()) }
            },
        ),
    );
    tokio::spawn(run(server.clone(), done));
}

/// Upstream's gauge of extensions that cannot be reached.
pub(crate) fn metrics(server: &ApiServer, out: &mut String) {
    use std::fmt::Write;
    let index = server.index.load();
    let mut all: Vec<_> = index.extensions().collect();
    if all.is_empty() {
        return;
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    const NAME: &str = "aggregator_unavailable_apiservice";
    let _ = writeln!(
        out,
        "# HELP {NAME} [ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.\n\
         # TYPE {NAME} gauge"
    );
    for extension in all {
        let _ = writeln!(out, "{NAME}{{name={:?}}} {}", extension.name, u8::from(!extension.is_available()));
    }
}

async fn run(server: ApiServer, done: Arc<AtomicBool>) {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    let (snapshot, mut watcher) = cache.snapshot_and_watch(Filter::default());
    let at_start = snapshot.iter().map(|e| e.name.to_string()).collect();
    let memory = Memory { at_start, synced: HashSet::new() };
    let mut state = State { memory, extensions: BTreeMap::new() };
    loop {
        let settled = sync(&server, &cache, &mut state).await;
        if settled {
            done.store(true, Ordering::Release);
        }
        let retry =
            async { if settled { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
        tokio::select! {
            () = server.shutdown.wait() => return,
            () = retry => {}
            () = server.reindexed.notified() => {}
            event = watcher.next() => match event {
                Ok(_) => while let Ok(Some(_)) = watcher.try_next() {},
                Err(_) => watcher = cache.snapshot_and_watch(Filter::default()).1,
            },
        }
    }
}

/// What this server answers for itself.
fn locals(server: &ApiServer) -> Vec<Local> {
    let parts = server.parts.lock();
    let mut out: Vec<Local> = Vec::new();
    let all = parts.builtin.iter().map(|r| (r, false)).chain(parts.custom.iter().map(|r| (r, true)));
    for (resource, always) in all {
        // Its own group needs no registration.
        if resource.group == GROUP {
            continue;
        }
        let known = |l: &Local| l.group == resource.group && l.version == resource.version;
        if !out.iter().any(known) {
            let priority =
                if always { priorities::CUSTOM } else { priorities::of(&resource.group, &resource.version) };
            let (group, version) = (resource.group.clone(), resource.version.clone());
            out.push(Local { group, version, priority, always });
        }
    }
    out
}

/// One level-triggered round. False where a write failed and is to be tried again.
async fn sync(server: &ApiServer, cache: &ResourceCache, state: &mut State) -> bool {
    let current: Vec<Value> = cache.snapshot().iter().filter_map(|e| e.object().ok()).collect();
    let planned = autoregister::plan(&current, &locals(server), &state.memory);
    let writes = planned.into_iter().map(|(name, action)| async {
        let outcome = match action {
            None => Ok(()),
            Some(Action::Create(object)) => Writer::create(server, GROUP, "v1", PLURAL, object).await,
            Some(Action::Update(object)) => Writer::update(server, GROUP, "v1", PLURAL, object).await,
            Some(Action::Delete(name)) => delete(server, &name).await,
        };
        (name, outcome)
    });
    let mut settled = true;
    for (name, outcome) in join_all(writes).await {
        match outcome {
            Ok(()) | Err(WriteError::AlreadyExists) => {
                state.memory.synced.insert(name);
            }
            Err(error) => {
                settled = false;
                tracing::debug!(%name, %error, "an APIService was not written");
            }
        }
    }
    // What was just created is seen with the next event.
    let local = current.iter().filter(|o| o["spec"]["service"].is_null());
    let marks = local.filter_map(|o| Verdict::local().apply(o));
    for outcome in join_all(marks.map(|o| server.update_status(GROUP, "v1", PLURAL, o))).await {
        if let Err(error) = outcome {
            settled = false;
            tracing::debug!(%error, "an APIService's availability was not written");
        }
    }
    follow(server, &current, state);
    settled
}

/// One task and one entry of the index for each extension there is now.
fn follow(server: &ApiServer, current: &[Value], state: &mut State) {
    let mut changed = false;
    let mut kept: BTreeMap<String, Running> = BTreeMap::new();
    for object in current {
        let spec = &object["spec"];
        // The core group and this one are never given away.
        let given = !spec["service"].is_null() && !matches!(spec["group"].as_str(), None | Some("" | GROUP));
        if !given {
            continue;
        }
        let name = meta::name(object).to_owned();
        let known = state.extensions.remove(&name);
        if let Some(running) = known.as_ref().filter(|r| r.spec == *spec) {
            running.extension.set_available(is_available(object));
            kept.extend(known.map(|running| (name, running)));
            continue;
        }
        let Some(extension) = Extension::read(server, object) else { continue };
        if let Some(old) = &known {
            extension.succeed(&old.extension);
        }
        let extension = Arc::new(extension);
        changed = true;
        let task = tokio::spawn(extension::run(server.clone(), extension.clone()));
        let running = Running { spec: spec.clone(), extension, _task: AbortOnDropHandle::new(task) };
        kept.insert(name, running);
    }
    changed |= !state.extensions.is_empty();
    state.extensions = kept;
    if changed {
        let all = state.extensions.values().map(|r| r.extension.clone()).collect();
        server.reindex(|parts| parts.extensions = all);
    }
}

async fn delete(server: &ApiServer, name: &str) -> Result<(), WriteError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned();
    let resource = resource.ok_or_else(|| WriteError::Other("apiservices are not served".into()))?;
    let target = system::target(&resource, "", "", name);
    match server.delete(&target, &DeleteOptions::default()).await {
        Ok(_) => Ok(()),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(WriteError::Other(e.message)),
    }
}
