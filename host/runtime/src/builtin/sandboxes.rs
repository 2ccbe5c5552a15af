//! Sandboxes: birth, stop, removal, and the release of everything the kernel holds for them.

use super::{Builtin, Sandbox, blocking, new_id, now_ns, os, write_atomically};
use crate::wire::{Request, SandboxSpec};
use crate::{ContainerState, RuntimeError, SandboxConfig, SandboxStatus};
use parking_lot::RwLock;
use rustix::mount::{UnmountFlags, unmount};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

impl Sandbox {
    pub(super) fn new(status: SandboxStatus) -> Arc<Sandbox> {
        Arc::new(Sandbox {
            status: RwLock::new(status),
            link: RwLock::default(),
            stopping: AtomicBool::new(false),
            ending: tokio::sync::Mutex::default(),
        })
    }
}

impl Builtin {
    pub(super) async fn run_sandbox(&self, mut config: SandboxConfig) -> Result<SandboxStatus, RuntimeError> {
        let id = new_id();
        if config.cgroup_parent.trim_matches('/').is_empty() {
            config.cgroup_parent = format!("pods/{id}");
        }
        if config.cgroup_parent.split('/').any(|part| part == "..") {
            return Err(RuntimeError::Invalid { what: "cgroup parent", why: config.cgroup_parent });
        }
        let netns = if config.host_network {
            String::new()
        } else {
            self.state_dir(&id).join("netns").to_string_lossy().into_owned()
        };
        let status = SandboxStatus { id: id.clone(), config, ready: true, netns, created_at_ns: now_ns() };
        let sandbox = Sandbox::new(status.clone());
        self.sandboxes.write().insert(id.clone(), sandbox.clone());
        match self.bring_up(&status).await {
            Ok(link) => {
                *sandbox.link.write() = Some(link.clone());
                if link.is_over() {
                    // Its end was noticed before there was a link to take away.
                    *sandbox.link.write() = None;
                }
                Ok(status)
            }
            Err(e) => {
                sandbox.stopping.store(true, Ordering::Release);
                self.sandboxes.write().remove(&id);
                let runtime = self.me.upgrade();
                let cleaning = id.clone();
                let _ = blocking(move || {
                    if let Some(runtime) = runtime {
                        runtime.release(&cleaning);
                        let _ = std::fs::remove_dir_all(runtime.sandbox_dir(&cleaning));
                        runtime.cgroups.remove_if_empty(&status.config.cgroup_parent);
                    }
                })
                .await;
                Err(e)
            }
        }
    }

