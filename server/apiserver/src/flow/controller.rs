//! Keeps flow control in step with its objects: compiles them on every change, writes `Dangling`, puts the bootstrap
//! objects back, and moves seats between levels every ten seconds.

use super::config::{Found, dangling};
use super::spec::{FlowSchema, PriorityLevel};
use crate::ApiServer;
use crate::cache::{Filter, GroupResource, ResourceCache, Watcher};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, meta};
use crate::status::ApiError;
use crate::storage::PATIENCE;
use crate::{bootstrap, system};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
const ADJUST: Duration = Duration::from_secs(10);
const ENSURE: Duration = Duration::from_secs(60);
/// Writes of one status a minute, so that servers that disagree do not fight.
const WRITES: usize = 6;

pub(super) async fn start(server: &ApiServer) -> Result<(), ApiError> {
    let cache = |plural| server.storage.cache().resource(&GroupResource::new(GROUP, plural));
    let (schemas, levels) = (cache(SCHEMAS), cache(LEVELS));
    // The first requests are to find it in force, bootstrap's own writes included.
    server.storage.cache().fresh(PATIENCE).await?;
    server.flow.configure(&read(&levels, PriorityLevel::read), &read(&schemas, FlowSchema::read));
    tokio::spawn(run(server.clone(), schemas, levels));
    Ok(())
}

async fn run(server: ApiServer, schemas: Arc<ResourceCache>, levels: Arc<ResourceCache>) {
    let watch = |cache: &Arc<ResourceCache>| cache.snapshot_and_watch(Filter::default()).1;
    let (mut schema_events, mut level_events) = (watch(&schemas), watch(&levels));
    let mut adjust = tokio::time::interval(ADJUST);
    let mut ensure = tokio::time::interval_at(tokio::time::Instant::now() + ENSURE, ENSURE);
    adjust.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ensure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written: HashMap<String, VecDeque<Instant>> = HashMap::new();
    let mut known = None;
    loop {
        let now =
            (read(&levels, PriorityLevel::read), read(&schemas, FlowSchema::read), conditions(&schemas));
        if known.as_ref() != Some(&now) {
            let found = server.flow.configure(&now.0, &now.1);
            for one in found {
                correct(&server, &one, &now.2, &mut written).await;
            }
            known = Some(now);
        }
        tokio::select! {
            () = server.shutdown.wait() => return,
            changed = next(&mut schema_events) => if !changed { schema_events = watch(&schemas) },
            changed = next(&mut level_events) => if !changed { level_events = watch(&levels) },
            _ = adjust.tick() => server.flow.adjust(Instant::now()),
            _ = ensure.tick() => if server.config.published.is_some()
                && let Err(error) = bootstrap::ensure_flow(&server).await
            {
                tracing::warn!(%error, "flow control's own objects were not put back");
            },
        }
    }
}

/// `false`: the watch fell behind and must be begun again.
async fn next(watcher: &mut Watcher) -> bool {
    if watcher.next().await.is_err() {
        return false;
    }
    while let Ok(Some(_)) = watcher.try_next() {}
    true
}

fn read<T>(cache: &ResourceCache, how: fn(&Value) -> Option<T>) -> Vec<T> {
    cache.snapshot().iter().filter_map(|e| e.object().ok()).filter_map(|o| how(&o)).collect()
}

/// The `Dangling` conditions there are.
fn conditions(schemas: &ResourceCache) -> HashMap<String, Value> {
    let objects = schemas.snapshot();
    let objects = objects.iter().filter_map(|e| e.object().ok());
    objects
        .filter_map(|o| {
            let all = o["status"]["conditions"].as_array()?;
            Some((meta::name(&o).to_owned(), all.iter().find(|c| c["type"] == "Dangling")?.clone()))
        })
        .collect()
}

async fn correct(
    server: &ApiServer,
    found: &Found,
    have: &HashMap<String, Value>,
    written: &mut HashMap<String, VecDeque<Instant>>,
) {
    let wanted = dangling(found);
    let same = |field: &str| have.get(&found.schema).is_some_and(|h| h[field] == wanted[field]);
    if ["status", "reason", "message"].into_iter().all(same) {
        return;
    }
    let recent = written.entry(found.schema.clone()).or_default();
    while recent.front().is_some_and(|at| at.elapsed() > Duration::from_secs(60)) {
        recent.pop_front();
    }
    if recent.len() >= WRITES {
        return;
    }
    recent.push_back(Instant::now());
    if let Err(error) = write(server, &found.schema, wanted).await
        && !error.is_not_found()
    {
        tracing::debug!(schema = %found.schema, %error, "a flow schema's status was not written");
    }
}

async fn write(server: &ApiServer, name: &str, mut condition: Value) -> Result<(), ApiError> {
    let resource = server
        .index
        .load()
        .stored(GROUP, SCHEMAS)
        .cloned()
        .ok_or_else(|| ApiError::not_found(GROUP, "resources", SCHEMAS))?;
    condition["lastTransitionTime"] = meta::now().into();
    let target = Target { manager: MANAGER.to_owned(), ..system::target(&resource, "status", "", name) };
    let change = Box::new(move |old: &Value| {
        let mut new = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|c| c["type"] != condition["type"]);
        conditions.push(condition.clone());
        new["status"]["conditions"] = conditions.into();
        Ok(Wanted::plain(new))
    });
    server.update(&target, change, Mode::default(), &mut Vec::new()).await.map(|_| ())
}
