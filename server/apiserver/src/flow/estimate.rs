//! How many seats a request needs, by upstream's estimators: lists by what they hold in memory at once, writes by the
//! watchers that will hear of them.

use super::level::{Level, Series};
use super::queues::Work;
use crate::ApiServer;
use crate::http::RequestInfo;
use crate::http::options::Query;
use std::time::Duration;

const BYTES_PER_SEAT: u64 = 100_000;
/// A list from the cache is streamed, and never holds more than this at once.
const STREAMED: u64 = 1_000_000;
const MOST_FOR_LIST: u32 = 100;
const MOST_FOR_WRITE: u32 = 10;
const WATCHERS_PER_SEAT: u64 = 10;
const EVENT: Duration = Duration::from_millis(5);
/// How many objects the mean size is taken from.
const SAMPLE: usize = 8;

pub(super) fn work(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    level: &Level,
    series: &Series,
) -> Work {
    if !info.resource_request {
        return Work::ONE;
    }
    match info.verb {
        "list" => {}
        "watch" if query.flag("sendInitialEvents") => {}
        "create" | "update" | "patch" | "delete" => return write(server, info, level, series),
        _ => return Work::ONE,
    }
    let single =
        query.text("fieldSelector").is_some_and(|s| s.split(',').any(|t| t.starts_with("metadata.name=")));
    if single {
        return Work::ONE;
    }
    let Some(resource) = server.index.load().find(&info.group, &info.version, &info.resource).cloned() else {
        return Work::ONE;
    };
    let snapshot = resource.cache.snapshot();
    let count = snapshot.len() as u64;
    let limited = match query.integer("limit") {
        Ok(Some(limit)) if limit > 0 => count.min(limit.unsigned_abs()),
        _ => count,
    };
    let (sampled, bytes) =
        snapshot.iter().take(SAMPLE).fold((0u64, 0u64), |(n, b), e| (n + 1, b + e.json.len() as u64));
    let mean = bytes.checked_div(sampled).unwrap_or(0);
    let seats = (limited * mean).min(STREAMED).div_ceil(BYTES_PER_SEAT);
    let initial = u32::try_from(seats).unwrap_or(u32::MAX).clamp(1, widest(level, MOST_FOR_LIST));
    Work { initial, ..Work::ONE }
}

fn widest(level: &Level, most: u32) -> u32 {
    match level.limits.lock().widest {
        0 => most,
        widest => widest.min(most),
    }
}

fn write(server: &ApiServer, info: &RequestInfo, level: &Level, series: &Series) -> Work {
    if info.resource == "serviceaccounts" && info.subresource == "token" {
        return Work::ONE;
    }
    let index = server.index.load();
    let Some(resource) = index.find(&info.group, &info.version, &info.resource) else { return Work::ONE };
    let watchers = resource.cache.watchers() as u64;
    series.watchers.note(watchers as f64);
    if watchers < WATCHERS_PER_SEAT {
        return Work::ONE;
    }
    let seats = watchers.div_ceil(WATCHERS_PER_SEAT);
    let last = u32::try_from(seats).unwrap_or(u32::MAX).min(widest(level, MOST_FOR_WRITE)).max(1);
    // The same work on fewer seats takes longer.
    let linger = EVENT.mul_f64(seats as f64 / f64::from(last));
    Work { initial: 1, last, linger }
}
