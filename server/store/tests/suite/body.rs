//! The promises. Waits are bounded; no times are asserted.

use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Event, Expect, KeyValue, Op, Revision, Store, StoreError, WatchStream, Write, Written};

type S = Arc<dyn Store>;
const PATIENCE: Duration = Duration::from_secs(30);

fn put(key: &str, value: &str, expect: Expect) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write { key: Bytes::copy_from_slice(key.as_bytes()), expect, op: Op::Put { value, ttl: None } }
}

fn expiring(key: &str, value: &str, ttl: Duration) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect: Expect::Any,
        op: Op::Put { value, ttl: Some(ttl) },
    }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_bytes()), expect, op: Op::Delete }
}

async fn must(store: &S, write: Write) -> Written {
    store.write(write).await.unwrap()
}

fn conflict(result: Result<Written, StoreError>) -> Option<KeyValue> {
    match result {
        Err(StoreError::Conflict { current }) => current,
        other => panic!("wanted a conflict, got {other:?}"),
    }
}

/// Events from `watch` until (and with) the one at `until`.
async fn events(watch: &mut WatchStream, until: Revision) -> Vec<Event> {
    let mut seen = Vec::new();
    let read = async {
        loop {
            let batch = watch.next().await.expect("the watch goes on").unwrap();
            assert!(batch.events.iter().all(|e| e.revision <= batch.revision));
            seen.extend(batch.events);
            if batch.revision >= until {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no event {until} in time"));
    seen
}

fn short(events: &[Event]) -> Vec<(String, Option<String>)> {
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    events.iter().map(|e| (text(&e.key), e.value.as_ref().map(text))).collect()
}

pub async fn compare_and_put(store: S) {
    let before = store.revision().await.unwrap();
    assert!(before >= 1, "an empty store is not at revision 0");
    assert_eq!(conflict(store.write(put("/a/k", "x", Expect::Revision(before))).await), None);
    let first = must(&store, put("/a/k", "1", Expect::Absent)).await;
    assert_eq!(first.prev, None);
    assert!(first.revision > before);

    let there = KeyValue {
        key: "/a/k".into(),
        value: "1".into(),
        create_revision: first.revision,
        mod_revision: first.revision,
    };
    assert_eq!(conflict(store.write(put("/a/k", "2", Expect::Absent)).await).as_ref(), Some(&there));
    assert_eq!(
        conflict(store.write(put("/a/k", "2", Expect::Revision(before))).await).as_ref(),
        Some(&there)
    );
    assert_eq!(store.revision().await.unwrap(), first.revision, "a refused write takes no revision");

    let second = must(&store, put("/a/k", "2", Expect::Revision(first.revision))).await;
    assert_eq!(second.revision, first.revision + 1);
    assert_eq!(second.prev.as_ref(), Some(&there));
    let third = must(&store, put("/a/k", "3", Expect::Any)).await;
    let (now, at) = store.get(b"/a/k").await.unwrap();
    let now = now.unwrap();
    assert_eq!(
        (&now.value[..], now.create_revision, now.mod_revision),
        (&b"3"[..], first.revision, third.revision)
    );
    assert_eq!(at, third.revision);
    assert_eq!(store.get(b"/a/none").await.unwrap(), (None, third.revision));
    store.health().await.unwrap();
}

pub async fn deleting(store: S) {
    let made = must(&store, put("/a/k", "1", Expect::Absent)).await;
    assert!(conflict(store.write(delete("/a/k", Expect::Revision(made.revision - 1))).await).is_some());
    assert!(conflict(store.write(delete("/a/k", Expect::Absent)).await).is_some());
    let gone = must(&store, delete("/a/k", Expect::Revision(made.revision))).await;
    assert_eq!(gone.revision, made.revision + 1);
    assert_eq!(gone.prev.unwrap().value, "1");
    assert_eq!(store.get(b"/a/k").await.unwrap(), (None, gone.revision));

    assert_eq!(conflict(store.write(delete("/a/k", Expect::Revision(made.revision))).await), None);
    let nothing = must(&store, delete("/a/k", Expect::Any)).await;
    assert_eq!((nothing.revision, nothing.prev), (gone.revision, None), "deleting nothing is no event");
    let again = must(&store, put("/a/k", "2", Expect::Absent)).await;
    let (kv, _) = store.get(b"/a/k").await.unwrap();
    assert_eq!(kv.unwrap().create_revision, again.revision, "a new life");
}

pub async fn prefixes_and_their_edges(store: S) {
    for key in ["/a", "/a/", "/a/b", "/a/b/c", "/a0", "/b"] {
        must(&store, put(key, key, Expect::Absent)).await;
    }
    for key in [&b"/a/\xff"[..], b"/a/\xff\xff", b"\xff\xff"] {
        let op = Op::Put { value: Bytes::new(), ttl: None };
        must(&store, Write { key: Bytes::copy_from_slice(key), expect: Expect::Absent, op }).await;
    }
    let keys = |prefix: &'static [u8]| {
        let store = store.clone();
        async move {
            let range = store.range(prefix, 0).await.unwrap();
            range.kvs.into_iter().map(|kv| kv.key.escape_ascii().to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(keys(b"/a/").await, ["/a/", "/a/b", "/a/b/c", r"/a/\xff", r"/a/\xff\xff"]);
    assert_eq!(keys(b"/a/\xff").await, [r"/a/\xff", r"/a/\xff\xff"]);
    assert_eq!(keys(b"\xff\xff").await, [r"\xff\xff"]);
    assert_eq!(keys(b"/c").await, [""; 0]);
    assert_eq!(keys(b"").await.len(), 9);
}

pub async fn range_is_ordered_limited_and_at_one_revision(store: S) {
    let mut want = Vec::new();
    for n in 0..1200 {
        let key = format!("/r/{:04}", (n * 7) % 1200);
        must(&store, put(&key, "v", Expect::Absent)).await;
        want.push(key);
    }
    want.sort();
    // The first and the last key are written in turn; a range that mixed revisions would see them drift apart.
    must(&store, put("/r/x", "0", Expect::Absent)).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 1..200 {
                must(&store, put("/r/x", &n.to_string(), Expect::Any)).await;
                must(&store, put("/r/0000", &n.to_string(), Expect::Any)).await;
            }
        })
    };
    for _ in 0..10 {
        let range = store.range(b"/r/", 0).await.unwrap();
        let mut keys: Vec<_> =
            range.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        assert_eq!(keys.pop().as_deref(), Some("/r/x"));
        assert_eq!(keys, want);
        assert!(range.kvs.iter().all(|kv| kv.mod_revision <= range.revision));
        let (first, last) = (&range.kvs[0], &range.kvs[range.kvs.len() - 1]);
        assert!(
            first.mod_revision.abs_diff(last.mod_revision) <= 1 || first.value == "v",
            "{first:?} {last:?}"
        );
    }
    writer.await.unwrap();
    let page = store.range(b"/r/", 3).await.unwrap();
    assert_eq!(
        page.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(),
        [&b"/r/0000"[..], b"/r/0001", b"/r/0002"]
    );
}

pub async fn watch_has_order_and_no_gaps(store: S) {
    let start = store.revision().await.unwrap();
    let mut all = store.watch(b"", start).await.unwrap();
    let mut some = store.watch(b"/w/", start).await.unwrap();
    let a = must(&store, put("/w/a", "1", Expect::Absent)).await.revision;
    must(&store, put("/other", "1", Expect::Absent)).await;
    must(&store, put("/w/a", "2", Expect::Any)).await;
    must(&store, delete("/w/a", Expect::Any)).await;
    let last = must(&store, put("/w/b", "1", Expect::Absent)).await.revision;

    let seen = events(&mut some, last).await;
    let text = |s: &str| Some(s.to_owned());
    let w = |k: &str, v: Option<String>| (k.to_owned(), v);
    assert_eq!(
        short(&seen),
        [w("/w/a", text("1")), w("/w/a", text("2")), w("/w/a", None), w("/w/b", text("1"))]
    );
    assert_eq!(
        seen.iter().map(|e| e.prev.as_deref()).collect::<Vec<_>>(),
        [None, Some(&b"1"[..]), Some(&b"2"[..]), None]
    );
    assert_eq!(seen.iter().map(|e| e.create_revision).take(2).collect::<Vec<_>>(), [a, a]);
    let revisions: Vec<_> = events(&mut all, last).await.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (start + 1..=last).collect::<Vec<_>>());
}

pub async fn watch_resumes_and_tells_what_was_before(store: S) {
    let start = store.revision().await.unwrap();
    let mut last = start;
    for n in 0..700 {
        last = must(&store, put(&format!("/w/{}", n % 7), &n.to_string(), Expect::Any)).await.revision;
    }
    let newest = last;
    for after in [start, start + 1, start + 350, newest - 1, newest] {
        let mut watch = store.watch(b"/w/", after).await.unwrap();
        let next = must(&store, put("/w/0", "again", Expect::Any)).await.revision;
        let seen = events(&mut watch, next).await;
        assert_eq!(
            seen.iter().map(|e| e.revision).collect::<Vec<_>>(),
            (after + 1..=next).collect::<Vec<_>>()
        );
        let mut values = BTreeMap::new();
        for event in &seen {
            if let Some(before) = values.insert(event.key.clone(), event.value.clone()) {
                assert_eq!(event.prev, before);
            } else if event.revision > start + 7 {
                assert!(event.prev.is_some(), "{event:?}");
            }
        }
    }
}

pub async fn compacted_history_is_refused(store: S) {
    let mut revisions = Vec::new();
    for n in 0..200 {
        revisions.push(must(&store, put("/c/k", &n.to_string(), Expect::Any)).await.revision);
    }
    must(&store, put("/c/gone", "x", Expect::Any)).await;
    must(&store, delete("/c/gone", Expect::Any)).await;
    let (middle, newest) = (revisions[100], store.revision().await.unwrap());
    let mut open = store.watch(b"/c/", middle).await.unwrap();
    store.compact(middle).await.unwrap();
    // One revision earlier still: etcd serves the event at the compacted revision itself.
    match store.watch(b"/c/", middle - 2).await {
        Err(StoreError::Compacted(_)) => {}
        Err(other) => panic!("{other:?}"),
        // An engine may only find out when it asks for the first events.
        Ok(mut watch) => assert!(matches!(watch.next().await, Some(Err(StoreError::Compacted(_))))),
    }
    let mut exact = store.watch(b"/c/", middle).await.unwrap();
    for watch in [&mut open, &mut exact] {
        let seen = events(watch, newest).await;
        assert_eq!(seen.first().map(|e| e.revision), Some(middle + 1));
        assert_eq!(seen.first().and_then(|e| e.prev.as_deref()), Some(&b"100"[..]));
        assert_eq!(seen.len(), usize::try_from(newest - middle).unwrap());
    }
    store.compact(newest).await.unwrap();
    for _ in 0..200 {
        must(&store, put("/c/k", "more", Expect::Any)).await;
    }
    let range = store.range(b"/c/", 0).await.unwrap();
    assert_eq!(range.kvs.len(), 1);
    assert_eq!((&range.kvs[0].value[..], range.revision), (&b"more"[..], newest + 200));
}

pub async fn keys_expire(store: S) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(b"/t/", start).await.unwrap();
    let kept = must(&store, put("/t/kept", "k", Expect::Absent)).await.revision;
    for n in 0..5 {
        must(&store, expiring(&format!("/t/{n}"), "soon", Duration::from_secs(1))).await;
    }
    let seen = events(&mut watch, kept + 10).await;
    let deleted: Vec<_> = seen.iter().filter(|e| e.value.is_none()).collect();
    assert_eq!(deleted.len(), 5);
    assert!(deleted.iter().all(|e| e.prev.as_deref() == Some(b"soon")));
    let left = store.range(b"/t/", 0).await.unwrap();
    assert_eq!(left.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"/t/kept"]);
}

