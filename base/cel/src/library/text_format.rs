//! `"...".format([...])`.

use super::convert::show_double;
use super::{Outcome, time};
use crate::error::EvalError;
use crate::value::{Key, List, Value};

pub(super) fn format<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Text(pattern), Value::List(list)] = args else { return Err(EvalError::no_overload()) };
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            let parsed: usize = digits
                .parse()
                .map_err(|_| EvalError::new("error while formatting: could not parse precision"))?;
            if parsed > 1000 {
                return Err(EvalError::new("error while formatting: precision too large"));
            }
            precision = Some(parsed);
        }
        let Some(verb) = chars.next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        let value =
            list.get(next).unwrap_or_else(|| Err(EvalError::new(format!("index {next} out of range"))))?;
        next += 1;
        out.push_str(&clause(verb, precision, &value)?);
    }
    Ok(Value::text(out))
}

fn clause(verb: char, precision: Option<usize>, value: &Value<'_>) -> Result<String, EvalError> {
    let wrong = |what: &str| {
        Err(EvalError::new(format!("error during formatting: {what}, was given {}", value.type_name())))
    };
    Ok(match (verb, value) {
        ('s', value) => show(value)?,
        ('d', Value::Int(n)) => n.to_string(),
        ('d', Value::Uint(n)) => n.to_string(),
        ('d', Value::Double(n)) if n.is_nan() || n.is_infinite() => show_special(*n),
        ('d', _) => return wrong("decimal clause can only be used on integers"),
        ('f', value) => match number(value) {
            Some(n) if n.is_finite() => format!("{n:.*}", precision.unwrap_or(6)),
            Some(n) => show_special(n),
            None => return wrong("fixed-point clause can only be used on doubles"),
        },
        ('e', value) => match number(value) {
            Some(n) if n.is_finite() => scientific(n, precision.unwrap_or(6)),
            Some(n) => show_special(n),
            None => return wrong("scientific clause can only be used on doubles"),
        },
        ('b', Value::Int(n)) => signed(*n, |n| format!("{n:b}")),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', _) => return wrong("only integers and bools can be formatted as binary"),
        ('o', Value::Int(n)) => signed(*n, |n| format!("{n:o}")),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('o', _) => return wrong("octal clause can only be used on integers"),
        ('x' | 'X', value) => {
            let text = match value {
                Value::Int(n) => signed(*n, |n| format!("{n:x}")),
                Value::Uint(n) => format!("{n:x}"),
                Value::Text(text) => text.bytes().map(|b| format!("{b:02x}")).collect(),
                Value::Bytes(data) => data.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return wrong("only integers, byte buffers, and strings can be formatted as hex"),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        _ => {
            return Err(EvalError::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
            )));
        }
    })
}

fn signed(n: i64, show: impl Fn(u64) -> String) -> String {
    if n < 0 { format!("-{}", show(n.unsigned_abs())) } else { show(n.unsigned_abs()) }
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(n) => Some(*n),
        Value::Int(n) => Some(*n as f64),
        Value::Uint(n) => Some(*n as f64),
        _ => None,
    }
}

fn show_special(n: f64) -> String {
    if n.is_nan() {
        "NaN".into()
    } else if n > 0.0 {
        "Infinity".into()
    } else {
        "-Infinity".into()
    }
}

fn scientific(n: f64, precision: usize) -> String {
    let text = format!("{n:.precision$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `%s`.
fn show(value: &Value<'_>) -> Result<String, EvalError> {
    Ok(match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) if !n.is_finite() => show_special(*n),
        Value::Double(n) => show_double(*n),
        Value::Text(text) => text.to_string(),
        Value::Bytes(data) => String::from_utf8_lossy(data).into_owned(),
        Value::Timestamp(at) => time::show_timestamp(at),
        Value::Duration(n) => time::show_duration(*n),
        Value::Type(name) => name.to_string(),
        Value::List(list) => show_list(list)?,
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                let value = map.get(&key).unwrap_or_else(|| Err(EvalError::no_overload()))?;
                let key = match &key {
                    Key::Text(text) => text.to_string(),
                    Key::Bool(b) => b.to_string(),
                    Key::Int(n) => n.to_string(),
                    Key::Uint(n) => n.to_string(),
                };
                entries.push((key, show(&value)?));
            }
            entries.sort();
            let shown: Vec<String> = entries.into_iter().map(|(k, v)| format!("{k}: {v}")).collect();
            format!("{{{}}}", shown.join(", "))
        }
        other => {
            return Err(EvalError::new(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, \
                 maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            )));
        }
    })
}

fn show_list(list: &List<'_>) -> Result<String, EvalError> {
    let mut shown = Vec::with_capacity(list.len());
    for item in list.iter() {
        shown.push(show(&item?)?);
    }
    Ok(format!("[{}]", shown.join(", ")))
}
