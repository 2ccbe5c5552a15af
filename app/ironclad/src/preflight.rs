//! What must hold before anything is changed: each failure is one sentence with what to do.

use crate::cli::ControlPlane;
use crate::place::Place;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use network::dataplane::Cidr;
use network::machine::Machine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;

/// Smallest free space the data directory's disk must have to start on.
const ROOM: u64 = 64 << 20;

/// Binds the API server's port before anything else is touched.
pub fn bind(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "port {port} is in use; stop what listens there or pass --port with another number"
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("port {port} needs root; pass --port with a number above 1023")
        }
        _ => anyhow::Error::new(e).context(format!("listen on port {port}")),
    })?;
    listener.set_nonblocking(true).context("set up the listener")?;
    Ok(listener)
}

static OPEN_FILES_AT_START: OnceLock<u64> = OnceLock::new();

/// Every connection is an open file, and the usual soft limit, 1024, is for programs that use select(2): it is raised to the hard
/// limit, as Go's runtime does. What is started for others gets the old one back ([`open_files_at_start`]).
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let (Some(current), Ok(())) = (limit.current, raised) {
        let _ = OPEN_FILES_AT_START.set(current);
    }
}

/// The soft limit that this process began with; `None` if it still has it.
pub fn open_files_at_start() -> Option<u64> {
    OPEN_FILES_AT_START.get().copied()
}

/// A node changes namespaces, mounts, cgroups and routes.
pub fn require_root(what: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "`ironclad {what}` must run as root: it makes namespaces, mounts and cgroups (try sudo); `ironclad server` does not"
        );
    }
    Ok(())
}

/// Kernel features a node cannot do without.
pub fn require_kernel() -> Result<()> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    let has = |name: &str| filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
    if !has("overlay") {
        bail!(
            "this kernel has no overlayfs, which containers' root filesystems need; load the module `overlay`"
        );
    }
    if !has("cgroup") && !has("cgroup2") {
        bail!("this kernel has no control groups; containers cannot be limited or found without them");
    }
    for namespace in ["net", "mnt", "pid", "ipc", "uts"] {
        if !Utf8Path::new("/proc/self/ns").join(namespace).exists() {
            bail!("this kernel has no {namespace} namespaces, which containers need");
        }
    }
    Ok(())
}

/// The disk that the folder is on, or will be on, has room to start on.
pub fn require_room(path: &Utf8Path) -> Result<()> {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Utf8Path::new("."));
    let stat =
        rustix::fs::statvfs(there.as_std_path()).with_context(|| format!("look at the disk of {path}"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < ROOM {
        bail!("the disk of {path} is full ({} MiB free, {} needed); make room", free >> 20, ROOM >> 20);
    }
    Ok(())
}

/// The pod and service blocks are free on this machine, or this cluster's own.
pub fn require_free_blocks(place: &Place, flags: &ControlPlane) -> Result<()> {
    let first =
        flags.pod_cidr.nth(0).zip(flags.pod_cidr.nth(255)).map(|(address, _)| Cidr { address, prefix: 24 });
    let Some(pod_cidr) = first.filter(|_| flags.pod_cidr.prefix <= 24) else {
        bail!("--pod-cidr {} is too small: each node takes a /24 of it", flags.pod_cidr);
    };
    if flags.service_cidr.nth(10).is_none() {
        bail!("--service-cidr {} is too small: cluster DNS is its tenth address", flags.service_cidr);
    }
    if flags.pod_cidr.overlaps(flags.service_cidr) {
        bail!("--pod-cidr {} and --service-cidr {} overlap", flags.pod_cidr, flags.service_cidr);
    }
    let machine = Machine { tag: place.tag.clone(), pod_cidr, service_cidr: flags.service_cidr };
    machine.check().context("pass another --pod-cidr or --service-cidr")
}
