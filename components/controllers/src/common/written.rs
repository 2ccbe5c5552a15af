//! Remembers what a controller has written under generated names, so that it does not act on a cache older than that.

use std::collections::HashMap;
use std::time::Duration;

use client::ObjectKey;
use client::objects::uid;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Past this the cache is believed whatever it says.
pub const PATIENCE: Duration = Duration::from_secs(30);

enum Expect {
    /// At least this version.
    Version(u64),
    /// Not the object with this uid.
    Gone(String),
}

/// Owner to object to what the cache must show.
#[derive(Default)]
pub struct Written(Mutex<HashMap<ObjectKey, HashMap<ObjectKey, (Expect, Instant)>>>);

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok())
}

impl Written {
    /// Notes the answer to a create or update.
    pub fn wrote<K: kube::ResourceExt>(&self, owner: &ObjectKey, object: &K) {
        // Versions that are no numbers cannot be compared; then every cache is believed.
        let Some(version) = version(object.meta()) else { return };
        self.note(owner, ObjectKey::of(object), Expect::Version(version));
    }

    pub fn deleted<K: kube::ResourceExt>(&self, owner: &ObjectKey, object: &K) {
        self.note(owner, ObjectKey::of(object), Expect::Gone(uid(object.meta()).to_owned()));
    }

    fn note(&self, owner: &ObjectKey, object: ObjectKey, expect: Expect) {
        self.0.lock().entry(owner.clone()).or_default().insert(object, (expect, Instant::now()));
    }

    pub fn forget(&self, owner: &ObjectKey) {
        self.0.lock().remove(owner);
    }

    /// Whether the cache, asked through `look`, shows everything that was written for `owner`.
    pub fn visible<M: kube::ResourceExt>(
        &self,
        owner: &ObjectKey,
        look: impl Fn(&ObjectKey) -> Option<std::sync::Arc<M>>,
    ) -> bool {
        let mut all = self.0.lock();
        let Some(expected) = all.get_mut(owner) else { return true };
        expected.retain(|key, (expect, at)| {
            let seen = look(key);
            let pending = match expect {
                Expect::Version(v) => seen.and_then(|o| version(o.meta())).is_none_or(|have| have < *v),
                Expect::Gone(gone) => seen.is_some_and(|o| uid(o.meta()) == gone),
            };
            pending && at.elapsed() < PATIENCE
        });
        let done = expected.is_empty();
        if done {
            all.remove(owner);
        }
        done
    }
}
