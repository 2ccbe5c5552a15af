//! Aggregated ClusterRoles: their rules are those of the roles their selectors name.

use crate::reader::{Change, Reader, WriteError, Writer, items, parse, text};
use futures::StreamExt as _;
use kit::{Shutdown, backoff::Backoff};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "rbac.authorization.k8s.io";

fn labels_match(selector: &Value, labels: &Value) -> bool {
    let named = selector["matchLabels"].as_object();
    let expressions = items(selector, "/matchExpressions");
    if named.is_none_or(serde_json::Map::is_empty) && expressions.is_empty() {
        // An empty selector selects everything.
        return true;
    }
    named.into_iter().flatten().all(|(k, v)| labels[k] == *v)
        && expressions.iter().all(|e| {
            let value = &labels[text(e, "/key")];
            let listed = items(e, "/values").contains(value);
            match text(e, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => !value.is_null(),
                "DoesNotExist" => value.is_null(),
                _ => false,
            }
        })
}

/// The rules an aggregated role should have; `None` for a role that is not aggregated. `roles` in order of name.
fn wanted<'a>(role: &Value, roles: impl Iterator<Item = &'a Value> + Clone) -> Option<Vec<Value>> {
    if !role["aggregationRule"].is_object() {
        return None;
    }
    let mut rules: Vec<Value> = Vec::new();
    for selector in items(role, "/aggregationRule/clusterRoleSelectors") {
        for other in roles.clone() {
            if other["metadata"]["name"] == role["metadata"]["name"]
                || !labels_match(selector, &other["metadata"]["labels"])
            {
                continue;
            }
            for rule in items(other, "/rules") {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

/// Fills in the rules of aggregated roles in a whole set, chains of them included.
pub(super) fn fill(roles: &mut [Value]) {
    roles.sort_by(|a, b| text(a, "/metadata/name").cmp(text(b, "/metadata/name")));
    loop {
        let mut changed = false;
        for at in 0..roles.len() {
            if let Some(rules) = wanted(&roles[at], roles.iter())
                && items(&roles[at], "/rules") != rules
            {
                roles[at]["rules"] = rules.into();
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

/// Keeps aggregated roles up to date while the server runs (upstream's clusterrole-aggregation-controller).
pub struct Aggregation {
    pub reader: Arc<dyn Reader>,
    pub writer: Arc<dyn Writer>,
}

impl Aggregation {
    /// Runs until shutdown; wakes only when a ClusterRole changed.
    pub async fn run(self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        while !shutdown.is_triggered() {
            let mut changes = self.reader.subscribe(GROUP, "clusterroles");
            let mut roles: BTreeMap<Arc<str>, Value> = BTreeMap::new();
            loop {
                let change = tokio::select! {
                    () = shutdown.wait() => return,
                    change = changes.next() => change,
                };
                // The stream has ended: subscribe again.
                let Some(change) = change else { break };
                match change {
                    Change::Snapshot(all) => roles = all.iter().map(|e| (e.name.clone(), parse(e))).collect(),
                    Change::Put(entry) => drop(roles.insert(entry.name.clone(), parse(&entry))),
                    Change::Delete { name, .. } => drop(roles.remove(&name)),
                }
                match self.settle(&roles).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        tracing::warn!(%error, "an aggregated cluster role could not be updated");
                        break;
                    }
                }
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = backoff.wait() => {}
            }
        }
    }

    async fn settle(&self, roles: &BTreeMap<Arc<str>, Value>) -> Result<(), WriteError> {
        for role in roles.values() {
            let Some(rules) = wanted(role, roles.values()) else { continue };
            if items(role, "/rules") == rules {
                continue;
            }
            let mut changed = role.clone();
            changed["rules"] = rules.into();
            match self.writer.update(GROUP, "v1", "clusterroles", changed).await {
                // A conflict means the change that caused it is on its way to us.
                Ok(()) | Err(WriteError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn role(name: &str, labels: Value, verb: &str) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "rules": [{"verbs": [verb]}]})
    }

    fn aggregated(name: &str, from: Value, labels: Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "rules": [],
               "aggregationRule": {"clusterRoleSelectors": [from]}})
    }

    #[test]
    fn chains_are_followed() {
        let mut roles = vec![
            aggregated("admin", json!({"matchLabels": {"to": "admin"}}), json!({})),
            aggregated(
                "edit",
                json!({"matchExpressions": [{"key": "edit", "operator": "Exists"}]}),
                json!({"to": "admin"}),
            ),
            role("one", json!({"edit": "x"}), "get"),
            role("two", json!({"to": "admin"}), "list"),
            role("none", json!({}), "watch"),
        ];
        fill(&mut roles);
        let rules = |name: &str| {
            let role = roles.iter().find(|r| r["metadata"]["name"] == name).unwrap();
            items(role, "/rules").iter().map(|r| r["verbs"][0].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(rules("edit"), ["get"]);
        assert_eq!(rules("admin"), ["get", "list"]);
    }

    #[tokio::test]
    async fn a_new_role_joins_while_running() {
        let cluster = FakeCluster::new();
        cluster.put(
            GROUP,
            "clusterroles",
            aggregated("all", json!({"matchLabels": {"to": "all"}}), json!({})),
        );
        let shutdown = Shutdown::new();
        let run = Aggregation { reader: cluster.clone(), writer: cluster.clone() }.run(shutdown.clone());
        let task = tokio::spawn(run);
        cluster.put(GROUP, "clusterroles", role("new", json!({"to": "all"}), "get"));
        let settled = async {
            loop {
                let all = parse(&cluster.get(GROUP, "clusterroles", "", "all").unwrap());
                if items(&all, "/rules") == [json!({"verbs": ["get"]})] {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
        shutdown.trigger();
        task.await.unwrap();
    }
}
