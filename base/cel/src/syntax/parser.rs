//! Recursive descent over the tokens.

use super::ast::{Ast, Entry, Expr, Id, Kind, StructField};
use super::lexer::{Lexeme, Token, lex};
use super::{MAX_DEPTH, MAX_SOURCE, SyntaxError, macros};
use crate::value::Value;

/// Words no identifier may be.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Parses one expression. Never panics; depth and length are bounded.
pub fn parse(source: &str) -> Result<Ast, Vec<SyntaxError>> {
    parse_with(source, false)
}

/// [`parse`]; `bindings`: `cel.bind` is a macro.
pub fn parse_with(source: &str, bindings: bool) -> Result<Ast, Vec<SyntaxError>> {
    let size = source.chars().count();
    if size > MAX_SOURCE {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_SOURCE}");
        return Err(vec![SyntaxError { at: 0, message }]);
    }
    let lexemes = lex(source).map_err(|e| vec![e])?;
    let mut parser = Parser { lexemes, at: 0, level: 0, positions: vec![0], bindings };
    let root = parser.whole().map_err(|e| vec![e])?;
    Ok(Ast { root, positions: parser.positions })
}

type Result1<T> = Result<T, SyntaxError>;

pub(super) struct Parser {
    lexemes: Vec<Lexeme>,
    at: usize,
    level: u16,
    positions: Vec<u32>,
    pub(super) bindings: bool,
}

impl Parser {
    fn here(&self) -> &Lexeme {
        &self.lexemes[self.at.min(self.lexemes.len() - 1)]
    }

    fn advance(&mut self) {
        if self.at + 1 < self.lexemes.len() {
            self.at += 1;
        }
    }

