//! What a starting agent finds, and the way to leave nothing behind.

use super::{Builtin, Container, Sandbox, apply, blocking, os};
use crate::wire::{Answer, ContainerRecord, Request};
use crate::{ContainerState, ContainerStatus, Runtime, RuntimeError, SandboxStatus};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

fn folders(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

impl Builtin {
    pub(super) fn kept(&self, container: &str) -> Option<ContainerRecord> {
        let text = std::fs::read(self.container_dir(container).join("state.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) async fn recover(&self) -> Result<(), RuntimeError> {
        for id in folders(&self.options.root.join("sandboxes")) {
            let text = std::fs::read(self.sandbox_dir(&id).join("sandbox.json")).unwrap_or_default();
            match serde_json::from_slice::<SandboxStatus>(&text) {
                Ok(status) => {
                    self.sandboxes.write().insert(id, Sandbox::new(status));
                }
                Err(_) => {
                    let _ = std::fs::remove_dir_all(self.sandbox_dir(&id));
                }
            }
        }
        for id in folders(&self.options.root.join("containers")) {
            self.recover_container(&id);
        }
        let known: Vec<Arc<Sandbox>> = self.sandboxes.read().values().cloned().collect();
        futures::future::join_all(known.iter().map(|sandbox| self.recover_sandbox(sandbox))).await;
        for id in folders(&self.options.state) {
            if !self.sandboxes.read().contains_key(&id) {
                self.evict(&id).await;
            }
        }
        Ok(())
    }

    fn recover_container(&self, id: &str) {
        let dir = self.container_dir(id);
        let text = std::fs::read(dir.join("config.json")).unwrap_or_default();
        let plan = match serde_json::from_slice::<super::Plan>(&text) {
            Ok(plan) if self.sandboxes.read().contains_key(&plan.sandbox) => plan,
            _ => {
                let _ = std::fs::remove_dir_all(dir);
                return;
            }
        };
        let container = Container::new(plan);
        if let Some(record) = self.kept(id) {
            container.status.send_modify(|status| apply(status, &record));
        }
        self.containers.write().insert(id.to_string(), Arc::new(container));
    }

    async fn recover_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let (id, ready) = {
            let status = sandbox.status.read();
            (status.id.clone(), status.ready)
        };
        if ready && let Ok(link) = self.connect(&id).await {
            let status = link.call(Request::Status, Vec::new());
            let answer = tokio::time::timeout(Duration::from_secs(5), status).await;
            if let Ok(Ok((Answer::Status { containers, .. }, _))) = answer {
                for record in &containers {
                    self.learn(&id, record, false);
                }
                *sandbox.link.write() = Some(link);
                return;
            }
        }
        sandbox.stopping.store(true, Ordering::Release);
        let (Some(runtime), sandbox_id) = (self.me.upgrade(), id.clone()) else { return };
        let _ = blocking(move || runtime.release(&sandbox_id)).await;
        if ready {
            tracing::warn!(sandbox = id, "supervisor did not survive");
            self.mark_not_ready(sandbox);
            self.bury_containers(&id, false);
        }
    }

    /// A state folder without a record: its supervisor, if any, has nothing to look after.
    async fn evict(&self, id: &str) {
        if let Ok(link) = self.connect(id).await {
            let stop = async {
                let _ = link.call(Request::Stop, Vec::new()).await;
                link.ended().await;
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), stop).await;
        }
        let (Some(runtime), id) = (self.me.upgrade(), id.to_string()) else { return };
        let _ = blocking(move || runtime.release(&id)).await;
    }

    /// Stops and removes every sandbox and container and every cgroup of this cluster. Images stay; they are
    /// plain files below `root`. Idempotent.
    pub async fn cleanup_all(&self) -> Result<(), RuntimeError> {
        let ids: Vec<String> = self.sandboxes.read().keys().cloned().collect();
        let removed = futures::future::join_all(ids.iter().map(|id| self.remove_pod_sandbox(id))).await;
        for id in folders(&self.options.state) {
            self.evict(&id).await;
        }
        let cgroups = self.cgroups.clone();
        blocking(move || cgroups.remove_all()).await?.map_err(|e| os("remove cgroups", e))?;
        removed.into_iter().collect()
    }
}

impl Container {
    pub(super) fn new(plan: super::Plan) -> Container {
        let config = &plan.config;
        let status = ContainerStatus {
            id: plan.id.clone(),
            sandbox_id: plan.sandbox.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at_ns: plan.created_at_ns,
            image: config.image.clone(),
            image_ref: config.image_ref.clone(),
            image_id: plan.image_id.clone(),
            log_path: plan.log_path.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..ContainerStatus::default()
        };
        Container { plan, status: watch::Sender::new(status) }
    }
}
