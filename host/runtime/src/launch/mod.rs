//! The container launcher: what happens between fork and exec. Everything here runs in a single-threaded child
//! of the supervisor, one process per call, and ends in `execve` or in one sentence over the status socket.

pub mod caps;
mod devices;
mod process;
mod rootfs;
pub mod seccomp;
mod users;
mod volumes;

use crate::sys;
use crate::wire::{LaunchSpec, ProcessSpec};
use std::convert::Infallible;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

pub use process::DEFAULT_PATH;

/// Why a program could not be started, in runc's words.
#[derive(Debug)]
pub struct Failure(pub String);

pub(crate) type Step<T> = Result<T, Failure>;

pub(crate) trait Context<T> {
    fn doing(self, what: impl Display) -> Step<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Step<T> {
        self.map_err(|e| Failure(format!("{what}: {}", words(&e.into()))))
    }
}

/// An OS error the way Go prints it: lower case, no number.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The process's three streams; `None` is /dev/null, ignored when the process has a terminal.
#[derive(Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Namespaces of a running container that an exec joins.
pub struct Joined {
    pub mount: OwnedFd,
    pub cgroup: Option<OwnedFd>,
}

/// Messages on the status socket: `E` and a sentence, or `T` with the terminal's descriptor. Its end without
/// `E` means that the program runs.
fn report(status: &OwnedFd, tag: u8, text: &str, fd: Option<&OwnedFd>) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let text = &text.as_bytes()[..text.len().min(8 << 10)];
    let parts = [std::io::IoSlice::new(std::slice::from_ref(&tag)), std::io::IoSlice::new(text)];
    let _ = sendmsg(status, &parts, &mut control, SendFlags::NOSIGNAL);
}

pub fn run_container(spec: &LaunchSpec, stdio: Stdio, status: OwnedFd) -> ! {
    let Err(failure) = container(spec, stdio, &status);
    report(&status, b'E', &failure.0, None);
    sys::exit_now(128)
}

pub fn run_exec(
    process: &ProcessSpec,
    cgroup_procs: &[String],
    joined: &Joined,
    stdio: Stdio,
    status: OwnedFd,
) -> ! {
    let Err(failure) = exec(process, cgroup_procs, joined, stdio, &status);
    report(&status, b'E', &failure.0, None);
    sys::exit_now(126)
}

/// The shared PID namespace's init: does nothing, reaps everything.
pub fn run_pause() -> ! {
    sys::cloexec_all();
    sys::reset_signals();
    let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    let _ = rustix::thread::set_name(c"pause");
    // Ignoring SIGCHLD makes the kernel reap for us; an init ignores what it has no handler for.
    sys::ignore_signal(libc::SIGCHLD);
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}

fn container(spec: &LaunchSpec, stdio: Stdio, status: &OwnedFd) -> Step<Infallible> {
    begin(&spec.process, &spec.cgroup.procs)?;
    sys::new_session_keyring(&spec.container);
    let volumes = volumes::open_all(&spec.mounts)?;
    let devices = devices::plan(spec)?;
    let shm = volumes::open_shm(&spec.shm)?;
    sys::unshare(libc::CLONE_NEWNS).doing("unshare mount namespace")?;
    sys::unshare(libc::CLONE_NEWCGROUP).doing("unshare cgroup namespace")?;
    rootfs::enter(spec)?;
    rootfs::mount_system(spec, shm)?;
    devices::make(&devices)?;
    volumes::attach_all(&spec.mounts, volumes)?;
    let terminal = process::attach_stdio(&spec.process, stdio)?;
    if let Some(terminal) = &terminal {
        devices::bind_console()?;
        report(status, b'T', "", Some(terminal));
    }
    drop(terminal);
    rootfs::seal(spec)?;
    process::finish(&spec.process)
}

fn exec(
    process: &ProcessSpec,
    cgroup_procs: &[String],
    joined: &Joined,
    stdio: Stdio,
    status: &OwnedFd,
) -> Step<Infallible> {
    begin(process, cgroup_procs)?;
    if let Some(cgroup) = &joined.cgroup {
        sys::setns(cgroup, libc::CLONE_NEWCGROUP).doing("join cgroup namespace")?;
    }
    sys::setns(&joined.mount, libc::CLONE_NEWNS).doing("join mount namespace")?;
    if let Some(terminal) = process::attach_stdio(process, stdio)? {
        report(status, b'T', "", Some(&terminal));
    }
    process::finish(process)
}

fn begin(process: &ProcessSpec, cgroup_procs: &[String]) -> Step<()> {
    sys::cloexec_all();
    sys::setsid();
    sys::reset_signals();
    for file in cgroup_procs {
        std::fs::write(file, "0").doing(format_args!("join cgroup {file}"))?;
    }
    // A score below our own may be refused (no CAP_SYS_RESOURCE): then the inherited one stays.
    let _ = std::fs::write("/proc/self/oom_score_adj", process.oom_score_adj.to_string());
    Ok(())
}
