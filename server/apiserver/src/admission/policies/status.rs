//! Writes what the type checker says of a ValidatingAdmissionPolicy into its status (upstream's
//! validatingadmissionpolicy-status controller, which has the schemas at hand here).

use super::{GROUP, typecheck};
use crate::ApiServer;
use crate::cache::{Filter, GroupResource};
use crate::registry::meta;
use crate::registry::update::{Mode, Wanted};
use crate::status::ApiError;
use crate::system;
use serde_json::{Value, json};

const PLURAL: &str = "validatingadmissionpolicies";

/// Follows the policies for as long as the server runs.
pub(crate) fn start(server: &ApiServer) {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    let server = server.clone();
    let (_, mut watcher) = cache.snapshot_and_watch(Filter::default());
    tokio::spawn(async move {
        sync(&server).await;
        loop {
            tokio::select! {
                () = server.shutdown.wait() => return,
                event = watcher.next() => match event {
                    Ok(_) => while let Ok(Some(_)) = watcher.try_next() {},
                    // Too slow, or reloaded: begin again from what there is.
                    Err(_) => watcher = cache.snapshot_and_watch(Filter::default()).1,
                },
            }
            sync(&server).await;
        }
    });
}

/// Checks every policy whose current generation has not been. Level-triggered.
async fn sync(server: &ApiServer) {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    let all: Vec<Value> = cache.snapshot().iter().filter_map(|e| e.object().ok()).collect();
    for policy in all {
        let generation = policy["metadata"]["generation"].as_i64().unwrap_or(0);
        if generation == 0 || policy["status"]["observedGeneration"].as_i64() == Some(generation) {
            continue;
        }
        let warnings = typecheck::warnings(&server.index.load(), &policy);
        if let Err(error) = write(server, meta::name(&policy), generation, warnings).await {
            tracing::debug!(policy = meta::name(&policy), %error, "a policy's status was not written");
        }
    }
}

async fn write(
    server: &ApiServer,
    name: &str,
    generation: i64,
    warnings: Vec<Value>,
) -> Result<(), ApiError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned().ok_or_else(ApiError::no_such_path)?;
    let target = system::target(&resource, "status", "", name);
    let change = Box::new(move |old: &Value| {
        let mut new = old.clone();
        if old["metadata"]["generation"].as_i64() == Some(generation) {
            let checking = match warnings.is_empty() {
                true => json!({}),
                false => json!({"expressionWarnings": warnings}),
            };
            new["status"]["observedGeneration"] = generation.into();
            new["status"]["typeChecking"] = checking;
        }
        Ok(Wanted::plain(new))
    });
    server.update(&target, change, Mode::default(), &mut Vec::new()).await.map(|_| ())
}
