//! Priority: a pod's priority class becomes its number.

use super::{Denied, Operation, Plugin, Request};
use crate::cache::Entry;
use crate::reader::{Reader, parse, text};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "scheduling.k8s.io";
const LOWER: &str = "PreemptLowerPriority";

pub(super) struct Priority {
    reader: Arc<dyn Reader>,
}

impl Priority {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    /// The class pods without one get: of several, the one of lowest value.
    fn default_class(&self) -> Option<Value> {
        let classes = self.reader.list(GROUP, "priorityclasses", None);
        let marked = classes.iter().filter(|e| mentions_default(e)).map(|e| parse(e));
        marked.filter(|c| c["globalDefault"] == true).min_by_key(|c| c["value"].as_i64().unwrap_or(0))
    }

    fn admit_pod(&self, r: &Request<'_>, pod: &mut Value) -> Result<(), Denied> {
        if !pod["spec"].is_object() {
            return Ok(());
        }
        if let Some(old) = r.old {
            // Clients that do not know the field send it back empty; it cannot change.
            for field in ["priority", "preemptionPolicy"] {
                if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
                    pod["spec"][field] = old["spec"][field].clone();
                }
            }
            return Ok(());
        }
        let name = text(pod, "/spec/priorityClassName").to_owned();
        let class = if name.is_empty() {
            let class = self.default_class();
            if let Some(class) = &class {
                pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
            }
            class
        } else {
            let found = self.reader.get(GROUP, "priorityclasses", "", &name);
            let missing = || Denied::forbidden(format!("no PriorityClass with name {name} was found"));
            let found = found.ok_or_else(missing)?;
            Some(parse(&found))
        };
        let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
        let policy =
            class.as_ref().map(|c| text(c, "/preemptionPolicy")).filter(|p| !p.is_empty()).unwrap_or(LOWER);
        if let Some(given) = pod["spec"]["priority"].as_i64()
            && given != value
        {
            return Err(Denied::forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {value} from the given PriorityClass name"
            )));
        }
        let given = text(pod, "/spec/preemptionPolicy");
        if !given.is_empty() && given != policy {
            return Err(Denied::forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        pod["spec"]["priority"] = value.into();
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }
}

/// Whether parsing is worth it.
fn mentions_default(entry: &Entry) -> bool {
    const KEY: &[u8] = b"\"globalDefault\":true";
    entry.json.windows(KEY.len()).any(|w| w == KEY)
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        const WRITES: [Operation; 2] = [Operation::Create, Operation::Update];
        r.is("", "pods", &WRITES) || r.is(GROUP, "priorityclasses", &WRITES)
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        if r.resource == "pods" { self.admit_pod(r, object) } else { Ok(()) }
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(object) = object.filter(|o| r.resource == "priorityclasses" && o["globalDefault"] == true)
        else {
            return Ok(());
        };
        let name = text(object, "/metadata/name");
        match self.default_class() {
            Some(other) if text(&other, "/metadata/name") != name => Err(Denied::forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(&other, "/metadata/name")
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec})
    }

    #[tokio::test]
    async fn classes_become_numbers() {
        let cluster = FakeCluster::new();
        let plugin = Priority::new(cluster.clone());
        let ask = Ask::create("", "pods");
        let plain = ask.run(&plugin, pod(json!({}))).await.unwrap();
        assert_eq!(plain["spec"], json!({"priority": 0, "preemptionPolicy": LOWER}));
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        cluster.put(GROUP, "priorityclasses", class("high", 1000, false));
        cluster.put(GROUP, "priorityclasses", class("usual", 10, true));
        let high = ask.run(&plugin, pod(json!({"priorityClassName": "high"}))).await.unwrap();
        assert_eq!(high["spec"]["priority"], 1000);
        assert_eq!(high["spec"]["preemptionPolicy"], "Never");
        let usual = ask.run(&plugin, pod(json!({}))).await.unwrap();
        assert_eq!(
            (&usual["spec"]["priorityClassName"], &usual["spec"]["priority"]),
            (&json!("usual"), &json!(10))
        );
        let unknown = ask.run(&plugin, pod(json!({"priorityClassName": "x"}))).await.unwrap_err();
        assert_eq!(unknown.message, "no PriorityClass with name x was found");
        let forged =
            ask.run(&plugin, pod(json!({"priorityClassName": "high", "priority": 5}))).await.unwrap_err();
        assert!(
            forged.message.starts_with("the integer value of priority (5) must not be provided in pod spec")
        );
        // An update that leaves the number out keeps it.
        let kept = Ask::update("", "pods", high).run(&plugin, pod(json!({}))).await.unwrap();
        assert_eq!(kept["spec"]["priority"], 1000);
        let second =
            Ask::create(GROUP, "priorityclasses").run(&plugin, class("other", 1, true)).await.unwrap_err();
        assert_eq!(
            second.message,
            "PriorityClass usual is already marked as default. Only one default can exist"
        );
        Ask::create(GROUP, "priorityclasses").run(&plugin, class("usual", 1, true)).await.unwrap();
    }
}
