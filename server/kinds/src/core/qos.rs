//! A pod's class of service, from its requests and limits.

use crate::support::{at, has, items, members};
use machinery::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

const COUNTED: [&str; 2] = ["cpu", "memory"];

fn amounts(resources: &Value, list: &str) -> BTreeMap<String, Quantity> {
    members(resources, list)
        .filter(|(name, _)| COUNTED.contains(&name.as_str()))
        .filter_map(|(name, v)| Some((name.clone(), Quantity::parse(v.as_str()?).ok()?)))
        .filter(|(_, q)| q.sign() > 0)
        .collect()
}

/// `Guaranteed`, `Burstable` or `BestEffort`, of a pod spec.
pub(crate) fn class(spec: &Value) -> &'static str {
    let mut requests: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut guaranteed = true;
    let mut tally = |resources: &Value| {
        for (name, q) in amounts(resources, "requests") {
            requests.entry(name).or_default().add(&q);
        }
        let limited = amounts(resources, "limits");
        guaranteed &= COUNTED.iter().all(|r| limited.contains_key(*r));
        for (name, q) in limited {
            limits.entry(name).or_default().add(&q);
        }
    };
    if has(spec, "resources") {
        tally(at(spec, "resources"));
    } else {
        for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
            tally(at(container, "resources"));
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed
        && requests.len() == limits.len()
        && requests.iter().all(|(n, q)| limits.get(n) == Some(q))
    {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(&pod(json!({"requests": both, "limits": both}))), "Guaranteed");
        assert_eq!(
            class(&pod(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": both}))),
            "Burstable"
        );
        assert_eq!(
            class(&json!({"containers": [{"resources": {"requests": both, "limits": both}}, {}]})),
            "Burstable"
        );
    }
}
