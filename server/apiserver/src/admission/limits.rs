//! LimitRanger: defaults and bounds for what one pod, container or claim may ask for.

use super::support::{Resources, map, pod_resources, read_resources as read};
use super::{Denied, Operation, Plugin, Request};
use crate::reader::{Reader, items, parse, text};
use async_trait::async_trait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger {
    reader: Arc<dyn Reader>,
}

impl LimitRanger {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn ranges(&self, namespace: &str) -> Vec<Value> {
        self.reader.list("", "limitranges", Some(namespace)).iter().map(|e| parse(e)).collect()
    }
}

/// The defaults all ranges of a namespace give containers: requests, limits. The last range to name one wins.
fn defaults(ranges: &[Value]) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in
        ranges.iter().flat_map(|r| items(r, "/spec/limits")).filter(|l| text(l, "/type") == "Container")
    {
        for (from, to) in [("defaultRequest", &mut requests), ("default", &mut limits)] {
            to.extend(limit[from].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    (requests, limits)
}

/// Fills in a container; the names of what was set, for the annotation.
fn fill(container: &mut Value, member: &str, with: &BTreeMap<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, value) in with {
        if container["resources"][member][resource].is_null() {
            map(&mut container["resources"][member]).insert(resource.clone(), value.clone());
            set.push(resource.clone());
        }
    }
    set
}

fn merge_defaults(ranges: &[Value], pod: &mut Value) {
    let (requests, limits) = defaults(ranges);
    let mut words = Vec::new();
    for (kind, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            for (member, with, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill(container, member, with);
                if !set.is_empty() {
                    words.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !words.is_empty() {
        let text = format!("LimitRanger plugin set: {}", words.join("; "));
        map(&mut pod["metadata"]["annotations"]).insert(ANNOTATION.into(), text.into());
    }
}

/// Bounds of one limit against one set of requests and limits.
fn check(limit: &Value, requests: &Resources, limits: &Resources, errors: &mut Vec<String>) {
    let kind = text(limit, "/type");
    for (resource, min) in read(&limit["min"]) {
        match (requests.get(&resource), limits.get(&resource)) {
            (None, _) => {
                errors.push(format!("minimum {resource} usage per {kind} is {min}.  No request is specified"))
            }
            (Some(asked), _) if *asked < min => {
                errors.push(format!("minimum {resource} usage per {kind} is {min}, but request is {asked}"));
            }
            (_, Some(bound)) if *bound < min => {
                errors.push(format!("minimum {resource} usage per {kind} is {min}, but limit is {bound}"));
            }
            _ => {}
        }
    }
    for (resource, max) in read(&limit["max"]) {
        match (limits.get(&resource), requests.get(&resource)) {
            (None, None) if kind == "PersistentVolumeClaim" => {
                errors
                    .push(format!("maximum {resource} usage per {kind} is {max}.  No request is specified"));
            }
            (None, Some(asked)) if kind == "PersistentVolumeClaim" && *asked > max => {
                errors.push(format!("maximum {resource} usage per {kind} is {max}, but request is {asked}"));
            }
            (None, Some(_)) if kind == "PersistentVolumeClaim" => {}
            (None, _) => {
                errors.push(format!("maximum {resource} usage per {kind} is {max}.  No limit is specified"))
            }
            (Some(bound), _) if *bound > max => {
                errors.push(format!("maximum {resource} usage per {kind} is {max}, but limit is {bound}"));
            }
            (_, Some(asked)) if *asked > max => {
                errors.push(format!("maximum {resource} usage per {kind} is {max}, but request is {asked}"));
            }
            _ => {}
        }
    }
    for (resource, ratio) in read(&limit["maxLimitRequestRatio"]) {
        let prefix = format!("{resource} max limit to request ratio per {kind} is {ratio}");
        match (
            requests.get(&resource).filter(|r| !r.is_zero()),
            limits.get(&resource).filter(|l| !l.is_zero()),
        ) {
            (None, _) => errors.push(format!("{prefix}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{prefix}, but no limit is specified or limit is 0")),
            (Some(asked), Some(bound)) => {
                let provided = bound.as_f64() / asked.as_f64();
                if provided > ratio.as_f64() {
                    errors.push(format!("{prefix}, but provided ratio is {provided:.6}"));
                }
            }
        }
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "pods", &[Operation::Create])
            || r.is("", "persistentvolumeclaims", &[Operation::Create, Operation::Update])
            || ((r.group, r.resource, r.subresource) == ("", "pods", "resize")
                && r.operation == Operation::Update)
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        if r.resource == "pods" && r.operation == Operation::Create {
            merge_defaults(&self.ranges(r.namespace), object);
        }
        Ok(())
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(object) = object else { return Ok(()) };
        for range in self.ranges(r.namespace) {
            let mut errors = Vec::new();
            for limit in items(&range, "/spec/limits") {
                match (r.resource, text(limit, "/type")) {
                    ("pods", "Container") => {
                        for kind in ["containers", "initContainers"] {
                            for c in object["spec"][kind].as_array().into_iter().flatten() {
                                let resources = &c["resources"];
                                check(
                                    limit,
                                    &read(&resources["requests"]),
                                    &read(&resources["limits"]),
                                    &mut errors,
                                );
                            }
                        }
                    }
                    ("pods", "Pod") => {
                        let of = |member| pod_resources(object, member);
                        check(limit, &of("requests"), &of("limits"), &mut errors);
                    }
                    ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                        let requests = read(&object["spec"]["resources"]["requests"]);
                        check(limit, &requests, &Resources::new(), &mut errors);
                    }
                    _ => {}
                }
            }
            match errors.as_slice() {
                [] => {}
                [one] => return Err(Denied::forbidden(one.clone())),
                many => return Err(Denied::forbidden(format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    async fn admit(limit: Value, containers: Value) -> Result<Value, Denied> {
        let cluster = FakeCluster::new();
        cluster.put(
            "",
            "limitranges",
            json!({"metadata": {"namespace": "a", "name": "l"}, "spec": {"limits": [limit]}}),
        );
        let pod = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"containers": containers}});
        Ask::create("", "pods").run(&LimitRanger::new(cluster), pod).await
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[tokio::test]
    async fn defaults_fill_what_is_missing_and_say_so() {
        let limit = json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
        let pod = admit(limit, json!([{"name": "c", "resources": {"limits": {"cpu": "2"}}}])).await.unwrap();
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(resources["requests"], json!({"cpu": "100m"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_are_worded_like_upstream() {
        let say =
            |limit: Value, containers: Value| async { admit(limit, containers).await.unwrap_err().message };
        let min = json!({"type": "Container", "min": {"cpu": "100m"}});
        assert_eq!(
            say(min.clone(), json!([container(json!({"cpu": "50m"}), json!({}))])).await,
            "minimum cpu usage per Container is 100m, but request is 50m"
        );
        assert_eq!(
            say(min, json!([container(json!({}), json!({}))])).await,
            "minimum cpu usage per Container is 100m.  No request is specified"
        );
        let max = json!({"type": "Pod", "max": {"memory": "1Gi"}});
        let half = container(json!({}), json!({"memory": "600Mi"}));
        admit(max.clone(), json!([half])).await.unwrap();
        assert_eq!(
            say(max, json!([half, half])).await,
            "maximum memory usage per Pod is 1Gi, but limit is 1200Mi"
        );
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(
            say(ratio, json!([container(json!({"cpu": "1"}), json!({"cpu": "3"}))])).await,
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"
        );
    }

    #[tokio::test]
    async fn claims_have_bounds_too() {
        let cluster = FakeCluster::new();
        let limit = json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}});
        cluster.put(
            "",
            "limitranges",
            json!({"metadata": {"namespace": "a", "name": "l"}, "spec": {"limits": [limit]}}),
        );
        let plugin = LimitRanger::new(cluster);
        for (size, ok) in [("1Gi", true), ("2Gi", false)] {
            let claim = json!({"metadata": {"namespace": "a"}, "spec": {"resources": {"requests": {"storage": size}}}});
            assert_eq!(Ask::create("", "persistentvolumeclaims").run(&plugin, claim).await.is_ok(), ok);
        }
    }
}
