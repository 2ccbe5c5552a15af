//! Containers: start, streams, end.

use super::console::{Attached, write_some};
use super::log::Log;
use super::{Supervisor, Watched};
use crate::launch::{self, Stdio};
use crate::sys::{self, Forked};
use crate::wire::{Answer, ContainerRecord, LaunchSpec, PidMode};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

struct Starting {
    conn: u64,
    call: u64,
    status: OwnedFd,
}

pub(super) struct Container {
    pub(super) spec: LaunchSpec,
    pub(super) record: ContainerRecord,
    starting: Option<Starting>,
    outputs: [Option<OwnedFd>; 2],
    master: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_buffer: Vec<u8>,
    log: Log,
    attached: BTreeMap<u64, Attached>,
    next_attached: u64,
}

pub(super) fn now_ns() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default()
}

pub(super) fn nonblocking(fd: &OwnedFd) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// A pair for the launcher's status: (ours, the child's).
pub(super) fn status_pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    nonblocking(&ours)?;
    Ok((ours, theirs))
}

pub(super) enum StatusMessage {
    Later,
    Running,
    Terminal(OwnedFd),
    Failed(String),
}

pub(super) fn read_status(status: &OwnedFd) -> StatusMessage {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut bytes = [0u8; 9 << 10];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let got = match recvmsg(status, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return StatusMessage::Later,
        Err(_) => 0,
    };
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (bytes[..got].first(), fd) {
        (Some(b'T'), Some(fd)) => StatusMessage::Terminal(fd),
        (Some(b'E'), _) => StatusMessage::Failed(String::from_utf8_lossy(&bytes[1..got]).into_owned()),
        _ => StatusMessage::Running,
    }
}

/// A pipe: (our non-blocking end, the child's end).
fn output_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    nonblocking(&read)?;
    Ok((read, write))
}

impl Supervisor {
    pub(super) fn start_container(&mut self, conn: u64, call: u64, spec: LaunchSpec) -> Result<(), String> {
        if self.containers.get(&spec.container).is_some_and(|c| c.is_running() || c.is_starting()) {
            return Err(format!("container {} is already running", spec.container));
        }
        let io = |e: std::io::Error| format!("prepare streams: {}", launch::words(&e));
        let log = Log::open(&spec.log_path)
            .map_err(|e| format!("open log {}: {}", spec.log_path, launch::words(&e)))?;
        let (status, child_status) = status_pair().map_err(io)?;
        let mut stdio = Stdio::default();
        let (mut outputs, mut stdin) = ([None, None], None);
        if !spec.process.tty {
            let (ours, theirs) = output_pipe().map_err(io)?;
            (outputs[0], stdio.stdout) = (Some(ours), Some(theirs));
            let (ours, theirs) = output_pipe().map_err(io)?;
            (outputs[1], stdio.stderr) = (Some(ours), Some(theirs));
            if spec.stdin {
                let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io(e.into()))?;
                nonblocking(&ours).map_err(io)?;
                (stdin, stdio.stdin) = (Some(ours), Some(theirs));
            }
        }
        let own = spec.pid_mode == PidMode::Own;
        if own {
            sys::unshare(libc::CLONE_NEWPID)
                .map_err(|e| format!("unshare pid namespace: {}", launch::words(&e)))?;
        }
        let forked = sys::fork();
        if own && !matches!(forked, Ok(Forked::Child)) {
            sys::setns(&self.own_pid_ns, libc::CLONE_NEWPID)
                .map_err(|e| format!("return to pid namespace: {}", launch::words(&e)))?;
        }
        let pid = match forked.map_err(|e| format!("fork: {}", launch::words(&e)))? {
            Forked::Child => launch::run_container(&spec, stdio, child_status),
            Forked::Parent(pid) => pid,
        };
        drop((stdio, child_status));
        let record = ContainerRecord { id: spec.container.clone(), pid, ..ContainerRecord::default() };
        let container = Container {
            record,
            starting: Some(Starting { conn, call, status }),
            outputs,
            master: None,
            stdin,
            stdin_buffer: Vec::new(),
            log,
            attached: BTreeMap::new(),
            next_attached: 0,
            spec,
        };
        self.containers.insert(container.spec.container.clone(), container);
        Ok(())
    }

    pub(super) fn container_status_ready(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(starting) = &container.starting else { return };
        let (conn, call) = (starting.conn, starting.call);
        let failure = loop {
            match read_status(&starting.status) {
                StatusMessage::Later => return,
                StatusMessage::Terminal(fd) => {
                    let _ = nonblocking(&fd);
                    container.master = Some(fd);
                }
                StatusMessage::Running => break None,
                StatusMessage::Failed(why) => break Some(why),
            }
        };
        container.starting = None;
        container.record.started_at_ns = now_ns();
        let answer = match failure {
            None => Answer::Started(container.record.clone()),
            Some(why) => {
                container.record.started_at_ns = 0;
                container.record.finished_at_ns = now_ns();
                container.record.exit_code = 128;
                container.record.reason = "StartError".into();
                container.record.message = why.clone();
                container.close();
                Answer::StartFailed(why)
            }
        };
        container.keep();
        self.answer(conn, call, answer, Vec::new());
    }

    /// False when `pid` is no container's main process.
    pub(super) fn container_ended(&mut self, pid: i32, code: i32, signal: i32) -> bool {
        let Some(id) = self
            .containers
            .values()
            .find(|c| c.record.pid == pid && (c.is_running() || c.is_starting()))
            .map(|c| c.spec.container.clone())
        else {
            return false;
        };
        // The reason of a failed start may still lie in the socket.
        self.container_status_ready(&id);
        let Some(container) = self.containers.get_mut(&id).filter(|c| c.is_running()) else { return true };
        container.ended(code, signal);
        let record = container.record.clone();
        self.broadcast(|| Answer::Exited(record.clone()));
        true
    }
}

