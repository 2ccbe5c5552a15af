//! Regular expressions: RE2's syntax, which Rust's is close to. Both take linear time.

use super::Outcome;
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use parking_lot::Mutex;
use regex::Regex;
use std::collections::HashMap;
use std::sync::OnceLock;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "matches" => |args| match args {
            [Value::Text(text), Value::Text(pattern)] => Ok(Value::Bool(compile(pattern)?.is_match(text))),
            _ => Err(EvalError::no_overload()),
        },
        "find" => |args| match args {
            [Value::Text(text), Value::Text(pattern)] => {
                let found = compile(pattern)?.find(text).map_or("", |m| m.as_str());
                Ok(Value::text(found))
            }
            _ => Err(EvalError::no_overload()),
        },
        "findAll" => find_all,
        _ => return None,
    })
}

fn find_all<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, pattern, most) = match args {
        [Value::Text(text), Value::Text(pattern)] => (text, pattern, -1),
        [Value::Text(text), Value::Text(pattern), Value::Int(n)] => (text, pattern, *n),
        _ => return Err(EvalError::no_overload()),
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let regex = compile(pattern)?;
    Ok(Value::list(regex.find_iter(text).take(most).map(|m| Value::text(m.as_str())).collect()))
}

/// How many patterns are kept.
const KEPT: usize = 256;

/// The compiled pattern; those in use are kept for all expressions together.
pub(crate) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    static CACHE: OnceLock<Mutex<HashMap<String, Regex>>> = OnceLock::new();
    let cache = CACHE.get_or_init(Mutex::default);
    if let Some(found) = cache.lock().get(pattern) {
        return Ok(found.clone());
    }
    let regex = regex::RegexBuilder::new(pattern).size_limit(4 << 20).build().map_err(|e| {
        let text = e.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        EvalError::new(format!("error parsing regexp: {reason}: `{pattern}`"))
    })?;
    let mut cache = cache.lock();
    if cache.len() >= KEPT {
        cache.clear();
    }
    cache.insert(pattern.to_owned(), regex.clone());
    Ok(regex)
}
