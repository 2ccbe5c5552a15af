//! Characters to tokens.

use super::SyntaxError;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(String),
    /// `` `field-name` `` after a dot.
    Quoted(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Operators and punctuation.
    Sign(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub struct Lexeme {
    pub token: Token,
    /// Offset in characters.
    pub at: u32,
    /// As written, for messages.
    pub text: String,
}

const SIGNS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "(", ")", "[", "]", "{", "}",
    ".", ",", ":", "?", ";",
];

struct Lexer<'s> {
    chars: &'s [char],
    at: usize,
}

pub fn lex(source: &str) -> Result<Vec<Lexeme>, SyntaxError> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        let token = lexer.next()?;
        let text: String = chars[start..lexer.at].iter().collect();
        let end = token == Token::End;
        out.push(Lexeme { token, at: start as u32, text });
        if end {
            return Ok(out);
        }
    }
}

fn error(at: usize, message: impl Into<String>) -> SyntaxError {
    SyntaxError { at: at as u32, message: message.into() }
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip_blank(&mut self) {
        while let Some(c) = self.peek(0) {
            if c.is_ascii_whitespace() || c == '\u{b}' {
                self.at += 1;
            } else if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, SyntaxError> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if c == '"' || c == '\'' {
            return self.text(false, false);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            if let Some(token) = self.prefixed()? {
                return Ok(token);
            }
            let start = self.at;
            while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                self.at += 1;
            }
            return Ok(Token::Ident(self.chars[start..self.at].iter().collect()));
        }
        if c == '`' {
            let start = self.at + 1;
            let end = self.chars[start..].iter().position(|c| *c == '`').map(|n| start + n);
            let Some(end) = end else { return Err(self.unrecognized()) };
            let name: String = self.chars[start..end].iter().collect();
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
            if name.is_empty() || !name.chars().all(fits) {
                return Err(self.unrecognized());
            }
            self.at = end + 1;
            return Ok(Token::Quoted(name));
        }
        for sign in SIGNS {
            let mut wanted = sign.chars();
            if self.peek(0) == wanted.next() && wanted.next().is_none_or(|w| self.peek(1) == Some(w)) {
                self.at += sign.len();
                return Ok(Token::Sign(sign));
            }
        }
        Err(self.unrecognized())
    }

    fn unrecognized(&self) -> SyntaxError {
        let c = self.peek(0).unwrap_or(' ');
        error(self.at, format!("Syntax error: token recognition error at: '{c}'"))
    }

    /// `r"..."`, `b"..."` and both together.
    fn prefixed(&mut self) -> Result<Option<Token>, SyntaxError> {
        let (mut raw, mut bytes, mut n) = (false, false, 0);
        while n < 2 {
            match self.peek(n) {
                Some('r' | 'R') if !raw => raw = true,
                Some('b' | 'B') if !bytes => bytes = true,
                _ => break,
            }
            n += 1;
        }
        if n == 0 || !matches!(self.peek(n), Some('"' | '\'')) {
            return Ok(None);
        }
        self.at += n;
        self.text(raw, bytes).map(Some)
    }

    fn number(&mut self) -> Result<Token, SyntaxError> {
        let start = self.at;
        if self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X')) {
            self.at += 2;
            let digits = self.at;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
            let text: String = self.chars[digits..self.at].iter().collect();
            return self.whole(start, u64::from_str_radix(&text, 16).ok());
        }
        let digits = |l: &mut Self| {
            while l.peek(0).is_some_and(|c| c.is_ascii_digit()) {
                l.at += 1;
            }
        };
        let mut double = false;
        digits(self);
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            double = true;
            self.at += 1;
            digits(self);
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                double = true;
                self.at += 1 + sign;
                digits(self);
            }
        }
        let text: String = self.chars[start..self.at].iter().collect();
        if double {
            return match text.parse::<f64>() {
                Ok(n) if n.is_finite() => Ok(Token::Double(n)),
                _ => Err(error(start, "invalid double literal")),
            };
        }
        self.whole(start, text.parse().ok())
    }

    fn whole(&mut self, start: usize, n: Option<u64>) -> Result<Token, SyntaxError> {
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return n.map(Token::Uint).ok_or_else(|| error(start, "invalid uint literal"));
        }
        n.map(Token::Int).ok_or_else(|| error(start, "invalid int literal"))
    }

    fn text(&mut self, raw: bool, bytes: bool) -> Result<Token, SyntaxError> {
        let start = self.at;
        let quote = self.peek(0).unwrap_or('"');
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        let mut text = String::new();
        let mut data: Vec<u8> = Vec::new();
        while let Some(c) = self.peek(0) {
            if c == quote && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote))) {
                self.at += if triple { 3 } else { 1 };
                return Ok(if bytes { Token::Bytes(data) } else { Token::Text(text) });
            }
            if !triple && (c == '\n' || c == '\r') {
                break;
            }
            if c != '\\' || raw {
                self.at += 1;
                push(&mut text, &mut data, bytes, c);
                continue;
            }
            self.escape(&mut text, &mut data, bytes)?;
        }
        let seen: String = self.chars[start..self.at].iter().collect();
        Err(error(start, format!("Syntax error: token recognition error at: '{seen}'")))
    }

    fn escape(&mut self, text: &mut String, data: &mut Vec<u8>, bytes: bool) -> Result<(), SyntaxError> {
        let start = self.at;
        let bad = || error(start, "Syntax error: token recognition error: invalid escape sequence");
        let code = self.peek(1).ok_or_else(bad)?;
        let simple = match code {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Some(code),
            _ => None,
        };
        if let Some(c) = simple {
            self.at += 2;
            push(text, data, bytes, c);
            return Ok(());
        }
        let (skip, radix, length) = match code {
            'x' | 'X' => (2, 16, 2),
            'u' if !bytes => (2, 16, 4),
            'U' if !bytes => (2, 16, 8),
            '0'..='3' => (1, 8, 3),
            _ => return Err(bad()),
        };
        let digits: String = (0..length).filter_map(|n| self.peek(skip + n)).collect();
        if digits.chars().count() != length || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(bad());
        }
        let n = u32::from_str_radix(&digits, radix).map_err(|_| bad())?;
        self.at += skip + length;
        if bytes {
            data.push(u8::try_from(n).map_err(|_| bad())?);
        } else {
            text.push(char::from_u32(n).ok_or_else(bad)?);
        }
        Ok(())
    }
}

fn push(text: &mut String, data: &mut Vec<u8>, bytes: bool, c: char) {
    if bytes {
        let mut buffer = [0; 4];
        data.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    } else {
        text.push(c);
    }
}
