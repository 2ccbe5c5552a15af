//! The cache against a real store and a model of it.

use super::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::{Expect, Op, Revision, Write};

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    pods: GroupResource,
    _dir: tempfile::TempDir,
}

fn options() -> Options {
    let fields = |resource: &GroupResource, object: &Value| match &*resource.resource {
        "pods" => vec![("spec.nodeName", object["spec"]["nodeName"].as_str().unwrap_or("").to_owned())],
        _ => Vec::new(),
    };
    Options::new(Arc::new(fields))
}

async fn world(options: Options) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::open(dir.path(), Default::default()).unwrap();
    let cache = Cache::start(store.clone(), options).await.unwrap();
    World { store, cache, pods: GroupResource::new("", "pods"), _dir: dir }
}

fn pod(namespace: &str, name: &str, mark: usize) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": {"mark": mark.to_string()},
            "ownerReferences": [{"uid": "owner"}]},
        "spec": {"nodeName": format!("node-{}", mark % 3)},
    })
}

impl World {
    async fn put(&self, resource: &GroupResource, object: &Value) -> Revision {
        let metadata = &object["metadata"];
        let key = storage_key(
            resource,
            metadata["namespace"].as_str().unwrap_or(""),
            metadata["name"].as_str().unwrap(),
        );
        let op = Op::Put { value: encode_for_store(object).unwrap(), ttl: None };
        self.store.write(Write { key: key.into(), expect: Expect::Any, op }).await.unwrap().revision
    }

    async fn delete(&self, namespace: &str, name: &str) -> (Revision, bool) {
        let key = storage_key(&self.pods, namespace, name);
        let written =
            self.store.write(Write { key: key.into(), expect: Expect::Any, op: Op::Delete }).await.unwrap();
        (written.revision, written.prev.is_some())
    }

    async fn reach(&self, revision: Revision) {
        self.cache.wait_for(revision, PATIENCE).await.unwrap();
    }
}

async fn next(watcher: &mut Watcher) -> Arc<Event> {
    tokio::time::timeout(PATIENCE, watcher.next()).await.expect("an event in time").unwrap()
}

fn names<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<String> {
    entries.map(|entry| continue_key(entry)).collect()
}

