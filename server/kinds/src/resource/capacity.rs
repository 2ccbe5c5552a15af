//! How much of a device's capacity a request may consume.

use super::common::set;
use crate::support::{amount_of, at, has, items};
use machinery::field::{FieldErrors, Path};
use machinery::quantity::Quantity;
use serde_json::Value;

const MOST_VALUES: usize = 10;

/// A capacity; `shared`: the device may be allocated more than once.
pub(super) fn capacity(capacity: &Value, shared: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (policy, path) = (at(capacity, "requestPolicy"), path.child("requestPolicy"));
    if policy.is_null() {
        return;
    }
    if !shared {
        errors.forbidden(&path, "allowMultipleAllocations must be true");
        return;
    }
    let most = amount_of(at(capacity, "value"));
    let values = !items(policy, "validValues").is_empty();
    let range = has(policy, "validRange");
    if values && range {
        let message = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errors.forbidden(&path, message);
        return;
    }
    let name = match (values, range) {
        (true, _) => "validValues",
        (_, true) => "validRange",
        _ => return,
    };
    if !has(policy, "default") {
        errors.required(&path.child("default"), format!("required when {name} is defined"));
        return;
    }
    let default = amount_of(at(policy, "default"));
    let path = path.child(name);
    match name {
        "validValues" => choices(items(policy, name), &default, &most, &path, errors),
        _ => in_range(at(policy, name), &default, &most, &path, errors),
    }
}

fn choices(values: &[Value], default: &Quantity, most: &Quantity, path: &Path<'_>, errors: &mut FieldErrors) {
    let amounts: Vec<Quantity> = values.iter().map(amount_of).collect();
    for (i, pair) in amounts.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let message = "values must be sorted in ascending order";
            errors.invalid(&path.index(i + 1), pair[1].to_string(), message);
        }
    }
    let check = |value: &Quantity, path: &Path<'_>, errors: &mut FieldErrors| {
        if value > most {
            let message = format!("option is larger than capacity value: {most}");
            errors.invalid(path, value.to_string(), message);
        }
    };
    set(&amounts, MOST_VALUES, path, errors, check, |v| v.value().to_string());
    if amounts.len() > MOST_VALUES || !amounts.contains(default) {
        let message = "default value is not valid according to the requestPolicy";
        errors.invalid(path, default.to_string(), message);
    }
}

fn in_range(
    range: &Value,
    default: &Quantity,
    capacity: &Quantity,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if !has(range, "min") {
        errors.required(&path.child("min"), "required when validRange is defined");
        return;
    }
    let amount = |name: &str| has(range, name).then(|| amount_of(at(range, name)));
    let least = amount_of(at(range, "min"));
    let mut refuse = |bad: bool, member: &str, value: &Quantity, message: String| {
        if bad {
            errors.invalid(&path.child(member), value.to_string(), message);
        }
    };
    refuse(least > *capacity, "min", &least, format!("min is larger than capacity value: {capacity}"));
    refuse(*default < least, "min", default, format!("default is less than min: {least}"));
    let most = amount("max");
    if let Some(most) = &most {
        refuse(least > *most, "max", &least, format!("min is larger than max: {most}"));
        refuse(most > capacity, "max", most, format!("max is larger than capacity value: {capacity}"));
        refuse(default > most, "max", default, format!("default is more than max: {most}"));
    }
    if let Some(step) = amount("step") {
        let mut first = least;
        first.add(&step);
        let message = format!("one step {first} is larger than capacity value: {capacity}");
        refuse(first > *capacity, "step", &step, message);
        for value in [Some(default), most.as_ref()].into_iter().flatten() {
            let over = value.value().wrapping_sub(least.value());
            // A step of nothing is no step; upstream fails on it.
            let fits = step.value() == 0 || over.wrapping_rem(step.value()) == 0;
            let message = format!("value is not a multiple of a given step ({step}) from ({least})");
            refuse(!fits, "step", value, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(policy: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        let value = json!({"value": "10", "requestPolicy": policy});
        capacity(&value, true, &Path::new("c"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies() {
        assert!(of(json!({"default": "2", "validRange": {"min": "1", "max": "5", "step": "1"}})).is_empty());
        assert!(of(json!({"default": "2", "validValues": ["1", "2"]})).is_empty());
        assert_eq!(
            of(json!({"default": "3", "validValues": ["2", "1", "1", "20"]})),
            [
                "c.requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "c.requestPolicy.validValues[3]: Invalid value: \"20\": option is larger than capacity value: 10",
                "c.requestPolicy.validValues[2]: Duplicate value: \"1\"",
                "c.requestPolicy.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
        assert_eq!(
            of(json!({"default": "4", "validRange": {"min": "1", "step": "2"}})),
            [
                "c.requestPolicy.validRange.step: Invalid value: \"4\": value is not a multiple of a given step (2) from (1)"
            ]
        );
    }
}
