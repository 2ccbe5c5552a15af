//! Exec, attach and port-forward. An exec's streams are pipes between here and the process itself; an attach's
//! go through the supervisor, which owns the main process's streams.

use super::{Builtin, new_id};
use crate::wire::{Answer, Request};
use crate::{ContainerState, Duplex, ExecOutput, RuntimeError, Session, sys};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// CRI's bound on what exec_sync keeps of each stream.
const KEPT: usize = 16 << 10;
/// How long an ended process's streams may stay open, silent, in the hands of its children.
const SILENCE: Duration = Duration::from_millis(500);

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |e| super::os(doing, e)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// What the process writes to us: (its end, ours).
fn from_process() -> Result<(OwnedFd, pipe::Receiver), RuntimeError> {
    let make = || -> io::Result<_> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        nonblocking(&ours)?;
        Ok((theirs, pipe::Receiver::from_owned_fd(ours)?))
    };
    make().map_err(io_error("make a pipe"))
}

fn to_process() -> Result<(OwnedFd, pipe::Sender), RuntimeError> {
    let make = || -> io::Result<_> {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        nonblocking(&ours)?;
        Ok((theirs, pipe::Sender::from_owned_fd(ours)?))
    };
    make().map_err(io_error("make a pipe"))
}

/// A terminal's master end.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    #[allow(unsafe_code)]
    fn new(fd: OwnedFd) -> io::Result<Terminal> {
        nonblocking(&fd)?;
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped with the AsyncFd.
        Ok(Terminal(Arc::new(unsafe { AsyncFd::register(fd) }?)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *unfilled)?)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The last process has closed the other end.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A reader that tells when it has come to the end or was dropped, and whether anything waits in it.
struct Drained<R> {
    inner: R,
    done: Option<mpsc::Sender<()>>,
}

impl<R> Drained<R> {
    fn new(inner: R, done: &mpsc::Sender<()>) -> Self {
        Drained { inner, done: Some(done.clone()) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Drained<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if buffer.filled().len() == before && buffer.capacity() > before {
            self.done = None;
        }
        Poll::Ready(result)
    }
}

impl Builtin {
    fn running(&self, id: &str) -> Result<Arc<super::Container>, RuntimeError> {
        let container = self.container(id)?;
        let state = container.status.borrow().state;
        if state != ContainerState::Running {
            return Err(RuntimeError::Invalid {
                what: "container state",
                why: format!("container is in {} state", name(state)),
            });
        }
        Ok(container)
    }

    pub(super) async fn open_exec(
        &self,
        id: &str,
        cmd: &[String],
        tty: bool,
        stdin: bool,
    ) -> Result<Session, RuntimeError> {
        let container = self.running(id)?;
        let plan = &container.plan;
        let link = self.link(&plan.sandbox)?;
        let mut process = self.process_spec(plan, &self.sandbox(&plan.sandbox)?.status.read().config)?;
        process.args = cmd.to_vec();
        process.tty = tty;
        let mut fds = Vec::new();
        let (mut input, mut output, mut errors) = (None, None, None);
        if !tty {
            if stdin {
                let (theirs, ours) = to_process()?;
                fds.push(theirs);
                input = Some(ours);
            }
            let (theirs, ours) = from_process()?;
            fds.push(theirs);
            output = Some(ours);
            let (theirs, ours) = from_process()?;
            fds.push(theirs);
            errors = Some(ours);
        }
        let exec = new_id();
        let ended = link.expect_exec(&exec);
        let request = Request::Exec {
            container: id.to_string(),
            exec: exec.clone(),
            stdin,
            process: Box::new(process),
        };
        let master = match link.call(request, fds).await {
            Ok((Answer::ExecStarted { .. }, fds)) => fds.into_iter().next(),
            Ok((Answer::StartFailed(why), _)) => {
                link.forget_exec(&exec);
                return Err(RuntimeError::Start(format!(
                    "failed to exec in container: failed to start exec {exec:?}: OCI runtime exec failed: exec \
                     failed: unable to start container process: {why}"
                )));
            }
            Ok((other, _)) => return Err(self.lost(&plan.sandbox, format!("unexpected answer {other:?}"))),
            Err(why) => {
                link.forget_exec(&exec);
                return Err(self.lost(&plan.sandbox, why));
            }
        };

        let (done, mut all_done) = mpsc::channel(1);
        let (exit_sender, exit) = oneshot::channel();
        let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit };
        let mut watched = Vec::new();
        if let Some(master) = master {
            let terminal = Terminal::new(master).map_err(io_error("open the terminal"))?;
            let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(4);
            let weak = Arc::downgrade(&terminal.0);
            tokio::spawn(async move {
                while let Some((columns, rows)) = sizes.recv().await {
                    let Some(fd) = weak.upgrade() else { return };
                    let _ = sys::set_winsize(fd.get_ref().as_raw_fd(), columns, rows);
                }
            });
            session.resize = Some(resize);
            session.stdin = stdin.then(|| Box::new(terminal.clone()) as _);
            session.stdout = Some(Box::new(Drained::new(terminal, &done)));
        } else {
            session.stdin = input.map(|s| Box::new(s) as _);
            for (stream, slot) in [(output, &mut session.stdout), (errors, &mut session.stderr)] {
                let Some(stream) = stream else { continue };
                watched.extend(rustix::io::fcntl_dupfd_cloexec(&stream, 3).ok());
                *slot = Some(Box::new(Drained::new(stream, &done)));
            }
        }
        drop(done);
        tokio::spawn(async move {
            let mut exit_sender = exit_sender;
            let code = tokio::select! {
                code = ended => code.unwrap_or(255),
                () = exit_sender.closed() => {
                    let _ = link.call(Request::KillExec { exec }, Vec::new()).await;
                    return;
                }
            };
            // Every reader is at its end, or what is left belongs to a child that keeps the pipe open.
            loop {
                match tokio::time::timeout(SILENCE, all_done.recv()).await {
                    Ok(_) => break,
                    Err(_) if watched.iter().any(|fd| sys::readable_bytes(fd.as_raw_fd()) > 0) => {}
                    Err(_) => break,
                }
            }
            let _ = exit_sender.send(code);
        });
        Ok(session)
    }

    pub(super) async fn run_to_end(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let session = self.open_exec(id, cmd, false, false).await?;
        let Session { stdout, stderr, mut exit, .. } = session;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let all = async {
            let reading = futures::future::join(keep(stdout, &mut out), keep(stderr, &mut err));
            tokio::pin!(reading);
            tokio::select! {
                biased;
                _ = &mut reading => exit.await,
                // A child of the command may keep the streams open for ever; what it writes later is not ours.
                code = &mut exit => {
                    let _ = futures::FutureExt::now_or_never(&mut reading);
                    code
                }
            }
        };
        let code = if timeout.is_zero() {
            Some(all.await)
        } else {
            // On time-out the session is dropped, which kills the command.
            tokio::time::timeout(timeout, all).await.ok()
        };
        Ok(ExecOutput {
            stdout: out,
            stderr: err,
            timed_out: code.is_none(),
            exit_code: code.map_or(137, |code| code.unwrap_or(255)),
        })
    }

    pub(super) async fn open_attach(
        &self,
        id: &str,
        tty: bool,
        stdin: bool,
    ) -> Result<Session, RuntimeError> {
        let container = self.running(id)?;
        let plan = &container.plan;
        let link = self.link(&plan.sandbox)?;
        let stdin = stdin && plan.config.stdin;
        let tty = tty || plan.config.tty;
        let mut fds = Vec::new();
        let mut input = None;
        if stdin {
            let (theirs, ours) = to_process()?;
            fds.push(theirs);
            input = Some(ours);
        }
        let (theirs, output) = from_process()?;
        fds.push(theirs);
        let mut errors = None;
        if !tty {
            let (theirs, ours) = from_process()?;
            fds.push(theirs);
            errors = Some(ours);
        }
        let request = Request::Attach { container: id.to_string(), stdin, stdout: true, stderr: !tty };
        link.call(request, fds).await.map_err(|why| self.lost(&plan.sandbox, why))?;

        let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(4);
        let container_id = id.to_string();
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                let request = Request::Resize { container: container_id.clone(), columns, rows };
                let _ = link.call(request, Vec::new()).await;
            }
        });
        let (exit_sender, exit) = oneshot::channel();
        let mut status = container.status.subscribe();
        let (done, mut all_done) = mpsc::channel(1);
        tokio::spawn(async move {
            let code = status.wait_for(|s| s.state == ContainerState::Exited).await.map(|s| s.exit_code);
            let _ = all_done.recv().await;
            let _ = exit_sender.send(code.unwrap_or(255));
        });
        Ok(Session {
            stdin: input.map(|s| Box::new(s) as _),
            stdout: Some(Box::new(Drained::new(output, &done))),
            stderr: errors.map(|e| Box::new(Drained::new(e, &done)) as _),
            resize: tty.then_some(resize),
            exit,
        })
    }

    pub(super) async fn open_port(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        let link = self.link(sandbox)?;
        let answer = link.call(Request::Connect { port }, Vec::new()).await;
        let (_, fds) = answer.map_err(|why| {
            // The sentence ends in the kernel's own words, which the chain need not repeat.
            super::os(why, io::Error::from(io::ErrorKind::ConnectionRefused))
        })?;
        let Some(fd) = fds.into_iter().next() else {
            return Err(self.lost(sandbox, "no connection came back".into()));
        };
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true).map_err(io_error("prepare the connection"))?;
        let stream = tokio::net::TcpStream::from_std(stream).map_err(io_error("prepare the connection"))?;
        Ok(Box::new(stream))
    }
}

fn name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "CONTAINER_CREATED",
        ContainerState::Running => "CONTAINER_RUNNING",
        ContainerState::Exited => "CONTAINER_EXITED",
        ContainerState::Unknown => "CONTAINER_UNKNOWN",
    }
}

/// Reads to the end, keeping the beginning.
async fn keep(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; 4 << 10];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..n.min(KEPT - kept.len().min(KEPT))]);
    }
}