#[tokio::test]
async fn a_writer_reads_its_own_write() {
    let w = world(options()).await;
    let pods = w.cache.resource(&w.pods);
    let made = w.put(&w.pods, &pod("default", "web", 4)).await;
    w.reach(made).await;
    let entry = pods.get("default", "web").unwrap();
    let mut want = pod("default", "web", 4);
    want["metadata"]["resourceVersion"] = made.to_string().into();
    assert_eq!(entry.object().unwrap(), want);
    assert_eq!(
        (entry.revision, &*entry.namespace, &*entry.name, entry.uid()),
        (made, "default", "web", "uid-web")
    );
    assert_eq!(entry.labels()["mark"], "4");
    assert_eq!(entry.metadata().owner_references[0].uid, "owner");
    assert_eq!(entry.fields(), &vec![("spec.nodeName", "node-1".to_owned())]);
    assert_eq!(w.cache.fresh(PATIENCE).await.unwrap(), made);
    assert!(pods.get("", "web").is_none() && pods.get("default", "we").is_none());

    let made = w.put(&GroupResource::new("", "namespaces"), &json!({"metadata": {"name": "default"}})).await;
    w.reach(made).await;
    let namespace = w.cache.resource(&GroupResource::new("", "namespaces")).get("", "default").unwrap();
    assert_eq!(namespace.json, format!(r#"{{"metadata":{{"resourceVersion":"{made}","name":"default"}}}}"#));
}

#[tokio::test]
async fn an_encoding_is_made_once() {
    let w = world(options()).await;
    w.reach(w.put(&w.pods, &pod("a", "x", 0)).await).await;
    let entry = w.cache.resource(&w.pods).get("a", "x").unwrap();
    assert_eq!(entry.encoded(1, |_| Err::<Bytes, _>("no")), Err("no"));
    assert_eq!(entry.encoded(1, |e| Ok::<_, ()>(e.json.slice(..1))), Ok("{".into()));
    assert_eq!(entry.encoded(1, |_| Err::<Bytes, _>("made twice")), Ok("{".into()));
    assert_eq!(entry.encoded(2, |_| Ok::<_, ()>("two".into())), Ok("two".into()));
}

#[tokio::test]
async fn pages_follow_storage_order_and_stay_in_their_namespace() {
    let w = world(options()).await;
    let mut last = 0;
    for (namespace, name) in [("a", "x"), ("a-b", "x"), ("a", "z"), ("a0", "x"), ("b", "x"), ("a", "y")] {
        last = w.put(&w.pods, &pod(namespace, name, 0)).await;
    }
    w.reach(last).await;
    let all = w.cache.resource(&w.pods).snapshot();
    assert_eq!(all.revision, last);
    assert_eq!(names(all.iter()), ["a-b/x", "a/x", "a/y", "a/z", "a0/x", "b/x"]);
    assert_eq!(names(all.page(Some("a"), None)), ["a/x", "a/y", "a/z"]);
    assert_eq!(names(all.page(Some("a"), Some("a/x"))), ["a/y", "a/z"]);
    assert_eq!(names(all.page(Some("a"), Some("a/z"))), [""; 0]);
    assert_eq!(names(all.page(Some("a"), Some("b/x"))), [""; 0]);
    assert_eq!(names(all.page(Some("a"), Some("a-b/x"))), ["a/x", "a/y", "a/z"]);
    assert_eq!(names(all.page(None, Some("a/yy"))), ["a/z", "a0/x", "b/x"]);
    assert_eq!(names(all.page(Some("none"), None)), [""; 0]);
}

#[tokio::test]
async fn old_states_can_be_read_while_the_window_reaches_back() {
    let mut options = options();
    options.window = WindowLimits { events: 8, floor: 1, ..WindowLimits::default() };
    let w = world(options).await;
    let pods = w.cache.resource(&w.pods);
    let mut states = vec![(w.store.revision().await.unwrap(), Vec::new())];
    for n in 0..14 {
        let name = format!("p{}", n % 4);
        let revision = match n % 5 {
            4 => w.delete("a", &name).await.0,
            _ => w.put(&w.pods, &pod("a", &name, n)).await,
        };
        w.reach(revision).await;
        states.push((revision, pods.snapshot().iter().map(|e| e.json.clone()).collect()));
    }
    let mut expired = 0;
    for (revision, want) in &states {
        match pods.snapshot_at(*revision, Match::Exact, PATIENCE).await {
            Ok(snapshot) => {
                assert_eq!(snapshot.revision, *revision);
                assert_eq!(&snapshot.iter().map(|e| e.json.clone()).collect::<Vec<_>>(), want);
            }
            Err(CacheError::Expired { requested, .. }) => {
                assert_eq!(requested, *revision);
                assert!(pods.watch(Some(*revision), Filter::default()).is_err());
                expired += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(expired, states.len() - 9);
    let newest = states.last().unwrap().0;
    assert_eq!(pods.snapshot_at(1, Match::NotOlderThan, PATIENCE).await.unwrap().revision, newest);
    let ahead = pods.snapshot_at(newest + 1, Match::NotOlderThan, Duration::from_millis(5)).await;
    assert!(matches!(ahead, Err(CacheError::TooLarge { .. })));
}

#[tokio::test]
async fn a_watch_is_scoped_and_tells_what_was_before() {
    let w = world(options()).await;
    let pods = w.cache.resource(&w.pods);
    let on = |node: &'static str| Filter {
        interest: Some(Arc::new(move |entry: &Entry| entry.fields()[0].1 == node)),
        ..Filter::namespace("a")
    };
    let mut node0 = pods.watch(None, on("node-0")).unwrap();
    let mut one = pods.watch(None, Filter { name: Some("y".into()), ..Filter::default() }).unwrap();
    let added = w.put(&w.pods, &pod("a", "x", 0)).await;
    w.put(&w.pods, &pod("b", "x", 0)).await;
    w.put(&w.pods, &pod("a", "y", 1)).await;
    let moved = w.put(&w.pods, &pod("a", "x", 1)).await;
    w.put(&w.pods, &pod("a", "x", 2)).await;
    let back = w.put(&w.pods, &pod("a", "x", 3)).await;
    let gone = w.delete("a", "x").await.0;
    w.reach(gone).await;

    let seen =
        [next(&mut node0).await, next(&mut node0).await, next(&mut node0).await, next(&mut node0).await];
    let kinds: Vec<_> = seen.iter().map(|e| (e.kind, e.revision)).collect();
    assert_eq!(
        kinds,
        [(Kind::Added, added), (Kind::Modified, moved), (Kind::Modified, back), (Kind::Deleted, gone)]
    );
    assert_eq!(seen[1].prev.as_ref().unwrap().fields()[0].1, "node-0");
    let mut last = pod("a", "x", 3);
    last["metadata"]["resourceVersion"] = gone.to_string().into();
    assert_eq!(seen[3].entry.object().unwrap(), last);
    assert_eq!(seen[3].prev.as_ref().unwrap().revision, back);
    assert!(node0.try_next().unwrap().is_none());

    assert_eq!(&*next(&mut one).await.entry.name, "y");
    assert!(one.try_next().unwrap().is_none());
    assert_eq!(one.progress(), gone);
    let elsewhere = w.put(&GroupResource::new("apps", "things"), &json!({"metadata": {"name": "t"}})).await;
    w.reach(elsewhere).await;
    assert_eq!((one.progress(), pods.snapshot().revision), (elsewhere, elsewhere));
    assert_eq!(pods.watchers(), 2);
    drop((one, node0));
    assert_eq!(pods.watchers(), 0);
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_a_quiet_one_is_not() {
    let mut options = options();
    options.window = WindowLimits { events: 10, floor: 1, ..WindowLimits::default() };
    let w = world(options).await;
    let pods = w.cache.resource(&w.pods);
    let mut slow = pods.watch(None, Filter::default()).unwrap();
    let mut quiet = pods.watch(None, Filter::namespace("quiet")).unwrap();
    let mut last = 0;
    for n in 0..30 {
        last = w.put(&w.pods, &pod("a", "x", n)).await;
    }
    w.reach(last).await;
    assert!(matches!(slow.next().await, Err(CacheError::Expired { .. })));
    assert!(matches!(slow.next().await, Err(CacheError::Expired { .. })), "it stays ended");
    assert_eq!(quiet.progress(), last);
    w.put(&w.pods, &pod("quiet", "x", 0)).await;
    assert_eq!(next(&mut quiet).await.kind, Kind::Added);
}

#[tokio::test]
async fn a_new_cache_finds_everything_and_strangers_are_left_out() {
    let w = world(options()).await;
    let foreign = |key: &'static str| Write {
        key: key.into(),
        expect: Expect::Any,
        op: Op::Put { value: "not json".into(), ttl: None },
    };
    w.put(&w.pods, &pod("a", "x", 0)).await;
    w.store.write(foreign("/registry/pods/a/broken")).await.unwrap();
    w.store.write(foreign("/registry/lonely")).await.unwrap();
    let last = w.put(&GroupResource::new("apps", "things"), &json!({"metadata": {"name": "t"}})).await;
    w.reach(last).await;
    let second = Cache::start(w.store.clone(), Options { resume: 0, ..options() }).await.unwrap();
    for cache in [&w.cache, &second] {
        let pods = cache.resource(&w.pods).snapshot();
        assert_eq!((names(pods.iter()), pods.revision), (vec!["a/x".to_owned()], last));
        assert_eq!(cache.resource(&GroupResource::new("apps", "things")).len(), 1);
    }
    // Without the store's history there is none before the load.
    let resumed = second.resource(&w.pods).watch(Some(last - 1), Filter::default());
    assert!(matches!(resumed, Err(CacheError::Expired { .. })));
    assert!(second.resource(&w.pods).watch(Some(last), Filter::default()).is_ok());
}

#[tokio::test]
async fn watchers_resume_across_a_restart() {
    let w = world(options()).await;
    let pods = w.cache.resource(&w.pods);
    let start = w.store.revision().await.unwrap();
    let mut last = start;
    let mut states = Vec::new();
    for n in 0..60 {
        let name = format!("p{}", n % 7);
        last = match n % 5 {
            3 => w.delete("a", &name).await.0,
            _ => w.put(&w.pods, &pod("a", &name, n)).await,
        };
        w.reach(last).await;
        states.push((last, pods.snapshot()));
    }
    let second = Cache::start(w.store.clone(), Options { resume: 40, ..options() }).await.unwrap();
    let pods_again = second.resource(&w.pods);
    assert!(pods_again.watch(Some(last - 41), Filter::default()).is_err());
    for after in [last - 40, last - 17, last] {
        let mut before = pods.watch(Some(after), Filter::default()).unwrap();
        let mut again = pods_again.watch(Some(after), Filter::default()).unwrap();
        let mut count = 0;
        while let Some(want) = before.try_next().unwrap() {
            let got = again.try_next().unwrap().unwrap();
            assert_eq!(
                (got.kind, got.revision, &got.entry.json),
                (want.kind, want.revision, &want.entry.json)
            );
            let prev = |event: &Event| event.prev.as_ref().map(|prev| prev.json.clone());
            assert_eq!(prev(&got), prev(&want));
            count += 1;
        }
        assert_eq!((count, again.try_next().unwrap().is_none()), (last - after, true));
    }
    for (revision, want) in &states[30..] {
        let got = pods_again.snapshot_at(*revision, Match::Exact, PATIENCE).await.unwrap();
        let json = |s: &Snapshot| s.iter().map(|e| e.json.clone()).collect::<Vec<_>>();
        assert_eq!(json(&got), json(want));
    }
}

/// Random concurrent writers; every watcher, wherever it started, sees exactly the model's history, and every
/// snapshot is a state the model was in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_equals_the_model() {
    const WRITERS: usize = 6;
    const WRITES: usize = 120;
    let w = Arc::new(world(options()).await);
    let pods = w.cache.resource(&w.pods);
    let start = w.store.revision().await.unwrap();

    let follow = |mut watcher: Watcher| {
        tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let event = next(&mut watcher).await;
                if &*event.entry.name == "end" {
                    return seen;
                }
                seen.push(event);
            }
        })
    };
    let mut followers =
        vec![(start, BTreeMap::new(), follow(pods.watch(Some(start), Filter::default()).unwrap()))];
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let w = w.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for n in 0..WRITES {
                    let (namespace, name) =
                        (format!("ns{}", (writer + n) % 3), format!("p{}", rand::random_range(0..8)));
                    let mark = writer * WRITES + n;
                    if rand::random_range(0..3) == 0 {
                        let (revision, existed) = w.delete(&namespace, &name).await;
                        if existed {
                            done.push((revision, format!("{namespace}/{name}"), None));
                        }
                    } else {
                        let revision = w.put(&w.pods, &pod(&namespace, &name, mark)).await;
                        done.push((revision, format!("{namespace}/{name}"), Some(mark)));
                    }
                }
                done
            })
        })
        .collect();
    let mark = |entry: &Entry| entry.labels()["mark"].parse::<usize>().unwrap();
    let state = |snapshot: &Snapshot| -> BTreeMap<String, usize> {
        snapshot.iter().map(|entry| (continue_key(entry), mark(entry))).collect()
    };
    let mut previous = 0;
    for _ in 0..20 {
        let (snapshot, watcher) = pods.snapshot_and_watch(Filter::default());
        assert!(snapshot.revision >= previous, "time does not go back");
        previous = snapshot.revision;
        followers.push((snapshot.revision, state(&snapshot), follow(watcher)));
        tokio::task::yield_now().await;
        w.cache.fresh(PATIENCE).await.unwrap();
    }
    let mut model = Vec::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    model.sort();
    let end = w.put(&w.pods, &pod("ns0", "end", 0)).await;
    w.reach(end).await;

    for (from, begin, follower) in followers {
        let mut objects = BTreeMap::new();
        for (_, path, value) in model.iter().filter(|(revision, ..)| *revision <= from) {
            match value {
                Some(mark) => drop(objects.insert(path.clone(), *mark)),
                None => drop(objects.remove(path)),
            }
        }
        assert_eq!(begin, objects, "the snapshot at {from}");
        let seen = follower.await.unwrap();
        let want: Vec<_> = model.iter().filter(|(revision, ..)| *revision > from).collect();
        assert_eq!(seen.len(), want.len());
        for (event, (revision, path, value)) in seen.iter().zip(want) {
            let before = objects.get(path).copied();
            let kind = match (value, before) {
                (None, _) => Kind::Deleted,
                (_, None) => Kind::Added,
                _ => Kind::Modified,
            };
            assert_eq!((event.revision, event.kind, &continue_key(&event.entry)), (*revision, kind, path));
            assert_eq!(event.entry.object().unwrap()["metadata"]["resourceVersion"], revision.to_string());
            assert_eq!(event.prev.as_deref().map(mark), before);
            assert_eq!(Some(mark(&event.entry)), value.or(before));
            match value {
                Some(mark) => drop(objects.insert(path.clone(), *mark)),
                None => drop(objects.remove(path)),
            }
        }
        // And old states, undone from the newest one.
        if from >= start {
            let old = pods.snapshot_at(from, Match::Exact, PATIENCE).await.unwrap();
            assert_eq!(state(&old), begin);
        }
    }
}

