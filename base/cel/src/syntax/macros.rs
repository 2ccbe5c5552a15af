//! Macros: `has`, the one- and two-variable comprehensions, `sortBy`, and the optional ones.

use super::SyntaxError;
use super::ast::{ACCU, Comprehension, Expr, Kind};
use super::parser::Parser;
use crate::value::Value;

pub(super) enum Outcome {
    Expanded(Expr),
    /// Not a macro: an ordinary member call.
    Plain {
        target: Expr,
        name: String,
        args: Vec<Expr>,
    },
}

type Made = Result<Expr, SyntaxError>;

/// `has(a.b)`.
pub(super) fn has(p: &mut Parser, at: u32, mut args: Vec<Expr>) -> Made {
    let (Some(arg), true) = (args.pop(), args.is_empty()) else {
        return Err(SyntaxError { at, message: "invalid argument to has() macro".into() });
    };
    match arg.kind {
        Kind::Select { operand, field, test: false } => {
            Ok(p.node(at, Kind::Select { operand, field, test: true }))
        }
        _ => Err(SyntaxError { at, message: "invalid argument to has() macro".into() }),
    }
}

struct Build<'p> {
    p: &'p mut Parser,
    at: u32,
}

impl Build<'_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.p.node(self.at, kind)
    }

    fn literal(&mut self, value: Value<'static>) -> Expr {
        self.node(Kind::Literal(value))
    }

    fn accu(&mut self) -> Expr {
        self.node(Kind::Ident(ACCU.into()))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.p.call(self.at, function, args)
    }

    fn list(&mut self, items: Vec<Expr>) -> Expr {
        self.node(Kind::List { items, optional: Vec::new() })
    }

    fn fold(
        &mut self,
        target: Expr,
        (var, var2): (String, Option<String>),
        init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let accu = ACCU.into();
        self.node(Kind::Comprehension(Box::new(Comprehension {
            var,
            var2,
            range: target,
            accu,
            init,
            condition,
            step,
            result,
        })))
    }

    /// `accu + [item]`.
    fn append(&mut self, item: Expr) -> Expr {
        let accu = self.accu();
        let one = self.list(vec![item]);
        self.call("_+_", vec![accu, one])
    }

    /// The step under a filter, if there is one.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            None => step,
            Some(filter) => {
                let keep = self.accu();
                self.call("_?_:_", vec![filter, step, keep])
            }
        }
    }
}

fn simple(p: &Parser, arg: &Expr, message: &str) -> Result<String, SyntaxError> {
    match &arg.kind {
        Kind::Ident(name) if name == ACCU || name == "__result__" => Err(SyntaxError {
            at: p.position(arg),
            message: "iteration variable overwrites accumulator variable".into(),
        }),
        Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
        _ => Err(SyntaxError { at: p.position(arg), message: message.into() }),
    }
}

pub(super) fn receiver(
    p: &mut Parser,
    at: u32,
    target: Expr,
    name: String,
    mut args: Vec<Expr>,
) -> Result<Outcome, SyntaxError> {
    let two = matches!(
        (name.as_str(), args.len()),
        ("all" | "exists" | "exists_one" | "existsOne", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4)
    );
    let one = matches!(
        (name.as_str(), args.len()),
        ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3)
    );
    if p.bindings && name == "bind" && args.len() == 3 && matches!(&target.kind, Kind::Ident(t) if t == "cel")
    {
        return named(p, at, args).map(Outcome::Expanded);
    }
    let bind = matches!((name.as_str(), args.len()), ("optMap" | "optFlatMap", 2));
    if name == "sortBy" && args.len() == 2 {
        return sort_by(p, at, target, args).map(Outcome::Expanded);
    }
    if !one && !two && !bind {
        return Ok(Outcome::Plain { target, name, args });
    }
    let vars = if two {
        let first = simple(p, &args[0], "argument must be a simple name")?;
        let second = simple(p, &args[1], "argument must be a simple name")?;
        if first == second {
            let message = format!("duplicate variable name: {first}");
            return Err(SyntaxError { at: p.position(&args[1]), message });
        }
        args.drain(..2);
        (first, Some(second))
    } else {
        let message = if bind {
            "optMap() variable name must be a simple identifier"
        } else {
            "argument must be a simple name"
        };
        let first = simple(p, &args[0], message)?;
        args.remove(0);
        (first, None)
    };
    let Some(body) = args.pop() else { return Ok(Outcome::Plain { target, name, args }) };
    let filter = args.pop();
    let b = &mut Build { p, at };
    let made = match name.as_str() {
        "all" => {
            let init = b.literal(Value::Bool(true));
            let accu = b.accu();
            let condition = b.call("@not_strictly_false", vec![accu]);
            let accu = b.accu();
            let step = b.call("_&&_", vec![accu, body]);
            let result = b.accu();
            b.fold(target, vars, init, condition, step, result)
        }
        "exists" => {
            let init = b.literal(Value::Bool(false));
            let accu = b.accu();
            let not = b.call("!_", vec![accu]);
            let condition = b.call("@not_strictly_false", vec![not]);
            let accu = b.accu();
            let step = b.call("_||_", vec![accu, body]);
            let result = b.accu();
            b.fold(target, vars, init, condition, step, result)
        }
        "exists_one" | "existsOne" => {
            let init = b.literal(Value::Int(0));
            let condition = b.literal(Value::Bool(true));
            let (accu, unit) = (b.accu(), b.literal(Value::Int(1)));
            let more = b.call("_+_", vec![accu, unit]);
            let step = b.filtered(Some(body), more);
            let (accu, unit) = (b.accu(), b.literal(Value::Int(1)));
            let result = b.call("_==_", vec![accu, unit]);
            b.fold(target, vars, init, condition, step, result)
        }
        "filter" => {
            let item = b.ident(&vars.0);
            let step = b.append(item);
            let step = b.filtered(Some(body), step);
            collect(b, target, vars, step)
        }
        "map" | "transformList" => {
            let step = b.append(body);
            let step = b.filtered(filter, step);
            collect(b, target, vars, step)
        }
        "transformMap" | "transformMapEntry" => {
            let mut inserted = vec![b.accu()];
            if name == "transformMap" {
                inserted.push(b.ident(&vars.0));
            }
            inserted.push(body);
            let step = b.call("cel.@mapInsert", inserted);
            let step = b.filtered(filter, step);
            let init = b.node(Kind::Map(Vec::new()));
            let condition = b.literal(Value::Bool(true));
            let result = b.accu();
            b.fold(target, vars, init, condition, step, result)
        }
        _ => opt_map(b, target, vars.0, body, name == "optMap"),
    };
    Ok(Outcome::Expanded(made))
}

