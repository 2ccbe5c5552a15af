//! The etcd engine: the same promises, kept by an etcd cluster (3.4 or newer).
//!
//! A write is one transaction: compare the key's `mod_revision`, then put or delete, else read what is there. A
//! range is read in pages, all at the first page's revision. Reads are linearizable. Requests go to one endpoint
//! until it fails, then to the next; a write is sent again only where it surely never left this process, so an
//! `Unavailable` write may have happened.
//!
//! Keys that expire hang on leases, shared as upstream's API server shares them; etcd then deletes them together, at
//! one revision. History is compacted every [`Options::compaction`] by whichever API server on the same etcd
//! claims the turn, by upstream's protocol, so that the two can share a cluster.

mod compactor;
mod connection;
mod lease;
mod watch;

/// Generated from `proto/etcd.proto`.
#[allow(clippy::all, clippy::pedantic)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

use crate::{Expect, KeyValue, Op, Range, Revision, Store, StoreError, WatchStream, Write, Written};
use async_trait::async_trait;
use bytes::Bytes;
use connection::Connection;
use parking_lot::Mutex;
use pb::{compare, request_op, response_op};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// PEM texts.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who may have signed the servers' certificates.
    pub ca: Vec<u8>,
    /// This client's certificate and key, where the servers ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone)]
pub struct Options {
    /// `http://host:2379` or `https://…`, all of one cluster.
    pub endpoints: Vec<String>,
    /// Needed for `https`.
    pub tls: Option<Tls>,
    /// Put before every key; several stores may share an etcd.
    pub prefix: String,
    /// etcd's `--max-request-bytes`.
    pub max_request: usize,
    /// `None`: never compact.
    pub compaction: Option<Duration>,
}

impl Options {
    pub fn new(endpoints: &[String], tls: Option<Tls>, prefix: &str) -> Self {
        Self {
            endpoints: endpoints.to_vec(),
            tls,
            prefix: prefix.to_owned(),
            max_request: 1536 << 10,
            compaction: Some(Duration::from_secs(300)),
        }
    }
}

/// Keys per page of a range.
const PAGE: i64 = 500;
/// Written by [`Store::nudge`] under every watched prefix, and hidden from readers.
const NUDGE: &[u8] = b"\0nudge";

/// Connects, and makes sure that at least one endpoint answers.
pub async fn connect(
    endpoints: &[String],
    tls: Option<Tls>,
    prefix: &str,
) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(Etcd::connect(Options::new(endpoints, tls, prefix)).await?))
}

pub struct Etcd {
    connection: Arc<Connection>,
    prefix: Vec<u8>,
    max_request: usize,
    leases: lease::Leases,
    /// Watched prefixes, with how many watches each has.
    watched: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
    _compactor: Option<AbortOnDropHandle<()>>,
}

impl Etcd {
    pub async fn connect(options: Options) -> Result<Self, StoreError> {
        let connection = Arc::new(Connection::new(&options.endpoints, options.tls.as_ref())?);
        let version = connection.probe().await?;
        tracing::info!(endpoints = ?options.endpoints, version, "etcd connected");
        let compactor =
            options.compaction.map(|every| tokio::spawn(compactor::run(connection.clone(), every)));
        Ok(Self {
            connection,
            prefix: options.prefix.into_bytes(),
            max_request: options.max_request,
            leases: lease::Leases::default(),
            watched: Arc::default(),
            _compactor: compactor.map(AbortOnDropHandle::new),
        })
    }

    fn key(&self, key: &[u8]) -> Bytes {
        [&self.prefix, key].concat().into()
    }

    /// A key as our callers know it.
    fn stripped(&self, key: &Bytes) -> Bytes {
        key.slice(self.prefix.len().min(key.len())..)
    }

    fn kv(&self, kv: pb::KeyValue) -> KeyValue {
        KeyValue {
            key: self.stripped(&kv.key),
            value: kv.value,
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
        }
    }
}

fn revision(n: i64) -> Revision {
    u64::try_from(n).unwrap_or(0)
}

fn number(n: Revision) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn header(header: Option<&pb::ResponseHeader>) -> Revision {
    header.map_or(0, |header| revision(header.revision))
}

/// etcd's end of the range of all keys with `prefix`: "\0" stands for the end of everything.
fn range_end(prefix: &[u8]) -> Bytes {
    crate::prefix_end(prefix).map_or(Bytes::from_static(b"\0"), Bytes::from)
}

/// etcd knows no empty key; "\0" is the first one.
fn range_start(prefix: &[u8]) -> Bytes {
    if prefix.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(prefix) }
}