impl Container {
    pub(super) fn is_starting(&self) -> bool {
        self.starting.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        self.record.started_at_ns != 0 && self.record.finished_at_ns == 0
    }

    pub(super) fn watch<'a>(&'a self, id: &str, add: &mut impl FnMut(BorrowedFd<'a>, PollFlags, Watched)) {
        if let Some(starting) = &self.starting {
            add(starting.status.as_fd(), PollFlags::IN, Watched::Starting(id.into()));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(fd) = output {
                add(fd.as_fd(), PollFlags::IN, Watched::Output(id.into(), i));
            }
        }
        if let Some(master) = &self.master {
            let out = if self.stdin_buffer.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            add(master.as_fd(), PollFlags::IN | out, Watched::Output(id.into(), 0));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.stdin_buffer.is_empty()) {
            add(stdin.as_fd(), PollFlags::OUT, Watched::Stdin(id.into()));
        }
        for (n, attached) in &self.attached {
            for i in 0..2 {
                if let Some(sink) = &attached.sinks[i] {
                    let out = if attached.behind[i].is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                    add(sink.as_fd(), out, Watched::Sink(id.into(), *n, i));
                }
            }
            if let Some(source) = attached.source.as_ref().filter(|_| self.stdin_buffer.is_empty()) {
                add(source.as_fd(), PollFlags::IN, Watched::Source(id.into(), *n));
            }
        }
    }

