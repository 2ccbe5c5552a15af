//! The agent's end of a supervisor's socket.

use crate::wire::{Answer, FrameReader, FrameWriter, Request};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

type Reply = (Answer, Vec<OwnedFd>);

pub(super) struct Link {
    stream: UnixStream,
    /// Taken while a frame is being sent, so that frames do not interleave.
    sending: tokio::sync::Mutex<FrameWriter>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    execs: Mutex<HashMap<String, oneshot::Sender<i32>>>,
    next: AtomicU64,
    over: watch::Sender<bool>,
}

impl Link {
    /// Connects through the folder's descriptor: its path may be longer than a socket address.
    ///
    /// `on_answer` sees every answer and event in the order the supervisor sent them, before the caller of the
    /// request does; `on_end` is called once, when the supervisor is gone.
    pub(super) async fn connect(
        state: &Path,
        on_answer: impl Fn(&Answer) + Send + Sync + 'static,
        on_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Link>> {
        let folder = std::fs::File::open(state)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/s", folder.as_raw_fd())).await?;
        let link = Arc::new(Link {
            stream,
            sending: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            execs: Mutex::default(),
            next: AtomicU64::new(1),
            over: watch::Sender::new(false),
        });
        let reader = link.clone();
        tokio::spawn(async move {
            if let Err(e) = reader.read(on_answer).await {
                tracing::warn!(error = %e, "supervisor connection failed");
            }
            // Dropped senders tell every waiting caller.
            reader.waiting.lock().clear();
            reader.execs.lock().clear();
            reader.over.send_replace(true);
            on_end();
        });
        Ok(link)
    }

    async fn read(&self, on_answer: impl Fn(&Answer)) -> io::Result<()> {
        let mut frames = FrameReader::default();
        loop {
            let got = self.stream.async_io(Interest::READABLE, || frames.fill(self.stream.as_fd())).await;
            match got {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(e),
            }
            while let Some((id, answer, fds)) = frames.next::<Answer>()? {
                on_answer(&answer);
                if let Answer::ExecExited { exec, code } = &answer {
                    if let Some(waiting) = self.execs.lock().remove(exec) {
                        let _ = waiting.send(*code);
                    }
                } else if let Some(waiting) = self.waiting.lock().remove(&id) {
                    let _ = waiting.send((answer, fds));
                }
            }
        }
    }

    /// The error is a sentence. When the caller is cancelled the request may still be carried out.
    pub(super) async fn call(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        let gone = |_| "it is gone".to_string();
        if self.is_over() {
            return Err("it is gone".into());
        }
        {
            let mut writer = self.sending.lock().await;
            writer.push(id, request, fds).map_err(|e| e.to_string())?;
            // A cancelled caller leaves the rest of its frame in the writer; the next one sends it first.
            self.stream
                .async_io(Interest::WRITABLE, || writer.flush(self.stream.as_fd()))
                .await
                .map_err(|e| e.to_string())?;
        }
        match receiver.await.map_err(gone)? {
            (Answer::Failed(why), _) => Err(why),
            other => Ok(other),
        }
    }

    /// To be called before the exec is requested.
    pub(super) fn expect_exec(&self, exec: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.execs.lock().insert(exec.to_string(), sender);
        receiver
    }

    pub(super) fn forget_exec(&self, exec: &str) {
        self.execs.lock().remove(exec);
    }

    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Returns when the supervisor has closed the connection.
    pub(super) async fn ended(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}
