//! `resource.k8s.io/v1beta1`: what a request wants exactly stands in the request itself, and what a device is in a
//! member `basic`.

use serde_json::{Map, Value};

/// Members of a request that are `exactly`'s in later versions.
const EXACTLY: &[&str] =
    &["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

pub(super) fn to_v1(kind: &str, object: &mut Value) {
    match kind {
        "ResourceSlice" => slice_to_v1(object),
        _ => requests(kind, object).for_each(request_to_v1),
    }
}

pub(super) fn to_v1beta1(kind: &str, object: &mut Value) {
    match kind {
        "ResourceSlice" => slice_to_v1beta1(object),
        _ => requests(kind, object).for_each(request_to_v1beta1),
    }
}

fn requests<'o>(kind: &str, object: &'o mut Value) -> impl Iterator<Item = &'o mut Map<String, Value>> {
    let at = match kind {
        "ResourceClaim" => "/spec/devices/requests",
        "ResourceClaimTemplate" => "/spec/spec/devices/requests",
        _ => "/-",
    };
    members(object.pointer_mut(at))
}

fn members(list: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn request_to_v1(request: &mut Map<String, Value>) {
    let exactly: Map<String, Value> =
        EXACTLY.iter().filter_map(|m| request.remove_entry(*m)).filter(|(_, v)| !v.is_null()).collect();
    let choices =
        request.get("firstAvailable").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    // A request without choices wants something exactly, be it nothing yet.
    let said = exactly.iter().any(|(_, v)| *v != "" && *v != 0);
    if said || !choices {
        request.insert("exactly".into(), exactly.into());
    }
}

fn request_to_v1beta1(request: &mut Map<String, Value>) {
    if let Some(Value::Object(exactly)) = request.remove("exactly") {
        request.extend(exactly);
    }
    request.entry("deviceClassName").or_insert_with(|| "".into());
}

fn slice_to_v1(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        // These are no pointers there.
        spec.retain(|name, v| !(name == "nodeName" && *v == "" || name == "allNodes" && *v == false));
    }
    for device in members(object.pointer_mut("/spec/devices")) {
        if let Some(Value::Object(basic)) = device.remove("basic") {
            device.extend(basic);
        }
    }
}

fn slice_to_v1beta1(object: &mut Value) {
    for device in members(object.pointer_mut("/spec/devices")) {
        let name = device.remove_entry("name");
        let basic = std::mem::replace(device, name.into_iter().collect());
        device.insert("basic".into(), basic.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_ways() {
        let old = json!({"spec": {"devices": {"requests": [
            {"name": "a", "deviceClassName": "c", "count": 2}, {"name": "b", "firstAvailable": [{"name": "x"}]}]}}});
        let new = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "c", "count": 2}}, {"name": "b", "firstAvailable": [{"name": "x"}]}]}}});
        let mut object = old.clone();
        to_v1("ResourceClaim", &mut object);
        assert_eq!(object, new);
        to_v1beta1("ResourceClaim", &mut object);
        let mut back = old;
        back["spec"]["devices"]["requests"][1]["deviceClassName"] = "".into();
        assert_eq!(object, back);
        let old = json!({"spec": {"devices": [{"name": "a", "basic": {"taints": []}}]}});
        let mut object = old.clone();
        to_v1("ResourceSlice", &mut object);
        assert_eq!(object, json!({"spec": {"devices": [{"name": "a", "taints": []}]}}));
        to_v1beta1("ResourceSlice", &mut object);
        assert_eq!(object, old);
    }
}