    async fn bring_up(&self, status: &SandboxStatus) -> Result<Arc<super::link::Link>, RuntimeError> {
        let (id, config) = (&status.id, &status.config);
        let (dir, state) = (self.sandbox_dir(id), self.state_dir(id));
        let cgroup = |e| os(format!("make the cgroups of sandbox {id}"), e);
        self.cgroups.create(&config.cgroup_parent, &config.resources).map_err(cgroup)?;
        self.cgroups.apply(&config.cgroup_parent, &config.resources).map_err(cgroup)?;
        let spec = SandboxSpec {
            id: id.clone(),
            state: state.to_string_lossy().into_owned(),
            hostname: config.hostname.clone(),
            host_network: config.host_network,
            host_pid: config.host_pid,
            host_ipc: config.host_ipc,
            share_pid: config.share_pid,
            sysctls: config.sysctls.clone(),
            cgroup_procs: self.cgroups.supervisors().map_err(cgroup)?,
            open_files: self.options.open_files,
        };
        let written = (|| {
            std::fs::create_dir_all(&state)?;
            std::fs::write(state.join("sandbox.json"), serde_json::to_vec(&spec)?)?;
            std::fs::create_dir_all(&dir)?;
            write_atomically(&dir.join("sandbox.json"), &serde_json::to_vec(status)?)
        })();
        written.map_err(|e| os(format!("write sandbox {id}"), e))?;

        let supervisor = |why: String| RuntimeError::Supervisor { sandbox: id.clone(), why };
        let [exe, prefix @ ..] = self.options.supervisor_exe.as_slice() else {
            return Err(supervisor("no program given".into()));
        };
        let child = tokio::process::Command::new(exe)
            .args(prefix)
            .arg(&state)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .output();
        let output = tokio::time::timeout(PATIENCE, child)
            .await
            .map_err(|_| supervisor("it does not come up".into()))?
            .map_err(|e| supervisor(format!("cannot run {exe}: {e}")))?;
        if !output.stdout.is_empty() || !output.status.success() {
            let why = String::from_utf8_lossy(&output.stdout).trim().to_string();
            return Err(supervisor(if why.is_empty() {
                format!("it ended: {}", output.status)
            } else {
                why
            }));
        }
        self.connect(id).await.map_err(|e| supervisor(format!("cannot connect: {e}")))
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _ending = sandbox.ending.lock().await;
        if !sandbox.status.read().ready {
            return Ok(());
        }
        sandbox.stopping.store(true, Ordering::Release);
        let link = sandbox.link.read().clone();
        if let Some(link) = link {
            let _ = tokio::time::timeout(PATIENCE, async {
                let _ = link.call(Request::Stop, Vec::new()).await;
                link.ended().await;
            })
            .await;
        }
        self.mark_not_ready(&sandbox);
        let (Some(runtime), sandbox_id) = (self.me.upgrade(), id.to_string()) else { return Ok(()) };
        blocking(move || runtime.release(&sandbox_id)).await?;
        self.bury_containers(id, true);
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.remove(&container.plan.id).await?;
        }
        let _ending = sandbox.ending.lock().await;
        let (dir, cgroups) = (self.sandbox_dir(id), self.cgroups.clone());
        let parent = sandbox.status.read().config.cgroup_parent.clone();
        blocking(move || {
            cgroups.remove_if_empty(&parent);
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(os(format!("remove {}", dir.display()), e))
                }
                _ => Ok(()),
            }
        })
        .await??;
        self.sandboxes.write().remove(id);
        Ok(())
    }

    pub(super) fn mark_not_ready(&self, sandbox: &Sandbox) {
        let status = {
            let mut status = sandbox.status.write();
            status.ready = false;
            status.clone()
        };
        *sandbox.link.write() = None;
        if let Ok(text) = serde_json::to_vec(&status) {
            let _ = write_atomically(&self.sandbox_dir(&status.id).join("sandbox.json"), &text);
        }
    }

    /// Kills what is left of the sandbox and takes back mounts, cgroups and the state folder. Idempotent, blocking.
    pub(super) fn release(&self, id: &str) {
        for container in self.containers_of(id) {
            if let Err(error) = self.cgroups.remove(&container.plan.cgroup) {
                tracing::warn!(%error, container = container.plan.id, "container cgroup stays behind");
            }
        }
        let state = self.state_dir(id);
        for name in ["netns", "shm"] {
            let path = state.join(name);
            // Twice would mean that somebody mounted over it: peel all layers.
            while unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        }
        if let Err(error) = std::fs::remove_dir_all(&state)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, state = %state.display(), "state folder stays behind");
        }
    }

    /// Containers whose end nobody saw: their own record, or 255 as CRI runtimes report an unknown end.
    pub(super) fn bury_containers(&self, sandbox: &str, emit: bool) {
        for container in self.containers_of(sandbox) {
            if container.status.borrow().state != ContainerState::Running {
                continue;
            }
            let mut record = self.kept(&container.plan.id).unwrap_or_default();
            if record.finished_at_ns == 0 {
                record.finished_at_ns = now_ns();
                record.exit_code = 255;
                record.reason = "Unknown".into();
                record.message = "the container's supervisor was lost".into();
            }
            record.id = container.plan.id.clone();
            if let Ok(text) = serde_json::to_vec(&record) {
                let _ = write_atomically(&self.container_dir(&record.id).join("state.json"), &text);
            }
            self.learn(sandbox, &record, emit);
        }
    }
}
