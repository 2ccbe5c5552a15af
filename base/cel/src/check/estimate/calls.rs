//! Costs of calls.

use super::{Call, Coster, Place, REGEX, Range, STRING, declared};
use crate::library::signatures::{CIDR, FORMAT, IP, URL};
use crate::syntax::ast::{Expr, Kind};
use crate::types::Type;
use crate::value::Value;

const ONE: Range = Range::fixed(1);

impl<'d> Coster<'d> {
    pub(super) fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Range {
        if function == "dyn" && target.is_none() && args.len() == 1 {
            let cost = self.cost(&args[0]).plus(ONE);
            if let Some(size) = self.size(&args[0]) {
                self.sizes.insert(e.id, size);
            }
            if let Some(entries) = self.entries_of(&args[0]) {
                self.entries.insert(e.id, entries);
            }
            return cost;
        }
        let qualified = self.checked.qualified.get(&e.id);
        let function = qualified.map_or(function, String::as_str);
        let target = target.filter(|_| qualified.is_none());
        let costs: Vec<Range> = args.iter().map(|a| self.cost(a)).collect();
        let Some(overloads) = self.checked.overloads.get(&e.id) else { return Range::fixed(0) };
        let own = target.map_or(Range::fixed(0), |t| self.cost(t));
        let mut cost = Range::new(u64::MAX, 0);
        let mut size: Option<Range> = None;
        for overload in overloads {
            let found = self.overload(e, function, overload, target, args, &costs);
            cost = cost.union(found.cost);
            if let Some(found) = found.size {
                size = Some(size.map_or(found, |s| s.union(found)));
            }
            if let ("index_list" | "index_map", Some(first)) = (*overload, args.first()) {
                size = self.entries_of(first).map(|e| e.value);
                let name = if *overload == "index_list" { "@items" } else { "@values" };
                let place = self.step(self.place(first), name);
                self.places.insert(e.id, place);
            }
            if size.is_none() {
                size = self.size(e);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(e.id, size);
        }
        own.plus(cost)
    }

    fn overload(
        &mut self,
        e: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[Range],
    ) -> Call {
        let sum = costs.iter().fold(Range::fixed(0), |a, b| a.plus(*b));
        if let Some(call) = self.extension(function, overload, target, args) {
            return Call { cost: call.cost.plus(sum), size: call.size };
        }
        let plain = |cost: Range| Call { cost: cost.plus(sum), size: None };
        match (overload, target, args) {
            ("string_format", Some(target), _) => plain(self.size_or_unknown(target).factor(STRING)),
            ("string_to_bytes", _, [text]) => {
                let size = self.size_or_unknown(text);
                let made = Range::new(size.min, size.max.saturating_mul(4));
                Call { cost: size.factor(STRING).plus(sum), size: Some(made) }
            }
            ("bytes_to_string", _, [data]) => {
                let size = self.size_or_unknown(data);
                Call { cost: size.factor(STRING).plus(sum), size: Some(Range::new(size.min / 4, size.max)) }
            }
            ("strings_quote", _, [text]) => {
                let size = self.size_or_unknown(text);
                let most = size.max.saturating_mul(2).saturating_add(2);
                let made = Range::new(size.min.saturating_add(2), most);
                Call { cost: size.factor(STRING).plus(sum), size: Some(made) }
            }
            ("starts_with_string" | "ends_with_string", _, [text]) => {
                plain(self.size_or_unknown(text).factor(STRING))
            }
            ("in_list", _, [_, list]) => plain(self.size_or_unknown(list).factor(1.0)),
            ("matches_string", Some(target), [pattern]) => {
                let text = self.size_or_unknown(target).plus(ONE).factor(STRING);
                plain(text.times(self.size_or_unknown(pattern).factor(REGEX)))
            }
            ("contains_string", Some(target), [part]) => {
                let text = self.size_or_unknown(target).factor(STRING);
                plain(text.times(self.size_or_unknown(part).factor(STRING)))
            }
            ("logical_or" | "logical_and", _, _) if costs.len() == 2 => {
                Call { cost: Range::new(costs[0].min, costs[0].plus(costs[1]).max), size: None }
            }
            ("conditional", _, [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                let entries = super::Entries::union(self.entries_of(yes), self.entries_of(no));
                if let Some(entries) = entries {
                    self.entries.insert(e.id, entries);
                }
                Call { cost: costs[0].plus(costs[1].union(costs[2])), size: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let size = self.size_or_unknown(left).plus(self.size_or_unknown(right));
                let entries = super::Entries::union(self.entries_of(left), self.entries_of(right));
                if let Some(entries) = entries {
                    self.entries.insert(e.id, entries);
                }
                let own = if overload == "add_list" { ONE } else { size.factor(STRING) };
                Call { cost: own.plus(sum), size: Some(size) }
            }
            (_, _, [left, right])
                if matches!(overload, "equals" | "not_equals")
                    || ((overload.ends_with("_string") || overload.ends_with("_bytes"))
                        && matches!(function, "_<_" | "_<=_" | "_>_" | "_>=_")) =>
            {
                let (left, right) = (self.size_or_unknown(left), self.size_or_unknown(right));
                let most = left.max.min(right.max);
                plain(Range::new(u64::from(most > 0), most).factor(STRING))
            }
            _ => plain(ONE),
        }
    }

    /// The size of an argument.
    fn argument(&mut self, e: &Expr) -> Range {
        self.size_or_unknown(e)
    }

    /// The size of a list's items, by where the list lies.
    fn items(&self, list: &Expr) -> Range {
        let place = self.place(list);
        let place = if place.length == 0 { Place::default() } else { self.step(place, "@items") };
        declared(place).unwrap_or(Range::UNKNOWN)
    }

    fn item_type(&self, list: &Expr) -> Option<Type> {
        match self.checked.ty(list.id) {
            Type::List(item) => Some((**item).clone()),
            Type::Map(key, _) => Some((**key).clone()),
            _ => None,
        }
    }

    /// Upstream's estimates for the functions of Kubernetes and of the string and list extensions.
    fn extension(
        &mut self,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<Call> {
        let cost = |cost| Some(Call { cost, size: None });
        match function {
            "check" => cost(Range::fixed(350_000)),
            "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
            | "allowed" | "reason" | "error" | "errored" => cost(ONE),
            "fieldSelector" | "labelSelector" if args.len() == 1 => {
                let size = self.argument(&args[0]);
                cost(Range::fixed(10).plus(size.factor(STRING)).plus(size.factor(0.5).factor(50.0)))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                let target = target?;
                let size = self.argument(target);
                match self.item_type(target) {
                    Some(item) => {
                        let mut each = ONE;
                        if matches!(item, Type::Text | Type::Bytes) {
                            each = each.plus(self.items(target).factor(STRING));
                        }
                        cost(size.times(each))
                    }
                    None if function == "includes" => cost(size),
                    None => cost(size.factor(STRING)),
                }
            }
            "url" | "jsonpatch.escapeKey" if args.len() == 1 => {
                let size = self.argument(&args[0]);
                Some(Call { cost: size.factor(STRING), size: Some(size) })
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.argument(target?);
                Some(Call { cost: size.factor(STRING), size: Some(size) })
            }
            "replace" if args.len() >= 2 => {
                let size = self.argument(target?);
                let (from, to) = (self.argument(&args[0]), self.argument(&args[1]));
                let made = replaced(size, from, to);
                Some(Call { cost: size.factor(2.0 * STRING), size: Some(made) })
            }
            "split" => {
                let size = self.argument(target?);
                let most = match args.get(1).map(|a| &a.kind) {
                    Some(Kind::Literal(Value::Int(n))) => *n as u64,
                    _ => size.max,
                };
                Some(Call { cost: size.factor(2.0 * STRING), size: Some(Range::new(0, most)) })
            }
            "join" => {
                let target = target?;
                let list = self.argument(target);
                let mut size = Range::fixed(0);
                if self.item_type(target).is_some() {
                    size = list.times(self.items(target));
                }
                if let Some(separator) = args.first() {
                    let separator = self.argument(separator);
                    let count = Range::new(list.min.saturating_sub(1), list.max.saturating_sub(1));
                    size = size.plus(separator.times(count));
                }
                Some(Call { cost: size.factor(STRING), size: Some(size) })
            }
            "find" | "findAll" if !args.is_empty() => {
                let size = self.argument(target?);
                let pattern = self.argument(&args[0]).factor(REGEX);
                let cost = size.plus(ONE).factor(STRING).times(pattern);
                Some(Call { cost, size: Some(Range::new(0, size.max)) })
            }
            "ip" if overload == "cidr_ip" => cost(ONE),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver"
                if !args.is_empty() =>
            {
                let size = self.argument(&args[0]);
                cost(size.factor(STRING))
            }
            "ip.isCanonical" if !args.is_empty() => {
                let size = self.argument(&args[0]);
                cost(size.factor(2.0 * STRING))
            }
            "containsIP" | "containsCIDR" if !args.is_empty() => {
                let address = Range::new(4, 16);
                let mut sum = address.plus(address).factor(STRING);
                if function == "containsCIDR" {
                    sum = sum.plus(address.factor(STRING)).plus(ONE);
                }
                if overload.ends_with("_string") {
                    sum = sum.plus(self.argument(&args[0]).factor(STRING));
                }
                cost(sum)
            }
            "validate" if !args.is_empty() => {
                let size = self.argument(&args[0]);
                cost(size.factor(STRING).factor(128.0 * REGEX))
            }
            "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery" => cost(ONE),
            "_==_" if args.len() == 2 => {
                let (left, right) = (self.checked.ty(args[0].id), self.checked.ty(args[1].id));
                if left != right {
                    return None;
                }
                match left {
                    Type::Opaque(IP | CIDR) => cost(ONE),
                    Type::Opaque(FORMAT) => cost(Range::new(1, 64).factor(STRING)),
                    Type::Opaque(URL) => {
                        let most = self.sizes.get(&args[1].id).map_or(1, |s| s.max);
                        cost(Range::new(1, most).factor(STRING))
                    }
                    Type::Opaque(_) => cost(ONE),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Sizes of a text after its replacements.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let (mut count, mut kept) = (Range::fixed(0), Range::fixed(0));
    if from.min == 0 {
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if to.max <= from.min {
        kept.max = size.max;
    } else {
        count.max = (size.max as f64 / from.min as f64).ceil() as u64;
    }
    if from.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if from.max <= to.min {
        kept.min = size.min;
    } else {
        count.min = (size.min as f64 / from.max as f64).ceil() as u64;
    }
    count.times(to).plus(kept)
}
