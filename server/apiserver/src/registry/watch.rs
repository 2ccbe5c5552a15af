//! Watch: initial state, events, bookmarks, in the client's encoding.

use super::selectors::Selection;
use crate::ApiServer;
use crate::cache::{self, CacheError, Entry, Event, Filter, Kind, Snapshot, Watcher};
use crate::crd;
use crate::encode::EventEncoder;
use crate::http::options::ListOptions;
use crate::http::{Body, BoxError, Negotiated, respond};
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::storage::PATIENCE;
use crate::table::IncludeObject;
use bytes::Bytes;
use futures::stream;
use http::Response;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Upstream's bookmark period.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A last bookmark this long before the watch times out spares the next watch the replay.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

struct Watch {
    server: ApiServer,
    resource: Arc<Resource>,
    watcher: Watcher,
    selection: Selection,
    encoder: EventEncoder,
    ready: VecDeque<Bytes>,
    /// Entries of the initial state still to be sent.
    initial: Option<Initial>,
    deadline: Instant,
    bookmark: Option<Instant>,
    ended: bool,
}

struct Initial {
    entries: std::vec::IntoIter<Arc<Entry>>,
    revision: u64,
    /// Close with the bookmark that says the initial state is complete.
    announce_end: bool,
}

impl ApiServer {
    /// Starts a watch; the response's body lasts until the timeout, the client's or the server's end.
    pub(crate) async fn watch(
        &self,
        resource: &Arc<Resource>,
        namespace: &str,
        name: &str,
        options: &ListOptions,
        accept: Negotiated,
        include: IncludeObject,
    ) -> Result<Response<Body>, ApiError> {
        let selection = Selection::read(resource, options)?;
        let mut filter = Filter::namespace(namespace);
        let pinned = if name.is_empty() { selection.name() } else { Some(name) };
        filter.name = pinned.map(Arc::from);
        if !selection.is_empty() && !selection.reads_versions() {
            let interest = selection.clone();
            filter.interest = Some(Arc::new(move |entry| interest.matches(entry)));
        }
        let encoder = EventEncoder::new(resource.clone(), accept)?.include(include);
        let content_type = encoder.content_type();
        let streaming = options.send_initial_events == Some(true);
        let resumed = match options.resource_version {
            Some(revision) if revision > 0 && !streaming => Some(revision),
            Some(0) => None,
            Some(revision) => {
                self.storage.cache().wait_for(revision, PATIENCE).await?;
                None
            }
            None => {
                self.storage.cache().fresh(PATIENCE).await?;
                None
            }
        };
        self.storage.all_readable(resource, namespace).await?;
        let started = match resumed {
            Some(revision) => resource.cache.watch(Some(revision), filter).map(|w| (None, w)),
            None if options.send_initial_events == Some(false) => {
                resource.cache.watch(None, filter).map(|w| (None, w))
            }
            None => {
                let (snapshot, watcher) = resource.cache.snapshot_and_watch(filter.clone());
                let initial = initial(&snapshot, namespace, &filter, streaming && options.allow_bookmarks);
                Ok((Some(initial), watcher))
            }
        };
        let (initial, watcher) = match started {
            Ok(started) => started,
            Err(error @ CacheError::Expired { .. }) => {
                let mut encoder = encoder;
                let frame = encoder.error(&error.into())?;
                return Ok(respond::bytes(200, content_type, Body::full(frame)));
            }
            Err(other) => return Err(other.into()),
        };
        let seconds = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            // Spread, so that clients do not all come back at once.
            _ => Duration::from_secs(rand::random_range(1800..3600)),
        };
        let now = Instant::now();
        let deadline = now + seconds;
        let watch = Watch {
            server: self.clone(),
            resource: resource.clone(),
            watcher,
            selection,
            encoder,
            ready: VecDeque::new(),
            initial,
            deadline,
            bookmark: options.allow_bookmarks.then(|| next_bookmark(now, deadline)).flatten(),
            ended: false,
        };
        let body = Body::stream(stream::unfold(watch, step));
        Ok(respond::bytes(200, content_type, body))
    }
}

fn initial(snapshot: &Snapshot, namespace: &str, filter: &Filter, announce_end: bool) -> Initial {
    let single = filter.name.as_ref().filter(|_| !namespace.is_empty());
    let entries: Vec<Arc<Entry>> = match single {
        Some(name) => {
            snapshot.get(namespace, name).filter(|e| filter.admits(e)).cloned().into_iter().collect()
        }
        None => snapshot.page(Some(namespace), None).filter(|e| filter.admits(e)).cloned().collect(),
    };
    Initial { entries: entries.into_iter(), revision: snapshot.revision, announce_end }
}

fn next_bookmark(now: Instant, deadline: Instant) -> Option<Instant> {
    let last = deadline.checked_sub(BOOKMARK_BEFORE_END)?;
    let regular = now + BOOKMARK_EVERY;
    if last <= now { (regular < deadline).then_some(regular) } else { Some(regular.min(last)) }
}

