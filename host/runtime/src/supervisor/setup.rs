//! The sandbox's namespaces, and the supervisor's way out of the agent's session, parentage and cgroup.

use super::Supervisor;
use crate::launch;
use crate::sys::{self, Forked};
use crate::wire::SandboxSpec;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::Path;

fn doing<T, E: Into<std::io::Error>>(what: impl Display, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {}", launch::words(&e.into())))
}

/// `None` in the process the agent started: its child goes on alone.
pub(super) fn start(state: &str) -> Result<Option<Supervisor>, String> {
    let text = doing("read sandbox.json", std::fs::read(Path::new(state).join("sandbox.json")))?;
    let spec: SandboxSpec = serde_json::from_slice(&text).map_err(|e| format!("sandbox.json: {e}"))?;
    match doing("fork", sys::fork())? {
        Forked::Parent(_) => Ok(None),
        Forked::Child => child(state, spec).map(Some),
    }
}

fn child(state: &str, spec: SandboxSpec) -> Result<Supervisor, String> {
    sys::setsid();
    sys::cloexec_all();
    sys::umask(0o022);
    sys::ignore_signal(libc::SIGPIPE);
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
        sys::ignore_signal(signal);
    }
    doing("become subreaper", sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    for file in &spec.cgroup_procs {
        doing(format_args!("join {file}"), std::fs::write(file, "0"))?;
    }
    // Refused without CAP_SYS_RESOURCE; the agent says so once.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    if let Some(current) = spec.open_files {
        let limit = Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) };
        doing("limit open files", setrlimit(Resource::Nofile, limit))?;
    }
    doing("enter state folder", std::env::set_current_dir(state))?;

    let mut flags = 0;
    if !spec.host_network {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    doing("unshare namespaces", sys::unshare(flags))?;
    if !spec.host_network {
        doing("create netns file", std::fs::File::create("netns"))?;
        doing("pin network namespace", mount_bind("/proc/self/ns/net", "netns"))?;
        doing("bring up lo", sys::loopback_up())?;
        doing("set hostname", sys::sethostname(spec.hostname.get(..64).unwrap_or(&spec.hostname)))?;
    }
    if !spec.host_ipc {
        doing("create shm folder", std::fs::create_dir_all("shm"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        doing("mount shm", mount("shm", "shm", "tmpfs", flags, c"mode=1777,size=67108864"))?;
    }
    sysctls(&spec)?;
    let listener = listen()?;
    doing("leave state folder", std::env::set_current_dir("/"))?;

    let own_pid_ns: OwnedFd = doing("open pid namespace", std::fs::File::open("/proc/self/ns/pid"))?.into();
    let children = doing("watch children", sys::sigchld_fd())?;
    let mut pause = None;
    if spec.share_pid && !spec.host_pid {
        // From here on every child is born into the pod's PID namespace, whose init is the first.
        doing("unshare pid namespace", sys::unshare(libc::CLONE_NEWPID))?;
        match doing("fork pause", sys::fork())? {
            Forked::Child => {
                silence()?;
                launch::run_pause()
            }
            Forked::Parent(pid) => pause = Some(pid),
        }
    }
    silence()?;
    Ok(Supervisor {
        listener,
        children,
        own_pid_ns,
        pause,
        conns: BTreeMap::new(),
        next_id: 0,
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        connecting: BTreeMap::new(),
        stopping: false,
    })
}

/// What containerd sets without being asked, then what the pod asks for.
fn sysctls(spec: &SandboxSpec) -> Result<(), String> {
    if !spec.host_network {
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        doing(format_args!("set sysctl {name}"), std::fs::write(path, value))?;
    }
    Ok(())
}

fn listen() -> Result<OwnedFd, String> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = doing("socket", socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None))?;
    let _ = std::fs::remove_file("s");
    // A relative name: the state folder's path may be longer than a socket address.
    let address = doing("socket name", SocketAddrUnix::new("s"))?;
    doing("bind socket", bind(&socket, &address))?;
    let _ = std::fs::set_permissions("s", std::os::unix::fs::PermissionsExt::from_mode(0o600));
    doing("listen", listen(&socket, 16))?;
    Ok(socket)
}

/// Lets go of the agent's streams; the end of stdout tells it that we are ready.
fn silence() -> Result<(), String> {
    let null: OwnedFd =
        doing("open /dev/null", std::fs::OpenOptions::new().read(true).write(true).open("/dev/null"))?.into();
    for fd in 0..3 {
        doing("dup2", sys::dup2(&null, fd))?;
    }
    Ok(())
}
