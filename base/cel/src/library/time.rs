//! Timestamps and durations. Time zones are fixed offsets; names need the zone database, which this crate, being
//! pure, does not read: only UTC is known by name.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use chrono::{
    DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, SecondsFormat, Timelike, Utc,
};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "getFullYear" => |args| part(args, |at| i64::from(at.year())),
        "getMonth" => |args| part(args, |at| i64::from(at.month0())),
        "getDate" => |args| part(args, |at| i64::from(at.day())),
        "getDayOfMonth" => |args| part(args, |at| i64::from(at.day0())),
        "getDayOfWeek" => |args| part(args, |at| i64::from(at.weekday().num_days_from_sunday())),
        "getDayOfYear" => |args| part(args, |at| i64::from(at.ordinal0())),
        "getHours" => |args| both(args, |at| i64::from(at.hour()), 3_600_000_000_000),
        "getMinutes" => |args| both(args, |at| i64::from(at.minute()), 60_000_000_000),
        "getSeconds" => |args| both(args, |at| i64::from(at.second()), 1_000_000_000),
        "getMilliseconds" => |args| both(args, |at| i64::from(at.timestamp_subsec_millis()), 1_000_000),
        _ => return None,
    })
}

type Zoned = DateTime<FixedOffset>;

fn both<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64, unit: i64) -> Outcome<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => part(args, of),
    }
}

fn part<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64) -> Outcome<'a> {
    let at = match args {
        [Value::Timestamp(at)] => at.with_timezone(&Utc.fix()),
        [Value::Timestamp(at), Value::Text(zone)] => at.with_timezone(&offset(zone)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(of(&at)))
}

/// `+02:00`, `-8:30`, or UTC's names.
fn offset(zone: &str) -> Result<FixedOffset, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {zone}"));
    if zone.is_empty() || zone == "UTC" || zone == "Etc/UTC" || zone == "GMT" {
        return Ok(Utc.fix());
    }
    let (hours, minutes) = zone.split_once(':').ok_or_else(unknown)?;
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    let seconds =
        hours.checked_mul(3600).and_then(|h| h.checked_add(minutes.checked_mul(60)?)).ok_or_else(unknown)?;
    FixedOffset::east_opt(if negative { -seconds } else { seconds }).ok_or_else(unknown)
}

/// Years 1 to 9999.
pub fn in_range(at: &DateTime<Utc>) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&at.timestamp())
}

/// RFC 3339.
pub fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    let bytes = text.as_bytes();
    if bytes.get(10) != Some(&b'T') || text.ends_with('z') {
        return None;
    }
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc)).filter(in_range)
}

/// A `date-time` as OpenAPI's formats take it: RFC 3339, and a few leaner spellings.
pub fn parse_date_time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc));
    }
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok().map(|at| at.and_utc())
}

pub fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    if text.len() != 10 {
        return None;
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A `duration` as OpenAPI's formats take it: Go's, and numbers with longer units (`3 days`).
pub fn parse_openapi_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    const SECOND: i64 = 1_000_000_000;
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-')?;
    let (number, unit) = text.split_at(at);
    let unit = match unit.trim().to_ascii_lowercase().trim_end_matches('s') {
        "ns" | "n" | "nanosecond" | "nano" => 1,
        "us" | "u" | "microsecond" | "micro" => 1_000,
        "ms" | "milli" | "millisecond" => 1_000_000,
        "" | "sec" | "second" => SECOND,
        "m" | "min" | "minute" => 60 * SECOND,
        "h" | "hr" | "hour" => 3600 * SECOND,
        "d" | "day" => 86_400 * SECOND,
        "w" | "wk" | "week" => 604_800 * SECOND,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

pub fn show_timestamp(at: &DateTime<Utc>) -> String {
    if at.timestamp_subsec_nanos() == 0 {
        return at.to_rfc3339_opts(SecondsFormat::Secs, true);
    }
    let text = at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let bare = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{bare}Z")
}

/// Seconds, as protobuf's JSON has them: `3600s`, `0.5s`.
pub fn show_duration(nanos: i64) -> String {
    let (sign, n) = if nanos < 0 { ("-", nanos.unsigned_abs()) } else { ("", nanos.unsigned_abs()) };
    let (seconds, rest) = (n / 1_000_000_000, n % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
