//! Lists and sets: cel-go's extension at version 3, sets, and Kubernetes' list library.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::{List, Value};
use std::cmp::Ordering;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "slice" => slice,
        "flatten" => flatten,
        "sort" => sort,
        "@sortByAssociatedKeys" => sort_by,
        "lists.range" => range,
        "reverse" => |args| {
            let mut items = list(args)?.to_vec()?;
            items.reverse();
            Ok(Value::list(items))
        },
        "distinct" => distinct,
        "first" => |args| edge(list(args)?, 0),
        "last" => |args| {
            let list = list(args)?;
            edge(list, list.len().wrapping_sub(1))
        },
        "sets.contains" => |args| pair(args, |a, b| b.iter().all(|y| a.iter().any(|x| x.equals(y)))),
        "sets.intersects" => |args| pair(args, |a, b| a.iter().any(|x| b.iter().any(|y| x.equals(y)))),
        "sets.equivalent" => |args| {
            pair(args, |a, b| {
                a.iter().all(|x| b.iter().any(|y| x.equals(y)))
                    && b.iter().all(|y| a.iter().any(|x| x.equals(y)))
            })
        },
        "isSorted" => |args| {
            let items = list(args)?.to_vec()?;
            Ok(Value::Bool(items.windows(2).all(|w| w[0].compare(&w[1]) != Some(Ordering::Greater))))
        },
        "sum" => sum,
        "max" => |args| extreme(args, "max", Ordering::Greater),
        "min" => |args| extreme(args, "min", Ordering::Less),
        "includes" => |args| match args {
            [Value::List(list), value] => {
                for item in list.iter() {
                    if item?.equals(value) {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            [one, value] => Ok(Value::Bool(one.equals(value))),
            _ => Err(EvalError::no_overload()),
        },
        _ => return None,
    })
}

fn list<'s, 'a>(args: &'s [Value<'a>]) -> Result<&'s List<'a>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_overload()),
    }
}

fn pair<'a>(args: &[Value<'a>], is: fn(&[Value<'a>], &[Value<'a>]) -> bool) -> Outcome<'a> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(is(&a.to_vec()?, &b.to_vec()?))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `indexOf` and `lastIndexOf` of lists.
pub(super) fn position<'a>(list: &List<'a>, value: &Value<'a>, last: bool) -> Outcome<'a> {
    let items = list.to_vec()?;
    let found = if last {
        items.iter().rposition(|i| i.equals(value))
    } else {
        items.iter().position(|i| i.equals(value))
    };
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn edge<'a>(list: &List<'a>, at: usize) -> Outcome<'a> {
    match list.get(at) {
        Some(value) => value.map(Value::some),
        None => Ok(Value::Optional(None)),
    }
}

fn slice<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return Err(EvalError::no_overload());
    };
    let (start, end, length) = (*start, *end, list.len() as i64);
    if start < 0 || end < 0 {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(EvalError::new(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    if length < end {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), list is length {length}")));
    }
    Ok(Value::list(list.to_vec()?[start as usize..end as usize].to_vec()))
}

fn flatten<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let depth = match args {
        [_] => 1,
        [_, Value::Int(n)] => *n,
        _ => return Err(EvalError::no_overload()),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = list(args)?.to_vec()?;
    for _ in 0..depth {
        if !out.iter().any(|i| matches!(i, Value::List(_))) {
            break;
        }
        let mut next = Vec::with_capacity(out.len());
        for item in out {
            match item {
                Value::List(inner) => next.extend(inner.to_vec()?),
                other => next.push(other),
            }
        }
        out = next;
    }
    Ok(Value::list(out))
}

/// Whether all of them can be put in order.
fn comparable(items: &[Value<'_>]) -> Result<(), EvalError> {
    let Some(first) = items.first() else { return Ok(()) };
    if first.compare(first).is_none() && !matches!(first, Value::Double(_)) {
        return Err(EvalError::new("list elements must be comparable"));
    }
    if items.iter().any(|i| i.type_name() != first.type_name()) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    Ok(())
}

fn sort<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut items = list(args)?.to_vec()?;
    comparable(&items)?;
    items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(items))
}

fn sort_by<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list), Value::List(keys)] = args else { return Err(EvalError::no_overload()) };
    let keys = keys.to_vec()?;
    comparable(&keys)?;
    let mut both: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(list.to_vec()?).collect();
    both.sort_by(|a, b| a.0.compare(&b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(both.into_iter().map(|(_, v)| v).collect()))
}

/// The longest list `lists.range` makes: memory is spent before its cost is counted.
const LONGEST: i64 = 1_000_000;

fn range<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(n)] if *n > LONGEST => Err(EvalError::new(format!("range {n} exceeds {LONGEST}"))),
        [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
        _ => Err(EvalError::no_overload()),
    }
}

fn distinct<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for item in list(args)?.iter() {
        let item = item?;
        let fresh = match crate::value::Key::of(&item) {
            Ok(key) => seen.insert(key),
            Err(_) => !out.iter().any(|o| o.equals(&item)),
        };
        if fresh {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

fn sum<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut total: Option<Value<'a>> = None;
    let add = super::function("_+_").ok_or_else(EvalError::no_overload)?;
    for item in list(args)?.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(total) => add(&[total, item])?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, wanted: Ordering) -> Outcome<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        best = match best {
            None => Some(item),
            Some(best) => {
                let order = item.compare(&best).ok_or_else(EvalError::no_overload)?;
                Some(if order == wanted { item } else { best })
            }
        };
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}
