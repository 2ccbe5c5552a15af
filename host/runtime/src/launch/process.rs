//! From a prepared root to the program: streams, identity, privileges, `execve`.

use super::users::{self, Identity};
use super::{Context, Failure, Stdio, Step, words};
use crate::sys;
use crate::wire::ProcessSpec;
use rustix::pty::OpenptFlags;
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn identity(process: &ProcessSpec) -> Step<Identity> {
    let read = |path: &str| match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    };
    users::resolve(
        &process.user,
        process.group,
        &process.extra_groups,
        process.strict_groups,
        &read("/etc/passwd"),
        &read("/etc/group"),
    )
}

/// Puts the streams on 0, 1 and 2. With a terminal, gives its master end.
pub(super) fn attach_stdio(process: &ProcessSpec, stdio: Stdio) -> Step<Option<OwnedFd>> {
    let owner = identity(process)?.uid;
    if process.tty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::fs::open(
            "/dev/ptmx",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .doing("open /dev/ptmx")?;
        rustix::pty::unlockpt(&master).doing("unlock the terminal")?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).doing("open the terminal")?;
        let _ = sys::fchown(&slave, owner, 5);
        for fd in 0..3 {
            sys::dup2(&slave, fd).doing("dup2")?;
        }
        sys::take_terminal().doing("take the terminal")?;
        return Ok(Some(master));
    }
    let null = || {
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
            .doing("open /dev/null")
    };
    for (fd, stream) in [(0, stdio.stdin), (1, stdio.stdout), (2, stdio.stderr)] {
        let stream = match stream {
            Some(stream) => {
                // As runc: lets an unprivileged process reopen /dev/stdout.
                let _ = sys::fchown(&stream, owner, u32::MAX);
                stream
            }
            None => null()?,
        };
        sys::dup2(&stream, fd).doing("dup2")?;
    }
    Ok(None)
}

/// Drops privileges and runs the program.
pub(super) fn finish(process: &ProcessSpec) -> Step<Infallible> {
    let who = identity(process)?;
    // Switched off for ourselves (in `main`); a program decides for itself.
    let _ = sys::prctl(libc::PR_SET_THP_DISABLE, 0);
    let mut env = process.env.clone();
    if !env.iter().any(|(k, _)| k == "HOME") {
        env.push(("HOME".into(), who.home.clone().unwrap_or_else(|| "/".into())));
    }
    if process.tty && !env.iter().any(|(k, _)| k == "TERM") {
        env.push(("TERM".into(), "xterm".into()));
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    if !Path::new(cwd).is_dir() {
        std::fs::create_dir_all(cwd).doing(format_args!("mkdir {cwd}"))?;
    }
    let filters: Vec<Vec<u8>> = process
        .seccomp
        .iter()
        .map(|hex_bytes| hex::decode(hex_bytes).map_err(|_| Failure("seccomp filter is damaged".into())))
        .collect::<Step<_>>()?;

    for cap in (0..64).filter(|cap| process.caps & (1 << cap) == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, cap) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.doing("drop bounding capability")?,
        }
    }
    if !process.no_new_privs {
        install(&filters)?;
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).doing("keep capabilities")?;
    sys::setgroups(&who.groups).doing("setgroups")?;
    sys::setgid(who.gid).doing("setgid")?;
    sys::setuid(who.uid).doing("setuid")?;
    std::env::set_current_dir(cwd)
        .map_err(|e| Failure(format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", words(&e))))?;
    // A working directory like /proc/self/fd/7 must not lead out through a descriptor of ours.
    let here = rustix::process::getcwd(Vec::new()).doing("getcwd")?;
    if !here.to_bytes().starts_with(b"/") {
        return Err(Failure("current working directory is outside of container mount namespace root".into()));
    }
    sys::set_caps(process.caps & sys::permitted_caps().doing("capget")?).doing("set capabilities")?;
    let _ = sys::prctl(libc::PR_SET_KEEPCAPS, 0);
    if process.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).doing("set no_new_privs")?;
        install(&filters)?;
    }
    // A change of user clears the parent-death signal, so it comes last.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).doing("set parent-death signal")?;
    exec(&process.args, &env)
}

fn install(filters: &[Vec<u8>]) -> Step<()> {
    for filter in filters {
        sys::install_seccomp(filter).doing("error loading seccomp filter")?;
    }
    Ok(())
}

fn exec(args: &[String], env: &[(String, String)]) -> Step<Infallible> {
    let name =
        args.first().filter(|a| !a.is_empty()).ok_or_else(|| Failure("no command specified".into()))?;
    let search = env.iter().rev().find(|(k, _)| k == "PATH").map(|(_, v)| v.as_str()).unwrap_or(DEFAULT_PATH);
    let path = look_up(name, search)?;
    let c = |s: &str| CString::new(s).map_err(|_| Failure(format!("exec: {name:?}: argument contains NUL")));
    let argv = args.iter().map(|a| c(a)).collect::<Step<Vec<_>>>()?;
    let envp = env.iter().map(|(k, v)| c(&format!("{k}={v}"))).collect::<Step<Vec<_>>>()?;
    let error = sys::execve(&c(&path)?, &argv, &envp);
    Err(Failure(format!("exec {path}: {}", words(&error))))
}

/// Go's `exec.LookPath`, with its words.
fn look_up(name: &str, search: &str) -> Step<String> {
    let executable = |path: &str| -> io::Result<()> {
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if meta.permissions().mode() & 0o111 == 0 {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        Ok(())
    };
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_string()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(Failure(format!("exec: {name:?}: stat {name}: {}", words(&e))))
            }
            Err(e) => Err(Failure(format!("exec: {name:?}: {}", words(&e)))),
        };
    }
    let mut denied = false;
    for dir in search.split(':') {
        let candidate = format!("{}/{name}", if dir.is_empty() { "." } else { dir });
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) => denied |= e.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    let why = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(Failure(format!("exec: {name:?}: {why}")))
}