    fn is(&self, sign: &str) -> bool {
        matches!(&self.here().token, Token::Sign(s) if *s == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result1<()> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let lexeme = self.here();
        let text = if lexeme.token == Token::End { "<EOF>" } else { &lexeme.text };
        let message = if wanted.is_empty() {
            format!(
                "Syntax error: mismatched input '{text}' expecting {{'[', '{{', '(', '.', '-', '!', 'true', 'false', \
                 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}}"
            )
        } else {
            format!("Syntax error: mismatched input '{text}' expecting {wanted}")
        };
        SyntaxError { at: lexeme.at, message }
    }

    pub(super) fn node(&mut self, at: u32, kind: Kind) -> Expr {
        let id = self.positions.len() as Id;
        self.positions.push(at);
        let depth = kind.height().saturating_add(1);
        Expr { id, depth, kind }
    }

    pub(super) fn position(&self, of: &Expr) -> u32 {
        self.positions[of.id as usize]
    }

    fn bounded(&self, expr: Expr) -> Result1<Expr> {
        // A macro makes several levels of one.
        if expr.depth > MAX_DEPTH * 2 { Err(self.too_deep()) } else { Ok(expr) }
    }

    fn too_deep(&self) -> SyntaxError {
        let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
        SyntaxError { at: self.here().at, message }
    }

    fn whole(&mut self) -> Result1<Expr> {
        // A sign before what would do without it is extraneous.
        let starts = |lexeme: Option<&Lexeme>| match lexeme.map(|l| &l.token) {
            Some(Token::Sign(sign)) => ["[", "{", "(", ".", "-", "!"].contains(sign),
            other => !matches!(other, None | Some(Token::End)),
        };
        if matches!(self.here().token, Token::Sign(_))
            && !starts(Some(self.here()))
            && starts(self.lexemes.get(1))
        {
            let mut error = self.unexpected("");
            error.message = error.message.replacen("mismatched", "extraneous", 1);
            return Err(error);
        }
        let expr = self.expr()?;
        if self.here().token != Token::End {
            let lexeme = self.here();
            // What would do if it were left out is extraneous.
            let last = self.lexemes.get(self.at + 1).is_none_or(|l| l.token == Token::End);
            let what = if last { "extraneous" } else { "mismatched" };
            let message = format!("Syntax error: {what} input '{}' expecting <EOF>", lexeme.text);
            return Err(SyntaxError { at: lexeme.at, message });
        }
        Ok(expr)
    }

    fn expr(&mut self) -> Result1<Expr> {
        if self.level >= MAX_DEPTH / 2 {
            return Err(self.too_deep());
        }
        self.level += 1;
        let out = self.conditional();
        self.level -= 1;
        out
    }

    fn conditional(&mut self) -> Result1<Expr> {
        let condition = self.logic(false)?;
        let at = self.here().at;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.logic(false)?;
        self.expect(":")?;
        let no = self.expr()?;
        let node = self.call(at, "_?_:_", vec![condition, yes, no]);
        self.bounded(node)
    }

    pub(super) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call { function: function.into(), target: None, args })
    }

    /// `||` of `&&` of relations, balanced so that long chains stay shallow.
    fn logic(&mut self, and: bool) -> Result1<Expr> {
        let (sign, function) = if and { ("&&", "_&&_") } else { ("||", "_||_") };
        let mut terms = vec![self.term(and)?];
        let mut signs = Vec::new();
        while self.is(sign) {
            signs.push(self.here().at);
            self.advance();
            terms.push(self.term(and)?);
        }
        let node = self.balance(function, &mut terms.into_iter(), &signs);
        match node {
            Some(node) => self.bounded(node),
            None => Err(self.unexpected("")),
        }
    }

    fn term(&mut self, and: bool) -> Result1<Expr> {
        if and { self.relation() } else { self.logic(true) }
    }

    fn balance(
        &mut self,
        function: &str,
        terms: &mut std::vec::IntoIter<Expr>,
        signs: &[u32],
    ) -> Option<Expr> {
        if signs.is_empty() {
            return terms.next();
        }
        let middle = signs.len() / 2;
        let left = self.balance(function, terms, &signs[..middle])?;
        let right = self.balance(function, terms, &signs[middle + 1..])?;
        Some(self.call(signs[middle], function, vec![left, right]))
    }

    fn relation(&mut self) -> Result1<Expr> {
        let mut left = self.sum()?;
        loop {
            let function = match &self.here().token {
                Token::Sign("<") => "_<_",
                Token::Sign("<=") => "_<=_",
                Token::Sign(">") => "_>_",
                Token::Sign(">=") => "_>=_",
                Token::Sign("==") => "_==_",
                Token::Sign("!=") => "_!=_",
                Token::Ident(word) if word == "in" => "@in",
                _ => return Ok(left),
            };
            left = self.binary(left, function, Self::sum)?;
        }
    }

    fn binary(&mut self, left: Expr, function: &str, next: fn(&mut Self) -> Result1<Expr>) -> Result1<Expr> {
        let at = self.here().at;
        self.advance();
        let right = next(self)?;
        let node = self.call(at, function, vec![left, right]);
        if node.depth > MAX_DEPTH * 2 { Err(self.too_deep()) } else { Ok(node) }
    }

    fn sum(&mut self) -> Result1<Expr> {
        let mut left = self.product()?;
        loop {
            let function = match self.here().token {
                Token::Sign("+") => "_+_",
                Token::Sign("-") => "_-_",
                _ => return Ok(left),
            };
            left = self.binary(left, function, Self::product)?;
        }
    }

    fn product(&mut self) -> Result1<Expr> {
        let mut left = self.unary()?;
        loop {
            let function = match self.here().token {
                Token::Sign("*") => "_*_",
                Token::Sign("/") => "_/_",
                Token::Sign("%") => "_%_",
                _ => return Ok(left),
            };
            left = self.binary(left, function, Self::unary)?;
        }
    }

    fn unary(&mut self) -> Result1<Expr> {
        let at = self.here().at;
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while self.is(sign) {
                if count == 0
                    && sign == "-"
                    && let Some(literal) = self.negative()?
                {
                    return self.member(literal);
                }
                self.advance();
                count += 1;
            }
            if count > 0 {
                let operand = self.primary_member()?;
                // Pairs cancel, as in cel-go.
                return Ok(if count % 2 == 0 { operand } else { self.call(at, function, vec![operand]) });
            }
        }
        self.primary_member()
    }

    /// `-1`, where the sign belongs to the number.
    fn negative(&mut self) -> Result1<Option<Expr>> {
        let at = self.here().at;
        let value = match self.lexemes.get(self.at + 1).map(|l| &l.token) {
            Some(Token::Int(n)) => match 0i64.checked_sub_unsigned(*n) {
                Some(n) => Value::Int(n),
                None => return Err(SyntaxError { at, message: "invalid int literal".into() }),
            },
            Some(Token::Double(n)) => Value::Double(-n),
            _ => return Ok(None),
        };
        self.advance();
        self.advance();
        Ok(Some(self.node(at, Kind::Literal(value))))
    }

    fn primary_member(&mut self) -> Result1<Expr> {
        let primary = self.primary()?;
        self.member(primary)
    }

    fn member(&mut self, mut operand: Expr) -> Result1<Expr> {
        loop {
            let at = self.here().at;
            operand = if self.take(".") {
                let optional = self.take("?");
                let (name, quoted) = self.field_name()?;
                if !optional && !quoted && self.is("(") {
                    let paren = self.here().at;
                    self.advance();
                    let args = self.arguments(")")?;
                    match macros::receiver(self, paren, operand, name, args)? {
                        macros::Outcome::Expanded(node) => node,
                        macros::Outcome::Plain { target, name, args } => {
                            let target = Some(Box::new(target));
                            self.node(paren, Kind::Call { function: name, target, args })
                        }
                    }
                } else if optional {
                    let field = self.node(at, Kind::Literal(Value::text(name)));
                    self.call(at, "_?._", vec![operand, field])
                } else {
                    self.node(at, Kind::Select { operand: Box::new(operand), field: name, test: false })
                }
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expr()?;
                self.expect("]")?;
                self.call(at, if optional { "_[?_]" } else { "_[_]" }, vec![operand, index])
            } else {
                return Ok(operand);
            };
            operand = self.bounded(operand)?;
        }
    }

    fn field_name(&mut self) -> Result1<(String, bool)> {
        let (name, quoted) = match &self.here().token {
            Token::Ident(name) => (name.clone(), false),
            Token::Quoted(name) => (name.clone(), true),
            _ => return Err(self.unexpected("IDENTIFIER")),
        };
        if !quoted && (name == "in" || ["true", "false", "null"].contains(&name.as_str())) {
            return Err(self.unexpected("IDENTIFIER"));
        }
        self.advance();
        Ok((name, quoted))
    }

    fn arguments(&mut self, close: &str) -> Result1<Vec<Expr>> {
        let mut out = Vec::new();
        while !self.is(close) {
            out.push(self.expr()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect(close)?;
        Ok(out)
    }

    fn primary(&mut self) -> Result1<Expr> {
        let lexeme = self.here().clone();
        let at = lexeme.at;
        let literal = match lexeme.token {
            Token::Int(n) => match i64::try_from(n) {
                Ok(n) => Value::Int(n),
                Err(_) => return Err(SyntaxError { at, message: "invalid int literal".into() }),
            },
            Token::Uint(n) => Value::Uint(n),
            Token::Double(n) => Value::Double(n),
            Token::Text(text) => Value::text(text),
            Token::Bytes(data) => Value::Bytes(data.into()),
            Token::Ident(name) => match name.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                "in" => return Err(self.unexpected("")),
                _ => return self.identifier(false),
            },
            Token::Sign(".") => {
                self.advance();
                if !matches!(self.here().token, Token::Ident(_)) {
                    let lexeme = self.here();
                    let text = if lexeme.token == Token::End { "" } else { &lexeme.text };
                    let message = format!("Syntax error: no viable alternative at input '.{text}'");
                    return Err(SyntaxError { at: lexeme.at, message });
                }
                return self.identifier(true);
            }
            Token::Sign("(") => {
                self.advance();
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => return self.list(),
            Token::Sign("{") => return self.map(),
            _ => return Err(self.unexpected("")),
        };
        self.advance();
        Ok(self.node(at, Kind::Literal(literal)))
    }

    /// A variable, a global call, or the name of a message to build.
    fn identifier(&mut self, rooted: bool) -> Result1<Expr> {
        let at = self.here().at;
        let Token::Ident(name) = self.here().token.clone() else { return Err(self.unexpected("IDENTIFIER")) };
        if RESERVED.contains(&name.as_str()) {
            return Err(SyntaxError { at, message: format!("reserved identifier: {name}") });
        }
        if let Some(message) = self.message_name() {
            return self.message(at, message);
        }
        self.advance();
        let shown = if rooted { format!(".{name}") } else { name };
        if !self.is("(") {
            return Ok(self.node(at, Kind::Ident(shown)));
        }
        let paren = self.here().at;
        self.advance();
        let args = self.arguments(")")?;
        if shown == "has" {
            return macros::has(self, paren, args);
        }
        let node = self.node(paren, Kind::Call { function: shown, target: None, args });
        self.bounded(node)
    }

    /// `a.b.C` when a `{` follows: then it is a message to build.
    fn message_name(&self) -> Option<(String, usize)> {
        let mut name = String::new();
        let mut at = self.at;
        loop {
            let Token::Ident(part) = &self.lexemes.get(at)?.token else { return None };
            name.push_str(part);
            at += 1;
            match &self.lexemes.get(at)?.token {
                Token::Sign(".") => name.push('.'),
                Token::Sign("{") => return Some((name, at)),
                _ => return None,
            }
            at += 1;
        }
    }

    fn message(&mut self, at: u32, (name, brace): (String, usize)) -> Result1<Expr> {
        self.at = brace;
        self.advance();
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.take("?");
            let field_at = self.here().at;
            let (field, _) = self.field_name()?;
            self.expect(":")?;
            let value = self.expr()?;
            let id = self.positions.len() as Id;
            self.positions.push(field_at);
            fields.push(StructField { id, name: field, value, optional });
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        let node = self.node(at, Kind::Struct { name, fields });
        self.bounded(node)
    }

    fn list(&mut self) -> Result1<Expr> {
        let at = self.here().at;
        self.advance();
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while !self.is("]") {
            if self.take("?") {
                optional.push(items.len());
            }
            items.push(self.expr()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect("]")?;
        let node = self.node(at, Kind::List { items, optional });
        self.bounded(node)
    }

    fn map(&mut self) -> Result1<Expr> {
        let at = self.here().at;
        self.advance();
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?");
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        let node = self.node(at, Kind::Map(entries));
        self.bounded(node)
    }
}
