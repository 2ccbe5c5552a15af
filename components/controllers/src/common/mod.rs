//! What several controllers share.

pub mod claim;
pub mod expectations;
pub mod hash;
pub mod history;
pub mod podctl;
pub mod written;

use std::time::Duration;

use jiff::Timestamp;
#[cfg(test)]
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[cfg(test)]
pub fn now() -> Time {
    Time(Timestamp::now())
}

/// Seconds from `now` until `at`, at least one millisecond so that a timer never spins.
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    let millis = at.as_millisecond().saturating_sub(now.as_millisecond()).max(1);
    Duration::from_millis(u64::try_from(millis).unwrap_or(1))
}
