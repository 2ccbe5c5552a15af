//! `fieldPath` of a rule: a JSON path of field and key accessors, checked against the schema.

use serde_json::Value;

/// The path as error paths show it (`spec.a[key]`), or why it is none.
pub(super) fn normalize(path: &str, schema: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut at = schema;
    let mut tokens = tokens(path).into_iter();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token.as_str() {
            "." => tokens.next().ok_or_else(end)?,
            "[" => {
                let token = tokens.next().ok_or_else(end)?;
                let inner = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
                let inner = inner.filter(|_| token.len() >= 2);
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {token}"))?;
                let name = unescape(inner)?;
                let close = tokens.next().ok_or_else(end)?;
                if close != "]" {
                    return Err(format!("expected ] but got {close}"));
                }
                name
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        let invalid = || "does not refer to a valid field".to_owned();
        if let Some(properties) = at.get("properties") {
            at = properties.get(&name).ok_or_else(invalid)?;
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
        } else {
            at = at.get("additionalProperties").filter(|a| a.is_object()).ok_or_else(invalid)?;
            out.push_str(&format!("[{name}]"));
        }
    }
    Ok(out)
}

fn tokens(path: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for c in path.chars() {
        if quoted {
            word.push(c);
            if c == '\'' && !escaped && word.len() > 1 {
                quoted = false;
                out.push(std::mem::take(&mut word));
            }
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '\'' if word.is_empty() => {
                quoted = true;
                word.push(c);
            }
            '.' | '[' | ']' => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                out.push(c.to_string());
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('\'') => '\'',
            Some('\\') => '\\',
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                return Err(format!("invalid string literal: invalid escape char \\{shown}"));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_checked_against_the_schema() {
        let schema = json!({"properties": {
            "a": {"properties": {"b.c": {"type": "string"}}},
            "m": {"additionalProperties": {"type": "string"}},
        }});
        for (path, wanted) in [
            (".a", Ok("a")),
            (".a['b.c']", Ok("a.b.c")),
            (".m.x", Ok("m[x]")),
            (".m['it\\'s']", Ok("m[it's]")),
            (".z", Err("does not refer to a valid field")),
            ("a", Err("expected [ or . but got: a")),
            (".", Err("unexpected end of JSON path")),
            (".m[x]", Err("expected single quoted string but got x")),
        ] {
            assert_eq!(normalize(path, &schema).as_deref().map_err(String::as_str), wanted, "{path}");
        }
    }
}