    /// Reads what the process wrote, to the log and to the attached.
    pub(super) fn read_output(&mut self, stream: usize) {
        if self.master.is_some() {
            self.write_stdin();
        }
        let mut chunk = [0u8; 16 << 10];
        for _ in 0..16 {
            let Some(fd) = self.master.as_ref().or(self.outputs[stream].as_ref()) else { return };
            match rustix::io::read(fd, &mut chunk) {
                Ok(0) | Err(Errno::IO) => {
                    if self.master.take().is_none() {
                        self.outputs[stream] = None;
                    }
                    return;
                }
                Ok(n) => {
                    self.log.write(stream, &chunk[..n]);
                    for attached in self.attached.values_mut() {
                        attached.push(stream, &chunk[..n]);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    pub(super) fn write_stdin(&mut self) {
        let Some(fd) = self.master.as_ref().or(self.stdin.as_ref()) else {
            self.stdin_buffer = Vec::new();
            return;
        };
        if write_some(fd, &mut self.stdin_buffer).is_err() {
            self.stdin = None;
            self.stdin_buffer = Vec::new();
        }
    }

    pub(super) fn write_sink(&mut self, n: u64, stream: usize) {
        let Some(attached) = self.attached.get_mut(&n) else { return };
        if attached.behind[stream].is_empty() {
            // Polled for nothing but its end.
            attached.sinks[stream] = None;
        } else {
            attached.flush(stream);
        }
        self.attached.retain(|_, a| !a.is_over());
    }

    pub(super) fn read_source(&mut self, n: u64) {
        let Some(attached) = self.attached.get_mut(&n) else { return };
        let Some(source) = &attached.source else { return };
        let mut chunk = [0u8; 16 << 10];
        match rustix::io::read(source, &mut chunk) {
            Ok(0) | Err(Errno::IO | Errno::CONNRESET | Errno::PIPE) => {
                attached.source = None;
                if self.spec.stdin_once {
                    self.stdin = None;
                }
            }
            Ok(n) => {
                self.stdin_buffer.extend_from_slice(&chunk[..n]);
                self.write_stdin();
            }
            Err(_) => {}
        }
        self.attached.retain(|_, a| !a.is_over());
    }

    pub(super) fn attach(
        &mut self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        if !self.is_running() {
            return Err(format!("container {} is not running", self.spec.container));
        }
        let mut fds = fds.into_iter();
        let mut take = |wanted: bool| -> Result<Option<OwnedFd>, String> {
            if !wanted {
                return Ok(None);
            }
            let fd = fds.next().ok_or("attach without descriptors")?;
            nonblocking(&fd).map_err(|e| e.to_string())?;
            Ok(Some(fd))
        };
        let source = take(stdin)?;
        let sinks = [take(stdout)?, take(stderr)?];
        let source = source.filter(|_| self.stdin.is_some() || self.master.is_some());
        self.next_attached += 1;
        self.attached.insert(self.next_attached, Attached { sinks, source, behind: Default::default() });
        Ok(())
    }

    pub(super) fn resize(&mut self, columns: u16, rows: u16) -> Result<(), String> {
        let Some(master) = &self.master else { return Ok(()) };
        sys::set_winsize(master.as_raw_fd(), columns, rows).map_err(|e| e.to_string())
    }

    pub(super) fn signal(&mut self, signal: i32) -> Result<(), String> {
        if !self.is_running() {
            return Ok(());
        }
        sys::kill(self.record.pid, signal).map_err(|e| format!("signal {signal}: {}", launch::words(&e)))
    }

    /// Started or about to be.
    pub(super) fn kill(&self) {
        if self.is_running() || self.is_starting() {
            let _ = sys::kill(self.record.pid, libc::SIGKILL);
        }
    }

    pub(super) fn reopen_log(&mut self) -> Result<(), String> {
        self.log.reopen().map_err(|e| format!("reopen log: {}", launch::words(&e)))
    }

    /// Kills every process of the container's cgroup, until none is left or the kernel is too slow.
    pub(super) fn kill_cgroup(&self) {
        let Some(file) = self.spec.cgroup.procs.first() else { return };
        for _ in 0..100 {
            let Ok(pids) = std::fs::read_to_string(file) else { return };
            let pids: Vec<i32> = pids.lines().filter_map(|l| l.parse().ok()).collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn ended(&mut self, code: i32, signal: i32) {
        if self.spec.pid_mode != PidMode::Own {
            self.kill_cgroup();
        }
        for stream in 0..2 {
            self.read_output(stream);
        }
        self.log.finish();
        self.close();
        self.record.finished_at_ns = now_ns();
        self.record.exit_code = code;
        self.record.signal = signal;
        self.record.reason = match code {
            _ if self.was_oom_killed() => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        }
        .into();
        self.keep();
    }

    fn was_oom_killed(&self) -> bool {
        let Ok(text) = std::fs::read_to_string(&self.spec.cgroup.oom_file) else { return false };
        text.lines().any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
    }

    fn close(&mut self) {
        self.outputs = [None, None];
        self.master = None;
        self.stdin = None;
        self.stdin_buffer = Vec::new();
        for attached in self.attached.values_mut() {
            for stream in 0..2 {
                attached.flush(stream);
            }
        }
        self.attached.clear();
    }

    /// What a later agent must know, whole or not at all.
    fn keep(&self) {
        let dir = Path::new(&self.spec.dir);
        let temp = dir.join("state.json.new");
        if let Ok(text) = serde_json::to_vec(&self.record)
            && std::fs::write(&temp, text).is_ok()
        {
            let _ = std::fs::rename(&temp, dir.join("state.json"));
        }
    }
}
