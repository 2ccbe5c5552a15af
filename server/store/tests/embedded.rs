//! What the embedded engine promises about the disk: kill -9, a full disk, restarts, bounded history.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::embedded::{Embedded, Options};
use store::{Event, Expect, Op, Revision, Store, StoreError, Write};

const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "STORE_CRASH_TEST_DIRECTORY";

fn put(key: &str, value: impl Into<Bytes>) -> Write {
    let op = Op::Put { value: value.into(), ttl: None };
    Write { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, op }
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).unwrap()
}

async fn history(store: &dyn Store, after: Revision) -> Vec<Event> {
    let end = store.revision().await.unwrap();
    let mut watch = store.watch(b"", after).await.unwrap();
    let mut events = Vec::new();
    let mut reached = after;
    while reached < end {
        let batch = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
        reached = batch.revision;
        events.extend(batch.events);
    }
    events
}

/// Not a test by itself: the process that [`nothing_acknowledged_is_lost_to_kill_nine`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(open(&PathBuf::from(dir)));
    let tasks = (0..6).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let key = format!("/k/{writer}/{}", n % 5);
                let value = format!("{n}.{}", "x".repeat(n % 3000));
                let written = store.write(put(&key, value)).await.unwrap();
                // In one piece: the parent trusts whole lines only.
                let line = format!("{} {key} {n}\n", written.revision);
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(tasks).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_nine() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Revision, (String, String)> = BTreeMap::new();
    let mut begin = 1;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash_child", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut seen = 0;
        let mut line = String::new();
        let mut killed = false;
        // Killed in mid-flight; what was acknowledged until then is still in the pipe.
        while lines.read_line(&mut line).unwrap() > 0 {
            if let [revision, key, n] = line.trim_end_matches('\n').split(' ').collect::<Vec<_>>()[..]
                && line.ends_with('\n')
                && let Ok(revision) = revision.parse()
            {
                let reused = acknowledged.insert(revision, (key.to_owned(), n.to_owned()));
                assert_eq!(reused, None, "revision {revision} was given twice");
                seen += 1;
            }
            if seen > 50 + 70 * round && !killed {
                child.kill().unwrap();
                killed = true;
            }
            line.clear();
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");

        let store = open(dir.path());
        let events = history(&store, begin).await;
        assert_eq!(
            events.iter().map(|e| e.revision).collect::<Vec<_>>(),
            (begin + 1..=store.revision().await.unwrap()).collect::<Vec<_>>(),
            "history has no gap"
        );
        let mut last = BTreeMap::new();
        for event in &events {
            if let Some((key, n)) = acknowledged.get(&event.revision) {
                let value = std::str::from_utf8(event.value.as_ref().unwrap()).unwrap();
                assert_eq!((&event.key[..], value.split('.').next()), (key.as_bytes(), Some(n.as_str())));
            }
            last.insert(event.key.clone(), event.revision);
        }
        let durable: BTreeSet<_> = events.iter().map(|e| e.revision).collect();
        let lost: Vec<_> = acknowledged.range(begin + 1..).filter(|(r, _)| !durable.contains(r)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        for (key, revision) in last {
            assert_eq!(store.get(&key).await.unwrap().0.map(|kv| kv.mod_revision), Some(revision));
        }
        begin = store.revision().await.unwrap();
    }
}

/// What a power cut may leave: the log's unfinished tail cut short, zeroed or overwritten with rubbish.
#[tokio::test]
async fn a_torn_tail_is_dropped_and_what_precedes_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut ends = Vec::new();
    let log = dir.path().join("store.db-wal");
    for n in 0..30 {
        store.write(put(&format!("/k/{}", n % 7), vec![b'a'; 50 + n * 331])).await.unwrap();
        ends.push(std::fs::metadata(&log).unwrap().len());
    }
    let image = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (marker, database, log) = (image("STORE"), image("store.db"), image("store.db-wal"));
    let whole = history(&store, 1).await;
    drop(store);
    for cut in (0..log.len()).step_by(9973) {
        for tear in [|_: &mut [u8]| {}, |tail: &mut [u8]| tail.fill(0), |tail: &mut [u8]| tail.fill(0xa5)] {
            let dir = tempfile::tempdir().unwrap();
            let mut torn = log.clone();
            tear(&mut torn[cut..]);
            if torn == log {
                torn.truncate(cut);
            }
            for (name, content) in [("STORE", &marker), ("store.db", &database), ("store.db-wal", &torn)] {
                std::fs::write(dir.path().join(name), content).unwrap();
            }
            let store = open(dir.path());
            let complete = ends.iter().filter(|end| **end <= cut as u64).count();
            let kept = history(&store, 1).await;
            assert!(kept.len() >= complete, "cut at {cut}: {} of {complete}", kept.len());
            assert_eq!(kept, whole[..kept.len()]);
            let next = store.write(put("/next", "x")).await.unwrap().revision;
            assert_eq!(next, kept.len() as u64 + 2);
        }
    }
}

/// A small file system of its own, unmounted when dropped; `None`, said aloud, where that is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: may not mount a small file system");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_whole_and_recovers() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    store.write(put("/before", "kept")).await.unwrap();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();

    let mut accepted = Vec::new();
    let mut refused = 0;
    let mut n = 0;
    while refused < 5 {
        let key = format!("/fill/{n}");
        n += 1;
        match store.write(put(&key, vec![7; 100_000])).await {
            Ok(written) => accepted.push((key, written.revision)),
            Err(StoreError::Unavailable(_) | StoreError::Io(_)) => {
                refused += 1;
                assert_eq!(store.get(key.as_bytes()).await.unwrap().0, None, "refused means not there");
            }
            Err(other) => panic!("{other:?}"),
        }
        assert!(n < 1000, "the disk never fills");
    }
    assert!(store.health().await.is_err());
    let newest = accepted.last().map_or(2, |(_, revision)| *revision);
    assert_eq!(store.revision().await.unwrap(), newest);

    std::fs::remove_file(&ballast).unwrap();
    let after = store.write(put("/after", "space")).await.unwrap();
    assert_eq!(after.revision, newest + 1, "refused writes took no revision");
    store.health().await.unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.range(b"", 0).await.unwrap().kvs.len(), accepted.len() + 2);
    assert_eq!(history(&store, 1).await.len(), accepted.len() + 2);
}

