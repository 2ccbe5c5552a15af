//! Keeps `status.hard` and `status.used` of quotas true.

use super::super::support::read_resources;
use super::{Known, counted, masked, subjects, used};
use crate::reader::{Change, Reader, WriteError, Writer, parse, text};
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use kit::{Shutdown, backoff::Backoff};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Changes are gathered for this long before statuses are written: a burst of pods is one update.
const GATHER: Duration = Duration::from_millis(100);

/// Upstream's resourcequota-controller, as far as usage goes. Without any quota it follows nothing but quotas.
pub struct QuotaController {
    pub reader: Arc<dyn Reader>,
    pub writer: Arc<dyn Writer>,
}

type Tagged = (Option<(String, String)>, Change);

impl QuotaController {
    /// Runs until shutdown; wakes only for changes of quotas and of what they count.
    pub async fn run(self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        while !shutdown.is_triggered() {
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.follow() => {}
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = backoff.wait() => {}
            }
        }
    }

    fn stream(&self, of: Option<(String, String)>) -> BoxStream<'static, Option<Tagged>> {
        let (group, resource) = of.clone().unwrap_or_else(|| (String::new(), "resourcequotas".into()));
        let changes = self.reader.subscribe(&group, &resource).map(move |change| Some((of.clone(), change)));
        // The end of one stream is told, so that everything is followed anew.
        Box::pin(changes.chain(futures::stream::once(async { None })))
    }

    /// Until a stream ends or a write fails.
    async fn follow(&self) {
        let mut quotas: BTreeMap<(String, String), Value> = BTreeMap::new();
        let mut followed: BTreeSet<(String, String)> = BTreeSet::new();
        let mut streams: SelectAll<BoxStream<'static, Option<Tagged>>> = SelectAll::new();
        let mut parsed: HashMap<String, Known> = HashMap::new();
        streams.push(self.stream(None));
        let mut dirty: BTreeSet<String> = BTreeSet::new();
        loop {
            let next = if dirty.is_empty() {
                streams.next().await
            } else {
                match tokio::time::timeout(GATHER, streams.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        for namespace in std::mem::take(&mut dirty) {
                            let parsed = parsed.entry(namespace.clone()).or_default();
                            let of = quotas.iter().filter(|((n, _), _)| *n == namespace);
                            for ((_, name), quota) in of {
                                if let Err(error) = self.settle(&namespace, quota, parsed).await {
                                    tracing::warn!(namespace, name, %error, "a quota's usage could not be written");
                                    return;
                                }
                            }
                        }
                        continue;
                    }
                }
            };
            let Some(Some((of, change))) = next else { return };
            if of.is_some() {
                // Only namespaces that have a quota matter.
                let mut touch = |namespace: &str| {
                    if quotas.keys().any(|(n, _)| n == namespace) {
                        dirty.insert(namespace.to_owned());
                    }
                };
                match change {
                    Change::Snapshot(all) => all.iter().for_each(|e| touch(&e.namespace)),
                    Change::Put(entry) => touch(&entry.namespace),
                    Change::Delete { namespace, .. } => touch(&namespace),
                }
                continue;
            }
            match change {
                Change::Snapshot(all) => {
                    quotas = all
                        .iter()
                        .map(|e| ((e.namespace.to_string(), e.name.to_string()), parse(e)))
                        .collect();
                    dirty.extend(quotas.keys().map(|(n, _)| n.clone()));
                }
                Change::Put(entry) => {
                    quotas.insert((entry.namespace.to_string(), entry.name.to_string()), parse(&entry));
                    dirty.insert(entry.namespace.to_string());
                }
                Change::Delete { namespace, name } => {
                    quotas.remove(&(namespace.to_string(), name.to_string()));
                    parsed.remove(&*namespace);
                }
            }
            let names = quotas.values().flat_map(|q| read_resources(&q["spec"]["hard"]).into_keys());
            let wanted: BTreeSet<(String, String)> = names.filter_map(|n| counted(&n)).collect();
            for of in wanted {
                if followed.insert(of.clone()) {
                    streams.push(self.stream(Some(of)));
                }
            }
        }
    }

    async fn settle(&self, namespace: &str, quota: &Value, parsed: &mut Known) -> Result<(), WriteError> {
        let hard = read_resources(&quota["spec"]["hard"]);
        parsed.retain(|(resource, name), _| self.reader.get("", resource, namespace, name).is_some());
        debug_assert!(subjects(&hard).len() <= hard.len());
        let used = used(&*self.reader, parsed, namespace, quota, &hard, |_, _, _| false);
        let known = masked(&read_resources(&quota["status"]["used"]), &hard);
        let complete = quota["status"]["used"].as_object().is_some_and(|u| u.len() == hard.len());
        if complete && known == used && read_resources(&quota["status"]["hard"]) == hard {
            return Ok(());
        }
        let text_of = |r: &super::Resources| -> Value {
            r.iter().map(|(k, q)| (k.clone(), json!(q.to_string()))).collect()
        };
        let mut changed = quota.clone();
        changed["status"] = json!({"hard": quota["spec"]["hard"], "used": text_of(&used)});
        match self.writer.update_status("", "v1", "resourcequotas", changed).await {
            // What changed it is on its way to us, and makes us try again.
            Ok(()) | Err(WriteError::Conflict) => Ok(()),
            Err(WriteError::Other(why)) if why.contains("not found") => Ok(()),
            Err(error) => {
                tracing::debug!(quota = text(quota, "/metadata/name"), "quota status not written");
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;

    #[tokio::test]
    async fn usage_follows_the_objects() {
        let cluster = FakeCluster::new();
        let spec = json!({"hard": {"pods": "5", "configmaps": "5"}});
        cluster.put("", "resourcequotas", json!({"metadata": {"namespace": "a", "name": "q"}, "spec": spec}));
        let shutdown = Shutdown::new();
        let controller = QuotaController { reader: cluster.clone(), writer: cluster.clone() };
        let task = tokio::spawn(controller.run(shutdown.clone()));
        let until = |wanted: Value| {
            let cluster = cluster.clone();
            async move {
                let settled = async {
                    loop {
                        let quota = parse(&cluster.get("", "resourcequotas", "a", "q").unwrap());
                        if quota["status"]["used"] == wanted {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), settled)
                    .await
                    .unwrap_or_else(|_| panic!("{wanted}"));
            }
        };
        until(json!({"pods": "0", "configmaps": "0"})).await;
        cluster.put("", "pods", json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {}}));
        cluster.put("", "configmaps", json!({"metadata": {"namespace": "a", "name": "c"}}));
        cluster.put("", "configmaps", json!({"metadata": {"namespace": "b", "name": "c"}}));
        until(json!({"pods": "1", "configmaps": "1"})).await;
        cluster.remove("", "pods", "a", "p");
        until(json!({"pods": "0", "configmaps": "1"})).await;
        shutdown.trigger();
        task.await.unwrap();
    }
}
