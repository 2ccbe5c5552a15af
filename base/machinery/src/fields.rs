//! Field selectors: `spec.nodeName=a,status.phase!=Running`.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub value: String,
    /// `!=`
    pub negated: bool,
}

/// A conjunction of terms; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// Upstream prints the rune's number.
    #[error("invalid field selector: unescaped character in value: {}", *.0 as u32)]
    Unescaped(char),
    /// The kind has no such field to select by.
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((&term[..i], true, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((&term[..i], false, value));
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => return Err(ParseError::Escape(format!("\\{e}"))),
                None => return Err(ParseError::Escape("\\".into())),
            },
            ',' | '=' => return Err(ParseError::Unescaped(c)),
            other => out.push(other),
        }
    }
    Ok(out)
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let unknown = || ParseError::Term { selector: text.to_string(), term: part.to_string() };
            let (field, negated, value) = split_term(part).ok_or_else(unknown)?;
            terms.push(Term { field: field.to_string(), value: unescape(value)?, negated });
        }
        Ok(Selector { terms })
    }

    /// Refuses the fields for which `known` is false.
    pub fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), ParseError> {
        match self.terms.iter().find(|t| !known(&t.field)) {
            Some(term) => Err(ParseError::Unsupported(term.field.clone())),
            None => Ok(()),
        }
    }

    /// `get` answers a field's value; an absent field is the empty string.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (get(&t.field).unwrap_or("") == t.value) != t.negated)
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The value `field` must have, where the selector demands exactly one.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }
}

/// Escapes a value so that it can stand in a selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let op = if t.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{op}{}", t.field, escape(&t.value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_and_match() {
        let s = Selector::parse("spec.nodeName=a,status.phase!=Running,metadata.name==x").unwrap();
        assert_eq!(s.required_value("spec.nodeName"), Some("a"));
        let get = |phase: &'static str| {
            s.matches(|f| match f {
                "spec.nodeName" => Some("a"),
                "metadata.name" => Some("x"),
                "status.phase" => Some(phase),
                _ => None,
            })
        };
        assert!(get("Pending") && !get("Running"));
        assert!(Selector::parse("a=").unwrap().matches(|_| None));
        assert_eq!(
            Selector::parse("abc").unwrap_err().to_string(),
            "invalid selector: 'abc'; can't understand 'abc'"
        );
        assert_eq!(
            Selector::parse("a=b\\x").unwrap_err().to_string(),
            "invalid field selector: invalid escape sequence: \\x"
        );
        assert_eq!(
            Selector::parse("a=b=c").unwrap_err().to_string(),
            "invalid field selector: unescaped character in value: 61"
        );
        assert_eq!(
            s.check(|f| f != "status.phase").unwrap_err().to_string(),
            "field label not supported: status.phase"
        );
    }

    proptest! {
        #[test]
        fn escaping_round_trips(value in "[a-z\\\\,=]{0,8}") {
            let s = Selector::parse(&format!("f={}", escape(&value))).unwrap();
            prop_assert_eq!(s.required_value("f"), Some(value.as_str()));
            prop_assert_eq!(Selector::parse(&s.to_string()).unwrap(), s);
        }
    }
}
