//! What claims, their templates and device classes ask for.

use super::common::{driver, each, fully_qualified, name_set, opaque, set};
use super::taints::toleration;
use crate::expressions::devices;
use crate::support::{at, has, int, items, label, subdomain, text};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

/// Requests of a claim, results of an allocation, names in a list of requests, constraints, configurations, selectors.
pub(super) const MOST: usize = 32;
const MOST_CHOICES: usize = 8;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LARGEST_PARAMETERS: usize = 10 * 1024;

/// The names that requests of a claim go by.
pub(super) struct Requests<'o>(Vec<(&'o str, Vec<&'o str>)>);

impl<'o> Requests<'o> {
    pub(super) fn of(spec: &'o Value) -> Self {
        let requests = items(at(spec, "devices"), "requests");
        let choices = |r: &'o Value| items(r, "firstAvailable").iter().map(|c| text(c, "name")).collect();
        Self(requests.iter().map(|r| (text(r, "name"), choices(r))).collect())
    }

    fn has(&self, name: &str) -> bool {
        let (first, second) = match name.split_once('/') {
            Some((first, second)) => (first, Some(second)),
            None => (name, None),
        };
        // Of requests with one name the last counts.
        let found = self.0.iter().rev().find(|(n, _)| *n == first);
        found.is_some_and(|(_, choices)| second.is_none_or(|s| choices.contains(&s)))
    }

    /// Whether `name` is that of a request, or of one of its choices.
    pub(super) fn check(&self, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
        const MESSAGE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        if name.split('/').count() > 2 {
            errors.invalid(path, name, MESSAGE);
            return;
        }
        for part in name.split('/') {
            label(part, path, errors);
        }
        if !self.has(name) {
            errors.invalid(path, name, MESSAGE);
        }
    }

    pub(super) fn list(&self, of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
        name_set(items(of, "requests"), MOST, &path.child("requests"), errors, |n, p, e| self.check(n, p, e));
    }
}

/// The specification of a claim.
pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let names = Requests::of(spec);
    let (devices, path) = (at(spec, "devices"), path.child("devices"));
    let name = |r: &Value| text(r, "name").to_owned();
    set(items(devices, "requests"), MOST, &path.child("requests"), errors, request, name);
    each(items(devices, "constraints"), MOST, &path.child("constraints"), errors, |c, path, errors| {
        constraint(c, &names, path, errors);
    });
    each(items(devices, "config"), MOST, &path.child("config"), errors, |c, path, errors| {
        names.list(c, path, errors);
        configuration(c, false, path, errors);
    });
}

fn request(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    label(text(request, "name"), &path.child("name"), errors);
    let choices = items(request, "firstAvailable");
    match (has(request, "exactly"), !choices.is_empty()) {
        (false, false) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (true, true) => {
            let message =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, message);
        }
        (true, false) => wanted(at(request, "exactly"), &path.child("exactly"), errors),
        (false, true) => {
            let check = |choice: &Value, path: &Path<'_>, errors: &mut FieldErrors| {
                label(text(choice, "name"), &path.child("name"), errors);
                wanted(choice, path, errors);
            };
            let name = |c: &Value| text(c, "name").to_owned();
            set(choices, MOST_CHOICES, &path.child("firstAvailable"), errors, check, name);
        }
    }
}

/// What a request wants, be it the only way or one of several.
fn wanted(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let class = text(request, "deviceClassName");
    if class.is_empty() {
        errors.required(&path.child("deviceClassName"), "");
    } else {
        subdomain(class, &path.child("deviceClassName"), errors);
    }
    each(items(request, "selectors"), MOST, &path.child("selectors"), errors, selector);
    let count = int(request, "count").unwrap_or(0);
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let message = "must not be specified when allocationMode is 'All'";
            errors.invalid(&path.child("count"), count, message);
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.invalid(&path.child("count"), count, "must be greater than zero");
        }
        "ExactCount" => {}
        other => errors.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    let list = path.child("tolerations");
    for (i, t) in items(request, "tolerations").iter().enumerate() {
        toleration(t, &list.index(i), errors);
    }
}

fn selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at_cel = path.child("cel");
    if !has(selector, "cel") {
        errors.required(&at_cel, "");
        return;
    }
    let source = text(at(selector, "cel"), "expression");
    let at_expression = at_cel.child("expression");
    if source.len() > LONGEST_EXPRESSION {
        errors.push(FieldError::too_long(&at_expression, LONGEST_EXPRESSION));
        return;
    }
    match devices::check(source) {
        Ok(()) => {}
        Err(devices::Refusal::Invalid(why)) => errors.invalid(&at_expression, source, why),
        Err(devices::Refusal::TooExpensive) => {
            errors.forbidden(&at_expression, "too complex, exceeds cost limit");
        }
    }
}

fn constraint(constraint: &Value, names: &Requests<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    names.list(constraint, path, errors);
    let given = ["matchAttribute", "distinctAttribute"].into_iter().find(|m| has(constraint, m));
    match given {
        Some(member) => fully_qualified(text(constraint, member), &path.child(member), errors),
        None => {
            let message = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.required(path, message);
        }
    }
}

/// What a driver is to be told; `stored`: it was accepted before, whatever its size.
pub(super) fn configuration(config: &Value, stored: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (data, path) = (at(config, "opaque"), path.child("opaque"));
    if data.is_null() {
        errors.required(&path, "");
        return;
    }
    driver(data, &path, errors);
    let most = (!stored).then_some(LARGEST_PARAMETERS);
    opaque(at(data, "parameters"), most, &path.child("parameters"), errors);
}

/// The specification of a class. Selectors that stay as they are were compiled before.
pub(super) fn class(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let stays = |member: &str| old.is_some_and(|o| crate::support::same(o.get(member), spec.get(member)));
    let at_selectors = path.child("selectors");
    if !stays("selectors") {
        each(items(spec, "selectors"), MOST, &at_selectors, errors, selector);
    }
    let stored = stays("config");
    each(items(spec, "config"), MOST, &path.child("config"), errors, |c, path, errors| {
        configuration(c, stored, path, errors);
    });
    let name = text(spec, "extendedResourceName");
    if has(spec, "extendedResourceName") && !is_extended_resource(name) {
        errors.invalid(&path.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
}

/// Whether a resource is a node's own: without a domain, or in one of Kubernetes'.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended_resource(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_go_by_their_names_and_those_of_their_choices() {
        let spec = json!({"devices": {"requests": [{"name": "a"}, {"name": "b", "firstAvailable": [{"name": "c"}]}]}});
        let names = Requests::of(&spec);
        for (name, known) in
            [("a", true), ("b", true), ("b/c", true), ("a/c", false), ("c", false), ("b/", false)]
        {
            assert_eq!(names.has(name), known, "{name}");
        }
    }
}
