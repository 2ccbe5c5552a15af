//! Waiting until one object is as it should be.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{self, watch_object};
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::errors;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Resolves with the object called `name`, or its absence, once `met` says so. Outlives a server that is away or whose
/// store is; an answer that no repetition changes (401, 403, a malformed request) is an error.
pub async fn until<K>(
    api: Api<K>,
    name: &str,
    met: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>, watcher::Error>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = std::pin::pin!(watch_object(api, name));
    let mut pause = FIRST_PAUSE;
    loop {
        match stream.next().await {
            Some(Ok(object)) if met(object.as_ref()) => return Ok(object),
            Some(Ok(_)) => pause = FIRST_PAUSE,
            Some(Err(error)) if is_final(&error) => return Err(error),
            Some(Err(error)) => {
                debug!(name, %error, "watch of one object interrupted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            // `watch_object` never ends.
            None => return Ok(None),
        }
    }
}

fn is_final(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(e) | WatchStartFailed(e) | WatchFailed(e)) = error else { return false };
    matches!(errors::code(e), 400 | 401 | 403 | 404 | 405 | 422)
}
