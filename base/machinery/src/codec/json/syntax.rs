//! Syntax errors in Go's words.

use crate::codec::DecodeError;

/// Words a syntax error as Go's scanner does.
pub(super) fn error(error: &serde_json::Error, bytes: &[u8]) -> DecodeError {
    if error.is_eof() || bytes.is_empty() {
        return DecodeError::Syntax("unexpected end of JSON input".into());
    }
    let text = error.to_string();
    if text.starts_with("recursion limit") {
        return DecodeError::Syntax("exceeded max depth".into());
    }
    let mut rest = bytes;
    for _ in 1..error.line() {
        let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
        rest = &rest[end..];
    }
    let at = error.column().saturating_sub(1).min(rest.len());
    let line = String::from_utf8_lossy(&rest[at..rest.len().min(at + 8)]).into_owned();
    let found = line.chars().next().unwrap_or('\n');
    let found = match found {
        '\'' => r"'\''".to_string(),
        '"' => "'\"'".to_string(),
        c => format!("'{}'", c.escape_debug()),
    };
    let what = [
        ("expected value", "looking for beginning of value"),
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("trailing comma", "looking for beginning of object key string"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
        ("expected ident", "in literal"),
    ];
    let what = what
        .iter()
        .find(|(said, _)| text.starts_with(said))
        .map_or("looking for beginning of value", |w| w.1);
    DecodeError::Syntax(format!("invalid character {found} {what}"))
}
