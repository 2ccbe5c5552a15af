//! The JSONPath that definitions use: client-go's `util/jsonpath` without templates around it. Members, indices,
//! slices, unions, wildcards, recursive descent and filters.

use serde_json::Value;
use std::cmp::Ordering;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    /// `..`: this and everything below.
    Below,
    All,
    /// Several of: indices, slices, names.
    Some(Vec<Pick>),
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
enum Pick {
    Index(i64),
    /// From, to, step.
    Slice(Option<i64>, Option<i64>, i64),
    Name(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    /// Without one the left side has to exist.
    right: Option<(Comparison, Operand)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// `@.a.b`
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// `None` for what is no path.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Below);
                // What follows the dots is a member, a wildcard or a bracket.
                rest = after;
                if !rest.starts_with('[') {
                    rest = take_member(rest, &mut steps)?;
                }
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = if after.is_empty() || after.starts_with('[') {
                    after
                } else {
                    take_member(after, &mut steps)?
                };
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after[..end].trim())?);
                rest = &after[end + 1..];
            } else if steps.is_empty() {
                rest = take_member(rest, &mut steps)?;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// Everything the path finds.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut at = vec![object];
        for step in &self.0 {
            at = at.into_iter().flat_map(|v| step.apply(v)).collect();
        }
        at
    }

    /// As a JSON pointer, for paths of members only.
    pub fn pointer(&self) -> Option<String> {
        let mut out = String::new();
        for step in &self.0 {
            let name = match step {
                Step::Member(name) => name,
                Step::Some(picks) => match picks.as_slice() {
                    [Pick::Name(name)] => name,
                    _ => return None,
                },
                _ => return None,
            };
            out.push('/');
            out.push_str(&name.replace('~', "~0").replace('/', "~1"));
        }
        Some(out)
    }
}

/// A member name up to the next `.` or `[`; a backslash keeps the character after it.
fn take_member<'t>(text: &'t str, steps: &mut Vec<Step>) -> Option<&'t str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut rest = "";
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => {
                rest = &text[at..];
                break;
            }
            '\\' => name.push(chars.next()?.1),
            ']' | '{' | '}' | '(' | ')' => return None,
            c => name.push(c),
        }
    }
    if name.is_empty() {
        return None;
    }
    steps.push(if name == "*" { Step::All } else { Step::Member(name) });
    Some(rest)
}

/// The index of the `]` that ends a bracket, quotes and nested brackets skipped.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace(&format!("\\{quote}"), &quote.to_string()))
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_of(filter.trim()).map(Step::Filter);
    }
    let picks: Option<Vec<Pick>> = split(text, ',').into_iter().map(|p| pick(p.trim())).collect();
    picks.filter(|p| !p.is_empty()).map(Step::Some)
}

/// Splits outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut out, mut from, mut quote) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == separator => {
                out.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}

fn pick(text: &str) -> Option<Pick> {
    if let Some(name) = unquoted(text) {
        return Some(Pick::Name(name));
    }
    let number = |t: &str| if t.trim().is_empty() { Some(None) } else { t.trim().parse().ok().map(Some) };
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [one] => one.parse().ok().map(Pick::Index),
        [from, to] => Some(Pick::Slice(number(from)?, number(to)?, 1)),
        [from, to, step] => {
            let step = number(step)?.unwrap_or(1);
            (step > 0).then_some(Pick::Slice(number(from)?, number(to)?, step))
        }
        _ => None,
    }
}

fn filter_of(text: &str) -> Option<Filter> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => {
                if let Some((sign, comparison)) = SIGNS.iter().find(|(sign, _)| text[at..].starts_with(sign))
                {
                    let right = operand(text[at + sign.len()..].trim())?;
                    return Some(Filter {
                        left: operand(text[..at].trim())?,
                        right: Some((*comparison, right)),
                    });
                }
            }
        }
    }
    Some(Filter { left: operand(text)?, right: None })
}

fn operand(text: &str) -> Option<Operand> {
    if text.starts_with('@') {
        return JsonPath::parse(text).map(Operand::Path);
    }
    if let Some(quoted) = unquoted(text) {
        return Some(Operand::Literal(quoted.into()));
    }
    serde_json::from_str(text).ok().filter(|v: &Value| !v.is_object() && !v.is_array()).map(Operand::Literal)
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(path) => path.find(item).into_iter().next(),
            Self::Literal(value) => Some(value),
        }
    }
}

