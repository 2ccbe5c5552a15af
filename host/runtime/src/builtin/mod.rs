//! The built-in runtime: [`Runtime`](crate::Runtime) on the kernel's own mechanisms.
//!
//! On disk: `root/images` (see `image`), `root/sandboxes/<id>/sandbox.json`, `root/containers/<id>/` with
//! `config.json`, `state.json` (written by the supervisor), `upper` and `work`. In the run folder `state`:
//! `<id>/` with the supervisor's socket `s`, `netns` and `shm`. Losing the run folder (a reboot) loses nothing
//! but running processes, which are gone anyway.

mod containers;
mod link;
mod recover;
mod runtime;
mod sandboxes;
mod spec;
mod streams;

use crate::cgroup::Cgroups;
use crate::image::store::Store;
use crate::wire::{Answer, ContainerRecord};
use crate::{
    ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, ImageStatus, RuntimeError,
    SandboxStatus,
};
use link::Link;
use parking_lot::{Mutex, RwLock};
use spec::Plan;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, Weak};
use tokio::sync::{broadcast, watch};

pub use crate::image::{BuiltinFile, FileContent, Registries};

#[derive(Clone, Debug)]
pub struct Options {
    /// Images, containers and their records: on a disk that can be an overlay's upper layer.
    pub root: PathBuf,
    /// Sockets and namespace pins: on this boot's run folder.
    pub state: PathBuf,
    /// Folder below each cgroup hierarchy, unique per cluster, as `ironclad-<cluster>`.
    pub cgroup_root: String,
    /// The program that becomes a supervisor, with the arguments that lead it to
    /// [`supervise_main`](crate::supervise_main): `["/proc/self/exe", "supervise"]`.
    pub supervisor_exe: Vec<String>,
    pub registries: Registries,
    /// Soft limit of open files of containers, where it is not to be this process's; the hard limit is inherited.
    pub open_files: Option<u64>,
}

pub struct Builtin {
    options: Options,
    images: Arc<Store>,
    cgroups: Arc<Cgroups>,
    /// What this process may hand on.
    caps: u64,
    own_oom_score: i32,
    oom_warning: Once,
    filters: Mutex<HashMap<String, Vec<String>>>,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
    me: Weak<Builtin>,
}

struct Sandbox {
    status: RwLock<SandboxStatus>,
    link: RwLock<Option<Arc<Link>>>,
    /// We asked it to end, so its end is no loss.
    stopping: AtomicBool,
    /// Held by stop and remove.
    ending: tokio::sync::Mutex<()>,
}

struct Container {
    plan: Plan,
    status: watch::Sender<ContainerStatus>,
}

fn os(doing: impl Into<String>, source: io::Error) -> RuntimeError {
    RuntimeError::Os { doing: doing.into(), source }
}

fn now_ns() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default()
}

fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    std::fs::write(&temp, bytes)?;
    std::fs::rename(temp, path)
}

/// Runs what blocks away from the executor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| os("run a blocking task", io::Error::other(e.to_string())))
}

impl Builtin {
    /// Opens the folders, meets the supervisors that are alive, buries those that are not. Needs root and a
    /// tokio runtime. When it returns, `list_*` tell the truth of this moment.
    pub async fn open(options: Options) -> Result<Arc<Builtin>, RuntimeError> {
        // oci-client comes without a TLS provider of its own; a second installation is refused, harmlessly.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for dir in ["images", "sandboxes", "containers"] {
            let dir = options.root.join(dir);
            std::fs::create_dir_all(&dir).map_err(|e| os(format!("create {}", dir.display()), e))?;
        }
        std::fs::create_dir_all(&options.state)
            .map_err(|e| os(format!("create {}", options.state.display()), e))?;
        if options.supervisor_exe.is_empty() {
            return Err(RuntimeError::Invalid { what: "options", why: "supervisor_exe is empty".into() });
        }
        let cgroups = Cgroups::detect(&options.cgroup_root).map_err(|e| os("find cgroups", e))?;
        tracing::info!(cgroups = cgroups.version(), root = %options.root.display(), "runtime opens");
        let images_root = options.root.join("images");
        let images = blocking(move || Store::open(&images_root)).await??;
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let runtime = Arc::new_cyclic(|me| Builtin {
            images: Arc::new(images),
            cgroups: Arc::new(cgroups),
            caps: crate::sys::permitted_caps().unwrap_or_default(),
            own_oom_score: score.trim().parse().unwrap_or_default(),
            oom_warning: Once::new(),
            filters: Mutex::default(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(1024),
            me: me.clone(),
            options,
        });
        runtime.recover().await?;
        Ok(runtime)
    }

