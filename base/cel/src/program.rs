//! Compiling and running.

use crate::check::estimate::{Range, estimate};
use crate::check::{self, Checked, Env};
use crate::decl::Decl;
use crate::run::{Evaluation, Node, Vars, plan, run};
use crate::syntax::ast::Ast;
use crate::syntax::{SyntaxError, parse_with};
use crate::types::Type;

/// A compiled expression. Immutable; evaluations share it.
#[derive(Debug)]
pub struct Program {
    node: Node,
    slots: usize,
    result: Type,
    used: Vec<String>,
    ast: Ast,
    checked: Checked,
}

/// What is wrong with a source, each error with its place, as cel-go shows them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.show())]
pub struct CompileError {
    source_text: String,
    pub errors: Vec<SyntaxError>,
}

impl CompileError {
    fn show(&self) -> String {
        let shown: Vec<String> = self.errors.iter().map(|e| self.one(e)).collect();
        shown.join("\n")
    }

    fn one(&self, error: &SyntaxError) -> String {
        let (mut line, mut column) = (1, 0);
        for c in self.source_text.chars().take(error.at as usize) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        let snippet = self.source_text.split('\n').nth(line - 1).unwrap_or_default().replace('\t', " ");
        // The end of nothing stands before its first column.
        let place = if self.source_text.is_empty() { 0 } else { column + 1 };
        let head = format!("ERROR: <input>:{line}:{place}: {}", error.message);
        if snippet.len() > MAX_SNIPPET || self.source_text.is_empty() {
            return head;
        }
        let dots = ".".repeat(column);
        format!("{head}\n | {snippet}\n | {dots}^")
    }
}

/// Longer lines are not shown.
const MAX_SNIPPET: usize = 16_384;

/// Parses, checks and plans.
pub fn compile(env: &Env, source: &str) -> Result<Program, CompileError> {
    let failed = |errors: Vec<SyntaxError>| CompileError { source_text: source.to_owned(), errors };
    let ast = parse_with(source, env.bindings).map_err(failed)?;
    let checked = check::check(env, &ast).map_err(failed)?;
    let (node, slots) =
        plan(&ast.root, &checked).map_err(|e| failed(vec![SyntaxError { at: 0, message: e.to_string() }]))?;
    let result = checked.result.clone().unwrap_or(Type::Dyn);
    Ok(Program { node, slots, result, used: checked.used.clone(), ast, checked })
}

impl Program {
    /// The type of its value.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether it reads this variable.
    pub fn uses(&self, name: &str) -> bool {
        self.used.iter().any(|u| u == name)
    }

    /// The least and the most it may cost; `root` declares the data of its variables.
    pub fn estimate(&self, root: Option<&Decl>) -> Range {
        estimate(&self.ast, &self.checked, root)
    }

    /// Forgets what only estimates need.
    pub fn slim(mut self) -> Self {
        self.checked = Checked::default();
        self.ast.positions = Vec::new();
        self.ast.root.kind = crate::syntax::ast::Kind::Literal(crate::value::Value::Null);
        self
    }

    /// Evaluates within the limit.
    pub fn eval<'a>(&self, vars: &dyn Vars<'a>, limit: u64) -> Evaluation<'a> {
        run(&self.node, self.slots, vars, limit)
    }
}
