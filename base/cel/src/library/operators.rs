//! Arithmetic, order, equality, membership. Overflow is an error.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::{Key, List, Value};
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        "_%_" => modulo,
        "-_" => negate,
        "!_" => not,
        "_==_" => |args| pair(args).map(|(a, b)| Value::Bool(a.equals(b))),
        "_!=_" => |args| pair(args).map(|(a, b)| Value::Bool(!a.equals(b))),
        "_<_" => |args| ordered(args, |o| o == Ordering::Less),
        "_<=_" => |args| ordered(args, |o| o != Ordering::Greater),
        "_>_" => |args| ordered(args, |o| o == Ordering::Greater),
        "_>=_" => |args| ordered(args, |o| o != Ordering::Less),
        "@in" => contained,
        "size" => size,
        _ => return None,
    })
}

fn pair<'s, 'a>(args: &'s [Value<'a>]) -> Result<(&'s Value<'a>, &'s Value<'a>), EvalError> {
    match args {
        [a, b] => Ok((a, b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn int<'a>(n: Option<i64>) -> Outcome<'a> {
    n.map(Value::Int).ok_or_else(|| EvalError::new("integer overflow"))
}

fn uint<'a>(n: Option<u64>) -> Outcome<'a> {
    n.map(Value::Uint).ok_or_else(|| EvalError::new("unsigned integer overflow"))
}

fn duration<'a>(n: Option<i64>) -> Outcome<'a> {
    n.map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow"))
}

fn timestamp<'a>(at: Option<DateTime<Utc>>) -> Outcome<'a> {
    at.filter(super::time::in_range).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn add<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::*;
    match pair(args)? {
        (Int(a), Int(b)) => int(a.checked_add(*b)),
        (Uint(a), Uint(b)) => uint(a.checked_add(*b)),
        (Double(a), Double(b)) => Ok(Double(a + b)),
        (Text(a), Text(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Bytes(a), Bytes(b)) => Ok(Bytes(Arc::from([&**a, &**b].concat()))),
        (List(a), List(b)) => a.concat(b).map(List),
        (Duration(a), Duration(b)) => duration(a.checked_add(*b)),
        (Timestamp(at), Duration(n)) | (Duration(n), Timestamp(at)) => {
            timestamp(at.checked_add_signed(TimeDelta::nanoseconds(*n)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::*;
    match pair(args)? {
        (Int(a), Int(b)) => int(a.checked_sub(*b)),
        (Uint(a), Uint(b)) => uint(a.checked_sub(*b)),
        (Double(a), Double(b)) => Ok(Double(a - b)),
        (Duration(a), Duration(b)) => duration(a.checked_sub(*b)),
        (Timestamp(at), Duration(n)) => timestamp(at.checked_sub_signed(TimeDelta::nanoseconds(*n))),
        (Timestamp(a), Timestamp(b)) => duration(a.signed_duration_since(b).num_nanoseconds()),
        _ => Err(EvalError::no_overload()),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::*;
    match pair(args)? {
        (Int(a), Int(b)) => int(a.checked_mul(*b)),
        (Uint(a), Uint(b)) => uint(a.checked_mul(*b)),
        (Double(a), Double(b)) => Ok(Double(a * b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::*;
    match pair(args)? {
        (Int(_), Int(0)) | (Uint(_), Uint(0)) => Err(EvalError::new("division by zero")),
        (Int(a), Int(b)) => int(a.checked_div(*b)),
        (Uint(a), Uint(b)) => uint(a.checked_div(*b)),
        (Double(a), Double(b)) => Ok(Double(a / b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::*;
    match pair(args)? {
        (Int(_), Int(0)) | (Uint(_), Uint(0)) => Err(EvalError::new("modulus by zero")),
        (Int(a), Int(b)) => int(a.checked_rem(*b)),
        (Uint(a), Uint(b)) => uint(a.checked_rem(*b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(n)] => int(n.checked_neg()),
        [Value::Double(n)] => Ok(Value::Double(-n)),
        _ => Err(EvalError::no_overload()),
    }
}

fn not<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn ordered<'a>(args: &[Value<'a>], is: fn(Ordering) -> bool) -> Outcome<'a> {
    let (a, b) = pair(args)?;
    let number = |v: &Value<'_>| matches!(v, Value::Int(_) | Value::Uint(_) | Value::Double(_));
    match a.compare(b) {
        Some(order) => Ok(Value::Bool(is(order))),
        None if number(a) && number(b) => Err(EvalError::new("NaN values cannot be ordered")),
        None => Err(EvalError::no_overload()),
    }
}

fn contained<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match pair(args)? {
        (value, Value::List(List::Owned(items))) => Ok(Value::Bool(items.iter().any(|i| i.equals(value)))),
        (value, Value::List(list)) => {
            for item in list.iter() {
                if item?.equals(value) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        (Value::Text(name), Value::Map(map)) => Ok(Value::Bool(map.get_text(name).is_some())),
        (key, Value::Map(map)) => Ok(Value::Bool(Key::of(key).is_ok_and(|k| map.get(&k).is_some()))),
        _ => Err(EvalError::no_overload()),
    }
}

fn size<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value @ (Value::Text(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(value.size() as i64))
        }
        _ => Err(EvalError::no_overload()),
    }
}
