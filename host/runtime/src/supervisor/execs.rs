//! Commands run inside running containers. Their streams are the agent's own pipes: no byte passes through here.

use super::Supervisor;
use super::containers::{StatusMessage, read_status, status_pair};
use crate::launch::{self, Joined, Stdio};
use crate::sys::{self, Forked};
use crate::wire::{Answer, PidMode, ProcessSpec};
use std::os::fd::OwnedFd;

pub(super) struct Exec {
    conn: u64,
    call: u64,
    pid: i32,
    pub(super) status: Option<OwnedFd>,
    master: Option<OwnedFd>,
}

impl Exec {
    pub(super) fn kill(&self) {
        let _ = sys::kill_group(self.pid);
    }
}

impl Supervisor {
    pub(super) fn start_exec(
        &mut self,
        conn: u64,
        call: u64,
        container: String,
        exec: String,
        stdin: bool,
        process: &ProcessSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let Some(target) = self.containers.get(&container).filter(|c| c.is_running()) else {
            return Err(format!("container {container} is not running"));
        };
        let pid = target.record.pid;
        let cgroup_procs = target.spec.cgroup.procs.clone();
        let own_pid = target.spec.pid_mode == PidMode::Own;
        let open = |kind: &str| -> Result<OwnedFd, String> {
            std::fs::File::open(format!("/proc/{pid}/ns/{kind}"))
                .map(OwnedFd::from)
                .map_err(|e| format!("open {kind} namespace of container {container}: {}", launch::words(&e)))
        };
        let joined = Joined { mount: open("mnt")?, cgroup: Some(open("cgroup")?) };
        let pid_ns = if own_pid { Some(open("pid")?) } else { None };
        let (status, child_status) = status_pair().map_err(|e| e.to_string())?;
        let mut fds = fds.into_iter();
        let mut stdio = Stdio::default();
        if !process.tty {
            stdio.stdin = if stdin { fds.next() } else { None };
            stdio.stdout = fds.next();
            stdio.stderr = fds.next();
        }
        if let Some(ns) = &pid_ns {
            sys::setns(ns, libc::CLONE_NEWPID)
                .map_err(|e| format!("join pid namespace: {}", launch::words(&e)))?;
        }
        let forked = sys::fork();
        if pid_ns.is_some() && !matches!(forked, Ok(Forked::Child)) {
            sys::setns(&self.own_pid_ns, libc::CLONE_NEWPID)
                .map_err(|e| format!("return to pid namespace: {}", launch::words(&e)))?;
        }
        let pid = match forked.map_err(|e| format!("fork: {}", launch::words(&e)))? {
            Forked::Child => launch::run_exec(process, &cgroup_procs, &joined, stdio, child_status),
            Forked::Parent(pid) => pid,
        };
        self.execs.insert(exec, Exec { conn, call, pid, status: Some(status), master: None });
        Ok(())
    }

    pub(super) fn exec_status_ready(&mut self, id: &str) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some(status) = &exec.status else { return };
        let failure = loop {
            match read_status(status) {
                StatusMessage::Later => return,
                StatusMessage::Terminal(fd) => exec.master = Some(fd),
                StatusMessage::Running => break None,
                StatusMessage::Failed(why) => break Some(why),
            }
        };
        exec.status = None;
        let (conn, call, pid) = (exec.conn, exec.call, exec.pid);
        let master = exec.master.take();
        match failure {
            None => self.answer(conn, call, Answer::ExecStarted { pid }, master.into_iter().collect()),
            Some(why) => {
                self.execs.remove(id);
                self.answer(conn, call, Answer::StartFailed(why), Vec::new());
            }
        }
    }

    pub(super) fn exec_ended(&mut self, pid: i32, code: i32) {
        let Some(id) = self.execs.iter().find(|(_, e)| e.pid == pid).map(|(id, _)| id.clone()) else {
            return;
        };
        self.exec_status_ready(&id);
        if let Some(exec) = self.execs.remove(&id) {
            self.answer(exec.conn, 0, Answer::ExecExited { exec: id, code }, Vec::new());
        }
    }

    /// The agent is gone: nobody reads these any more.
    pub(super) fn kill_execs_of(&mut self, conn: u64) {
        for exec in self.execs.values().filter(|e| e.conn == conn) {
            exec.kill();
        }
    }
}
