//! Forgetting history, one API server at a time.
//!
//! Upstream's protocol: `compact_rev_key`'s version is the turn. Whoever advances it compacts to the revision it
//! noted one turn ago, so that history lives for one to two intervals; everyone else only notes.

use super::connection::{Connection, Failure};
use super::pb::{self, compare, request_op, response_op};
use crate::StoreError;
use bytes::Bytes;
use std::time::Duration;

const KEY: &[u8] = b"compact_rev_key";

pub(super) async fn compact(connection: &Connection, revision: i64) -> Result<(), StoreError> {
    match connection.compact(pb::CompactionRequest { revision, physical: false }).await {
        Ok(_) | Err(Failure::Compacted) => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) async fn run(connection: std::sync::Arc<Connection>, every: Duration) {
    let mut turn = 0;
    let mut noted = 0;
    loop {
        tokio::time::sleep(every).await;
        match take_turn(&connection, turn, noted).await {
            Ok((next, revision, mine)) => {
                if mine && noted > 0 {
                    match compact(&connection, noted).await {
                        Ok(()) => tracing::debug!(revision = noted, "etcd compacted"),
                        Err(error) => tracing::warn!(%error, "etcd compaction failed"),
                    }
                }
                (turn, noted) = (next, revision);
            }
            Err(error) => tracing::warn!(%error, "etcd compaction turn failed"),
        }
    }
}

/// The turn after this one, the present revision, and whether this turn is ours.
async fn take_turn(connection: &Connection, turn: i64, noted: i64) -> Result<(i64, i64, bool), StoreError> {
    let key = Bytes::from_static(KEY);
    let operation = |request| vec![pb::RequestOp { request: Some(request) }];
    let put = pb::PutRequest { key: key.clone(), value: noted.to_string().into(), ..Default::default() };
    let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Version as i32,
            key,
            target_union: Some(compare::TargetUnion::Version(turn)),
        }],
        success: operation(request_op::Request::RequestPut(put)),
        failure: operation(request_op::Request::RequestRange(get)),
    };
    let reply = connection.txn(txn).await?;
    let revision = reply.header.map_or(0, |header| header.revision);
    if reply.succeeded {
        return Ok((turn + 1, revision, true));
    }
    let version = match reply.responses.into_iter().next().and_then(|r| r.response) {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.version),
        _ => 0,
    };
    Ok((version, revision, false))
}
