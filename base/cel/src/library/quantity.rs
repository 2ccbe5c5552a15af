//! Kubernetes quantities, and semantic versions where they share a function's name.

use super::Outcome;
use super::opaque::Opaque;
use super::semver::{self, Version};
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use machinery::quantity::{Format, Quantity};
use std::cmp::Ordering;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "quantity" => |args| match args {
            [Value::Text(text)] => Quantity::parse(text)
                .map(|q| Value::opaque(Opaque::Quantity(q)))
                .map_err(|e| EvalError::new(e.to_string())),
            _ => Err(EvalError::no_overload()),
        },
        "isQuantity" => |args| match args {
            [Value::Text(text)] => Ok(Value::Bool(Quantity::parse(text).is_ok())),
            _ => Err(EvalError::no_overload()),
        },
        "semver" => |args| version(args).map(|v| Value::opaque(Opaque::Semver(v))),
        "isSemver" => |args| match args {
            [Value::Text(_)] | [Value::Text(_), Value::Bool(_)] => Ok(Value::Bool(version(args).is_ok())),
            _ => Err(EvalError::no_overload()),
        },
        "sign" => |args| one(args).map(|q| Value::Int(i64::from(q.sign()))),
        "asApproximateFloat" => |args| one(args).map(|q| Value::Double(q.as_f64())),
        "asInteger" => |args| {
            let q = one(args)?;
            whole(&q).map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        },
        "isInteger" => |args| one(args).map(|q| Value::Bool(whole(&q).is_some())),
        "isGreaterThan" => |args| compare(args).map(|o| Value::Bool(o == Ordering::Greater)),
        "isLessThan" => |args| compare(args).map(|o| Value::Bool(o == Ordering::Less)),
        "compareTo" => |args| compare(args).map(|o| Value::Int(o as i64)),
        "add" => |args| combine(args, Quantity::add),
        "sub" => |args| combine(args, Quantity::sub),
        "major" => |args| part(args, |v| v.major),
        "minor" => |args| part(args, |v| v.minor),
        "patch" => |args| part(args, |v| v.patch),
        _ => return None,
    })
}

fn one(args: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match args {
        [Value::Opaque(o)] => match &**o {
            Opaque::Quantity(q) => Ok(*q),
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn whole(q: &Quantity) -> Option<i64> {
    let n = q.value();
    let fits = q.is_whole() && (n != i64::MAX || q.as_f64() <= i64::MAX as f64);
    fits.then_some(n)
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    let [Value::Opaque(a), Value::Opaque(b)] = args else { return Err(EvalError::no_overload()) };
    match (&**a, &**b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => Ok(a.cmp(b)),
        (Opaque::Semver(a), Opaque::Semver(b)) => Ok(a.cmp(b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn combine<'a>(args: &[Value<'a>], how: fn(&mut Quantity, &Quantity)) -> Outcome<'a> {
    let [first, second] = args else { return Err(EvalError::no_overload()) };
    let mut out = one(std::slice::from_ref(first))?;
    let other = match second {
        Value::Int(n) => Quantity::from_value(*n, Format::DecimalSI),
        other => one(std::slice::from_ref(other))?,
    };
    how(&mut out, &other);
    Ok(Value::opaque(Opaque::Quantity(out)))
}

fn version(args: &[Value<'_>]) -> Result<Version, EvalError> {
    match args {
        [Value::Text(text)] => semver::parse(text).map_err(EvalError::new),
        [Value::Text(text), Value::Bool(normalize)] => {
            let normal = if *normalize { semver::normalize(text) } else { text.to_string() };
            semver::parse(&normal).map_err(EvalError::new)
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn part<'a>(args: &[Value<'a>], of: fn(&Version) -> u64) -> Outcome<'a> {
    match args {
        [Value::Opaque(o)] => match &**o {
            Opaque::Semver(version) => {
                i64::try_from(of(version)).map(Value::Int).map_err(|_| EvalError::new("integer overflow"))
            }
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}
