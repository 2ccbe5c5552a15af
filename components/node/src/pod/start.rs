//! Starting one container: image, configuration, creation, start, postStart hook.

use super::observed::as_container;
use super::{identity, labels};
use crate::events::Kind;
use crate::expand::expand;
use crate::images::kit_chain;
use crate::pod::resources::container_resources;
use crate::shared::Shared;
use crate::{env, files, handler, security, volumes};
use camino::{Utf8Path, Utf8PathBuf};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, VolumeMount};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::{ContainerConfig, ContainerStatus, ImageStatus, Mount};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a start needs to know of its pod.
#[derive(Clone)]
pub struct Place {
    pub sandbox: String,
    pub ips: Vec<IpAddr>,
    pub volumes: volumes::Map,
}

#[derive(Debug)]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
    pub retry: Option<Timestamp>,
    /// A container was made (and may have failed) though.
    pub created: Option<String>,
}

impl StartError {
    fn config(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into(), retry: soon(), created: None }
    }
}

fn soon() -> Option<Timestamp> {
    Timestamp::now().checked_add(SignedDuration::from_secs(5)).ok()
}

/// Runs to the end once the image is there: what is created is either started or reported. `running` is told as soon
/// as the process runs, before the postStart hook.
pub async fn start(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    attempt: u32,
    place: &Place,
    leftover: Option<String>,
    running: impl FnOnce(ContainerStatus),
) -> Result<String, StartError> {
    let Some(c) = as_container(pod, name) else {
        return Err(StartError::config(format!("container {name} is not in the pod")));
    };
    let image = shared.images.ensure(pod, &c).await.map_err(|e| StartError {
        reason: e.reason,
        message: e.message,
        retry: Some(e.retry),
        created: None,
    })?;
    if let Some(id) = leftover {
        let _ = shared.runtime.remove_container(&id).await;
    }
    let warn = |message: String| shared.recorder.container(pod, name, Kind::Warning, "Failed", message);
    let config = match configure(shared, pod, &c, attempt, place, &image).await {
        Ok(config) => config,
        Err(why) => {
            warn(format!("Error: {why}"));
            return Err(StartError::config(why));
        }
    };
    let id = match shared.runtime.create_container(&place.sandbox, config).await {
        Ok(id) => id,
        Err(error) => {
            let why = kit_chain(&error);
            warn(format!("Error: {why}"));
            return Err(StartError {
                reason: "CreateContainerError",
                message: why,
                retry: soon(),
                created: None,
            });
        }
    };
    let tell = |reason, message: &str| shared.recorder.container(pod, name, Kind::Normal, reason, message);
    tell("Created", "Container created");
    if let Err(error) = shared.runtime.start_container(&id).await {
        let why = kit_chain(&error);
        warn(format!("Error: {why}"));
        return Err(StartError { reason: "RunContainerError", message: why, retry: None, created: Some(id) });
    }
    tell("Started", "Container started");
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
        if let Ok(status) = shared.runtime.container_status(&id).await {
            running(status);
        }
        if let Err(why) = run_hook(shared, &c, hook, &id, &place.ips, Duration::ZERO).await {
            tracing::info!(pod = identity(pod).0, container = name, error = why, "postStart hook failed");
            shared.recorder.container(
                pod,
                name,
                Kind::Warning,
                "FailedPostStartHook",
                "PostStartHook failed",
            );
            let message = "FailedPostStartHook";
            super::stop::stop_container(
                shared,
                pod,
                name,
                &id,
                super::stop::grace_of(pod),
                message,
                &place.ips,
            )
            .await;
            return Err(StartError {
                reason: "PostStartHookError",
                message: why,
                retry: None,
                created: Some(id),
            });
        }
    }
    Ok(id)
}

