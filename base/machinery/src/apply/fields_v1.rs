//! The `FieldsV1` encoding of a [`Set`]: nested objects whose keys are `f:name`, `k:{...}`, `v:value`, `i:index`,
//! and `.` for "this path itself".
//!
//! The tracking of updates works on that encoding in place, so that managers a write does not touch are never
//! decoded.

use super::set::{Node, PathElement, Set};
use serde_json::{Map, Value};

/// Encodes one path element.
pub fn element_key(element: &PathElement) -> String {
    match element {
        PathElement::Field(name) => ["f:", name].concat(),
        PathElement::Key(keys) => {
            let map: Map<String, Value> = keys.iter().cloned().collect();
            format!("k:{}", Value::Object(map))
        }
        PathElement::Value(value) => format!("v:{value}"),
        PathElement::Index(index) => format!("i:{index}"),
    }
}

/// Decodes one path element; `None` for a kind that is not known (it is skipped, as upstream skips it).
pub fn parse_key(key: &str) -> Result<Option<PathElement>, String> {
    let Some((kind, rest)) = key.split_once(':') else {
        return Err(format!("missing colon: {key}"));
    };
    Ok(Some(match kind {
        "f" => PathElement::Field(rest.to_string()),
        "v" => PathElement::Value(serde_json::from_str(rest).map_err(|e| e.to_string())?),
        "i" => PathElement::Index(rest.parse().map_err(|_| format!("invalid index: {rest}"))?),
        "k" => {
            let map: Map<String, Value> = serde_json::from_str(rest).map_err(|e| e.to_string())?;
            let mut keys: Vec<(String, Value)> = map.into_iter().collect();
            keys.sort_by(|a, b| a.0.cmp(&b.0));
            PathElement::Key(keys)
        }
        _ => return Ok(None),
    }))
}

pub fn encode(set: &Set) -> Value {
    Value::Object(encode_map(set, false))
}

fn encode_map(set: &Set, own: bool) -> Map<String, Value> {
    let own = (own && !set.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
    let below = set.0.iter().map(|(element, node)| {
        (element_key(element), Value::Object(encode_map(&node.children, node.member)))
    });
    // In order, mostly: collecting builds the map without looking for each one's place.
    own.into_iter().chain(below).collect()
}

pub fn decode(fields: &Value) -> Result<Set, String> {
    match fields {
        Value::Object(map) => decode_members(map),
        Value::Null => Ok(Set::default()),
        other => Err(format!("expected map, got {other}")),
    }
}

/// [`decode`] of what a `FieldsV1` holds.
pub(super) fn decode_members(map: &Map<String, Value>) -> Result<Set, String> {
    decode_map(map).map(|node| node.children)
}

fn decode_map(map: &Map<String, Value>) -> Result<Node, String> {
    let mut node = Node::default();
    for (key, value) in map {
        if key == "." {
            node.member = true;
            continue;
        }
        let Some(element) = parse_key(key)? else { continue };
        let mut child = match value {
            Value::Object(below) => decode_map(below)?,
            Value::Null => Node::default(),
            other => return Err(format!("expected map, got {other}")),
        };
        // An empty object is the path itself.
        child.member |= child.children.is_empty();
        node.children.put(element, child);
    }
    Ok(node)
}

/// Takes the members of `set` out of an encoded set; true when something went. Empty nodes go with them.
pub(super) fn subtract(fields: &mut Map<String, Value>, set: &Set) -> bool {
    let mut changed = false;
    for (element, node) in &set.0 {
        let key = element_key(element);
        let Some(Value::Object(below)) = fields.get_mut(&key) else { continue };
        let was_member = below.is_empty() || below.contains_key(".");
        let mut member = was_member;
        if node.member && was_member {
            member = false;
            changed = true;
        }
        below.remove(".");
        changed |= subtract(below, &node.children);
        if below.is_empty() {
            if !member {
                fields.remove(&key);
            }
        } else if member {
            below.insert(".".into(), Value::Object(Map::new()));
        }
    }
    changed
}

/// Adds the members of `set` to an encoded set.
pub(super) fn add(fields: &mut Map<String, Value>, set: &Set) {
    if fields.is_empty() {
        *fields = encode_map(set, false);
        return;
    }
    for (element, node) in &set.0 {
        let entry = fields.entry(element_key(element)).or_insert(Value::Null);
        let (mut below, was_member) = match std::mem::take(entry) {
            Value::Object(mut below) => {
                let member = below.is_empty() || below.contains_key(".");
                below.remove(".");
                (below, member)
            }
            _ => (Map::new(), false),
        };
        add(&mut below, &node.children);
        if !below.is_empty() && (was_member || node.member) {
            below.insert(".".into(), Value::Object(Map::new()));
        }
        *entry = Value::Object(below);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    pub fn any_set() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            "[ab]{1,2}".prop_map(PathElement::Field),
            (0i64..3).prop_map(|v| PathElement::Value(v.into())),
            "[ab]".prop_map(|v| PathElement::Key(vec![("name".into(), v.into())])),
        ];
        proptest::collection::vec(proptest::collection::vec(element, 1..4), 0..6).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|p| set.insert(p));
            set
        })
    }

    #[test]
    fn round_trip() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:fin": {"v:\"a\"": {}, "i:1": {}}}});
        let set = decode(&fields).unwrap();
        assert_eq!(encode(&set), fields);
        let shown: Vec<String> = set.paths().iter().map(|p| super::super::set::show_path(p)).collect();
        assert!(shown.contains(&".spec.ports[port=80,protocol=\"TCP\"].port".to_string()), "{shown:?}");
        assert!(shown.contains(&".spec.fin[=\"a\"]".to_string()));
        assert!(decode(&json!({"nope": {}})).is_err());
    }

    proptest! {
        #[test]
        fn encoding_is_faithful(set in any_set()) {
            prop_assert_eq!(decode(&encode(&set)).unwrap(), set);
        }

        #[test]
        fn in_place_agrees_with_the_algebra(a in any_set(), b in any_set()) {
            let Value::Object(mut fields) = encode(&a) else { unreachable!() };
            let changed = subtract(&mut fields, &b);
            let want = a.clone().difference(&b);
            prop_assert_eq!(changed, want != a);
            prop_assert_eq!(decode(&Value::Object(fields)).unwrap(), want);
            let Value::Object(mut fields) = encode(&a) else { unreachable!() };
            add(&mut fields, &b);
            prop_assert_eq!(decode(&Value::Object(fields)).unwrap(), a.union(b));
        }

        #[test]
        fn set_laws(a in any_set(), b in any_set()) {
            let members = |s: &Set| s.paths().len();
            let both = a.intersection(&b);
            prop_assert_eq!(a.clone().union(b.clone()), b.clone().union(a.clone()));
            prop_assert_eq!(members(&a) + members(&b), members(&a.clone().union(b.clone())) + members(&both));
            prop_assert_eq!(a.clone().difference(&b).union(both), a.clone());
            prop_assert!(a.clone().difference(&b).intersection(&b).is_empty());
            prop_assert!(a.paths().iter().all(|p| a.has(p)));
        }
    }
}
