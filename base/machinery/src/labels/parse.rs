//! The grammar of label selector strings, with upstream's error texts.

use super::{Operator, Requirement, SelectorError};
use crate::field::{FieldError, Path};
use crate::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Closed,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn literal(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Closed,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn lex(text: &str) -> Vec<(Token, &str)> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        while at < bytes.len() && is_space(bytes[at]) {
            at += 1;
        }
        if at >= bytes.len() {
            out.push((Token::End, ""));
            return out;
        }
        let start = at;
        if is_special(bytes[at]) {
            // The longest run of symbols that is a token.
            let mut best = None;
            while at < bytes.len() && is_special(bytes[at]) {
                match literal(&text[start..=at]) {
                    Some(token) => best = Some((token, at + 1)),
                    None if best.is_some() => break,
                    None => {}
                }
                at += 1;
            }
            match best {
                Some((token, end)) => {
                    at = end;
                    out.push((token, &text[start..end]));
                }
                None => out.push((Token::Error, &text[start..at])),
            }
        } else {
            while at < bytes.len() && !is_special(bytes[at]) && !is_space(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            out.push((literal(word).unwrap_or(Token::Identifier), word));
        }
    }
}

struct Parser<'a> {
    items: Vec<(Token, &'a str)>,
    at: usize,
}

fn fail<T>(message: String) -> Result<T, SelectorError> {
    Err(SelectorError(message))
}

impl<'a> Parser<'a> {
    fn raw(&self) -> (Token, &'a str) {
        self.items.get(self.at).copied().unwrap_or((Token::End, ""))
    }

    /// Where a value may stand, `in` and `notin` are plain words.
    fn peek(&self) -> (Token, &'a str) {
        match self.raw() {
            (Token::In | Token::NotIn, word) => (Token::Identifier, word),
            other => other,
        }
    }

    fn next(&mut self) -> (Token, &'a str) {
        let item = self.peek();
        self.at += 1;
        item
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut word) = self.next();
        let mut operator = None;
        if token == Token::Not {
            operator = Some(Operator::NotExists);
            (token, word) = self.next();
        }
        if token != Token::Identifier {
            return fail(format!("found '{word}', expected: identifier"));
        }
        let bad = names::qualified_name(word);
        if !bad.is_empty() {
            return Err(FieldError::invalid(&Path::root(), word, bad.join("; ")).into());
        }
        if operator.is_none() && matches!(self.peek().0, Token::End | Token::Comma) {
            operator = Some(Operator::Exists);
        }
        if let Some(operator) = operator {
            return Requirement::new(word, operator, vec![]);
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact()?,
        };
        Requirement::new(word, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, word) = self.raw();
        self.at += 1;
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::Gt,
            Token::Less => Operator::Lt,
            _ => return fail(format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, word) = self.next();
        if token != Token::Open {
            return fail(format!("found '{word}' expected: '('"));
        }
        let (token, word) = self.peek();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                if self.next().0 != Token::Closed {
                    return fail(format!("found '{word}', expected: ')'"));
                }
                Ok(values)
            }
            Token::Closed => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            _ => fail(format!("found '{word}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut out: Vec<String> = Vec::new();
        let add = |out: &mut Vec<String>, word: &str| {
            if !out.iter().any(|w| w == word) {
                out.push(word.to_string());
            }
        };
        loop {
            let (token, word) = self.next();
            match token {
                Token::Identifier => {
                    add(&mut out, word);
                    match self.peek() {
                        (Token::Comma, _) => continue,
                        (Token::Closed, _) => return Ok(out),
                        (_, word) => return fail(format!("found '{word}', expected: ',' or ')'")),
                    }
                }
                Token::Comma => {
                    if out.is_empty() {
                        add(&mut out, "");
                    }
                    match self.peek().0 {
                        Token::Closed => {
                            add(&mut out, "");
                            return Ok(out);
                        }
                        Token::Comma => add(&mut out, ""),
                        _ => {}
                    }
                }
                _ => return fail(format!("found '{word}', expected: ',', or identifier")),
            }
        }
    }

    fn exact(&mut self) -> Result<Vec<String>, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Token::Identifier, word) => Ok(vec![word.to_string()]),
            (_, word) => fail(format!("found '{word}', expected: identifier")),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { items: lex(text), at: 0 };
    let mut out = Vec::new();
    loop {
        let (token, word) = parser.peek();
        match token {
            Token::Identifier | Token::Not => {
                let requirement = parser
                    .requirement()
                    .map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                out.push(requirement);
                match parser.next() {
                    (Token::End, _) => return Ok(out),
                    (Token::Comma, _) => {
                        let (token, word) = parser.peek();
                        if token != Token::Identifier && token != Token::Not {
                            return fail(format!("found '{word}', expected: identifier after ','"));
                        }
                    }
                    (_, word) => return fail(format!("found '{word}', expected: ',' or 'end of string'")),
                }
            }
            Token::End => return Ok(out),
            _ => return fail(format!("found '{word}', expected: !, identifier, or 'end of string'")),
        }
    }
}