/// Produces the next piece of the body.
async fn step(mut watch: Watch) -> Option<(Result<Bytes, BoxError>, Watch)> {
    loop {
        if let Some(piece) = watch.take_ready() {
            return Some((Ok(piece), watch));
        }
        if watch.ended {
            return None;
        }
        if watch.fill_initial().await {
            continue;
        }
        let bookmark = watch.bookmark.unwrap_or(watch.deadline);
        let server = watch.server.clone();
        tokio::select! {
            biased;
            event = watch.watcher.next() => watch.take(event).await,
            () = tokio::time::sleep_until(bookmark.min(watch.deadline)) => {
                if Instant::now() >= watch.deadline {
                    return None;
                }
                let revision = watch.watcher.progress();
                watch.push_bookmark(revision, false);
                watch.bookmark = next_bookmark(Instant::now(), watch.deadline);
            }
            () = server.shutdown.wait() => return None,
        }
    }
}

impl Watch {
    /// Several small frames travel as one piece.
    fn take_ready(&mut self) -> Option<Bytes> {
        let first = self.ready.pop_front()?;
        if self.ready.is_empty() {
            return Some(first);
        }
        let mut joined = first.to_vec();
        while joined.len() < 32 * 1024 {
            let Some(next) = self.ready.pop_front() else { break };
            joined.extend_from_slice(&next);
        }
        Some(joined.into())
    }

    /// Sends a share of the initial state; false once it is done.
    async fn fill_initial(&mut self) -> bool {
        let Some(mut initial) = self.initial.take() else { return false };
        let entries: Vec<Arc<Entry>> = initial.entries.by_ref().take(64).collect();
        if !self.prepare(&entries).await {
            return true;
        }
        for entry in &entries {
            // The scope was applied before; what has to be read in this version could not be.
            if self.selection.reads_versions() && !self.selection.matches(entry) {
                continue;
            }
            let frame = self.frame("ADDED", entry);
            self.push(frame);
        }
        if entries.is_empty() {
            if initial.announce_end {
                self.push_bookmark(initial.revision, true);
                return true;
            }
            return false;
        }
        self.initial = Some(initial);
        true
    }

    async fn take(&mut self, event: Result<Arc<Event>, CacheError>) {
        let mut next = Some(event);
        let mut taken: SmallVec<[Arc<Event>; 8]> = SmallVec::new();
        let mut failed = None;
        while let Some(event) = next.take() {
            match event {
                Ok(event) => taken.push(event),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            if taken.len() < 64 {
                next = self.watcher.try_next().transpose();
            }
        }
        if self.resource.custom.is_some() {
            let entries: Vec<Arc<Entry>> =
                taken.iter().flat_map(|e| e.prev.iter().chain([&e.entry])).cloned().collect();
            if !self.prepare(&entries).await {
                return;
            }
        }
        for event in taken {
            self.encode(&event);
        }
        if let Some(error) = failed {
            let frame = self.encoder.error(&error.into());
            self.push(frame);
            self.ended = true;
        }
    }

    /// Conversion, where it needs another server. False where it failed, which ends the watch with the reason.
    async fn prepare(&mut self, entries: &[Arc<Entry>]) -> bool {
        match crd::prepare(&self.server, &self.resource, entries).await {
            Ok(()) => true,
            Err(error) => {
                let frame = self.encoder.error(&error);
                self.push(frame);
                self.ended = true;
                false
            }
        }
    }

    /// The object as it is now.
    fn frame(&mut self, kind: &'static str, entry: &Entry) -> Result<Bytes, ApiError> {
        let json = crd::view(&self.resource, entry)?;
        self.encoder.event(kind, entry, &json)
    }

    /// What the change is to this client, given its selectors.
    fn encode(&mut self, event: &Event) {
        let is = event.kind != Kind::Deleted && self.selection.matches(&event.entry);
        let was = event.prev.as_ref().is_some_and(|prev| self.selection.matches(prev));
        let frame = match (was, is) {
            (false, true) => self.frame("ADDED", &event.entry),
            (true, true) => self.frame("MODIFIED", &event.entry),
            (true, false) if event.kind == Kind::Deleted => self.frame("DELETED", &event.entry),
            (true, false) => {
                // Left the selection: its last matching state, under the change's version.
                let Some(prev) = &event.prev else { return };
                let seen = crd::view(&self.resource, prev).map(|json| cache::strip_revision(&json));
                match seen.and_then(|s| Ok(cache::splice_revision(&s, event.revision)?)) {
                    Ok(json) => self.encoder.event("DELETED", prev, &json),
                    Err(e) => Err(e),
                }
            }
            (false, false) => return,
        };
        self.resource.cache.note_delivered();
        self.push(frame);
    }

    fn push_bookmark(&mut self, revision: u64, initial_end: bool) {
        let frame = self.encoder.bookmark(revision, initial_end);
        self.push(frame);
    }

    fn push(&mut self, frame: Result<Bytes, ApiError>) {
        match frame {
            Ok(frame) => self.ready.push_back(frame),
            Err(error) => {
                tracing::error!(%error, "a watch event could not be encoded");
                self.ended = true;
            }
        }
    }
}
