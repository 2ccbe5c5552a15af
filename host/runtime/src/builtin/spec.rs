//! From a container's configuration and its image to what the supervisor launches.

use super::Builtin;
use crate::image::RunConfig;
use crate::image::store::Store;
use crate::launch::{self, caps};
use crate::wire::{CgroupJoin, LaunchSpec, PidMode, ProcessSpec};
use crate::{ContainerConfig, RuntimeError, SandboxConfig, Seccomp};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// All that is known about a container before it starts; kept as `config.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    pub id: String,
    pub sandbox: String,
    pub created_at_ns: i64,
    pub config: ContainerConfig,
    pub image_id: String,
    pub layers: Vec<String>,
    pub run: RunConfig,
    pub cgroup: String,
    pub log_path: String,
}

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 1] = ["/sys/devices/virtual/powercap"];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

fn invalid(what: &'static str, why: impl Into<String>) -> RuntimeError {
    RuntimeError::Invalid { what, why: why.into() }
}

impl Plan {
    pub(super) fn args(&self) -> Vec<String> {
        let c = &self.config;
        let mut args = if c.command.is_empty() { self.run.entrypoint.clone() } else { c.command.clone() };
        if !c.args.is_empty() {
            args.extend(c.args.iter().cloned());
        } else if c.command.is_empty() {
            args.extend(self.run.cmd.iter().cloned());
        }
        args
    }

    fn env(&self, hostname: &str) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = Vec::new();
        let mut set = |key: &str, value: &str| match env.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value.to_string(),
            None => env.push((key.to_string(), value.to_string())),
        };
        set("PATH", launch::DEFAULT_PATH);
        set("HOSTNAME", hostname);
        for (key, value) in self.run.env.iter().filter_map(|e| e.split_once('=')) {
            set(key, value);
        }
        for (key, value) in &self.config.env {
            set(key, value);
        }
        env
    }

    pub(super) fn stop_signal(&self) -> i32 {
        let name = self.config.stop_signal.as_ref().or(self.run.stop_signal.as_ref());
        name.and_then(|n| signal_number(n)).unwrap_or(libc::SIGTERM)
    }
}

pub(super) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = short.strip_prefix("RTMIN") {
        let plus: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return Some(34 + plus).filter(|n| *n <= 64);
    }
    if let Some(rest) = short.strip_prefix("RTMAX") {
        let minus: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        return Some(64 - minus).filter(|n| *n >= 34);
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let alias = match short {
        "POLL" => "IO",
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        other => other,
    };
    NAMES.iter().position(|n| *n == alias).map(|i| i as i32 + 1)
}

impl Builtin {
    pub(super) fn process_spec(&self, plan: &Plan, pod: &SandboxConfig) -> Result<ProcessSpec, RuntimeError> {
        let security = &plan.config.security;
        let wanted =
            caps::resolve(security.privileged, &security.add_capabilities, &security.drop_capabilities)
                .map_err(|why| invalid("security context", why))?;
        let caps = wanted & self.caps;
        let number =
            |what, n: i64| u32::try_from(n).map_err(|_| invalid(what, format!("{n} is out of range")));
        let user = match security.run_as_user {
            Some(uid) => number("runAsUser", uid)?.to_string(),
            None if !security.run_as_username.is_empty() => security.run_as_username.clone(),
            None => plan.run.user.clone(),
        };
        let extra_groups = security
            .supplemental_groups
            .iter()
            .map(|gid| number("supplementalGroups", *gid))
            .collect::<Result<_, _>>()?;
        let cwd = [&plan.config.working_dir, &plan.run.working_dir].into_iter().find(|d| !d.is_empty());
        Ok(ProcessSpec {
            args: plan.args(),
            env: plan.env(&pod.hostname),
            cwd: cwd.cloned().unwrap_or_else(|| "/".into()),
            tty: plan.config.tty,
            user,
            group: security.run_as_group.map(|gid| number("runAsGroup", gid)).transpose()?,
            extra_groups,
            strict_groups: security.strict_groups,
            caps,
            no_new_privs: security.no_new_privileges,
            seccomp: if security.privileged { Vec::new() } else { self.seccomp(&security.seccomp, caps)? },
            oom_score_adj: self.oom_score(plan.config.resources.oom_score_adj),
            umask: 0o022,
        })
    }