impl Filter {
    fn admits(&self, item: &Value) -> bool {
        let Some(left) = self.left.value(item) else { return false };
        let Some((comparison, right)) = &self.right else { return true };
        let Some(right) = right.value(item) else { return false };
        let order = order(left, right);
        match comparison {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        _ => (a == b).then_some(Ordering::Equal),
    }
}

/// All values below, depth first, this one included.
fn below<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|v| below(v, out)),
        Value::Object(map) => map.values().for_each(|v| below(v, out)),
        _ => {}
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Below => {
                let mut out = Vec::new();
                below(value, &mut out);
                out
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Some(picks) => picks.iter().flat_map(|p| p.apply(value)).collect(),
            Self::Filter(filter) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().filter(|item| filter.admits(item)).collect()
            }
        }
    }
}

impl Pick {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let count = items.len() as i64;
        let place = |at: i64| if at < 0 { at + count } else { at };
        match self {
            Self::Name(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                usize::try_from(place(*index)).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice(from, to, step) => {
                let from = usize::try_from(place(from.unwrap_or(0)).clamp(0, count)).unwrap_or(0);
                let to = usize::try_from(place(to.unwrap_or(count)).clamp(0, count)).unwrap_or(0);
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                items.get(from..to).unwrap_or_default().iter().step_by(step).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str) -> Vec<Value> {
        let object = json!({"spec": {"a.b": 1, "list": [1, 2, 3], "size": 4}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "n": 1}, {"type": "Other", "status": "False", "n": 2, "more": {"x": 1}}]}});
        JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect()
    }

    #[test]
    fn the_forms_printer_columns_use() {
        assert_eq!(find(".spec['a.b']"), [json!(1)]);
        assert_eq!(find(".spec.a\\.b"), [json!(1)]);
        assert_eq!(find(".spec.list[-1]"), [json!(3)]);
        assert_eq!(find(".spec.list[*]").len(), 3);
        assert_eq!(find(".spec.list[0:2]"), [json!(1), json!(2)]);
        assert_eq!(find(".spec.list[::2]"), [json!(1), json!(3)]);
        assert_eq!(find(".spec.list[0,2]"), [json!(1), json!(3)]);
        assert_eq!(find(".spec['size','a.b']"), [json!(4), json!(1)]);
        assert_eq!(find("{.spec.size}"), [json!(4)]);
        assert_eq!(find("..type"), [json!("Ready"), json!("Other")]);
        assert!(find(".nothing.here").is_empty());
        assert_eq!(JsonPath::parse(".spec.replicas").unwrap().pointer().unwrap(), "/spec/replicas");
        assert_eq!(
            JsonPath::parse(".metadata.annotations['a/b']").unwrap().pointer().unwrap(),
            "/metadata/annotations/a~1b"
        );
        for bad in [".a[", ".a[]", ".a[x]", ".a)", ".a[?(@.b==)]"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn filters_compare() {
        let statuses = |filter: &str| find(&format!(".status.conditions[?({filter})].status"));
        assert_eq!(statuses("@.type==\"Ready\""), [json!("True")]);
        assert_eq!(statuses("@.type != 'Ready'"), [json!("False")]);
        assert_eq!(statuses("@.n>1"), [json!("False")]);
        assert_eq!(statuses("@.n <= 2").len(), 2);
        assert_eq!(statuses("@.more"), [json!("False")]);
        assert_eq!(statuses("@.more.x == 1"), [json!("False")]);
        assert!(statuses("@.type == \"a==b\"").is_empty());
    }

    proptest::proptest! {
        /// Definitions come from outside: whatever the path, reading it and walking it ends well.
        #[test]
        fn no_path_panics(text in "[.\\[\\]?(@)a-c'\"\\\\*:,=<>!0-9-]{0,24}|\\PC{0,12}") {
            if let Some(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"b": 1}, "c", [2]], "c": {"a": null}}));
                path.pointer();
            }
        }
    }
}
