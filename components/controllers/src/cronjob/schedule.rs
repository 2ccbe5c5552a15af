//! Cron schedules: five fields, names, steps and the `@daily` words. Pure.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A parsed schedule: a bit for each value a field allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day of month and day of week were both given; then either will do.
    either_day: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unparseable schedule {text:?}: {why}")]
pub struct ScheduleError {
    text: String,
    why: String,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn field(text: &str, min: u8, max: u8, names: &[&str]) -> Result<u64, String> {
    let number = |t: &str| -> Result<u8, String> {
        let lower = t.to_lowercase();
        if let Some(at) = names.iter().position(|n| *n == lower) {
            return Ok(min + u8::try_from(at).unwrap_or(0));
        }
        t.parse::<u8>().map_err(|_| format!("{t:?} is no number"))
    };
    let mut bits = 0u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (part, None),
        };
        if step == Some(0) {
            return Err("a step must be positive".into());
        }
        let (from, to) = match range {
            "*" | "?" => (min, max),
            _ => match range.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => {
                    let n = number(range)?;
                    (n, if step.is_some() { max } else { n })
                }
            },
        };
        // Sunday has two numbers.
        let top = if names.len() == 7 { 7 } else { max };
        if from < min || to > top || from > to {
            return Err(format!("{part:?} is out of the range {min} to {max}"));
        }
        for n in (from..=to).step_by(usize::from(step.unwrap_or(1))) {
            bits |= 1 << if names.len() == 7 { n % 7 } else { n };
        }
    }
    Ok(bits)
}

impl Schedule {
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fail = |why: String| ScheduleError { text: text.to_owned(), why };
        let expanded = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let parts: Vec<&str> = expanded.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts.as_slice() else {
            return Err(fail(format!("expected exactly 5 fields, found {}", parts.len())));
        };
        let open = |t: &str| t.starts_with('*') || t.starts_with('?');
        Ok(Self {
            minutes: field(minutes, 0, 59, &[]).map_err(fail)?,
            hours: field(hours, 0, 23, &[]).map_err(fail)?,
            days: field(days, 1, 31, &[]).map_err(fail)?,
            months: field(months, 1, 12, &MONTHS).map_err(fail)?,
            weekdays: field(weekdays, 0, 6, &DAYS).map_err(fail)?,
            either_day: !open(days) && !open(weekdays),
        })
    }

    fn on_date(&self, date: Date) -> bool {
        let has = |bits: u64, n: i8| bits & (1 << n) != 0;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either_day { day || weekday } else { day && weekday }
    }

    /// The first time after `after`, if there is one in the next five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let mut date = start.date();
        for _ in 0..=(366 * 5) {
            if self.on_date(date) {
                let found = self.times(date).filter_map(|t| zone.to_zoned(t).ok()).map(|z| z.timestamp());
                if let Some(at) = found.filter(|t| *t > after).min() {
                    return Some(at);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn times(&self, date: Date) -> impl Iterator<Item = DateTime> {
        let (minutes, hours) = (self.minutes, self.hours);
        (0..24i8).filter(move |h| hours & (1 << h) != 0).flat_map(move |h| {
            (0..60i8).filter(move |m| minutes & (1 << m) != 0).map(move |m| date.at(h, m, 0, 0))
        })
    }

    /// The last time in `(after, until]`, and how many there were, counted up to 101.
    pub fn last_missed(
        &self,
        after: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
    ) -> Option<(Timestamp, usize)> {
        let first = self.next(after, zone).filter(|t| *t <= until)?;
        let second = self.next(first, zone);
        let Some(second) = second.filter(|t| *t <= until) else { return Some((first, 1)) };
        // Far behind: jump near the end first.
        let step = second.as_second() - first.as_second();
        let behind = (until.as_second() - first.as_second()) / step.max(1);
        let count = usize::try_from(behind).unwrap_or(101).saturating_add(1).min(101);
        let mut at = first;
        if behind > 200 {
            let near = Timestamp::from_second(until.as_second() - 2 * 24 * 3600 - step).ok();
            at = near
                .filter(|t| *t > first)
                .and_then(|t| self.next(t, zone))
                .filter(|t| *t <= until)
                .unwrap_or(first);
        }
        while let Some(next) = self.next(at, zone).filter(|t| *t <= until) {
            at = next;
        }
        Some((at, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(schedule: &str, after: &str) -> String {
        let at = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC).unwrap();
        at.to_string()
    }

    #[test]
    fn the_next_time() {
        assert_eq!(next("*/5 * * * *", "2026-01-01T00:02:30Z"), "2026-01-01T00:05:00Z");
        assert_eq!(next("0 9 * * mon-fri", "2026-01-02T09:00:00Z"), "2026-01-05T09:00:00Z");
        assert_eq!(next("30 1 29 2 *", "2026-01-01T00:00:00Z"), "2028-02-29T01:30:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
        assert_eq!(next("@hourly", "2026-01-01T00:00:00Z"), "2026-01-01T01:00:00Z");
        assert_eq!(next("0 0 * * 7", "2026-01-01T00:00:00Z"), "2026-01-04T00:00:00Z");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "5-1 * * * *"] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_missed() {
        let s = Schedule::parse("*/10 * * * *").unwrap();
        let t = |text: &str| text.parse::<Timestamp>().unwrap();
        let missed = |a: &str, b: &str| s.last_missed(t(a), t(b), &TimeZone::UTC);
        assert_eq!(missed("2026-01-01T00:00:00Z", "2026-01-01T00:09:00Z"), None);
        assert_eq!(
            missed("2026-01-01T00:00:00Z", "2026-01-01T00:35:00Z"),
            Some((t("2026-01-01T00:30:00Z"), 3))
        );
        let long = missed("2020-01-01T00:00:00Z", "2026-01-01T00:35:00Z").unwrap();
        assert_eq!(long, (t("2026-01-01T00:30:00Z"), 101));
    }

    proptest! {
        /// The next time is later, matches, and nothing between matches.
        #[test]
        fn nothing_is_skipped(m in 0u8..60, h in 0u8..24, start in 1_700_000_000i64..1_800_000_000) {
            let s = Schedule::parse(&format!("{m} {h} * * *")).unwrap();
            let from = Timestamp::from_second(start).unwrap();
            let at = s.next(from, &TimeZone::UTC).unwrap();
            prop_assert!(at > from && at.as_second() - start <= 24 * 3600);
            let z = at.to_zoned(TimeZone::UTC);
            prop_assert_eq!((z.hour(), z.minute(), z.second()), (h as i8, m as i8, 0));
        }
    }
}