    /// Makes an image from files in memory or on this machine; `entrypoint` is what it runs. Repeating it is free
    /// of effect.
    pub async fn import_builtin(
        &self,
        name: &str,
        files: &[BuiltinFile],
        entrypoint: &[String],
    ) -> Result<ImageStatus, RuntimeError> {
        self.images.import_builtin(name, files, entrypoint).await
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.options.root.join("sandboxes").join(id)
    }

    fn state_dir(&self, id: &str) -> PathBuf {
        self.options.state.join(id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.options.root.join("containers").join(id)
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, RuntimeError> {
        let found = self.sandboxes.read().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.to_string() })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        let found = self.containers.read().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_string() })
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.read().values().filter(|c| c.plan.sandbox == sandbox).cloned().collect()
    }

    fn link(&self, sandbox: &str) -> Result<Arc<Link>, RuntimeError> {
        let link = self.sandbox(sandbox)?.link.read().clone();
        link.ok_or_else(|| self.lost(sandbox, "it is not running".into()))
    }

    fn lost(&self, sandbox: &str, why: String) -> RuntimeError {
        RuntimeError::Supervisor { sandbox: sandbox.to_string(), why }
    }

    fn emit(&self, sandbox: &str, container: &str, kind: ContainerEventKind) {
        let pod_uid = match self.sandbox(sandbox) {
            Ok(s) => s.status.read().config.pod_uid.clone(),
            Err(_) => String::new(),
        };
        let _ = self.events.send(ContainerEvent {
            sandbox_id: sandbox.to_string(),
            container_id: container.to_string(),
            pod_uid,
            kind,
        });
    }

    /// Connects to the supervisor whose socket is in the sandbox's state folder.
    async fn connect(&self, sandbox: &str) -> io::Result<Arc<Link>> {
        let (me, id) = (self.me.clone(), sandbox.to_string());
        let on_answer = move |answer: &Answer| {
            let Some(runtime) = me.upgrade() else { return };
            match answer {
                Answer::Started(record) => runtime.learn(&id, record, true),
                Answer::Exited(record) => runtime.learn(&id, record, true),
                _ => {}
            }
        };
        let (me, id) = (self.me.clone(), sandbox.to_string());
        let on_end = move || {
            if let Some(runtime) = me.upgrade() {
                runtime.supervisor_ended(&id);
            }
        };
        Link::connect(&self.state_dir(sandbox), on_answer, on_end).await
    }

    /// Takes a supervisor's word on a container.
    fn learn(&self, sandbox: &str, record: &ContainerRecord, emit: bool) {
        let Ok(container) = self.container(&record.id) else { return };
        container.status.send_modify(|status| apply(status, record));
        if record.finished_at_ns != 0 {
            let (cgroups, path) = (self.cgroups.clone(), container.plan.cgroup.clone());
            tokio::task::spawn_blocking(move || {
                if let Err(error) = cgroups.remove(&path) {
                    tracing::warn!(%error, path, "container cgroup stays behind");
                }
            });
        }
        if emit {
            let kind = match record.finished_at_ns {
                0 => ContainerEventKind::Started,
                _ => ContainerEventKind::Exited,
            };
            self.emit(sandbox, &record.id, kind);
        }
    }

    /// The connection to a supervisor ended: because we told it to stop, or because something killed it.
    fn supervisor_ended(&self, id: &str) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        *sandbox.link.write() = None;
        if sandbox.stopping.load(Ordering::Acquire) {
            return;
        }
        tracing::warn!(sandbox = id, "supervisor is gone, its containers are taken down");
        let Some(runtime) = self.me.upgrade() else { return };
        let id = id.to_string();
        tokio::spawn(async move {
            let Ok(sandbox) = runtime.sandbox(&id) else { return };
            let _ending = sandbox.ending.lock().await;
            runtime.mark_not_ready(&sandbox);
            let (this, sandbox_id) = (runtime.clone(), id.clone());
            let _ = blocking(move || this.release(&sandbox_id)).await;
            runtime.bury_containers(&id, true);
            runtime.emit(&id, "", ContainerEventKind::SandboxLost);
        });
    }
}

fn apply(status: &mut ContainerStatus, record: &ContainerRecord) {
    status.pid = if record.finished_at_ns == 0 { record.pid } else { 0 };
    status.started_at_ns = record.started_at_ns;
    status.finished_at_ns = record.finished_at_ns;
    status.exit_code = record.exit_code;
    status.signal = record.signal;
    status.reason.clone_from(&record.reason);
    status.message.clone_from(&record.message);
    status.state = match (record.started_at_ns, record.finished_at_ns) {
        (0, 0) => ContainerState::Created,
        (_, 0) => ContainerState::Running,
        _ => ContainerState::Exited,
    };
}
