//! What a call cost, once its arguments and its result are known: cel-go's cost tracker with upstream's `CallCost`.

use crate::value::{List, Map, Value};

const STRING: f64 = 0.1;
const REGEX: f64 = 0.25;

/// How a function's cost grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    One,
    /// Characters of the first argument, times this.
    First(f64),
    Join,
    Equal,
    Order,
    Add,
    InList,
    Matches,
    Find,
    Contains,
    Traverse,
    Check,
    Selector,
    Validate,
    ContainsIp,
    ContainsCidr,
}

impl Kind {
    pub(crate) fn of(function: &str, overload: &str) -> Self {
        match function {
            "check" => Self::Check,
            "fieldSelector" | "labelSelector" => Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => Self::Traverse,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver"
            | "startsWith"
            | "endsWith"
            | "strings.quote"
            | "format" => Self::First(STRING),
            "ip" if overload != "cidr_ip" => Self::First(STRING),
            "replace" | "split" | "ip.isCanonical" => Self::First(2.0 * STRING),
            "bytes" | "string" if matches!(overload, "string_to_bytes" | "bytes_to_string") => {
                Self::First(STRING)
            }
            "join" => Self::Join,
            "find" | "findAll" => Self::Find,
            "matches" if overload == "matches_string" => Self::Matches,
            "contains" => Self::Contains,
            "validate" => Self::Validate,
            "containsIP" => Self::ContainsIp,
            "containsCIDR" => Self::ContainsCidr,
            "_==_" | "_!=_" => Self::Equal,
            "_<_" | "_<=_" | "_>_" | "_>=_" => Self::Order,
            "_+_" => Self::Add,
            "@in" => Self::InList,
            _ => Self::One,
        }
    }

    pub(crate) fn cost(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |at: usize| args.get(at).map_or(1, Value::size);
        let scaled = |n: u64, by: f64| (n as f64 * by).ceil() as u64;
        let regex = |pattern: usize| {
            scaled(size(0).saturating_add(1), STRING).saturating_mul(scaled(size(pattern), REGEX))
        };
        match (self, args) {
            (Self::One, _) => 1,
            (Self::First(factor), _) => scaled(size(0), factor),
            (Self::Join, _) => scaled(result.map_or(1, Value::size), 2.0 * STRING),
            (Self::Equal, [Value::Opaque(_), ..]) => 1,
            (Self::Equal, _) => scaled(size(0).min(size(1)), STRING),
            (Self::Order, [Value::Text(_) | Value::Bytes(_), ..]) => scaled(size(0).min(size(1)), STRING),
            (Self::Add, [Value::Text(_) | Value::Bytes(_), ..]) => {
                scaled(size(0).saturating_add(size(1)), STRING)
            }
            (Self::InList, [_, Value::List(list)]) => list.len() as u64,
            (Self::Matches | Self::Find, _) => regex(1),
            (Self::Contains, _) => scaled(size(0), STRING).saturating_mul(scaled(size(1), STRING)),
            (Self::Traverse, [first, ..]) => traversal(first),
            (Self::Check, _) => 350_000,
            (Self::Selector, _) => 10 + scaled(size(1), STRING) + scaled(scaled(size(1), 0.5), 50.0),
            (Self::Validate, _) => {
                scaled(size(1).saturating_add(1), STRING).saturating_mul(scaled(128, REGEX))
            }
            (Self::ContainsIp | Self::ContainsCidr, _) => {
                let mut cost = scaled(size(0).saturating_mul(2), STRING);
                if self == Self::ContainsCidr {
                    cost += scaled(size(0), STRING) + 1;
                }
                if matches!(args.get(1), Some(Value::Text(_))) {
                    cost += scaled(size(1), STRING);
                }
                cost
            }
            _ => 1,
        }
    }
}

/// The cost of looking at all of a value once.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::Text(text) => (text.len() as f64 * STRING) as u64,
        Value::Bytes(data) => (data.len() as f64 * STRING) as u64,
        Value::List(List::Owned(items)) => items.iter().map(traversal).sum(),
        Value::List(list) => list.iter().map(|i| i.as_ref().map_or(1, traversal)).sum(),
        Value::Map(Map::Owned(map)) => map.iter().map(|(k, v)| traversal(&k.value()) + traversal(v)).sum(),
        Value::Map(map) => map
            .keys()
            .iter()
            .map(|k| traversal(&k.value()) + map.get(k).map_or(0, |v| v.as_ref().map_or(1, traversal)))
            .sum(),
        _ => 1,
    }
}
