//! Leases for keys that expire, shared between keys of like lifetimes.
//!
//! A lease a key costs etcd dearly, so a lease is granted a little longer than asked (5 %, at most a minute) and
//! reused while a key on it would still live its full time. Keys may thus outlive their TTL by that little.

use super::connection::Connection;
use super::pb;
use crate::StoreError;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Keys on one lease: etcd deletes them all in one transaction.
const KEYS: usize = 1000;
const LONGEST_REUSE: u64 = 60;

#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<u64, Lease>>);

struct Lease {
    id: i64,
    /// A key put later than this would not live long enough.
    usable_until: Instant,
    keys: usize,
}

impl Leases {
    pub(super) async fn get(&self, connection: &Connection, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = ttl.as_secs().max(1) + u64::from(ttl.as_secs() > 0 && ttl.subsec_nanos() > 0);
        let reuse = (seconds / 20).min(LONGEST_REUSE);
        // Held while granting: whoever waits will use the same lease.
        let mut leases = self.0.lock().await;
        let now = Instant::now();
        leases.retain(|_, lease| lease.usable_until > now && lease.keys < KEYS);
        if let Some(lease) = leases.get_mut(&seconds) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let wanted = i64::try_from(seconds + reuse).unwrap_or(i64::MAX);
        let granted = connection.grant(pb::LeaseGrantRequest { ttl: wanted, id: 0 }).await?;
        if !granted.error.is_empty() {
            return Err(StoreError::Unavailable(format!("etcd grants no lease: {}", granted.error)));
        }
        if reuse > 0 {
            let usable_until = now + Duration::from_secs(reuse);
            leases.insert(seconds, Lease { id: granted.id, usable_until, keys: 1 });
        }
        Ok(granted.id)
    }
}
