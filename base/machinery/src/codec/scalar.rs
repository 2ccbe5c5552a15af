//! The scalars with a format: times, durations, quantities, bytes; in upstream's wording when they are wrong.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The spelling upstream keeps of a quantity.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    crate::quantity::canonicalize(text).map_err(|e| e.to_string())
}

/// Base64 as Go's standard encoding reads it (line breaks are skipped), spelt canonically.
pub(super) fn bytes(text: &str) -> Result<Cow<'_, str>, String> {
    let clean: Cow<str> =
        if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() };
    match STANDARD.decode(clean.as_bytes()) {
        Ok(_) => Ok(clean),
        // Bits after the end are dropped, as Go drops them.
        Err(base64::DecodeError::InvalidLastSymbol(..)) => match LENIENT.decode(clean.as_bytes()) {
            Ok(bytes) => Ok(STANDARD.encode(bytes).into()),
            Err(_) => Err(corrupt(text)),
        },
        Err(_) => Err(corrupt(text)),
    }
}

const LENIENT: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Where Go's decoder stops: it counts line breaks, and looks at groups of four.
fn corrupt(text: &str) -> String {
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n')).collect();
    let mut at = text.len();
    for group in bytes.chunks(4) {
        let bad = group.iter().position(|(_, b)| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')));
        match bad {
            Some(i @ 0..=1) => at = group[i].0,
            Some(2) if group[2].1 == b'=' => match group.get(3) {
                None => {}
                Some((_, b'=')) => at = group[3].0 + 1,
                Some((i, _)) => at = *i,
            },
            Some(3) if group[3].1 == b'=' => at = group[3].0 + 1,
            Some(i) => at = group[i].0,
            None if group.len() < 4 => at = group[0].0,
            None => continue,
        }
        break;
    }
    format!("illegal base64 data at input byte {at}")
}

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// A time read with Go's `time.Parse`: seconds since the epoch and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub seconds: i64,
    pub nanos: u32,
}

/// Go's zero time, the first second of year 1.
const ZERO: Moment = Moment { seconds: -62_135_596_800, nanos: 0 };

impl Moment {
    pub(super) fn is_zero(self) -> bool {
        self == ZERO
    }

    /// As `metav1.Time` is written.
    pub(super) fn seconds_text(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }

    /// As `metav1.MicroTime` is written.
    pub(super) fn micros_text(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{:06}Z", self.nanos / 1000)
    }

    fn civil(self) -> (i64, u32, u32, i64, i64, i64) {
        let (days, rest) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        // Days to a date by eras of 400 years, counted from 1 March of year 0.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
        let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
        let year = yoe + era * 400 + i64::from(month <= 2);
        (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
    }
}

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Reads RFC 3339, with six fractional digits required where `micro`.
pub(super) fn moment(text: &str, micro: bool) -> Result<Moment, String> {
    let layout = if micro { MICRO } else { RFC3339 };
    let wrong = |rest: &str, element: &str| {
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")
    };
    let range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    let mut rest = text;
    let mut number = |len: usize, element: &str, separator: &str| -> Result<u32, String> {
        let digits = rest.get(..len).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let digits = digits.ok_or_else(|| wrong(rest, element))?;
        rest = &rest[len..];
        let value = digits.bytes().fold(0, |n, b| n * 10 + u32::from(b - b'0'));
        rest = rest.strip_prefix(separator).ok_or_else(|| wrong(rest, separator))?;
        Ok(value)
    };
    let year = number(4, "2006", "-")?;
    let month = number(2, "01", "-")?;
    if !(1..=12).contains(&month) {
        return Err(range("month"));
    }
    let day = number(2, "02", "T")?;
    let hour = number(2, "15", ":")?;
    if hour > 23 {
        return Err(range("hour"));
    }
    let minute = number(2, "04", ":")?;
    if minute > 59 {
        return Err(range("minute"));
    }
    let second = number(2, "05", "")?;
    if second > 59 {
        return Err(range("second"));
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
    if day == 0 || day > last {
        return Err(range("day"));
    }
    let mut nanos = 0;
    let fraction = rest.strip_prefix(['.', ',']).map(|f| f.bytes().take_while(u8::is_ascii_digit).count());
    match fraction {
        Some(digits) if digits > 0 && (!micro || digits == 6) => {
            for i in 0..9 {
                let digit = if i < digits { u32::from(rest.as_bytes()[1 + i] - b'0') } else { 0 };
                nanos = nanos * 10 + digit;
            }
            rest = &rest[1 + digits..];
        }
        _ if micro => return Err(wrong(rest, ".000000")),
        _ => {}
    }
    let mut seconds = days_from_civil(i64::from(year), month, day) * 86_400
        + i64::from(hour) * 3600
        + i64::from(minute) * 60
        + i64::from(second);
    if let Some(after) = rest.strip_prefix('Z') {
        rest = after;
    } else {
        let zone = rest.as_bytes();
        let digit = |i: usize| zone.get(i).filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0'));
        let sign = match zone.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(wrong(rest, "Z07:00")),
        };
        let (Some(a), Some(b), Some(b':'), Some(c), Some(d)) =
            (digit(1), digit(2), zone.get(3), digit(4), digit(5))
        else {
            return Err(wrong(rest, "Z07:00"));
        };
        if a * 10 + b > 24 || c * 10 + d > 60 {
            return Err(range("time zone offset hour"));
        }
        seconds -= sign * ((a * 10 + b) * 3600 + (c * 10 + d) * 60);
        rest = &rest[6..];
    }
    if !rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {rest:?}"));
    }
    Ok(Moment { seconds, nanos })
}