pub async fn replaced_keys_do_not_expire_early(store: S) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(b"/t/", start).await.unwrap();
    must(&store, expiring("/t/stays", "1", Duration::from_secs(1))).await;
    must(&store, put("/t/stays", "2", Expect::Any)).await;
    must(&store, expiring("/t/longer", "1", Duration::from_secs(1))).await;
    must(&store, expiring("/t/longer", "2", Duration::from_secs(3600))).await;
    must(&store, expiring("/t/reborn", "1", Duration::from_secs(1))).await;
    must(&store, delete("/t/reborn", Expect::Any)).await;
    must(&store, put("/t/reborn", "2", Expect::Absent)).await;
    let signal = must(&store, expiring("/t/signal", "1", Duration::from_secs(2))).await.revision;
    let seen = events(&mut watch, signal + 1).await;
    assert_eq!(short(&seen).pop(), Some(("/t/signal".into(), None)));
    let left = store.range(b"/t/", 0).await.unwrap();
    assert_eq!(
        left.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(),
        [&b"/t/longer"[..], b"/t/reborn", b"/t/stays"]
    );
}

pub async fn concurrent_counters_lose_nothing(store: S) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 40;
    must(&store, put("/n/c", "0", Expect::Absent)).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                let mut known = store.get(b"/n/c").await.unwrap().0.unwrap();
                while mine.len() < ROUNDS {
                    let value: usize = std::str::from_utf8(&known.value).unwrap().parse().unwrap();
                    let write = put("/n/c", &(value + 1).to_string(), Expect::Revision(known.mod_revision));
                    match store.write(write).await {
                        Ok(written) => {
                            assert_eq!(written.prev, Some(known.clone()));
                            mine.push(written.revision);
                            known = store.get(b"/n/c").await.unwrap().0.unwrap();
                            assert!(known.mod_revision >= written.revision, "a reader sees its own write");
                        }
                        Err(StoreError::Conflict { current }) => {
                            let current = current.unwrap();
                            assert!(current.mod_revision > known.mod_revision, "time does not go back");
                            known = current;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                assert!(mine.is_sorted());
                mine
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), WRITERS * ROUNDS, "every write has its own revision");
    let kv = store.get(b"/n/c").await.unwrap().0.unwrap();
    assert_eq!(&kv.value[..], (WRITERS * ROUNDS).to_string().as_bytes());
}

