//! The process that stays with a pod: one thread, one poll loop.
//!
//! It lives in the pod's network, IPC and UTS namespaces (so containers simply inherit them), in the host's
//! mount namespace, and in a cgroup of its own beside the pods'. It is the parent of every container process:
//! it holds their streams, writes their logs and keeps their ends in `state.json` until an agent asks.
//! Without an agent it goes on. When it is killed, the kernel kills its containers (parent-death signal).

mod console;
mod containers;
mod execs;
mod log;
mod setup;

use crate::sys;
use crate::wire::{Answer, FrameReader, FrameWriter, Request};
use containers::Container;
use execs::Exec;
use rustix::event::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const MAX_UNSENT: usize = 4 << 20;

/// `supervise <state folder>`: to be called before any thread exists. The exit code is the process's.
pub fn supervise_main(args: &[String]) -> i32 {
    let Some(state) = args.first() else {
        eprintln!("supervise: the sandbox's state folder is missing");
        return 2;
    };
    // The agent waits on our stdout: nothing and its end is success, anything else is the reason.
    match setup::start(state) {
        Err(why) => {
            println!("{why}");
            1
        }
        Ok(None) => 0,
        Ok(Some(mut supervisor)) => {
            supervisor.run();
            0
        }
    }
}

pub(super) struct Conn {
    socket: OwnedFd,
    reader: FrameReader,
    writer: FrameWriter,
}

pub(super) struct Supervisor {
    listener: OwnedFd,
    children: OwnedFd,
    own_pid_ns: OwnedFd,
    pause: Option<i32>,
    conns: BTreeMap<u64, Conn>,
    next_id: u64,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, Exec>,
    connecting: BTreeMap<u64, Connecting>,
    stopping: bool,
}

struct Connecting {
    conn: u64,
    call: u64,
    port: u16,
    ipv6: bool,
    socket: OwnedFd,
}

#[derive(Clone, Debug)]
enum Watched {
    Children,
    Listener,
    Conn(u64),
    Starting(String),
    Output(String, usize),
    Stdin(String),
    Sink(String, u64, usize),
    Source(String, u64),
    ExecStarting(String),
    Connecting(u64),
}

impl Supervisor {
    fn run(&mut self) {
        while !self.stopping || self.conns.values().any(|c| c.writer.pending > 0) {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for what in ready {
                self.handle(what);
            }
            self.flush();
        }
        self.kill_all();
    }

