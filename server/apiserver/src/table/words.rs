//! The words cells are made of.

use crate::registry::meta;
use chrono::Utc;
use serde_json::Value;

pub(crate) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `<none>` for nothing.
pub(crate) fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Time since, in upstream's rounding; `<unknown>` without a time.
pub(crate) fn since(time: &Value) -> Value {
    match time.as_str().and_then(meta::parse_time) {
        Some(at) => human_duration((Utc::now() - at).num_seconds()).into(),
        None => "<unknown>".into(),
    }
}

pub(crate) fn age(object: &Value) -> Value {
    since(&object["metadata"]["creationTimestamp"])
}

/// Upstream's `HumanDuration`: two significant units at most.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        let rest = seconds % 60;
        return if rest == 0 { format!("{minutes}m") } else { format!("{minutes}m{rest}s") };
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        let rest = minutes % 60;
        return if rest == 0 { format!("{hours}h") } else { format!("{hours}h{rest}m") };
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 192 {
        let rest = hours % 24;
        return if rest == 0 { format!("{days}d") } else { format!("{days}d{rest}h") };
    }
    if hours < 24 * 365 * 2 {
        return format!("{days}d");
    }
    let years = days / 365;
    if hours < 24 * 365 * 8 {
        let rest = days % 365;
        return if rest == 0 { format!("{years}y") } else { format!("{years}y{rest}d") };
    }
    format!("{years}y")
}

/// `k=v,...` in key order.
pub(crate) fn map(value: &Value) -> String {
    let Some(map) = value.as_object() else { return String::new() };
    let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", text(v))).collect();
    pairs.sort();
    pairs.join(",")
}

/// A label selector as `kubectl` shows it.
pub(crate) fn selector(value: &Value) -> Value {
    if value.is_null() {
        return "<none>".into();
    }
    let mut parts: Vec<String> = Vec::new();
    let labels = map(&value["matchLabels"]);
    if !labels.is_empty() {
        parts.push(labels);
    }
    for e in items(&value["matchExpressions"]) {
        let key = text(&e["key"]);
        let values: Vec<&str> = items(&e["values"]).iter().map(text).collect();
        parts.push(match text(&e["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other}"),
        });
    }
    or_none(parts.join(","))
}

/// Container names and images of a pod spec.
pub(crate) fn containers(spec: &Value) -> (Value, Value) {
    let of = |field: &str| {
        items(&spec["containers"]).iter().map(|c| text(&c[field]).to_owned()).collect::<Vec<_>>().join(",")
    };
    (of("name").into(), of("image").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_upstreams() {
        for (seconds, words) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (600, "10m"),
            (3600, "60m"),
            (10800, "3h"),
            (11000, "3h3m"),
            (28800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
    }
}
