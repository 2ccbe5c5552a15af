//! API Priority and Fairness (KEP-1040): every request belongs to a flow schema, which names a priority level, whose
//! seats it takes while it runs.
//!
//! FlowSchema and PriorityLevelConfiguration objects are compiled into a match table that requests read without a lock;
//! a level's queues stand behind one short mutex that is never held across an await. A request that finds a seat free
//! costs the match, one lock to enter and one to leave.

mod alloc;
mod config;
mod controller;
mod estimate;
mod level;
mod queues;
mod report;
mod spec;
mod table;

pub use level::Seat;
pub(crate) use report::dump;

use crate::ApiServer;
use crate::authentication::UserInfo;
use crate::http::options::Query;
use crate::http::{Body, RequestInfo, respond};
use crate::status::ApiError;
use arc_swap::ArcSwap;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use parking_lot::Mutex;
use queues::{Details, Mode};
use std::time::Duration;
use table::Table;

/// The longest a request waits for a seat, whatever time it was given.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Flow control of one server.
pub struct FlowControl {
    table: ArcSwap<Table>,
    state: Mutex<config::State>,
    /// Seats of all levels together.
    total: u32,
}

/// What a request was matched to, for the response's headers.
#[derive(Clone)]
pub(crate) struct Matched {
    schema: HeaderValue,
    level: HeaderValue,
}

impl Matched {
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(LEVEL_UID, self.level.clone());
        headers.insert(SCHEMA_UID, self.schema.clone());
    }
}

/// No seat: how many seconds the client should wait before it tries again.
pub(crate) struct TooMany(pub u32);

impl TooMany {
    /// 429 in upstream's words.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = respond::text(429, "Too many requests, please try again later.\n");
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(self.0));
        headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl FlowControl {
    /// With the mandatory levels only, until the objects are read.
    pub fn new(total: u32) -> Self {
        let flow = Self { table: ArcSwap::default(), state: Mutex::default(), total: total.max(1) };
        flow.configure(&[], &[]);
        flow
    }

    /// Waits for the request's seats, a quarter of the time it has, at most. `matched` is set as soon as it is known.
    pub(crate) async fn enter(
        &self,
        server: &ApiServer,
        user: &UserInfo,
        info: &RequestInfo,
        query: &Query,
        time: Option<Duration>,
        matched: &mut Option<Matched>,
    ) -> Result<Option<Seat>, TooMany> {
        let Some(schema) = self.table.load().find(user, info).cloned() else { return Ok(None) };
        *matched = Some(Matched { schema: schema.uid.clone(), level: schema.level_uid.clone() });
        let level = &schema.level;
        let distinguisher = schema.distinguisher(user, info);
        let work = estimate::work(server, info, query, level, &schema.series);
        let patience = time.map_or(LONGEST_WAIT / 4, |time| time / 4).min(LONGEST_WAIT);
        let details = || Details {
            schema: schema.name.to_string(),
            distinguisher: distinguisher.to_owned(),
            at: chrono::Utc::now(),
            user: user.name.clone(),
            verb: info.verb.to_owned(),
            path: info.path.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            version: crate::resolve::join(&info.group, &info.version),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        };
        let hash = schema.hash(distinguisher);
        let entered = level.enter(&schema.series, hash, work, info.is_watch(), patience, details);
        entered.await.map(Some).map_err(TooMany)
    }

    /// Follows the objects until the server stops.
    pub(crate) async fn start(server: &ApiServer) -> Result<(), ApiError> {
        controller::start(server).await
    }
}

#[cfg(test)]
mod tests;