#[tokio::test]
async fn state_history_and_expiry_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = store.cluster_id().to_owned();
    for n in 0..20 {
        store.write(put("/k", n.to_string())).await.unwrap();
    }
    for (key, ttl) in [("/later", Duration::from_secs(3600)), ("/soon", Duration::from_millis(1))] {
        let op = Op::Put { value: "x".into(), ttl: Some(ttl) };
        store.write(Write { key: key.into(), expect: Expect::Absent, op }).await.unwrap();
    }
    let newest = store.revision().await.unwrap();
    let mut watch = store.watch(b"", newest).await.unwrap();
    drop(store);
    while let Some(batch) = watch.next().await {
        let Err(error) = batch else { continue };
        assert!(matches!(error, StoreError::Unavailable(_)), "a watch ends with its store: {error:?}");
    }

    let store = open(dir.path());
    assert_eq!(store.cluster_id(), id);
    let mut watch = store.watch(b"", 1).await.unwrap();
    let mut events: Vec<Event> = Vec::new();
    while !events.iter().any(|event| event.value.is_none()) {
        events.extend(tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap().events);
    }
    let last = events.last().unwrap();
    assert_eq!((&last.key[..], last.prev.as_deref()), (&b"/soon"[..], Some(&b"x"[..])));
    assert_eq!(
        events.iter().map(|e| e.revision).collect::<Vec<_>>(),
        (2..=last.revision).collect::<Vec<_>>()
    );
    let keys: Vec<_> = store.range(b"", 0).await.unwrap().kvs.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, ["/k", "/later"]);
}

#[tokio::test]
async fn history_is_bounded_and_revisions_are_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_events: 100, ..Options::default() };
    let store = Embedded::open(dir.path(), options.clone()).unwrap();
    store.write(put("/kept", "from the start")).await.unwrap();
    let value = Bytes::from(vec![b'v'; 2000]);
    for n in 0..5000 {
        store.write(put(&format!("/k/{}", n % 10), value.clone())).await.unwrap();
        if n % 7 == 0 {
            let key = Bytes::from(format!("/k/{}", n % 10));
            store.write(Write { key, expect: Expect::Any, op: Op::Delete }).await.unwrap();
        }
    }
    let newest = store.revision().await.unwrap();
    assert!(matches!(store.watch(b"", 2).await, Err(StoreError::Compacted(2))));
    assert_eq!(history(&store, newest - 50).await.len(), 50);
    assert_eq!(store.get(b"/kept").await.unwrap().0.unwrap().value, "from the start");
    let size = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(size < 4 << 20, "5000 values of 2000 bytes, 100 kept: {size}");

    for n in 0..10 {
        let key = Bytes::from(format!("/k/{n}"));
        store.write(Write { key, expect: Expect::Any, op: Op::Delete }).await.unwrap();
    }
    let newest = store.revision().await.unwrap();
    store.compact(newest).await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path(), options).unwrap();
    assert_eq!(store.revision().await.unwrap(), newest);
    assert!(matches!(store.watch(b"", newest - 1).await, Err(StoreError::Compacted(_))));
    assert_eq!(store.write(put("/next", "x")).await.unwrap().revision, newest + 1);
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_hinders_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watch_backlog_bytes: 100_000, ..Options::default() };
    let store = Embedded::open(dir.path(), options).unwrap();
    let mut slow = store.watch(b"", 1).await.unwrap();
    let mut quick = store.watch(b"", 1).await.unwrap();
    for n in 0..40 {
        let revision = store.write(put("/k", vec![b'x'; 10_000])).await.unwrap().revision;
        assert_eq!(quick.next().await.unwrap().unwrap().revision, revision, "write {n}");
    }
    let mut delivered = 0;
    let error = loop {
        match slow.next().await.unwrap() {
            Ok(batch) => delivered += batch.events.len(),
            Err(error) => break error,
        }
    };
    assert!(delivered < 40 && error.to_string().contains("too slow"), "{delivered} {error}");
    assert!(slow.next().await.is_none());
    assert_eq!(
        store.watch(b"", 1).await.unwrap().next().await.unwrap().unwrap().events.len(),
        40,
        "it may resume"
    );
}

#[tokio::test]
async fn a_damaged_database_is_named_so() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("store.db"), vec![b'?'; 8192]).unwrap();
    let error = Embedded::open(dir.path(), Options::default()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
}

/// Its write-ahead log starts over only when a write finds all of it moved, which a load without a pause never offers by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_in_use_does_not_grow_with_the_length_of_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let tasks = (0..16).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..500 {
                store
                    .write(put(&format!("/k/{writer}"), format!("{n}.{}", "x".repeat(20_000))))
                    .await
                    .unwrap();
            }
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    let logs = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("-wal"));
    let log: u64 = logs.map(|entry| entry.metadata().unwrap().len()).sum();
    // 160 MB were written; the log is kept to 16 MiB and what comes in while it is being moved.
    assert!((1 << 20..48 << 20).contains(&log), "{log}");
}