    fn wait(&self) -> io::Result<Vec<Watched>> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(16);
        let mut names: Vec<Watched> = Vec::with_capacity(16);
        fds.push(PollFd::new(&self.children, PollFlags::IN));
        names.push(Watched::Children);
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        names.push(Watched::Listener);
        for (id, conn) in &self.conns {
            let out = if conn.writer.pending > 0 { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(&conn.socket, PollFlags::IN | out));
            names.push(Watched::Conn(*id));
        }
        for (id, container) in &self.containers {
            container.watch(id, &mut |fd, flags, what| {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                names.push(what);
            });
        }
        for (id, exec) in &self.execs {
            if let Some(status) = exec.status.as_ref() {
                fds.push(PollFd::new(status, PollFlags::IN));
                names.push(Watched::ExecStarting(id.clone()));
            }
        }
        for (id, connecting) in &self.connecting {
            fds.push(PollFd::new(&connecting.socket, PollFlags::OUT));
            names.push(Watched::Connecting(*id));
        }
        rustix::event::poll(&mut fds, None)?;
        Ok(fds.iter().zip(names).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, name)| name).collect())
    }

    fn handle(&mut self, what: Watched) {
        match what {
            Watched::Children => self.reap(),
            Watched::Listener => self.accept(),
            Watched::Conn(id) => {
                if !self.receive(id) {
                    self.drop_conn(id);
                }
            }
            Watched::Starting(id) => self.container_status_ready(&id),
            Watched::Output(id, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.read_output(stream);
                }
            }
            Watched::Stdin(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.write_stdin();
                }
            }
            Watched::Sink(id, client, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.write_sink(client, stream);
                }
            }
            Watched::Source(id, client) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.read_source(client);
                }
            }
            Watched::ExecStarting(id) => self.exec_status_ready(&id),
            Watched::Connecting(index) => self.connected(index),
        }
    }

    fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        if let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            self.next_id += 1;
            let conn = Conn { socket, reader: FrameReader::default(), writer: FrameWriter::default() };
            self.conns.insert(self.next_id, conn);
        }
    }

    /// False when the connection is over.
    fn receive(&mut self, id: u64) -> bool {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return false };
            match conn.reader.fill(conn.socket.as_fd()) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            loop {
                let Some(conn) = self.conns.get_mut(&id) else { return false };
                match conn.reader.next::<Request>() {
                    Ok(Some((call, request, fds))) => self.serve(id, call, request, fds),
                    Ok(None) => break,
                    Err(e) => {
                        self.answer(id, 0, Answer::Failed(format!("unreadable request: {e}")), Vec::new());
                        return false;
                    }
                }
            }
        }
    }

    fn drop_conn(&mut self, id: u64) {
        self.conns.remove(&id);
        self.kill_execs_of(id);
    }

    fn serve(&mut self, conn: u64, call: u64, request: Request, fds: Vec<OwnedFd>) {
        let done = match request {
            Request::Status => Ok(self.status()),
            Request::Start(spec) => match self.start_container(conn, call, *spec) {
                Ok(()) => return,
                Err(why) => Err(why),
            },
            Request::Exec { container, exec, stdin, process } => {
                match self.start_exec(conn, call, container, exec, stdin, &process, fds) {
                    Ok(()) => return,
                    Err(why) => Err(why),
                }
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                self.with(&container, |c| c.attach(stdin, stdout, stderr, fds))
            }
            Request::Resize { container, columns, rows } => {
                self.with(&container, |c| c.resize(columns, rows))
            }
            Request::Signal { container, signal } => self.with(&container, |c| c.signal(signal)),
            Request::KillExec { exec } => {
                if let Some(exec) = self.execs.get(&exec) {
                    exec.kill();
                }
                Ok(Answer::Ok)
            }
            Request::Reopen { container } => self.with(&container, |c| c.reopen_log()),
            Request::Connect { port } => match self.connect(conn, call, port, false) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Request::Forget { container } => {
                if self.containers.get(&container).is_none_or(|c| !c.is_running()) {
                    self.containers.remove(&container);
                    Ok(Answer::Ok)
                } else {
                    Err(format!("container {container} is running"))
                }
            }
            Request::Stop => {
                self.kill_all();
                self.stopping = true;
                Ok(Answer::Ok)
            }
        };
        let answer = done.unwrap_or_else(Answer::Failed);
        self.answer(conn, call, answer, Vec::new());
    }

    fn with(
        &mut self,
        id: &str,
        act: impl FnOnce(&mut Container) -> Result<(), String>,
    ) -> Result<Answer, String> {
        let container =
            self.containers.get_mut(id).ok_or_else(|| format!("container {id} is not running"))?;
        act(container).map(|()| Answer::Ok)
    }

    fn status(&self) -> Answer {
        let containers = self.containers.values().filter(|c| !c.is_starting()).map(|c| c.record.clone());
        Answer::Status { pid: std::process::id() as i32, containers: containers.collect() }
    }

    fn answer(&mut self, conn: u64, call: u64, answer: Answer, fds: Vec<OwnedFd>) {
        if let Some(c) = self.conns.get_mut(&conn)
            && c.writer.push(call, answer, fds).is_err()
        {
            self.conns.remove(&conn);
        }
    }

    fn broadcast(&mut self, make: impl Fn() -> Answer) {
        for conn in self.conns.values_mut() {
            let _ = conn.writer.push(0, make(), Vec::new());
        }
    }

    fn flush(&mut self) {
        let mut dead = Vec::new();
        for (id, conn) in &mut self.conns {
            match conn.writer.flush(conn.socket.as_fd()) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && conn.writer.pending < MAX_UNSENT => {}
                Err(_) => dead.push(*id),
            }
        }
        for id in dead {
            self.drop_conn(id);
        }
    }

    fn reap(&mut self) {
        let mut buffer = [0u8; 1024];
        let _ = rustix::io::read(&self.children, &mut buffer);
        while let Some((pid, status)) = sys::reap() {
            if self.pause == Some(pid) {
                self.pause = None;
                continue;
            }
            let (code, signal) = sys::decode_status(status);
            if !self.container_ended(pid, code, signal) {
                self.exec_ended(pid, code);
            }
        }
    }

    /// Begins a connection to the pod's own loopback: IPv4, then IPv6.
    fn connect(&mut self, conn: u64, call: u64, port: u16, ipv6: bool) -> Result<(), String> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let failed = |e: rustix::io::Errno| refused(port, e);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
        let address: std::net::IpAddr =
            if ipv6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
        match rustix::net::connect(&socket, &std::net::SocketAddr::new(address, port)) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(failed(e)),
        }
        self.next_id += 1;
        self.connecting.insert(self.next_id, Connecting { conn, call, port, ipv6, socket });
        Ok(())
    }

    fn connected(&mut self, id: u64) {
        let Some(Connecting { conn, call, port, ipv6, socket }) = self.connecting.remove(&id) else { return };
        match rustix::net::sockopt::socket_error(&socket) {
            Ok(Ok(())) => self.answer(conn, call, Answer::Ok, vec![socket]),
            Ok(Err(e)) | Err(e) => {
                if ipv6 || self.connect(conn, call, port, true).is_err() {
                    self.answer(conn, call, Answer::Failed(refused(port, e)), Vec::new());
                }
            }
        }
    }

    fn kill_all(&mut self) {
        for container in self.containers.values_mut() {
            container.kill();
            container.kill_cgroup();
        }
        for exec in self.execs.values() {
            exec.kill();
        }
        if let Some(pause) = self.pause {
            let _ = sys::kill(pause, libc::SIGKILL);
        }
        // Bounded: a process stuck in the kernel must not keep the pod from going.
        for _ in 0..100 {
            self.reap();
            if self.pause.is_none() && !self.containers.values().any(Container::is_running) {
                break;
            }
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = rustix::event::poll(&mut [PollFd::new(&self.children, PollFlags::IN)], Some(&wait));
        }
    }
}

fn refused(port: u16, e: rustix::io::Errno) -> String {
    let why = crate::launch::words(&e.into());
    format!("failed to connect to localhost:{port} inside namespace: {why}")
}
