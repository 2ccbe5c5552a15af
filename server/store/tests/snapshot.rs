//! Saving a store in use and restoring it, with everything that can go wrong on the way.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::embedded::snapshot::{BUMP, SnapshotError, restore, save, status};
use store::embedded::{Options, open};
use store::{Expect, Op, Store, StoreError, Write};

async fn put(store: &dyn Store, key: &str, value: &str) -> u64 {
    let op = Op::Put { value: Bytes::copy_from_slice(value.as_bytes()), ttl: None };
    store
        .write(Write { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, op })
        .await
        .unwrap()
        .revision
}

async fn delete(store: &dyn Store, key: &str) -> u64 {
    let write = Write { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, op: Op::Delete };
    store.write(write).await.unwrap().revision
}

async fn content(store: &dyn Store) -> BTreeMap<String, (String, u64, u64)> {
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    let range = store.range(b"", 0).await.unwrap();
    range
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), (text(&kv.value), kv.mod_revision, kv.create_revision)))
        .collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

async fn filled(place: &Place) -> Arc<dyn Store> {
    let store = open(&place.at("store"), Options::default()).unwrap();
    for i in 0..50 {
        put(&*store, &format!("/k/{i:02}"), &format!("v{i}")).await;
    }
    put(&*store, "/k/07", "again").await;
    delete(&*store, "/k/08").await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_comes_back_and_revisions_only_grow() {
    let place = Place::new();
    let store = filled(&place).await;
    let before = content(&*store).await;
    let saved = save(&place.at("store"), &place.at("snap")).unwrap();
    assert_eq!((saved.keys, saved.revision), (49, store.revision().await.unwrap()));
    assert_eq!(status(&place.at("snap")).unwrap(), saved);
    // Writes after the snapshot are lost, their revisions are not given away again.
    let lost = put(&*store, "/k/lost", "x").await;
    drop(store);

    restore(&place.at("snap"), &place.at("new"), BUMP).unwrap();
    let store = open(&place.at("new"), Options::default()).unwrap();
    assert_eq!(content(&*store).await, before);
    let revision = store.revision().await.unwrap();
    assert_eq!(revision, saved.revision + BUMP);
    assert!(revision > lost);
    for seen in [1, saved.revision, lost, revision - 1] {
        assert!(matches!(store.watch(b"", seen).await.map(|_| ()), Err(StoreError::Compacted(_))), "{seen}");
    }
    drop(store.watch(b"", revision).await.unwrap());
    assert_eq!(put(&*store, "/k/next", "x").await, revision + 1);
    // A compare-and-put against what the snapshot held still holds.
    let (_, modified, _) = before["/k/07"];
    let op = Op::Put { value: "mine".into(), ttl: None };
    store.write(Write { key: "/k/07".into(), expect: Expect::Revision(modified), op }).await.unwrap();
    drop(store);
    // And once more from disk.
    let store = open(&place.at("new"), Options::default()).unwrap();
    assert_eq!(content(&*store).await["/k/07"].0, "mine");
    assert_eq!(store.revision().await.unwrap(), revision + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_writes_is_one_revision() {
    let place = Place::new();
    let store = filled(&place).await;
    let done = Arc::new(AtomicBool::new(false));
    let (writing, stop) = (store.clone(), done.clone());
    // Every write and its revision, to be replayed.
    let writer = tokio::spawn(async move {
        let mut log = Vec::new();
        for i in 0..u64::MAX {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("/k/{:02}", i % 60);
            if i % 7 == 0 {
                log.push((delete(&*writing, &key).await, key, None));
            } else {
                let value = format!("w{i}");
                log.push((put(&*writing, &key, &value).await, key, Some(value)));
            }
        }
        log
    });
    let base = {
        let other = Place::new();
        content(&*filled(&other).await).await
    };
    let mut taken = Vec::new();
    for i in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (from, to) = (place.at("store"), place.at(&format!("snap{i}")));
        let info = tokio::task::spawn_blocking(move || save(&from, &to)).await.unwrap().unwrap();
        taken.push((i, info));
    }
    done.store(true, Ordering::Relaxed);
    let log = writer.await.unwrap();
    drop(store);
    for (i, info) in taken {
        let mut model: BTreeMap<String, String> =
            base.iter().map(|(k, (v, _, _))| (k.clone(), v.clone())).collect();
        for (revision, key, value) in &log {
            if *revision <= info.revision {
                match value {
                    Some(value) => drop(model.insert(key.clone(), value.clone())),
                    None => drop(model.remove(key)),
                }
            }
        }
        let target = place.at(&format!("restored{i}"));
        restore(&place.at(&format!("snap{i}")), &target, BUMP).unwrap();
        let restored = open(&target, Options::default()).unwrap();
        let found: BTreeMap<String, String> =
            content(&*restored).await.into_iter().map(|(k, (v, _, _))| (k, v)).collect();
        assert_eq!(found, model, "snapshot {i} at {}", info.revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_still_do() {
    let place = Place::new();
    let store = open(&place.at("store"), Options::default()).unwrap();
    let op = Op::Put { value: "x".into(), ttl: Some(Duration::from_millis(300)) };
    store.write(Write { key: "/soon".into(), expect: Expect::Any, op }).await.unwrap();
    put(&*store, "/stays", "x").await;
    save(&place.at("store"), &place.at("snap")).unwrap();
    drop(store);
    restore(&place.at("snap"), &place.at("new"), BUMP).unwrap();
    let store = open(&place.at("new"), Options::default()).unwrap();
    for _ in 0..500 {
        if content(&*store).await.len() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the key did not expire");
}

fn refused(result: Result<store::embedded::snapshot::Info, SnapshotError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten() {
    let place = Place::new();
    let store = filled(&place).await;
    std::fs::write(place.at("mine"), "precious").unwrap();
    assert!(refused(save(&place.at("store"), &place.at("mine"))).contains("is there already"));
    assert_eq!(std::fs::read(place.at("mine")).unwrap(), b"precious");
    assert!(refused(save(&place.at("nowhere"), &place.at("snap"))).contains("no embedded store"));
    assert!(refused(save(place.0.path(), &place.at("snap"))).contains("is not a store's"));
    assert!(!place.at("snap").exists());
    save(&place.at("store"), &place.at("snap")).unwrap();
    // The store in use, and any folder with something in it, stay as they are.
    assert!(refused(restore(&place.at("snap"), &place.at("store"), BUMP)).contains("already holds a store"));
    drop(store);
    assert!(refused(restore(&place.at("snap"), &place.at("store"), BUMP)).contains("already holds a store"));
    std::fs::create_dir(place.at("empty")).unwrap();
    restore(&place.at("snap"), &place.at("empty"), BUMP).unwrap();
    assert!(!place.at("snap.part").exists() && !place.at("empty.restoring").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_noticed_and_leaves_nothing_behind() {
    let place = Place::new();
    let store = open(&place.at("store"), Options::default()).unwrap();
    put(&*store, "/a", "1").await;
    put(&*store, "/b", "2").await;
    save(&place.at("store"), &place.at("snap")).unwrap();
    let good = std::fs::read(place.at("snap")).unwrap();
    let check = |bytes: &[u8], what: &str| {
        let path: &Path = &place.at("bad");
        std::fs::write(path, bytes).unwrap();
        assert!(status(path).is_err(), "{what}");
        assert!(
            matches!(restore(path, &place.at("new"), BUMP), Err(SnapshotError::Damaged { .. })),
            "{what}"
        );
        assert!(!place.at("new").exists() && !place.at("new.restoring").exists(), "{what}");
    };
    for length in 0..good.len() {
        check(&good[..length], &format!("cut at {length}"));
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        check(&bytes, &format!("flipped at {at}"));
    }
    let mut longer = good.clone();
    longer.push(0);
    check(&longer, "longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_cut_short_does_not_hinder_the_next() {
    let place = Place::new();
    let store = filled(&place).await;
    std::fs::write(place.at("snap.part"), "half").unwrap();
    let saved = save(&place.at("store"), &place.at("snap")).unwrap();
    let leftover = place.at("new.restoring");
    std::fs::create_dir(&leftover).unwrap();
    std::fs::write(leftover.join("store.db"), "half").unwrap();
    assert_eq!(restore(&place.at("snap"), &place.at("new"), BUMP).unwrap(), saved);
    let restored = open(&place.at("new"), Options::default()).unwrap();
    assert_eq!(content(&*restored).await, content(&*store).await);
}