#[async_trait]
impl Store for Etcd {
    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let size = write.size();
        if size > self.max_request {
            return Err(StoreError::TooLarge { size, limit: self.max_request });
        }
        let key = self.key(&write.key);
        let read = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let expected = match write.expect {
            Expect::Any => None,
            Expect::Absent => Some(0),
            // No key is at revision 0; to etcd that would mean an absent one.
            Expect::Revision(0) => Some(-1),
            Expect::Revision(at) => Some(number(at)),
        };
        let compare = expected.map(|at| pb::Compare {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(at)),
        });
        let change = match write.op {
            Op::Put { value, ttl } => {
                let lease = match ttl {
                    None => 0,
                    Some(ttl) => self.leases.get(&self.connection, ttl).await?,
                };
                request_op::Request::RequestPut(pb::PutRequest { key, value, lease, prev_kv: true })
            }
            Op::Delete => request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                prev_kv: true,
                ..Default::default()
            }),
        };
        let operation = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare: compare.into_iter().collect(),
            success: vec![operation(change)],
            failure: vec![operation(request_op::Request::RequestRange(read))],
        };
        let reply = self.connection.txn(txn).await.map_err(|e| e.of_request(size, self.max_request))?;
        let revision = header(reply.header.as_ref());
        match reply.responses.into_iter().next().and_then(|r| r.response) {
            Some(response_op::Response::ResponseRange(range)) => {
                Err(StoreError::Conflict { current: range.kvs.into_iter().next().map(|kv| self.kv(kv)) })
            }
            Some(response_op::Response::ResponsePut(put)) => {
                Ok(Written { revision, prev: put.prev_kv.map(|kv| self.kv(kv)) })
            }
            Some(response_op::Response::ResponseDeleteRange(deleted)) => {
                Ok(Written { revision, prev: deleted.prev_kvs.into_iter().next().map(|kv| self.kv(kv)) })
            }
            None => Err(StoreError::Unavailable("etcd sent an empty answer to a transaction".into())),
        }
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let request = pb::RangeRequest { key: self.key(key), ..Default::default() };
        let reply = self.connection.range(request).await?;
        let at = header(reply.header.as_ref());
        Ok((reply.kvs.into_iter().next().map(|kv| self.kv(kv)), at))
    }

    async fn range(&self, prefix: &[u8], limit: usize) -> Result<Range, StoreError> {
        let prefix = self.key(prefix);
        let end = range_end(&prefix);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut next = range_start(&prefix);
        let mut range = Range { revision: 0, kvs: Vec::new() };
        loop {
            let wanted = i64::try_from(limit - range.kvs.len()).unwrap_or(PAGE).min(PAGE);
            let at = number(range.revision);
            let request = pb::RangeRequest {
                key: next,
                range_end: end.clone(),
                limit: wanted,
                revision: at,
                ..Default::default()
            };
            let page = match self.connection.range(request).await {
                // The first page's state was compacted away meanwhile: start again at a newer one.
                Err(connection::Failure::Compacted) if range.revision > 0 => {
                    range = Range { revision: 0, kvs: Vec::new() };
                    next = range_start(&prefix);
                    continue;
                }
                page => page?,
            };
            if range.revision == 0 {
                range.revision = header(page.header.as_ref());
            }
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()) else { return Ok(range) };
            range
                .kvs
                .extend(page.kvs.into_iter().filter(|kv| !kv.key.ends_with(NUDGE)).map(|kv| self.kv(kv)));
            if !page.more || range.kvs.len() >= limit {
                return Ok(range);
            }
            next = [&last[..], b"\0"].concat().into();
        }
    }

    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<WatchStream, StoreError> {
        let watching = watch::Watched::new(self.watched.clone(), self.key(prefix).to_vec());
        watch::open(self.connection.clone(), watching, self.prefix.len(), after).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let request = pb::RangeRequest { key: self.key(b"health"), count_only: true, ..Default::default() };
        Ok(header(self.connection.range(request).await?.header.as_ref()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        compactor::compact(&self.connection, number(revision)).await
    }

    async fn nudge(&self) -> Result<(), StoreError> {
        // etcd can be asked for progress, but before 3.4.25 and 3.5.8 the answer may overtake events. A write under
        // the prefix cannot.
        let prefixes: Vec<_> = self.watched.lock().keys().cloned().collect();
        for prefix in prefixes {
            let key = [&prefix, NUDGE].concat().into();
            let put = request_op::Request::RequestPut(pb::PutRequest { key, ..Default::default() });
            let txn =
                pb::TxnRequest { success: vec![pb::RequestOp { request: Some(put) }], ..Default::default() };
            self.connection.txn(txn).await?;
        }
        Ok(())
    }

    async fn health(&self) -> Result<(), StoreError> {
        match tokio::time::timeout(Duration::from_secs(2), self.revision()).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(StoreError::Unavailable("etcd does not answer".into())),
        }
    }
}
