//! The loop that feeds an informer, and [`follow`], the same loop for consumers that keep no store.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kit::Shutdown;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use super::{Informer, ObjectKey};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Which objects, and how they are first read.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub labels: Option<String>,
    pub fields: Option<String>,
    /// Lists in pages before watching, instead of streaming the first state through the watch. Chosen by itself when the
    /// server refuses to stream.
    pub paged: bool,
}

impl WatchOptions {
    fn config(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            initial_list_strategy: if self.paged {
                InitialListStrategy::ListWatch
            } else {
                InitialListStrategy::StreamingList
            },
            ..Default::default()
        }
    }
}

/// Feeds `informer` from `api` until `stop`.
pub(super) async fn feed<K>(informer: Informer<K>, api: Api<K>, options: WatchOptions, stop: Shutdown)
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut seen: Option<HashSet<ObjectKey>> = None;
    let what = api.resource_url().to_owned();
    drive(
        &what,
        options,
        stop,
        |config| watcher::watcher(api.clone(), config),
        move |event| match event {
            Event::Init => seen = Some(HashSet::new()),
            Event::InitApply(mut object) => {
                object.meta_mut().managed_fields = None;
                if let Some(seen) = &mut seen {
                    seen.insert(ObjectKey::of(&object));
                }
                informer.apply(object);
            }
            Event::InitDone => {
                if let Some(seen) = seen.take() {
                    let mut gone = Vec::new();
                    informer.for_each(|key, _| {
                        if !seen.contains(key) {
                            gone.push(key.clone());
                        }
                    });
                    gone.iter().for_each(|key| informer.delete_key(key));
                }
                informer.mark_synced();
            }
            Event::Apply(mut object) => {
                object.meta_mut().managed_fields = None;
                informer.apply(object);
            }
            Event::Delete(mut object) => {
                object.meta_mut().managed_fields = None;
                informer.delete(object);
            }
        },
    )
    .await;
}

/// Follows the objects of `api` until `stop`, keeping no store: `each` sees the watcher's events and must itself work
/// out what a new first state ([`Event::Init`] to [`Event::InitDone`]) no longer holds. With
/// `K = PartialObjectMeta<_>` only metadata travels.
pub async fn follow<K>(api: Api<K>, options: WatchOptions, stop: Shutdown, each: impl FnMut(Event<K>))
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let what = api.resource_url().to_owned();
    drive(&what, options, stop, |config| watcher::watcher(api.clone(), config), each).await;
}

async fn drive<E, S>(
    what: &str,
    mut options: WatchOptions,
    stop: Shutdown,
    open: impl Fn(watcher::Config) -> S,
    mut each: impl FnMut(Event<E>),
) where
    S: Stream<Item = Result<Event<E>, watcher::Error>> + Send,
{
    loop {
        let stream = open(options.config());
        tokio::pin!(stream);
        let mut backoff = FIRST_BACKOFF;
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = stop.wait() => return,
            };
            match item {
                Some(Ok(event)) => {
                    backoff = FIRST_BACKOFF;
                    each(event);
                }
                Some(Err(error)) if !options.paged && refuses_streaming(&error) => {
                    debug!(url = what, "server does not stream lists, paging instead");
                    options.paged = true;
                    break;
                }
                Some(Err(error)) => {
                    let gone = is_expired(&error);
                    if gone {
                        debug!(url = what, "watch window passed, listing again");
                    } else {
                        warn!(url = what, error = %chain(&error), retry_ms = backoff.as_millis() as u64, "watch failed");
                    }
                    let wait = jitter(backoff);
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stop.wait() => return,
                    }
                }
                None => break,
            }
        }
    }
}

/// Half of `delay` to all of it.
fn jitter(delay: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let part = (RandomState::new().hash_one(0) % 1000) as u32;
    delay / 2 + delay * part / 2000
}

fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => Some(crate::errors::code(e)).filter(|c| *c != 0),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// A server without streaming lists answers 400 or 422 to `sendInitialEvents`.
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_)) && matches!(status(error), Some(400 | 415 | 422))
}

fn is_expired(error: &watcher::Error) -> bool {
    status(error) == Some(410)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}