    pub(super) fn launch_spec(&self, plan: &Plan, pod: &SandboxConfig) -> Result<LaunchSpec, RuntimeError> {
        let config = &plan.config;
        let security = &config.security;
        let process = self.process_spec(plan, pod)?;
        if process.args.is_empty() {
            return Err(RuntimeError::Start("no command specified".into()));
        }
        let mut mounts = config.mounts.clone();
        // Outer mounts first, so that an inner one is not hidden; the caller's order decides among equals.
        mounts.sort_by_key(|m| Path::new(&m.container_path).components().count());
        let (mut masked, mut readonly) = (security.masked_paths.clone(), security.readonly_paths.clone());
        if !security.privileged && !security.unmasked_paths && masked.is_empty() && readonly.is_empty() {
            masked = owned(&MASKED);
            masked.extend(owned(&MASKED_MORE));
            readonly = owned(&READONLY);
        } else if security.privileged {
            (masked, readonly) = (Vec::new(), Vec::new());
        }
        let dir = self.container_dir(&plan.id);
        let mut lowers: Vec<String> = plan.layers.iter().rev().map(|l| Store::layer_name(l)).collect();
        if lowers.is_empty() {
            lowers.push(format!("{}/empty", dir.display()));
        }
        Ok(LaunchSpec {
            container: plan.id.clone(),
            dir: dir.to_string_lossy().into_owned(),
            layers_dir: self.images.layers_dir().to_string_lossy().into_owned(),
            lowers,
            readonly_rootfs: security.readonly_rootfs,
            mounts,
            devices: config.devices.clone(),
            masked_paths: masked,
            readonly_paths: readonly,
            privileged: security.privileged,
            pid_mode: match (pod.host_pid, pod.share_pid) {
                (true, _) => PidMode::Host,
                (_, true) => PidMode::Sandbox,
                _ => PidMode::Own,
            },
            shm: if pod.host_ipc {
                "/dev/shm".into()
            } else {
                self.state_dir(&plan.sandbox).join("shm").to_string_lossy().into_owned()
            },
            cgroup: CgroupJoin {
                procs: self.cgroups.joins(&plan.cgroup, &config.resources),
                views: self.cgroups.views(),
                oom_file: self.cgroups.oom_file(&plan.cgroup),
            },
            log_path: plan.log_path.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            process,
        })
    }

    /// The score this machine lets us set.
    fn oom_score(&self, wanted: i64) -> i32 {
        let wanted = wanted.clamp(-1000, 1000) as i32;
        if wanted >= self.own_oom_score || caps::has(self.caps, "SYS_RESOURCE") {
            return wanted;
        }
        self.oom_warning.call_once(|| {
            tracing::warn!(
                wanted,
                using = self.own_oom_score,
                "without CAP_SYS_RESOURCE an oom_score_adj below our own cannot be set"
            );
        });
        self.own_oom_score
    }

    fn seccomp(&self, profile: &Seccomp, caps: u64) -> Result<Vec<String>, RuntimeError> {
        use launch::seccomp::{Profile, compile, runtime_default};
        let bad = |why: String| invalid("seccomp profile", why);
        let (key, read): (String, Option<Profile>) = match profile {
            Seccomp::Unconfined => return Ok(Vec::new()),
            Seccomp::RuntimeDefault => (format!("default {caps:x}"), None),
            Seccomp::Localhost(path) => {
                let text = std::fs::read(path).map_err(|e| {
                    bad(format!("cannot load seccomp profile {path:?}: {}", launch::words(&e)))
                })?;
                let parsed = serde_json::from_slice(&text)
                    .map_err(|e| bad(format!("decoding seccomp profile {path:?} failed: {e}")))?;
                (format!("{} {caps:x}", crate::image::store::sha256(&text)), Some(parsed))
            }
        };
        if let Some(filters) = self.filters.lock().get(&key) {
            return Ok(filters.clone());
        }
        let filters = compile(&read.unwrap_or_else(runtime_default), caps).map_err(bad)?;
        self.filters.lock().insert(key, filters.clone());
        Ok(filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (name, number) in
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGWINCH", 28)]
        {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        assert_eq!(signal_number("SIGNOPE"), None);
        assert_eq!(signal_number("99"), None);
    }

    #[test]
    fn commands() {
        let list = |s: &[&str]| owned(s);
        let mut plan = Plan::default();
        plan.run.entrypoint = list(&["/e"]);
        plan.run.cmd = list(&["c"]);
        assert_eq!(plan.args(), ["/e", "c"]);
        plan.config.args = list(&["a"]);
        assert_eq!(plan.args(), ["/e", "a"]);
        plan.config.command = list(&["/x"]);
        assert_eq!(plan.args(), ["/x", "a"]);
        plan.config.args.clear();
        assert_eq!(plan.args(), ["/x"]);
    }
}