/// A lifecycle hook, run to its end or for at most `limit` (zero: no limit).
pub async fn run_hook(
    shared: &Shared,
    c: &Container,
    hook: &LifecycleHandler,
    id: &str,
    ips: &[IpAddr],
    limit: Duration,
) -> Result<(), String> {
    let ip = ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let wait = if limit.is_zero() { Duration::from_secs(3600) } else { limit };
    let outcome = if let Some(exec) = &hook.exec {
        handler::exec(&*shared.runtime, id, exec.command.as_deref().unwrap_or_default(), limit).await
    } else if let Some(get) = &hook.http_get {
        handler::http(get, c, ip, "kube-lifecycle/1.36", wait.min(Duration::from_secs(30))).await
    } else if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(wait)).await;
        handler::Outcome::Success
    } else if let Some(tcp) = &hook.tcp_socket {
        let port = handler::port(&tcp.port, c)?;
        handler::tcp((ip, port).into(), wait.min(Duration::from_secs(30))).await
    } else {
        return Err("cannot run handler: invalid handler".into());
    };
    match outcome {
        handler::Outcome::Success => Ok(()),
        handler::Outcome::Failure(why) | handler::Outcome::Unknown(why) => Err(why),
    }
}

async fn configure(
    shared: &Shared,
    pod: &Pod,
    c: &Container,
    attempt: u32,
    place: &Place,
    image: &ImageStatus,
) -> Result<ContainerConfig, String> {
    let config = &shared.config;
    let facts = shared.facts(pod, &place.ips);
    let security = security::merge(pod, c, image, &config.data_dir.join("seccomp"))?;
    let services = shared.services.state();
    let mut env = env::build(&shared.objects, pod, c, &services, &facts).await?;
    if !env.iter().any(|(k, _)| k == "HOSTNAME") {
        env.insert(0, ("HOSTNAME".into(), files::kernel_hostname(pod, config)?));
    }
    let (command, args) = {
        let by_name: HashMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let all = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(|s| expand(s, |n| by_name.get(n).copied())).collect::<Vec<_>>()
        };
        (all(&c.command), all(&c.args))
    };
    let mounts = mounts(shared, pod, c, attempt, place, &env).await?;
    let (_, _, uid) = identity(pod);
    let mut own_labels = super::act::identity_labels(pod);
    own_labels.insert(labels::CONTAINER_NAME.into(), c.name.clone());
    let mut annotations = runtime::Labels::new();
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    for (key, value) in [
        (labels::RESTART_COUNT, attempt.to_string()),
        (labels::GRACE, grace.to_string()),
        (labels::MESSAGE_PATH, message_path(c).to_owned()),
        (labels::MESSAGE_POLICY, c.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
    ] {
        annotations.insert(key.into(), value);
    }
    tracing::debug!(pod = uid, container = c.name, attempt, "container configured");
    Ok(ContainerConfig {
        name: c.name.clone(),
        attempt,
        image: if image.id.is_empty() { c.image.clone().unwrap_or_default() } else { image.id.clone() },
        image_ref: c.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        env,
        mounts,
        devices: Vec::new(),
        labels: own_labels,
        annotations,
        log_path: format!("{}/{attempt}.log", c.name),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        resources: container_resources(pod, c, shared.machine.memory_bytes),
        security,
        stop_signal: c
            .lifecycle
            .as_ref()
            .and_then(|l| l.stop_signal.clone())
            .or_else(|| image.stop_signal.clone()),
    })
}

fn message_path(c: &Container) -> &str {
    c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

/// Where a run's termination message is written on the host.
pub fn message_file(pod_dir: &Utf8Path, container: &str, attempt: u32) -> Utf8PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

async fn mounts(
    shared: &Shared,
    pod: &Pod,
    c: &Container,
    attempt: u32,
    place: &Place,
    env: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let pod_dir = shared.config.pod_dir(identity(pod).2);
    let mut out = Vec::new();
    for m in c.volume_mounts.iter().flatten() {
        out.push(volume_mount(m, place, env)?);
    }
    let covered =
        |path: &str| c.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path);
    let (config, ips) = (shared.config.clone(), place.ips.clone());
    let (pod, name) = (pod.clone(), c.name.clone());
    let dir = pod_dir.clone();
    tokio::task::spawn_blocking(move || write_files(&config, &pod, &ips, &dir, &name, attempt))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("cannot write the pod's files: {e}"))?;
    let own = |host: Utf8PathBuf, container: &str| Mount {
        host_path: host.into_string(),
        container_path: container.into(),
        readonly: false,
        recursive_readonly: false,
        propagation: "private".into(),
    };
    for (file, path) in
        [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
    {
        if !covered(path) {
            out.push(own(pod_dir.join(file), path));
        }
    }
    out.push(own(message_file(&pod_dir, &c.name, attempt), message_path(c)));
    Ok(out)
}

