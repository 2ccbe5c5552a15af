//! How long a failing thing waits before it is tried again: 10 s doubling to 5 min, forgotten after 10 min of peace.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MOST: SignedDuration = SignedDuration::from_secs(300);
const FORGET: SignedDuration = SignedDuration::from_secs(600);

#[derive(Clone, Debug, Default)]
pub struct Backoff(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

impl Backoff {
    /// The end of the wait of what failed at `failed`, if it is still to come.
    pub fn until(&self, key: &str, failed: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.0.get(key)?;
        if failed.duration_since(entry.updated) > FORGET {
            return None;
        }
        let end = failed.checked_add(entry.delay).ok()?;
        (end > now).then_some(end)
    }

    /// Counts one more failure, which happened at `failed`; the next wait is twice as long.
    pub fn next(&mut self, key: &str, failed: Timestamp, now: Timestamp) {
        let fresh = Entry { delay: FIRST, updated: now };
        match self.0.get_mut(key) {
            Some(entry) if failed.duration_since(entry.updated) <= FORGET => {
                entry.delay = entry.delay.saturating_mul(2).min(MOST);
                entry.updated = now;
            }
            _ => {
                self.0.insert(key.to_owned(), fresh);
            }
        }
    }

    /// The end of the wait that began with the last counted failure.
    pub fn waiting(&self, key: &str, now: Timestamp) -> Option<Timestamp> {
        let entry = self.0.get(key)?;
        let end = entry.updated.checked_add(entry.delay).ok()?;
        (end > now).then_some(end)
    }

    pub fn delay(&self, key: &str) -> SignedDuration {
        self.0.get(key).map_or(SignedDuration::ZERO, |e| e.delay)
    }

    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// A duration in Go's notation, as upstream's messages have it: `1m20s`, `10s`, `500ms`.
pub fn go_duration(d: SignedDuration) -> String {
    let ms = d.as_millis();
    if ms == 0 {
        return "0s".into();
    }
    if ms.abs() < 1000 {
        return format!("{ms}ms");
    }
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = if s % 1000 == 0 {
        format!("{}s", s / 1000)
    } else {
        format!("{}.{}s", s / 1000, format!("{:03}", s % 1000).trim_end_matches('0'))
    };
    match (h, m) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("in range")
    }

    #[test]
    fn doubles_to_five_minutes_and_forgets() {
        let mut b = Backoff::default();
        assert_eq!(b.until("c", at(0), at(0)), None);
        b.next("c", at(0), at(0));
        assert_eq!(b.until("c", at(1), at(1)), Some(at(11)));
        assert_eq!(b.until("c", at(1), at(11)), None);
        let mut waits = Vec::new();
        let mut t = 11;
        for _ in 0..6 {
            b.next("c", at(t), at(t));
            waits.push(b.delay("c").as_secs());
            t += waits[waits.len() - 1];
        }
        assert_eq!(waits, [20, 40, 80, 160, 300, 300]);
        b.next("c", at(t + 601), at(t + 601));
        assert_eq!(b.delay("c").as_secs(), 10);
    }

    #[test]
    fn go_durations() {
        for (ms, text) in [
            (0, "0s"),
            (500, "500ms"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (1_500, "1.5s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_millis(ms)), text);
        }
    }
}