/// A Go duration in nanoseconds (`time.ParseDuration`).
pub fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (int, after) = rest.split_at(whole);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(f) => f.split_at(f.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", after),
        };
        if (int.is_empty() && fraction.is_empty()) || int.len() > 19 {
            return Err(invalid());
        }
        let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (unit, next) = after.split_at(unit_len);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let int: i128 = if int.is_empty() { 0 } else { int.parse().map_err(|_| invalid())? };
        total += int * scale;
        let mut part = scale;
        for digit in fraction.bytes().take(18) {
            part /= 10;
            total += i128::from(digit - b'0') * part;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// `time.Duration.String()`.
pub(super) fn duration_text(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() || unit == 1 { String::new() } else { format!(".{fraction}") };
        format!("{}{point}", value / unit)
    };
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", decimal(n, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", decimal(n, 1_000_000));
    }
    let (minutes, seconds) = (n / 60_000_000_000, n % 60_000_000_000);
    let seconds = decimal(seconds, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_and_written_as_go_does() {
        let t = moment("2024-02-29T23:59:59.5+02:00", false).expect("time");
        assert_eq!(t.seconds_text(), "2024-02-29T21:59:59Z");
        assert_eq!(t.micros_text(), "2024-02-29T21:59:59.500000Z");
        assert!(moment("0001-01-01T00:00:00Z", false).expect("zero").is_zero());
        assert_eq!(
            moment("abc", false).expect_err("no time"),
            r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#
        );
        assert_eq!(
            moment("2024-13-01T00:00:00Z", false).expect_err("month"),
            r#"parsing time "2024-13-01T00:00:00Z": month out of range"#
        );
        assert!(moment("2023-02-29T00:00:00Z", false).is_err());
        assert!(moment("2024-01-01T00:00:00Z", true).is_err());
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, out) in
            [("90s", "1m30s"), ("1.5h", "1h30m0s"), ("100ms", "100ms"), ("1500us", "1.5ms"), ("-1m", "-1m0s")]
        {
            assert_eq!(duration_text(duration(text).expect(text)), out);
        }
        assert_eq!(duration("5").expect_err("unit"), r#"time: missing unit in duration "5""#);
    }

    proptest! {
        #[test]
        fn every_second_survives(seconds in -62_135_596_800i64..253_402_300_800) {
            let t = Moment { seconds, nanos: 0 };
            prop_assert_eq!(moment(&t.seconds_text(), false), Ok(t));
        }

        #[test]
        fn every_duration_survives(nanos: i64) {
            prop_assume!(nanos != i64::MIN);
            prop_assert_eq!(duration(&duration_text(nanos)), Ok(nanos));
        }

        #[test]
        fn bad_times_never_panic(text in "\\PC*") {
            let _ = moment(&text, false);
            let _ = duration(&text);
        }
    }
}
