//! Containers: creation, start, stop, removal, limits, numbers.

use super::{Builtin, Container, Plan, blocking, new_id, now_ns, os, write_atomically};
use crate::wire::{Answer, Request};
use crate::{ContainerConfig, ContainerState, ContainerStats, Resources, RuntimeError};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Builtin {
    pub(super) async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let pod = self.sandbox(sandbox)?;
        let image = self
            .images
            .find(&config.image)
            .ok_or_else(|| RuntimeError::NotFound { what: "image", id: config.image.clone() })?;
        let id = new_id();
        let (log_directory, cgroup_parent) = {
            let status = pod.status.read();
            if !status.ready {
                return Err(self.lost(sandbox, "the sandbox is not ready".into()));
            }
            (status.config.log_directory.clone(), status.config.cgroup_parent.clone())
        };
        let log_path = if config.log_path.is_empty() {
            String::new()
        } else {
            Path::new(&log_directory).join(&config.log_path).to_string_lossy().into_owned()
        };
        let plan = Plan {
            cgroup: format!("{}/{id}", cgroup_parent.trim_matches('/')),
            id: id.clone(),
            sandbox: sandbox.to_string(),
            created_at_ns: now_ns(),
            config,
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            run: image.run.clone(),
            log_path,
        };
        // Said at creation, where a user looks for it.
        self.launch_spec(&plan, &pod.status.read().config).or_else(|e| match e {
            RuntimeError::Start(_) => Ok(Default::default()),
            other => Err(other),
        })?;
        let dir = self.container_dir(&id);
        let made = (|| {
            std::fs::create_dir_all(&dir)?;
            for name in ["upper", "work", "rootfs", "empty"] {
                std::fs::create_dir(dir.join(name))?;
                std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755))?;
            }
            write_atomically(&dir.join("config.json"), &serde_json::to_vec(&plan)?)
        })();
        if let Err(e) = made {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(os(format!("make container folder {}", dir.display()), e));
        }
        self.containers.write().insert(id.clone(), Arc::new(Container::new(plan)));
        Ok(id)
    }

    pub(super) async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let plan = &container.plan;
        match container.status.borrow().state {
            ContainerState::Created => {}
            state => {
                return Err(RuntimeError::Invalid {
                    what: "container state",
                    why: format!("{id} is {state:?}, not Created"),
                });
            }
        }
        let link = self.link(&plan.sandbox)?;
        let pod = self.sandbox(&plan.sandbox)?.status.read().config.clone();
        let mut spec = match self.launch_spec(plan, &pod) {
            Ok(spec) => spec,
            Err(e) => return self.start_failed(&container, e),
        };
        let prepared = (|| {
            self.cgroups.create(&plan.cgroup, &plan.config.resources)?;
            self.cgroups.apply(&plan.cgroup, &plan.config.resources)?;
            self.cgroups.kill_together_on_oom(&plan.cgroup);
            if !plan.config.security.privileged {
                let group = self.cgroups.restrict_devices(&plan.cgroup, &plan.config.devices)?;
                spec.cgroup.procs.extend(group);
            }
            Ok(())
        })();
        if let Err(e) = prepared {
            let _ = self.cgroups.remove(&plan.cgroup);
            return self.start_failed(&container, os(format!("make the cgroups of container {id}"), e));
        }
        match link.call(Request::Start(Box::new(spec)), Vec::new()).await {
            Ok((Answer::Started(_), _)) => Ok(()),
            Ok((Answer::StartFailed(why), _)) => {
                let why = format!(
                    "failed to start container {id}: unable to start container process: error during container \
                     init: {why}"
                );
                self.start_failed(&container, RuntimeError::Start(why))
            }
            Ok((other, _)) => Err(self.lost(&plan.sandbox, format!("unexpected answer {other:?}"))),
            Err(why) => Err(self.lost(&plan.sandbox, why)),
        }
    }

    fn start_failed(&self, container: &Container, error: RuntimeError) -> Result<(), RuntimeError> {
        let now = now_ns();
        let record = crate::wire::ContainerRecord {
            id: container.plan.id.clone(),
            finished_at_ns: now,
            exit_code: 128,
            reason: "StartError".into(),
            message: error.to_string(),
            ..Default::default()
        };
        if let Ok(text) = serde_json::to_vec(&record) {
            let _ = write_atomically(&self.container_dir(&record.id).join("state.json"), &text);
        }
        self.learn(&container.plan.sandbox, &record, false);
        Err(error)
    }

    pub(super) async fn signal(&self, container: &Container, signal: i32) -> Result<(), RuntimeError> {
        let plan = &container.plan;
        let request = Request::Signal { container: plan.id.clone(), signal };
        match self.link(&plan.sandbox)?.call(request, Vec::new()).await {
            Ok(_) => Ok(()),
            Err(why) => Err(self.lost(&plan.sandbox, why)),
        }
    }

    async fn exited(container: &Container, patience: Duration) -> bool {
        let mut status = container.status.subscribe();
        let over = status.wait_for(|s| s.state != ContainerState::Running);
        tokio::time::timeout(patience, over).await.is_ok()
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if container.status.borrow().state != ContainerState::Running {
            return Ok(());
        }
        if !grace.is_zero() {
            let _ = self.signal(&container, container.plan.stop_signal()).await;
            if Self::exited(&container, grace).await {
                return Ok(());
            }
        }
        let _ = self.signal(&container, libc::SIGKILL).await;
        if Self::exited(&container, Duration::from_secs(2)).await {
            return Ok(());
        }
        // The main process may be beyond signals' reach; its whole group is not.
        self.cgroups.kill(&container.plan.cgroup);
        if Self::exited(&container, Duration::from_secs(30)).await {
            return Ok(());
        }
        Err(self.lost(&container.plan.sandbox, format!("container {id} does not die")))
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop(id, Duration::ZERO).await?;
        if let Ok(link) = self.link(&container.plan.sandbox) {
            let _ = link.call(Request::Forget { container: id.to_string() }, Vec::new()).await;
        }
        let (dir, cgroups, path) =
            (self.container_dir(id), self.cgroups.clone(), container.plan.cgroup.clone());
        blocking(move || {
            cgroups.remove(&path).map_err(|e| os(format!("remove cgroup {path}"), e))?;
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(os(format!("remove {}", dir.display()), e))
                }
                _ => Ok(()),
            }
        })
        .await??;
        self.containers.write().remove(id);
        Ok(())
    }

    pub(super) async fn update(&self, id: &str, resources: Resources) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let (cgroups, path) = (self.cgroups.clone(), container.plan.cgroup.clone());
        blocking(move || cgroups.apply(&path, &resources))
            .await?
            .map_err(|e| os(format!("update the limits of container {id}"), e))
    }

    pub(super) async fn stats(&self, id: &str) -> Result<ContainerStats, RuntimeError> {
        let container = self.container(id)?;
        let (cgroups, path) = (self.cgroups.clone(), container.plan.cgroup.clone());
        let upper = self.container_dir(id).join("upper");
        blocking(move || ContainerStats { fs_used_bytes: disk_use(&upper), ..cgroups.stats(&path) }).await
    }
}

/// Blocks in use, as `du` counts them.
fn disk_use(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some(meta.blocks() * 512 + if meta.is_dir() { disk_use(&entry.path()) } else { 0 })
        })
        .sum()
}
