//! Writes that a controller has sent but whose events it has not seen yet.
//!
//! Until they are seen, the cache is older than the controller's own deeds, and acting on it would do them twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use client::ObjectKey;
use parking_lot::Mutex;
use tokio::time::Instant;

/// An event that has not come by then never will: act on what the cache says.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Default)]
pub struct Expectations(Mutex<HashMap<ObjectKey, Expected>>);

struct Expected {
    creations: i64,
    /// Uids of what is to go.
    deletions: HashSet<String>,
    at: Instant,
}

impl Expectations {
    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        self.with(owner, |e| e.creations += i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.with(owner, |e| e.deletions.extend(uids));
    }

    fn with(&self, owner: &ObjectKey, change: impl FnOnce(&mut Expected)) {
        let mut all = self.0.lock();
        let now = Instant::now();
        let entry =
            all.entry(owner.clone()).or_insert(Expected { creations: 0, deletions: HashSet::new(), at: now });
        entry.at = now;
        change(entry);
    }

    /// A creation was seen, or has failed.
    pub fn creation_observed(&self, owner: &ObjectKey) {
        if let Some(e) = self.0.lock().get_mut(owner) {
            e.creations -= 1;
        }
    }

    /// A deletion was seen, or has failed.
    pub fn deletion_observed(&self, owner: &ObjectKey, uid: &str) {
        if let Some(e) = self.0.lock().get_mut(owner) {
            e.deletions.remove(uid);
        }
    }

    /// Whether the cache can be trusted to hold the controller's own writes.
    pub fn satisfied(&self, owner: &ObjectKey) -> bool {
        let mut all = self.0.lock();
        let Some(e) = all.get(owner) else { return true };
        if (e.creations <= 0 && e.deletions.is_empty()) || e.at.elapsed() > TIMEOUT {
            all.remove(owner);
            return true;
        }
        false
    }

    pub fn forget(&self, owner: &ObjectKey) {
        self.0.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn satisfied_once_everything_was_seen_or_long_ago() {
        let e = Expectations::default();
        let key = ObjectKey::new("ns", "a");
        assert!(e.satisfied(&key));
        e.expect_creations(&key, 2);
        e.expect_deletions(&key, ["u".to_owned()]);
        e.creation_observed(&key);
        assert!(!e.satisfied(&key));
        e.creation_observed(&key);
        e.deletion_observed(&key, "other");
        assert!(!e.satisfied(&key));
        e.deletion_observed(&key, "u");
        assert!(e.satisfied(&key));
        e.expect_creations(&key, 1);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(e.satisfied(&key));
    }
}
