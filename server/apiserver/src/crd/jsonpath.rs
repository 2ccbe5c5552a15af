//! The JSONPath subset definitions use: members, indices, wildcards and equality filters.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    /// `?(@.a.b=="c")`, negated for `!=`.
    Filter {
        path: Vec<String>,
        value: Value,
        equal: bool,
    },
}

impl JsonPath {
    /// `None` for what is outside the subset.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}');
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let (name, next) = member(after)?;
                if !name.is_empty() {
                    steps.push(if name == "*" { Step::All } else { Step::Member(name) });
                }
                rest = next;
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after[..end].trim())?);
                rest = &after[end + 1..];
            } else if steps.is_empty() {
                let (name, next) = member(rest)?;
                steps.push(Step::Member(name));
                rest = next;
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
            let Step::Member(name) = step else { return None };
            out.push('/');
            out.push_str(&name.replace('~', "~0").replace('/', "~1"));
        }
        Some(out)
    }
}

/// A member name up to the next `.` or `[`; a backslash keeps the character after it.
fn member(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return Some((name, &text[at..])),
            '\\' => name.push(chars.next()?.1),
            c => name.push(c),
        }
    }
    Some((name, ""))
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

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = text.parse() {
        return Some(Step::Index(index));
    }
    for quote in ['\'', '"'] {
        if let Some(name) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return Some(Step::Member(name.to_owned()));
        }
    }
    let filter = text.strip_prefix("?(")?.strip_suffix(')')?.trim();
    let (path, value, equal) = match filter.split_once("==") {
        Some((path, value)) => (path, value, true),
        None => filter.split_once("!=").map(|(path, value)| (path, value, false))?,
    };
    let path = path.trim().strip_prefix('@')?;
    let path = path.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    let value = value.trim();
    let quoted = value.len() >= 2 && (value.starts_with('\'') || value.starts_with('"'));
    let value =
        if quoted { Value::from(&value[1..value.len() - 1]) } else { serde_json::from_str(value).ok()? };
    Some(Step::Filter { path, value, equal })
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let at = if *index < 0 { items.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter { path, value: wanted, equal } => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let reach = |item: &'a Value| path.iter().try_fold(item, |v, p| v.get(p));
                items.iter().filter(|i| reach(i).is_some_and(|v| (v == wanted) == *equal)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_forms_printer_columns_use() {
        let object = json!({"spec": {"a.b": 1, "list": [1, 2, 3]}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        let find =
            |p: &str| JsonPath::parse(p).unwrap().find(&object).into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(find(".spec['a.b']"), [json!(1)]);
        assert_eq!(find(".spec.a\\.b"), [json!(1)]);
        assert_eq!(find(".spec.list[-1]"), [json!(3)]);
        assert_eq!(find(".spec.list[*]").len(), 3);
        assert_eq!(find(".status.conditions[?(@.type==\"Ready\")].status"), [json!("True")]);
        assert_eq!(find(".status.conditions[?(@.type!='Ready')].status"), [json!("False")]);
        assert!(find(".nothing.here").is_empty());
        assert_eq!(JsonPath::parse(".a[").map(|p| p.0), None);
        assert_eq!(JsonPath::parse(".spec.replicas").unwrap().pointer().unwrap(), "/spec/replicas");
    }
}
