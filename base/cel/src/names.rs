//! Property names as identifiers, escaped as Kubernetes does.

use crate::syntax::RESERVED;

/// Reserved for identifiers to come, or a literal or operator today.
fn is_word(name: &str) -> bool {
    matches!(name, "true" | "false" | "null" | "in") || RESERVED.contains(&name)
}

const ESCAPES: [(&str, &str); 4] = [("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];

/// The identifier for a property; `None` where there is none (it starts with a digit or holds other characters).
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    if is_word(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((plain, word)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            out.push_str("__");
            out.push_str(word);
            out.push_str("__");
            rest = &rest[plain.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

/// The property an identifier stands for; `None` where it holds an escape there is not.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let Some(end) = inner.find("__").filter(|end| *end > 0 && !inner[..*end].contains('_')) else {
            out.push_str("__");
            rest = inner;
            continue;
        };
        let word = &inner[..end];
        if let Some((plain, _)) = ESCAPES.iter().find(|(_, w)| *w == word) {
            out.push_str(plain);
        } else if is_word(word) && name.len() == word.len() + 4 {
            out.push_str(word);
        } else {
            return None;
        }
        rest = &inner[end + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_upstream_does() {
        for (name, escaped) in [
            ("a", "a"),
            ("namespace", "__namespace__"),
            ("true", "__true__"),
            ("a.b", "a__dot__b"),
            ("a-b", "a__dash__b"),
            ("a/b", "a__slash__b"),
            ("a__b", "a__underscores__b"),
            ("a_b", "a_b"),
            ("_", "_"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
        for name in ["", "1a", "a b", "a$"] {
            assert_eq!(escape(name), None);
        }
        assert_eq!(unescape("a__nothing__b"), None);
    }
}
