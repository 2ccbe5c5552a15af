//! Selectors and quantities.

use machinery::labels::Selector as Labels;
use machinery::{fields as by_field, quantity::Quantity};
use serde_json::json;

/// What a selector prints reads back as itself, and selects the same.
pub fn labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(selector) = Labels::parse(text) else { return };
    let printed = selector.to_string();
    let again = Labels::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed:?} of {text:?}"));
    assert_eq!(again.to_string(), printed);
    for set in [json!({}), json!({"a": "1"}), json!({"a": "", "b": "2"}), json!({"x": "x", "app": "web"})] {
        let object = json!({"metadata": {"labels": set}});
        assert_eq!(selector.matches_object(&object), again.matches_object(&object), "{printed}: {set}");
    }
}

/// The same of field selectors.
pub fn fields(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(selector) = by_field::Selector::parse(text) else { return };
    let printed = selector.to_string();
    let again =
        by_field::Selector::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed:?} of {text:?}"));
    // Terms stand in the order of their text, which printing changes (`==` becomes `=`).
    let sorted = |selector: &by_field::Selector| {
        let mut terms: Vec<String> = selector.terms().iter().map(|t| format!("{t:?}")).collect();
        terms.sort();
        terms
    };
    assert_eq!(sorted(&again), sorted(&selector), "{printed}");
    for value in ["", "a", "b,c", "x=y", "\\"] {
        assert_eq!(selector.matches(|_| Some(value)), again.matches(|_| Some(value)), "{printed}: {value}");
    }
}

/// The canonical form is a fixed point with the same value; sums and differences cancel; order agrees with the sign of
/// the difference.
pub fn quantity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split('\n');
    let parse = |part: Option<&str>| Quantity::parse(part?).ok();
    let Some(a) = parse(parts.next()) else { return };
    // Far beyond any machine the sums saturate.
    if a.as_f64().abs() > 9e18 {
        return;
    }
    let canonical = a.to_string();
    let again = Quantity::parse(&canonical).unwrap_or_else(|e| panic!("{e}: {canonical:?} of {text:?}"));
    assert_eq!(again.to_string(), canonical, "{text:?}");
    assert_eq!(again.partial_cmp(&a), Some(std::cmp::Ordering::Equal), "{canonical} is not {text:?}");
    let Some(b) = parse(parts.next()).filter(|b| b.as_f64().abs() <= 9e18) else { return };
    let mut difference = a;
    difference.sub(&b);
    assert_eq!(a.cmp(&b) as i32, difference.sign(), "{text:?}");
    let mut back = difference;
    back.add(&b);
    assert_eq!(back.cmp(&a), std::cmp::Ordering::Equal, "{text:?}");
}
