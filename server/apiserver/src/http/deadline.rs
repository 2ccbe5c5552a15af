//! How long one request may take: the server's limit, a client's shorter `timeout`, and 34 seconds for writes.

use super::RequestInfo;
use super::options::Query;
use crate::status::ApiError;
use std::time::Duration;

/// Upstream's bound on what a write may take, whatever the client asks for.
const WRITE: Duration = Duration::from_secs(34);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub time: Duration,
    /// The bound on writes was the shortest.
    write: bool,
}

impl Deadline {
    /// 504 in upstream's words.
    pub(crate) fn error(self) -> ApiError {
        ApiError::timeout(
            if self.write {
                "request did not complete within requested timeout - context deadline exceeded"
            } else {
                "request did not complete within the allotted timeout"
            },
            0,
        )
    }
}

/// Reads `?timeout=`: a Go duration; 0, or more than the server's limit, is that limit.
pub(crate) fn of(query: &Query, info: &RequestInfo, limit: Duration) -> Result<Deadline, ApiError> {
    let asked = match query.text("timeout") {
        None => None,
        Some(text) => Some(machinery::codec::parse_duration(text).map_err(|why| {
            ApiError::bad_request(format!("invalid timeout specified in the request URL - {why}"))
        })?),
    };
    let time = match asked.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos) {
        Some(asked) if !asked.is_zero() && asked < limit => asked,
        _ => limit,
    };
    let write = info.resource_request
        && matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection")
        && time > WRITE;
    Ok(Deadline { time: if write { WRITE } else { time }, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_limit_wins() {
        let limit = Duration::from_secs(60);
        let of = |verb: &str, query: &str| {
            let info = RequestInfo::read(&verb.parse().unwrap(), "/api/v1/namespaces/a/pods/b", &[]).unwrap();
            super::of(&Query::parse(Some(query)), &info, limit).map(|d| d.time.as_millis())
        };
        assert_eq!(of("GET", "").unwrap(), 60_000);
        assert_eq!(of("GET", "timeout=1.5s").unwrap(), 1500);
        assert_eq!(of("GET", "timeout=0s").unwrap(), 60_000);
        assert_eq!(of("GET", "timeout=5m").unwrap(), 60_000);
        assert_eq!(of("PUT", "").unwrap(), 34_000);
        assert_eq!(of("PUT", "timeout=50s").unwrap(), 34_000);
        assert_eq!(of("DELETE", "timeout=2s").unwrap(), 2000);
        let error = of("GET", "timeout=abc").unwrap_err();
        assert_eq!(error.code, 400);
        assert!(
            error.message.starts_with("invalid timeout specified in the request URL - "),
            "{}",
            error.message
        );
    }
}