fn volume_mount(m: &VolumeMount, place: &Place, env: &[(String, String)]) -> Result<Mount, String> {
    let Some(volume) = place.volumes.get(&m.name) else {
        return Err(format!("cannot find volume {:?} to mount into container", m.name));
    };
    let sub = match (m.sub_path.as_deref(), m.sub_path_expr.as_deref()) {
        (Some(sub), _) if !sub.is_empty() => sub.to_owned(),
        (_, Some(expr)) if !expr.is_empty() => {
            let unknown = std::cell::Cell::new(false);
            let text = expand(expr, |n| {
                let found = env.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
                if found.is_none() {
                    unknown.set(true);
                }
                found
            });
            if unknown.get() || text.is_empty() {
                return Err(format!("failed to expand subPathExpr of volumeMount {:?}: {expr}", m.name));
            }
            text
        }
        _ => String::new(),
    };
    if sub.starts_with('/') || sub.split('/').any(|p| p == "..") {
        return Err(format!(
            "failed to create subPath directory for volumeMount {:?}: {sub:?} is not allowed",
            m.name
        ));
    }
    let host = if sub.is_empty() {
        volume.path.clone()
    } else {
        volumes::host::sub_path(&volume.path, &sub)
            .map_err(|e| format!("failed to prepare subPath for volumeMount {:?}: {e}", m.name))?
    };
    let propagation = match m.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "private",
    };
    let readonly = volume.readonly || m.read_only == Some(true);
    Ok(Mount {
        host_path: host.into_string(),
        container_path: m.mount_path.clone(),
        readonly,
        recursive_readonly: readonly
            && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: propagation.into(),
    })
}

fn write_files(
    config: &crate::config::Config,
    pod: &Pod,
    ips: &[IpAddr],
    dir: &Utf8Path,
    container: &str,
    attempt: u32,
) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir)?;
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    let host_file = if host_network { std::fs::read_to_string("/etc/hosts").ok() } else { None };
    let resolver = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let name = files::kernel_hostname(pod, config).unwrap_or_default();
    for (file, text) in [
        ("etc-hosts", files::hosts(pod, config, ips, host_file.as_deref())),
        ("resolv.conf", files::resolv_conf(pod, config, &resolver)),
        ("hostname", format!("{name}\n")),
    ] {
        let path = dir.join(file);
        // Containers share these and may write to them; a restart of one does not undo that.
        if !path.exists() || file == "etc-hosts" && std::fs::read_to_string(&path).is_ok_and(|t| t != text) {
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        }
    }
    let message = message_file(dir, container, attempt);
    if let Some(parent) = message.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&message, "")?;
    std::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666))
}

/// What a dead container left as its last words.
pub fn last_words(pod_dir: &Utf8Path, c: &Container, st: &ContainerStatus) -> Option<String> {
    const MOST: usize = 4096;
    let cut = |mut s: Vec<u8>| {
        s.truncate(MOST);
        String::from_utf8_lossy(&s).into_owned()
    };
    let written = std::fs::read(message_file(pod_dir, &c.name, st.attempt)).unwrap_or_default();
    if !written.is_empty() {
        return Some(cut(written));
    }
    if c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && st.exit_code != 0 {
        let tail = crate::server::logs::tail_text(Utf8Path::new(&st.log_path), 80, 2048);
        return Some(tail).filter(|t| !t.is_empty());
    }
    None
}