pub async fn every_watcher_sees_the_same_history(store: S) {
    let start = store.revision().await.unwrap();
    let mut early = store.watch(b"/m/", start).await.unwrap();
    let writers: Vec<_> = (0..6)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for n in 0..60 {
                    let key = format!("/m/{}", (w + n) % 5);
                    let write = if n % 4 == 3 {
                        delete(&key, Expect::Any)
                    } else {
                        put(&key, &format!("{w}.{n}"), Expect::Any)
                    };
                    let put = matches!(write.op, Op::Put { .. });
                    let written = must(&store, write).await;
                    if put || written.prev.is_some() {
                        done.push((written.revision, key, put.then(|| format!("{w}.{n}"))));
                    }
                }
                done
            })
        })
        .collect();
    let middle = store.revision().await.unwrap();
    let mut late = store.watch(b"/m/", middle).await.unwrap();
    let mut model = Vec::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    model.sort();
    let last = model.last().unwrap().0;
    assert_eq!(model.iter().map(|m| m.0).collect::<Vec<_>>(), (start + 1..=last).collect::<Vec<_>>());
    let seen = events(&mut early, last).await;
    assert_eq!(short(&seen), model.iter().map(|(_, k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
    let tail = events(&mut late, last).await;
    assert_eq!(tail, seen.into_iter().filter(|e| e.revision > middle).collect::<Vec<_>>());
}

pub async fn large_values(store: S) {
    const LIMIT: usize = 1536 << 10;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(b"/l/", start).await.unwrap();
    let body = "x".repeat(LIMIT - 2048);
    let written = must(&store, put("/l/big", &body, Expect::Absent)).await;
    assert_eq!(store.get(b"/l/big").await.unwrap().0.unwrap().value, body.as_bytes());
    let seen = events(&mut watch, written.revision).await;
    assert_eq!(seen[0].value.as_deref(), Some(body.as_bytes()));
    for n in 0..8 {
        must(&store, put(&format!("/l/more{n}"), &body, Expect::Absent)).await;
    }
    assert_eq!(store.range(b"/l/", 0).await.unwrap().kvs.len(), 9);

    let refused = store.write(put("/l/huge", &"x".repeat(LIMIT + 1), Expect::Absent)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { size, limit }) if size > limit), "{refused:?}");
    assert_eq!(store.get(b"/l/huge").await.unwrap().0, None);
    must(&store, put("/l/empty", "", Expect::Absent)).await;
    assert_eq!(store.get(b"/l/empty").await.unwrap().0.unwrap().value, "");
}

pub async fn a_future_watch_skips_until_its_revision(store: S) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(b"/f/", start + 2).await.unwrap();
    let mut last = 0;
    for n in 0..4 {
        last = must(&store, put("/f/k", &n.to_string(), Expect::Any)).await.revision;
    }
    let seen = events(&mut watch, last).await;
    assert_eq!(seen.iter().map(|e| e.revision).collect::<Vec<_>>(), [start + 3, start + 4]);
}

pub async fn nudge_reaches_the_newest_revision(store: S) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(b"/mine/", start).await.unwrap();
    let elsewhere = must(&store, put("/theirs/k", "1", Expect::Absent)).await.revision;
    store.nudge().await.unwrap();
    assert_eq!(events(&mut watch, elsewhere).await, []);
}
