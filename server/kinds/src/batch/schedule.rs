//! Schedules of cron jobs: five fields or one of the `@` words.

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Whether a schedule can be read.
pub(super) fn cron(schedule: &str) -> Result<(), String> {
    let rest = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest.trim(),
        _ => schedule.trim(),
    };
    if let Some(word) = rest.strip_prefix('@') {
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ if word.strip_prefix("every ").is_some_and(duration) => Ok(()),
            _ => Err(format!("unrecognized descriptor: {rest}")),
        };
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds: [(i64, i64, &[&str]); 5] =
        [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    for (field, (low, high, words)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            range(part, low, high, words)?;
        }
    }
    Ok(())
}

fn duration(text: &str) -> bool {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    digits > 0 && text[digits..].starts_with(|c: char| c.is_ascii_alphabetic())
}

fn range(part: &str, low: i64, high: i64, words: &[&str]) -> Result<(), String> {
    let number = |text: &str| -> Result<i64, String> {
        if let Some(i) = words.iter().position(|w| w.eq_ignore_ascii_case(text)) {
            return Ok(i as i64 + low);
        }
        text.parse::<i64>().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
        })
    };
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (part, None),
    };
    if step.is_some_and(|s| s.contains('/')) {
        return Err(format!("too many slashes: {part}"));
    }
    let (first, last) = match span {
        "*" | "?" => (low, high),
        _ => match span.split_once('-') {
            Some((_, b)) if b.contains('-') => return Err(format!("too many hyphens: {part}")),
            Some((a, b)) => (number(a)?, number(b)?),
            None => {
                let n = number(span)?;
                (n, if step.is_some() { high } else { n })
            }
        },
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {part}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {part}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    Ok(())
}
