//! What agent and supervisor say to each other: frames of a length (u32, little endian) and JSON, with file
//! descriptors riding along (SCM_RIGHTS). Additive changes only: a new agent meets old supervisors.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const MAX_FRAME: usize = 16 << 20;
const MAX_FDS: usize = 8;

/// What a supervisor is told at birth, through `sandbox.json` in its state folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: String,
    /// Its folder of sockets and pins.
    pub state: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Files by which the supervisor moves itself to its cgroups.
    pub cgroup_procs: Vec<String>,
    /// Soft limit of open files (RLIMIT_NOFILE) of the supervisor and all it starts; `None` leaves what it inherits.
    #[serde(default)]
    pub open_files: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    #[default]
    Own,
    Sandbox,
    Host,
}

/// Everything needed to start a container, resolved by the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LaunchSpec {
    pub container: String,
    /// Holds `upper`, `work`, `rootfs` and gets `state.json`.
    pub dir: String,
    pub layers_dir: String,
    /// Names below `layers_dir`, topmost first.
    pub lowers: Vec<String>,
    pub readonly_rootfs: bool,
    pub mounts: Vec<crate::Mount>,
    pub devices: Vec<crate::Device>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub privileged: bool,
    pub pid_mode: PidMode,
    /// Folder of the sandbox's shared `/dev/shm`; empty: a private one.
    pub shm: String,
    pub cgroup: CgroupJoin,
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub process: ProcessSpec,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CgroupJoin {
    /// Files to write "0" to; the first one also lists the members.
    pub procs: Vec<String>,
    /// Controllers to show below /sys/fs/cgroup: (folder, mount data); v2 has the one entry ("", "").
    pub views: Vec<(String, String)>,
    /// File with an `oom_kill` line.
    pub oom_file: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub tty: bool,
    /// `user[:group]`, names or numbers, as an image writes it.
    pub user: String,
    pub group: Option<u32>,
    pub extra_groups: Vec<u32>,
    pub strict_groups: bool,
    pub caps: u64,
    pub no_new_privs: bool,
    /// BPF filters in hex, installed in order.
    pub seccomp: Vec<String>,
    pub oom_score_adj: i32,
    pub umask: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Status,
    Start(Box<LaunchSpec>),
    /// fds: stdin (if `stdin`), stdout, stderr; none with a tty.
    Exec {
        container: String,
        exec: String,
        stdin: bool,
        process: Box<ProcessSpec>,
    },
    /// fds: one per true flag, in this order.
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Resize {
        container: String,
        columns: u16,
        rows: u16,
    },
    Signal {
        container: String,
        signal: i32,
    },
    KillExec {
        exec: String,
    },
    Reopen {
        container: String,
    },
    /// Answered with a connected TCP socket.
    Connect {
        port: u16,
    },
    Forget {
        container: String,
    },
    /// Kill everything and end.
    Stop,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub pid: i32,
    pub started_at_ns: i64,
    /// 0 while it runs.
    pub finished_at_ns: i64,
    pub exit_code: i32,
    pub signal: i32,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Ok,
    Status {
        pid: i32,
        containers: Vec<ContainerRecord>,
    },
    Started(ContainerRecord),
    /// fd: the terminal, if one was asked for.
    ExecStarted {
        pid: i32,
    },
    /// The program could not be run: a sentence for the user.
    StartFailed(String),
    Failed(String),
    // Events, with id 0.
    Exited(ContainerRecord),
    ExecExited {
        exec: String,
        code: i32,
    },
}

#[derive(Serialize, Deserialize)]
pub struct Frame<T> {
    pub id: u64,
    pub fds: usize,
    pub body: T,
}

#[derive(Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl FrameReader {
    /// Reads what is there. `Ok(0)` is the end; `WouldBlock` passes through.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut chunk = [0u8; 16 << 10];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut chunk)];
            match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => continue,
                other => break other?.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.buffer.extend_from_slice(&chunk[..got]);
        Ok(got)
    }

    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(u64, T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let frame: Frame<T> = serde_json::from_slice(&rest[..length])?;
        self.buffer.drain(..4 + length);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        let take = frame.fds.min(self.fds.len());
        Ok(Some((frame.id, frame.body, self.fds.drain(..take).collect())))
    }
}

#[derive(Default)]
pub struct FrameWriter {
    queue: VecDeque<(Vec<u8>, usize, Vec<OwnedFd>)>,
    pub pending: usize,
}

impl FrameWriter {
    pub fn push<T: Serialize>(&mut self, id: u64, body: T, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, &Frame { id, fds: fds.len(), body })?;
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.pending += bytes.len();
        self.queue.push_back((bytes, 0, fds));
        Ok(())
    }

    /// Sends until done or `WouldBlock`.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some((bytes, sent, fds)) = self.queue.front_mut() {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::Error::other("too many descriptors in a frame"));
            }
            let slice = [IoSlice::new(&bytes[*sent..])];
            let n = match rustix::net::sendmsg(socket, &slice, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            fds.clear();
            *sent += n;
            self.pending -= n;
            if *sent == bytes.len() {
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}
