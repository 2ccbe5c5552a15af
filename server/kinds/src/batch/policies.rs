//! What a job's failures and successes mean: the policies of its spec.

use crate::support::{at, has, int, items, nonnegative, one_of_pointer, text};
use machinery::field::{ErrorKind, FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

/// An error of a struct that is not shown.
pub(super) fn unshown(path: &Path<'_>, detail: &str) -> FieldError {
    FieldError { kind: ErrorKind::InvalidUnshown, ..FieldError::invalid(path, Value::Null, detail) }
}

/// A text of a set, required with the set.
fn chosen(value: &Value, name: &str, supported: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if text(value, name).is_empty() {
        let quoted: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        errors.required(&path.child(name), format!("valid values: [{}]", quoted.join(" ")));
    } else {
        one_of_pointer(value, name, supported, path, errors);
    }
}

pub(super) fn failure(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = at(spec, "podFailurePolicy");
    let rules = path.child("podFailurePolicy.rules");
    too_many(items(policy, "rules"), 20, &rules, errors);
    let pod = at(at(spec, "template"), "spec");
    let containers: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(pod, list))
        .map(|c| text(c, "name"))
        .collect();
    for (i, rule) in items(policy, "rules").iter().enumerate() {
        let at_i = rules.index(i);
        if text(rule, "action") == "FailIndex" {
            if !has(spec, "backoffLimitPerIndex") {
                let message = "requires the backoffLimitPerIndex to be set";
                errors.invalid(&at_i.child("action"), "FailIndex", message);
            }
        } else {
            chosen(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], &at_i, errors);
        }
        let (codes, conditions) = (has(rule, "onExitCodes"), items(rule, "onPodConditions"));
        if codes {
            exit_codes(at(rule, "onExitCodes"), &containers, &at_i.child("onExitCodes"), errors);
        }
        let list = at_i.child("onPodConditions");
        too_many(conditions, 20, &list, errors);
        for (n, pattern) in conditions.iter().enumerate() {
            let path = list.index(n);
            errors.invalid_each(
                &path.child("type"),
                text(pattern, "type"),
                names::qualified_name(text(pattern, "type")),
            );
            chosen(pattern, "status", &["False", "True", "Unknown"], &path, errors);
        }
        match (codes, conditions.is_empty()) {
            (true, false) => {
                errors
                    .push(unshown(&at_i, "specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (false, true) => {
                errors.push(unshown(&at_i, "specifying one of OnExitCodes and OnPodConditions is required"));
            }
            _ => {}
        }
    }
}

fn too_many(list: &[Value], most: usize, path: &Path<'_>, errors: &mut FieldErrors) {
    if list.len() > most {
        errors.push(FieldError::too_many(path, list.len(), most));
    }
}

fn exit_codes(codes: &Value, containers: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    chosen(codes, "operator", &["In", "NotIn"], path, errors);
    let container = text(codes, "containerName");
    if has(codes, "containerName") && !containers.contains(&container) {
        errors.invalid(
            &path.child("containerName"),
            container,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let at_values = path.child("values");
    let values: Vec<i64> = items(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.invalid(&at_values, at(codes, "values").clone(), "at least one value is required");
    }
    too_many(items(codes, "values"), 255, &at_values, errors);
    for (n, value) in values.iter().enumerate() {
        if text(codes, "operator") == "In" && *value == 0 {
            errors.invalid(&at_values.index(n), 0, "must not be 0 for the In operator");
        }
        if values[..n].contains(value) {
            errors.duplicate(&at_values.index(n), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at_values, values, "must be ordered");
    }
}

pub(super) fn success(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = at(spec, "successPolicy");
    let rules = path.child("rules");
    if items(policy, "rules").is_empty() {
        errors.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    }
    too_many(items(policy, "rules"), 20, &rules, errors);
    // Upstream has nothing to compare with where completions are missing, which was told already.
    let Some(completions) = int(spec, "completions") else { return };
    for (i, rule) in items(policy, "rules").iter().enumerate() {
        let at_i = rules.index(i);
        let counted = int(rule, "succeededCount");
        if counted.is_none() && !has(rule, "succeededIndexes") {
            errors.required(&at_i, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let at_indexes = at_i.child("succeededIndexes");
        let indexes = text(rule, "succeededIndexes");
        let mut total = 0;
        if indexes.len() > 64 * 1024 {
            errors.push(FieldError::too_long(&at_indexes, 64 * 1024));
        }
        match count_indexes(indexes, completions) {
            Ok(n) => total = n,
            Err(why) => {
                errors.invalid(&at_indexes, indexes, format!("error parsing succeededIndexes: {why}"));
            }
        }
        let Some(count) = counted else { continue };
        let at_count = at_i.child("succeededCount");
        nonnegative(rule, "succeededCount", &at_i, errors);
        if count > completions {
            let message =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&at_count, count, message);
        }
        if has(rule, "succeededIndexes") && count > total {
            let message = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&at_count, count, message);
        }
    }
}

/// The intervals of a list such as `1,3-5`.
pub(super) fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| {
        let n = text
            .parse::<i64>()
            .map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))?;
        if n >= completions { Err(format!("too large index: \"{text}\"")) } else { Ok(n) }
    };
    let mut parts = text.split('-');
    match (parts.next().unwrap_or(""), parts.next(), parts.next()) {
        (_, _, Some(_)) => Err(format!(
            "the fragment \"{text}\" violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
        (first, None, None) => index(first).map(|n| (n, n)),
        (first, Some(last), None) => {
            let (first, last) = (index(first)?, index(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
    }
}

/// How many indexes a list names.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut total, mut before) = (0, None);
    for part in text.split(',') {
        let (first, last) = interval(part, completions)?;
        if let Some(before) = before.filter(|b| *b >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        total += last - first + 1;
        before = Some(last);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes() {
        assert_eq!(count_indexes("", 5), Ok(0));
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(count_indexes("0-1", 0), Err("too large index: \"0\"".into()));
        assert_eq!(count_indexes("2,1", 5), Err("non-increasing order, previous: 2, current: 1".into()));
        assert_eq!(count_indexes("a", 5), Err("cannot convert string to integer for index: \"a\"".into()));
        assert!(count_indexes("1-2-3", 5).unwrap_err().starts_with("the fragment \"1-2-3\" violates"));
    }
}