/// A store whose watches break and whose history is compacted behind the cache's back.
#[tokio::test]
async fn lost_history_is_reloaded_and_watchers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let inner = store::embedded::open(dir.path(), Default::default()).unwrap();
    let flaky = Arc::new(Flaky { inner: inner.clone(), cut: tokio::sync::watch::Sender::new(false) });
    let w = World {
        cache: Cache::start(flaky.clone(), options()).await.unwrap(),
        store: inner,
        pods: GroupResource::new("", "pods"),
        _dir: dir,
    };
    let pods = w.cache.resource(&w.pods);
    let kept = w.put(&w.pods, &pod("a", "kept", 0)).await;
    w.put(&w.pods, &pod("a", "gone", 0)).await;
    w.reach(w.put(&w.pods, &pod("a", "changed", 0)).await).await;
    let mut watcher = pods.watch(None, Filter::default()).unwrap();
    let before = pods.get("a", "kept").unwrap();

    // Cut off briefly: resumed from the store's history, nobody notices.
    flaky.cut.send_replace(true);
    let meanwhile = w.put(&w.pods, &pod("a", "changed", 1)).await;
    flaky.cut.send_replace(false);
    assert_eq!(next(&mut watcher).await.revision, meanwhile);

    flaky.cut.send_replace(true);
    w.delete("a", "gone").await;
    let changed = w.put(&w.pods, &pod("a", "changed", 2)).await;
    w.store.compact(changed).await.unwrap();
    flaky.cut.send_replace(false);
    let end = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap();
    assert!(matches!(end, Err(CacheError::Expired { .. })), "{end:?}");
    w.reach(changed).await;
    let snapshot = pods.snapshot();
    assert_eq!(names(snapshot.iter()), ["a/changed", "a/kept"]);
    assert!(Arc::ptr_eq(&before, snapshot.get("a", "kept").unwrap()), "what did not change is kept");
    assert_eq!((before.revision, snapshot.get("a", "changed").unwrap().revision), (kept, changed));
    let mut again = pods.watch(None, Filter::default()).unwrap();
    w.delete("a", "kept").await;
    assert_eq!(next(&mut again).await.kind, Kind::Deleted);
}

struct Flaky {
    inner: Arc<dyn Store>,
    cut: tokio::sync::watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Store for Flaky {
    async fn write(&self, write: Write) -> Result<store::Written, StoreError> {
        self.inner.write(write).await
    }
    async fn get(&self, key: &[u8]) -> Result<(Option<store::KeyValue>, Revision), StoreError> {
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &[u8], limit: usize) -> Result<store::Range, StoreError> {
        self.inner.range(prefix, limit).await
    }
    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<store::WatchStream, StoreError> {
        use futures::StreamExt;
        if *self.cut.borrow() {
            return Err(StoreError::Unavailable("cut".into()));
        }
        let mut cut = self.cut.subscribe();
        let end = async move {
            let _ = cut.wait_for(|cut| *cut).await;
        };
        Ok(self.inner.watch(prefix, after).await?.take_until(Box::pin(end)).boxed())
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn health(&self) -> Result<(), StoreError> {
        self.inner.health().await
    }
}
