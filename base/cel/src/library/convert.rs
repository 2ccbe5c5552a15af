//! Conversions between types.

use super::{Outcome, time};
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use chrono::{DateTime, Utc};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "type" => |args| match args {
            [value] => Ok(Value::Type(value.type_name().to_owned().into())),
            _ => Err(EvalError::no_overload()),
        },
        "dyn" => |args| args.first().cloned().ok_or_else(EvalError::no_overload),
        "bool" => to_bool,
        "bytes" => to_bytes,
        "double" => to_double,
        "int" => to_int,
        "uint" => to_uint,
        "string" => to_text,
        "duration" => to_duration,
        "timestamp" => to_timestamp,
        _ => return None,
    })
}

fn failed(from: &str, to: &str, value: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{from}' to '{to}': {value:?}"))
}

fn to_bool<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::Text(text)] => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::new(format!("strconv.ParseBool: parsing {other:?}: invalid syntax"))),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn to_bytes<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bytes(data)] => Ok(Value::Bytes(data.clone())),
        [Value::Text(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(EvalError::no_overload()),
    }
}

fn to_double<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(match args {
        [Value::Double(n)] => *n,
        [Value::Int(n)] => *n as f64,
        [Value::Uint(n)] => *n as f64,
        [Value::Text(text)] => text.parse().map_err(|_| {
            EvalError::new(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &**text))
        })?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_int<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::new("integer overflow");
    Ok(Value::Int(match args {
        [Value::Int(n)] => *n,
        [Value::Uint(n)] => i64::try_from(*n).map_err(|_| overflow())?,
        [Value::Double(n)] => {
            if !n.is_finite() || *n <= i64::MIN as f64 || *n >= i64::MAX as f64 {
                return Err(overflow());
            }
            *n as i64
        }
        [Value::Timestamp(at)] => at.timestamp(),
        [Value::Duration(n)] => *n,
        [Value::Text(text)] => text.parse().map_err(|_| {
            EvalError::new(format!("strconv.ParseInt: parsing {:?}: invalid syntax", &**text))
        })?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_uint<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match args {
        [Value::Uint(n)] => *n,
        [Value::Int(n)] => u64::try_from(*n).map_err(|_| overflow())?,
        [Value::Double(n)] => {
            if !n.is_finite() || *n < 0.0 || *n >= u64::MAX as f64 {
                return Err(overflow());
            }
            *n as u64
        }
        [Value::Text(text)] => text.parse().map_err(|_| {
            EvalError::new(format!("strconv.ParseUint: parsing {:?}: invalid syntax", &**text))
        })?,
        _ => return Err(EvalError::no_overload()),
    }))
}

/// A double as Go's `%g` with the fewest digits.
pub(super) fn show_double(n: f64) -> String {
    if n.is_nan() {
        return "NaN".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let exponent = if n == 0.0 { 0 } else { n.abs().log10().floor() as i32 };
    if !(-4..21).contains(&exponent) {
        let text = format!("{n:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let power: i32 = power.parse().unwrap_or(0);
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    format!("{n}")
}

fn to_text<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(match args {
        [value @ Value::Text(_)] => return Ok(value.clone()),
        [Value::Bool(b)] => b.to_string(),
        [Value::Int(n)] => n.to_string(),
        [Value::Uint(n)] => n.to_string(),
        [Value::Double(n)] => show_double(*n),
        [Value::Bytes(data)] => match std::str::from_utf8(data) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        [Value::Timestamp(at)] => time::show_timestamp(at),
        [Value::Duration(n)] => time::show_duration(*n),
        [Value::Opaque(o)] => o.show().ok_or_else(EvalError::no_overload)?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_duration<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Duration(n)] | [Value::Int(n)] => Ok(Value::Duration(*n)),
        [Value::Text(text)] => time::parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| failed("string", "google.protobuf.Duration", text)),
        _ => Err(EvalError::no_overload()),
    }
}

fn to_timestamp<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Timestamp(at)] => Ok(Value::Timestamp(*at)),
        [Value::Int(seconds)] => DateTime::<Utc>::from_timestamp(*seconds, 0)
            .filter(time::in_range)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        [Value::Text(text)] => time::parse_timestamp(text)
            .map(Value::Timestamp)
            .ok_or_else(|| failed("string", "google.protobuf.Timestamp", text)),
        _ => Err(EvalError::no_overload()),
    }
}
