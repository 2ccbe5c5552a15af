//! What a container runtime can do, in CRI's words (runtime.v1 RuntimeService and ImageService).

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub type Labels = BTreeMap<String, String>;

/// Everything here is idempotent the way CRI asks: stopping the stopped and removing the removed succeed.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the pod's namespaces, cgroup and supervisor. The network namespace exists (at
    /// [`SandboxStatus::netns`]) but holds only `lo` unless `host_network`; the caller wires it up.
    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus, RuntimeError>;
    /// Kills what still runs in it and releases its namespaces.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    /// Unpacks the root filesystem and prepares, but does not start, a container.
    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String, RuntimeError>;
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Stop signal, then SIGKILL when `grace` has passed. Returns when the container has exited.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError>;
    /// Changes cpu and memory limits in place.
    async fn update_container_resources(&self, id: &str, r: Resources) -> Result<(), RuntimeError>;
    /// Closes and renames the log, then opens a new file; part of rotation.
    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError>;
    async fn container_stats(&self, id: &str) -> Result<ContainerStats, RuntimeError>;

    /// Runs a command to its end, collecting at most 16 KiB of each stream; `timeout` zero means none.
    async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError>;
    async fn exec(&self, id: &str, cmd: &[String], tty: bool, stdin: bool) -> Result<Session, RuntimeError>;
    /// Joins the main process's own streams.
    async fn attach(&self, id: &str, tty: bool, stdin: bool) -> Result<Session, RuntimeError>;
    /// A byte stream to a TCP port inside the sandbox's network namespace.
    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError>;

    /// Exits and starts, as they happen, for every container; also those missed while the agent was away are
    /// visible through `list_containers`.
    fn events(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent>;

    /// Makes the image present; `auth` as in an image pull secret. Returns the image's status.
    async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<ImageStatus, RuntimeError>;
    /// `None` when it is not here. Accepts a reference, a digest reference, or an image id.
    async fn image_status(&self, image: &str) -> Result<Option<ImageStatus>, RuntimeError>;
    async fn list_images(&self) -> Result<Vec<ImageStatus>, RuntimeError>;
    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError>;
    /// docker-archive, OCI archive (tar, plain or compressed) or an OCI layout folder.
    async fn import_image(
        &self,
        path: &camino::Utf8Path,
        name: Option<&str>,
    ) -> Result<Vec<ImageStatus>, RuntimeError>;

    async fn version(&self) -> Result<Version, RuntimeError>;
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_uid: String,
    pub attempt: u32,
    pub hostname: String,
    pub labels: Labels,
    pub annotations: Labels,
    /// Folder for container logs: `<log_directory>/<container>/<attempt>.log`.
    pub log_directory: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// All containers share one PID namespace (`shareProcessNamespace`).
    pub share_pid: bool,
    /// cgroup parent below the runtime's root, as `kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits of the whole pod's cgroup.
    pub resources: Resources,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SandboxStatus {
    pub id: String,
    pub config: SandboxConfig,
    pub ready: bool,
    /// Path of the network namespace; empty for host network.
    pub netns: String,
    pub created_at_ns: i64,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    /// Image id or reference that is already present.
    pub image: String,
    /// The reference the user wrote, for statuses.
    pub image_ref: String,
    /// Overrides the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Overrides the image's cmd when not empty (or when `command` is set).
    pub args: Vec<String>,
    pub working_dir: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: Labels,
    pub annotations: Labels,
    /// Relative to the sandbox's `log_directory`.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    /// File in the container whose content becomes the exit message (`terminationMessagePath`), bound by the
    /// caller through `mounts`.
    pub stop_signal: Option<String>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    pub readonly: bool,
    pub recursive_readonly: bool,
    /// `private`, `rslave`, `rshared`.
    pub propagation: String,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub host_path: String,
    pub container_path: String,
    pub permissions: String,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    pub cpu_shares: u64,
    pub cpu_period_us: u64,
    pub cpu_quota_us: i64,
    pub memory_limit_bytes: i64,
    pub pids_limit: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub hugepage_limits: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Security {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// User name in the image when no uid is given.
    pub run_as_username: String,
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict` ignores the image's own groups.
    pub strict_groups: bool,
    pub readonly_rootfs: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// `procMount: Unmasked`: empty lists above mean none; otherwise they mean the usual ones.
    #[serde(default)]
    pub unmasked_paths: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile in OCI JSON on this machine.
    Localhost(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerState {
    #[default]
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at_ns: i64,
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
    pub exit_code: i32,
    /// Signal that ended it, 0 if none.
    pub signal: i32,
    /// `OOMKilled`, `Completed`, `Error`, `ContainerCannotRun`/`StartError`.
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub image_id: String,
    /// Absolute.
    pub log_path: String,
    pub pid: i32,
    pub labels: Labels,
    pub annotations: Labels,
}

#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    pub cpu_usage_ns: u64,
    pub memory_working_set_bytes: u64,
    pub memory_usage_bytes: u64,
    pub memory_rss_bytes: u64,
    pub pids: u64,
    pub fs_used_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct ContainerEvent {
    pub sandbox_id: String,
    pub container_id: String,
    pub pod_uid: String,
    pub kind: ContainerEventKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    Started,
    Exited,
    /// The supervisor itself died: the sandbox is not ready any more.
    SandboxLost,
}

#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
    pub timed_out: bool,
}

/// A running exec or attach. Dropping it detaches; an exec whose session is dropped is killed.
pub struct Session {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// `None` with a tty: it is merged into stdout.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes: (columns, rows).
    pub resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
    /// Exit code, once the process has ended and its streams are drained.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
}

#[derive(Clone, Debug, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ImageStatus {
    /// `sha256:` of the config.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub size: u64,
    pub uid: Option<i64>,
    pub username: String,
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Version {
    pub runtime_name: String,
    pub runtime_version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{what} {id} not found")]
    NotFound { what: &'static str, id: String },
    #[error("invalid {what}: {why}")]
    Invalid { what: &'static str, why: String },
    /// The registry or the archive said no; the message is what a user can act on.
    #[error("{image}: {why}")]
    Image { image: String, why: String },
    /// The container's own program could not be started (missing file, not executable, bad user).
    #[error("{0}")]
    Start(String),
    #[error("{doing}")]
    Os {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("supervisor of sandbox {sandbox}: {why}")]
    Supervisor { sandbox: String, why: String },
}
