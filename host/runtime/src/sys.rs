//! The few system calls that neither std nor rustix offer safely, each wrapped once.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

pub enum Forked {
    Child,
    Parent(i32),
}

/// Forks a **single-threaded** process. In a process with threads the child may only exec.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the callers are the supervisor and its children, which never start a thread, so the child
    // finds every lock free and every allocation usable.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Ends this process at once, without destructors or atexit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

pub fn setsid() {
    // SAFETY: no pointers; failing (already a leader) is harmless.
    unsafe { libc::setsid() };
}

pub fn prctl(option: libc::c_int, arg: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only used with options whose argument is a plain number.
    check(unsafe { libc::prctl(option, arg, 0, 0, 0) }).map(drop)
}

/// Blocks `SIGCHLD` and gives a descriptor that becomes readable when a child changes state.
pub fn sigchld_fd() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before use; the new descriptor is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Every signal back to its default and none blocked, as a fresh program expects.
pub fn reset_signals() {
    // SAFETY: setting dispositions to SIG_DFL and clearing the mask touches no Rust state.
    unsafe {
        for signal in 1..=31 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

pub fn ignore_signal(signal: libc::c_int) {
    // SAFETY: SIG_IGN installs no handler code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no pointers; the guard above excludes groups and init.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// SIGKILL to the process group led by `pid`.
pub fn kill_group(pid: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no pointers; `pid` is an unreaped child of ours, so the number cannot be someone else's.
    check(unsafe { libc::kill(-pid, libc::SIGKILL) }).map(drop)
}

/// One ended child, if any: (pid, raw wait status).
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
        pid if pid > 0 => Some((pid, status)),
        _ => None,
    }
}

/// (exit code as a shell shows it, signal or 0).
pub fn decode_status(status: i32) -> (i32, i32) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, signal)
    } else {
        (libc::WEXITSTATUS(status), 0)
    }
}

pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: namespaces only (no CLONE_FILES or CLONE_FS), in a single-threaded process.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

pub fn setns(fd: &OwnedFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub fn sethostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

pub fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, device) }).map(drop)
}

pub fn umask(mask: u32) {
    // SAFETY: always succeeds, no pointers.
    unsafe { libc::umask(mask) };
}

pub fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe `groups`; gid_t is u32.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

pub fn setgid(gid: u32) -> io::Result<()> {
    // SAFETY: no pointers; single-threaded.
    check(unsafe { libc::setresgid(gid, gid, gid) }).map(drop)
}

pub fn setuid(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers; single-threaded.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

pub fn fchown(fd: &OwnedFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }).map(drop)
}

pub fn dup2(from: &OwnedFd, to: RawFd) -> io::Result<()> {
    // SAFETY: only the standard three are overwritten, which nobody owns as OwnedFd.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Marks every descriptor from 3 up close-on-exec.
pub fn cloexec_all() {
    // SAFETY: changes flags only. CLOSE_RANGE_CLOEXEC is 4; kernels without it answer with an error.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 4) };
    if ret != 0 {
        let fds: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
            .map(|dir| {
                dir.flatten().filter_map(|e| e.file_name().to_str().and_then(|s| s.parse().ok())).collect()
            })
            .unwrap_or_default();
        for fd in fds.into_iter().filter(|fd| *fd > 2) {
            // SAFETY: sets a flag on a number; a closed one yields EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// Makes the terminal behind descriptor 0 this session's own.
pub fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}

pub fn set_winsize(fd: RawFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads the winsize that outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Bytes waiting to be read.
pub fn readable_bytes(fd: RawFd) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    if unsafe { libc::ioctl(fd, libc::FIONREAD, &mut n) } < 0 { 0 } else { n.max(0) as usize }
}

/// Brings up the loopback interface of the network namespace this process is in.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; both ioctls read and write only it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request))?;
    }
    Ok(())
}

/// Replaces this process; returns only on failure.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in NULL and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const CAP_VERSION_3: u32 = 0x2008_0522;

/// This process's permitted capabilities.
pub fn permitted_caps() -> io::Result<u64> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills exactly two CapData.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) };
    check(ret as libc::c_int)?;
    Ok(u64::from(data[0].permitted) | (u64::from(data[1].permitted) << 32))
}

/// Effective and permitted become `caps`, inheritable becomes empty.
pub fn set_caps(caps: u64) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |bits: u32| CapData { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(caps as u32), half((caps >> 32) as u32)];
    // SAFETY: version 3 reads exactly two CapData.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) };
    check(ret as libc::c_int).map(drop)
}

/// Installs one BPF filter, given as raw `sock_filter` bytes.
pub fn install_seccomp(program: &[u8]) -> io::Result<()> {
    let count = program.len() / std::mem::size_of::<libc::sock_filter>();
    let mut filters = Vec::with_capacity(count);
    for chunk in program.chunks_exact(8) {
        filters.push(libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        });
    }
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
    // SAFETY: `program` points at `filters`, both alive during the call; SECCOMP_SET_MODE_FILTER is 1.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &program) };
    check(ret as libc::c_int).map(drop)
}

#[repr(C)]
pub struct MountAttr {
    pub attr_set: u64,
    pub attr_clr: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// `mount_setattr` on everything mounted at `path` and, if `recursive`, below.
pub fn mount_setattr(path: &Path, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attr outlive the call and the size is attr's.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            attr as *const MountAttr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    check(ret as libc::c_int).map(drop)
}

/// Makes a new session keyring, so that the container does not see the host's.
pub fn new_session_keyring(name: &str) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING is 1 and takes a string; failure (keyrings not built in) is harmless.
    unsafe { libc::syscall(libc::SYS_keyctl, 1, name.as_ptr()) };
}
