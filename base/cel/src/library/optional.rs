//! Optional values.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "optional.of" => |args| args.first().cloned().map(Value::some).ok_or_else(EvalError::no_overload),
        "optional.ofNonZeroValue" => non_zero,
        "optional.none" => |_| Ok(Value::Optional(None)),
        "value" => |args| match args {
            [Value::Optional(Some(value))] => Ok((**value).clone()),
            [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
            _ => Err(EvalError::no_overload()),
        },
        "hasValue" => |args| match args {
            [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
            _ => Err(EvalError::no_overload()),
        },
        "or" => |args| match args {
            [some @ Value::Optional(Some(_)), _] => Ok(some.clone()),
            [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
            _ => Err(EvalError::no_overload()),
        },
        "orValue" => |args| match args {
            [Value::Optional(Some(value)), _] => Ok((**value).clone()),
            [Value::Optional(None), other] => Ok(other.clone()),
            _ => Err(EvalError::no_overload()),
        },
        _ => return None,
    })
}

fn non_zero<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [value] = args else { return Err(EvalError::no_overload()) };
    let zero = match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(n) => *n == 0,
        Value::Uint(n) => *n == 0,
        Value::Double(n) => *n == 0.0,
        Value::Text(text) => text.is_empty(),
        Value::Bytes(data) => data.is_empty(),
        Value::Duration(n) => *n == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Struct(s) => s.fields.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    };
    Ok(if zero { Value::Optional(None) } else { Value::some(value.clone()) })
}
