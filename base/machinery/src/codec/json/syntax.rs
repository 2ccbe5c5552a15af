//! Syntax errors in Go's words: the states of `encoding/json`'s scanner, walked until the first byte that is wrong.

use crate::codec::DecodeError;

const MAX_DEPTH: usize = 10_000;

/// Words a syntax error as Go's scanner does.
pub fn error(error: &serde_json::Error, bytes: &[u8]) -> DecodeError {
    if error.to_string().starts_with("recursion limit") {
        return DecodeError::Syntax("exceeded max depth".into());
    }
    let scanner = Scanner { bytes, at: 0 };
    DecodeError::Syntax(match scanner.document() {
        Err(Stop::End) => "unexpected end of JSON input".into(),
        Err(Stop::Depth) => "exceeded max depth".into(),
        Err(Stop::Wrong(byte, context)) => format!("invalid character {} {context}", quoted(byte)),
        // Go would have read it; what serde refuses beyond that is how it says it.
        Ok(()) => error.to_string(),
    })
}

enum Stop {
    End,
    Depth,
    Wrong(u8, String),
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        _ => format!("'{}'", escaped(char::from(byte))),
    }
}

/// As `strconv.Quote` writes one character.
fn escaped(c: char) -> String {
    match c {
        '\n' => r"\n".into(),
        '\r' => r"\r".into(),
        '\t' => r"\t".into(),
        '\\' => r"\\".into(),
        '\x07' => r"\a".into(),
        '\x08' => r"\b".into(),
        '\x0b' => r"\v".into(),
        '\x0c' => r"\f".into(),
        c if u32::from(c) < 0x20 || c == '\x7f' => format!("\\x{:02x}", u32::from(c)),
        c if ('\u{80}'..='\u{a0}').contains(&c) || c == '\u{ad}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    }
}

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::End)
    }

    fn wrong<T>(&self, context: &str) -> Result<T, Stop> {
        Err(Stop::Wrong(self.peek()?, context.into()))
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Without recursion: `open` holds the brackets that are.
    fn document(mut self) -> Result<(), Stop> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.space();
                    match self.peek()? {
                        b'}' => self.at += 1,
                        b'"' => {
                            self.key()?;
                            open.push(b'{');
                            if open.len() > MAX_DEPTH {
                                return Err(Stop::Depth);
                            }
                            continue;
                        }
                        _ => return self.wrong("looking for beginning of object key string"),
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    if self.peek()? == b']' {
                        self.at += 1;
                    } else {
                        open.push(b'[');
                        if open.len() > MAX_DEPTH {
                            return Err(Stop::Depth);
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended: what may follow depends on what it stands in.
            loop {
                self.space();
                match open.last() {
                    None if self.at == self.bytes.len() => return Ok(()),
                    None => return self.wrong("after top-level value"),
                    Some(b'{') => match self.peek()? {
                        b'}' => {
                            self.at += 1;
                            open.pop();
                        }
                        b',' => {
                            self.at += 1;
                            self.space();
                            if self.peek()? != b'"' {
                                return self.wrong("looking for beginning of object key string");
                            }
                            self.key()?;
                            break;
                        }
                        _ => return self.wrong("after object key:value pair"),
                    },
                    Some(_) => match self.peek()? {
                        b']' => {
                            self.at += 1;
                            open.pop();
                        }
                        b',' => {
                            self.at += 1;
                            break;
                        }
                        _ => return self.wrong("after array element"),
                    },
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), Stop> {
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return self.wrong("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.wrong("in string escape code"),
                    }
                }
                0..=0x1f => return self.wrong("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn scalar(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Stop> {
        for expected in word.bytes() {
            if self.peek()? != expected {
                return self.wrong(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self, context: &str) -> Result<(), Stop> {
        if !self.peek()?.is_ascii_digit() {
            return self.wrong(context);
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if self.bytes.get(self.at).is_some_and(|b| matches!(b, b'e' | b'E')) {
            self.at += 1;
            if self.bytes.get(self.at).is_some_and(|b| matches!(b, b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_gos() {
        for (text, words) in [
            ("", "unexpected end of JSON input"),
            ("[1,", "unexpected end of JSON input"),
            ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("1 2", "invalid character '2' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e", "unexpected end of JSON input"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
        ] {
            let found = serde_json::from_str::<serde_json::Value>(text).expect_err(text);
            assert_eq!(error(&found, text.as_bytes()).to_string(), words, "{text}");
        }
    }
}
