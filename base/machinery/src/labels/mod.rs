//! Label selectors: parsed from a string or a `LabelSelector` object, matched against labels.

mod parse;
pub mod validation;

use crate::field::{FieldError, FieldErrors, Path, quote};
use crate::names;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Gt,
    Lt,
    Exists,
    NotExists,
}

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

/// A conjunction of requirements, or the selector that matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// Where labels are looked up.
pub trait Labels {
    fn lookup(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn lookup(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for BTreeMap<String, String> {
    fn lookup(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<&L> {
    fn lookup(&self, key: &str) -> Option<&str> {
        self.as_ref()?.lookup(key)
    }
}

impl Requirement {
    /// Checks the term as upstream's `NewRequirement`.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = FieldErrors::new();
        let bad_key = names::qualified_name(key);
        if !bad_key.is_empty() {
            errors.invalid(&Path::new("key"), key, bad_key.join("; "));
        }
        let path = Path::new("values");
        let shown = || Value::from(values.clone());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(&path, shown(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(&path, shown(), "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::NotExists if !values.is_empty() => {
                errors.invalid(&path, shown(), "values set must be empty for exists and does not exist");
            }
            Operator::Gt | Operator::Lt => {
                if values.len() != 1 {
                    errors.invalid(&path, shown(), "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, v) in values.iter().enumerate() {
                    if v.parse::<i64>().is_err() {
                        let message = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.invalid(&path.index(i), v.as_str(), message);
                    }
                }
            }
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            let bad = names::label_value(v);
            if !bad.is_empty() {
                errors.invalid(&path.index(i).key(key), v.as_str(), bad.join("; "));
            }
        }
        if let Some(message) = errors.aggregate() {
            return Err(SelectorError(message));
        }
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key: key.to_string(), operator, values })
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let found = labels.lookup(&self.key);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => {
                found.is_some_and(|v| self.values.iter().any(|x| x == v))
            }
            Operator::NotIn | Operator::NotEquals => {
                !found.is_some_and(|v| self.values.iter().any(|x| x == v))
            }
            Operator::Exists => found.is_some(),
            Operator::NotExists => found.is_none(),
            Operator::Gt | Operator::Lt => {
                let have = found.and_then(|v| v.parse::<i64>().ok());
                let want = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (have, want) {
                    (Some(h), Some(w)) => {
                        (self.operator == Operator::Gt && h > w) || (self.operator == Operator::Lt && h < w)
                    }
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = || self.values.join(",");
        match self.operator {
            Operator::Exists => f.write_str(&self.key),
            Operator::NotExists => write!(f, "!{}", self.key),
            Operator::Equals => write!(f, "{}={}", self.key, joined()),
            Operator::DoubleEquals => write!(f, "{}=={}", self.key, joined()),
            Operator::NotEquals => write!(f, "{}!={}", self.key, joined()),
            Operator::In => write!(f, "{} in ({})", self.key, joined()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, joined()),
            Operator::Gt => write!(f, "{}>{}", self.key, joined()),
            Operator::Lt => write!(f, "{}<{}", self.key, joined()),
        }
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector { requirements, nothing: false }
    }

    /// `a=b,c in (d,e),!f`; empty matches everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::from_requirements(parse::parse(text)?))
    }

    /// A plain map of labels, as a Service or ReplicationController selects; values are not checked.
    pub fn from_map(map: Option<&Map<String, Value>>) -> Self {
        let requirements = map.into_iter().flatten().map(|(k, v)| Requirement {
            key: k.clone(),
            operator: Operator::Equals,
            values: vec![v.as_str().unwrap_or("").to_string()],
        });
        Self::from_requirements(requirements.collect())
    }

    /// A `LabelSelector` object: absent matches nothing, empty everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else { return Ok(Self::nothing()) };
        let mut out = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_string();
            out.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match e.get("operator").and_then(Value::as_str).unwrap_or("") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::NotExists,
                other => {
                    return Err(SelectorError(format!(
                        "{} is not a valid label selector operator",
                        quote(other)
                    )));
                }
            };
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(String::from).collect();
            out.push(Requirement::new(e.get("key").and_then(Value::as_str).unwrap_or(""), operator, values)?);
        }
        Ok(Self::from_requirements(out))
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Matches the labels of an object.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&crate::meta::labels(object))
    }

    /// No requirement: it matches everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value `key` must have, where the selector demands exactly one.
    pub fn required_value(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find_map(|r| match r.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In
                if r.key == key && r.values.len() == 1 =>
            {
                Some(r.values[0].as_str())
            }
            _ => None,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

impl From<FieldError> for SelectorError {
    fn from(error: FieldError) -> Self {
        SelectorError(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        Selector::parse(selector).unwrap().matches(labels.as_object().unwrap())
    }

    #[test]
    fn matching() {
        let labels = json!({"app": "web", "n": "5", "empty": ""});
        for (selector, want) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("app in (a, web)", true),
            ("app notin (web)", false),
            ("zone notin (a)", true),
            ("zone!=a", true),
            ("app", true),
            ("!app", false),
            ("!zone", true),
            ("n>4", true),
            ("n<5", false),
            ("n > 4 , n < 6", true),
            ("empty=", true),
            ("empty in ()", true),
            ("in in (in)", false),
            ("app=web,!zone,n in (4,5)", true),
        ] {
            assert_eq!(matches(selector, labels.clone()), want, "{selector}");
        }
    }

    #[test]
    fn errors() {
        for (selector, want) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x=a,,", "found ',', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
        ] {
            assert_eq!(Selector::parse(selector).unwrap_err().0, want, "{selector}");
        }
        assert!(
            Selector::parse("-a=b")
                .unwrap_err()
                .0
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must")
        );
        assert!(Selector::parse("a=b@").unwrap_err().0.starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"b@\": a valid label must"
        ));
        assert_eq!(
            Selector::parse("a>x").unwrap_err().0,
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"
        );
    }

    #[test]
    fn objects() {
        let s = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["x", "d"]}]});
        let selector = Selector::from_object(Some(&s)).unwrap();
        assert_eq!(selector.to_string(), "a=b,c notin (d,x)");
        assert!(selector.matches(json!({"a": "b"}).as_object().unwrap()));
        assert!(!Selector::from_object(None).unwrap().matches(&Map::new()));
        assert!(Selector::from_object(Some(&json!({}))).unwrap().matches(&Map::new()));
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Near"}]});
        assert_eq!(
            Selector::from_object(Some(&bad)).unwrap_err().0,
            "\"Near\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(key in "[a-c]{1,3}", values in proptest::collection::vec("[a-z0-9]{1,3}", 1..3), op in 0usize..7) {
            let op = [Operator::In, Operator::NotIn, Operator::Equals, Operator::NotEquals, Operator::Exists, Operator::NotExists, Operator::DoubleEquals][op];
            let values = match op {
                Operator::In | Operator::NotIn => values,
                Operator::Exists | Operator::NotExists => vec![],
                _ => vec![values[0].clone()],
            };
            let selector = Selector::from_requirements(vec![Requirement::new(&key, op, values).unwrap()]);
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn never_panics(s in "[a-c=!<>(), in]{0,16}") {
            let _ = Selector::parse(&s);
        }
    }
}