fn collect(b: &mut Build<'_>, target: Expr, vars: (String, Option<String>), step: Expr) -> Expr {
    let init = b.list(Vec::new());
    let condition = b.literal(Value::Bool(true));
    let result = b.accu();
    b.fold(target, vars, init, condition, step, result)
}

fn member(b: &mut Build<'_>, target: Expr, function: &str) -> Expr {
    b.node(Kind::Call { function: function.into(), target: Some(Box::new(target)), args: Vec::new() })
}

/// `cel.bind(name, value, expression)`.
fn named(p: &mut Parser, at: u32, mut args: Vec<Expr>) -> Made {
    let message = "cel.bind() variable names must be simple identifiers";
    let var = simple(p, &args[0], message)?;
    let (Some(body), Some(value)) = (args.pop(), args.pop()) else {
        return Err(SyntaxError { at, message: message.into() });
    };
    Ok(bind(&mut Build { p, at }, var, value, body))
}

/// A fold over nothing that only names a value: cel-go's `cel.bind`.
fn bind(b: &mut Build<'_>, var: String, init: Expr, result: Expr) -> Expr {
    let range = b.list(Vec::new());
    let condition = b.literal(Value::Bool(false));
    let step = b.ident(&var);
    b.node(Kind::Comprehension(Box::new(Comprehension {
        var: "#unused".into(),
        var2: None,
        range,
        accu: var,
        init,
        condition,
        step,
        result,
    })))
}

/// `target.hasValue() ? optional.of(body) : optional.none()` with the variable bound to the value.
fn opt_map(b: &mut Build<'_>, target: Expr, var: String, body: Expr, wrap: bool) -> Expr {
    let target_name = "@target".to_string();
    let simple = matches!(target.kind, Kind::Ident(_));
    let again = |b: &mut Build<'_>, target: &Expr| match &target.kind {
        Kind::Ident(name) => b.ident(&name.clone()),
        _ => b.ident("@target"),
    };
    let for_test = again(b, &target);
    let for_value = again(b, &target);
    let test = member(b, for_test, "hasValue");
    let value = member(b, for_value, "value");
    let bound = bind(b, var, value, body);
    let yes = if wrap { b.call("optional.of", vec![bound]) } else { bound };
    let no = b.call("optional.none", Vec::new());
    let choice = b.call("_?_:_", vec![test, yes, no]);
    if simple { choice } else { bind(b, target_name, target, choice) }
}

/// `list.@sortByAssociatedKeys(list.map(x, key))`.
fn sort_by(p: &mut Parser, at: u32, target: Expr, mut args: Vec<Expr>) -> Made {
    let fits = matches!(
        target.kind,
        Kind::List { .. } | Kind::Select { .. } | Kind::Ident(_) | Kind::Comprehension(_) | Kind::Call { .. }
    );
    if !fits {
        let message =
            "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(SyntaxError { at: p.position(&target), message: message.into() });
    }
    let var = simple(p, &args[0], "argument must be a simple name")?;
    let body = args.remove(1);
    let b = &mut Build { p, at };
    let name = "@__sortBy_input__".to_string();
    let range = b.ident(&name);
    let step = b.append(body);
    let keys = collect(b, range, (var, None), step);
    let input = b.ident(&name);
    let sorted = b.node(Kind::Call {
        function: "@sortByAssociatedKeys".into(),
        target: Some(Box::new(input)),
        args: vec![keys],
    });
    Ok(bind(b, name, target, sorted))
}
