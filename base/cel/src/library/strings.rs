//! Strings: the standard predicates and cel-go's extension at version 2. Offsets count code points.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::{List, Value};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "contains" => |args| texts(args).map(|(a, b)| Value::Bool(a.contains(b))),
        "startsWith" => |args| texts(args).map(|(a, b)| Value::Bool(a.starts_with(b))),
        "endsWith" => |args| texts(args).map(|(a, b)| Value::Bool(a.ends_with(b))),
        "charAt" => char_at,
        "indexOf" => |args| index_of(args, false),
        "lastIndexOf" => |args| index_of(args, true),
        "lowerAscii" => |args| one(args).map(|t| Value::text(t.to_ascii_lowercase())),
        "upperAscii" => |args| one(args).map(|t| Value::text(t.to_ascii_uppercase())),
        "trim" => |args| one(args).map(|t| Value::text(t.trim())),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        "strings.quote" => |args| one(args).map(|t| Value::text(quote(t))),
        "format" => super::text_format::format,
        "jsonpatch.escapeKey" => {
            |args| one(args).map(|t| Value::text(t.replace('~', "~0").replace('/', "~1")))
        }
        _ => return None,
    })
}

fn one<'s>(args: &'s [Value<'_>]) -> Result<&'s str, EvalError> {
    match args {
        [Value::Text(text)] => Ok(text),
        _ => Err(EvalError::no_overload()),
    }
}

fn texts<'s>(args: &'s [Value<'_>]) -> Result<(&'s str, &'s str), EvalError> {
    match args {
        [Value::Text(a), Value::Text(b)] => Ok((a, b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

fn char_at<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Text(text), Value::Int(index)] = args else { return Err(EvalError::no_overload()) };
    let at = usize::try_from(*index).map_err(|_| out_of_range(*index))?;
    match text.chars().nth(at) {
        Some(c) => Ok(Value::text(c)),
        None if at == text.chars().count() => Ok(Value::text("")),
        None => Err(out_of_range(*index)),
    }
}

fn index_of<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let (text, part, offset) = match args {
        [Value::List(list), value] => return super::lists::position(list, value, last),
        [Value::Text(text), Value::Text(part)] => (text, part, None),
        [Value::Text(text), Value::Text(part), Value::Int(offset)] => (text, part, Some(*offset)),
        _ => return Err(EvalError::no_overload()),
    };
    let text: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let fallback = if last { text.len() as i64 } else { 0 };
    let offset = offset.unwrap_or(fallback);
    if !(0..=text.len() as i64).contains(&offset) {
        return Err(out_of_range(offset));
    }
    let offset = offset as usize;
    if part.is_empty() {
        return Ok(Value::Int(offset as i64));
    }
    let fits = |at: usize| text.get(at..at + part.len()) == Some(&part[..]);
    let found = if last {
        (0..=offset.min(text.len().saturating_sub(part.len()))).rev().find(|at| fits(*at))
    } else {
        (offset..text.len()).find(|at| fits(*at))
    };
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn replace<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(match args {
        [Value::Text(text), Value::Text(from), Value::Text(to)] => text.replace(&**from, to),
        [Value::Text(text), Value::Text(from), Value::Text(to), Value::Int(n)] => match usize::try_from(*n) {
            Ok(n) => text.replacen(&**from, to, n),
            Err(_) => text.replace(&**from, to),
        },
        _ => return Err(EvalError::no_overload()),
    }))
}

fn split<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, separator, most) = match args {
        [Value::Text(text), Value::Text(separator)] => (text, separator, -1),
        [Value::Text(text), Value::Text(separator), Value::Int(n)] => (text, separator, *n),
        _ => return Err(EvalError::no_overload()),
    };
    let most = match most {
        0 => return Ok(Value::list(Vec::new())),
        n => usize::try_from(n).unwrap_or(usize::MAX),
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        // Into code points, the last part taking the rest.
        let mut out = Vec::new();
        let mut rest: &str = text;
        while let Some(c) = rest.chars().next() {
            if out.len() + 1 == most {
                break;
            }
            out.push(Value::text(c));
            rest = &rest[c.len_utf8()..];
        }
        if !rest.is_empty() {
            out.push(Value::text(rest));
        }
        out
    } else {
        text.splitn(most, &**separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

fn substring<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, start, end) = match args {
        [Value::Text(text), Value::Int(start)] => (text, *start, None),
        [Value::Text(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(EvalError::no_overload()),
    };
    let length = text.chars().count() as i64;
    if let Some(end) = end
        && start > end
    {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    if !(0..=length).contains(&start) {
        return Err(out_of_range(start));
    }
    let end = end.unwrap_or(length);
    if !(0..=length).contains(&end) {
        return Err(out_of_range(end));
    }
    let part: String = text.chars().skip(start as usize).take((end - start) as usize).collect();
    Ok(Value::text(part))
}

fn join<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (list, separator): (&List<'_>, &str) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::Text(separator)] => (list, separator),
        _ => return Err(EvalError::no_overload()),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        match item? {
            Value::Text(text) => out.push_str(&text),
            other => return Err(EvalError::new(format!("join: invalid input: {}", other.type_name()))),
        }
    }
    Ok(Value::text(out))
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
