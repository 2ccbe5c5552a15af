//! Objects of our own, each wrong in one place, and what a v1.36.2 server said of them: reason, field and message of
//! every cause, in order. Cases are creates, or updates (`on`) of the object or of its status.
#![allow(clippy::unwrap_used)]

use machinery::schema;
use serde_json::Value;

#[test]
fn wrong_objects_are_refused_in_upstreams_words() {
    let facts: Value = serde_json::from_str(include_str!("facts.json")).unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for fact in facts.as_array().unwrap() {
        let good = &fact["object"];
        let api_version = good["apiVersion"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = good["kind"].as_str().unwrap();
        let strategy = kinds::strategy(group, version, kind);
        let table = schema::builtin();
        let root = table.kind(group, version, kind).unwrap();
        for case in fact["cases"].as_array().unwrap() {
            let at = case["at"].as_str().unwrap();
            let (parent, last) = at.rsplit_once('/').unwrap();
            let last = last.replace("~1", "/").replace("~0", "~");
            let mut object = good.clone();
            let target = object.pointer_mut(parent).unwrap();
            match (target, case.get("put")) {
                (Value::Object(map), None) => drop(map.remove(&last)),
                (Value::Array(list), None) => drop(list.remove(last.parse().unwrap())),
                (target, Some(value)) if target.is_array() => {
                    target[last.parse::<usize>().unwrap()] = value.clone()
                }
                (target, Some(value)) => target[last.as_str()] = value.clone(),
                _ => panic!("{kind} has nothing at {at}"),
            }
            // The registry places objects before their kind sees them.
            if good["metadata"].get("namespace").is_some() {
                object["metadata"]["namespace"] = good["metadata"]["namespace"].clone();
            }
            let read = |object: Value| {
                let strict = machinery::codec::Strictness::Ignore;
                let mut object =
                    machinery::codec::decode_value(object, &table.schema, root, strict).unwrap().value;
                schema::defaults::apply(&table.schema, root, &mut object);
                strategy.default(&mut object);
                object["metadata"]["uid"] = "u".into();
                // The allocator links a Service's address and the list of them.
                if kind == "Service" && !object["spec"]["clusterIP"].as_str().unwrap_or_default().is_empty() {
                    object["spec"]["clusterIPs"] = serde_json::json!([object["spec"]["clusterIP"]]);
                }
                object
            };
            let create = |object: Value| {
                let mut object = read(object);
                strategy.prepare_for_create(&mut object);
                schema::defaults::apply(&table.schema, root, &mut object);
                object
            };
            let errors = match case.get("on").and_then(Value::as_str) {
                None => strategy.validate(&create(object.clone())),
                Some(on) => {
                    let part = if on == "status" { on } else { "" };
                    let (old, mut new) = (create(good.clone()), read(object.clone()));
                    strategy.prepare_for_update(&mut new, &old, part);
                    strategy.validate_update(&new, &old, part)
                }
            };
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let status = errors.to_status(group, kind, &name);
            let causes: Vec<[String; 3]> = status["details"]["causes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|c| ["reason", "field", "message"].map(|k| c[k].as_str().unwrap_or_default().to_owned()))
                .collect();
            let wanted: Vec<[String; 3]> = serde_json::from_value(case["causes"].clone()).unwrap();
            if causes != wanted {
                wrong.push(format!(
                    "{kind}: {} at {at} {}\n said {causes:?}\n want {wanted:?}",
                    case["put"], case["on"]
                ));
            }
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 600, "{seen} cases");
}
