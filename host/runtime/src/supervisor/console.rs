//! Attached clients of a container's main process.

use std::io;
use std::os::fd::OwnedFd;

/// A client further behind than this is let go: it must not hold the container up.
const MAX_BEHIND: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Attached {
    /// stdout and stderr of the client, with what it has not taken yet.
    pub sinks: [Option<OwnedFd>; 2],
    pub behind: [Vec<u8>; 2],
    /// Where the client's input comes from.
    pub source: Option<OwnedFd>,
}

impl Attached {
    pub(super) fn push(&mut self, stream: usize, bytes: &[u8]) {
        if self.sinks[stream].is_none() {
            return;
        }
        self.behind[stream].extend_from_slice(bytes);
        self.flush(stream);
        if self.behind[stream].len() > MAX_BEHIND {
            self.sinks[stream] = None;
            self.behind[stream] = Vec::new();
        }
    }

    pub(super) fn flush(&mut self, stream: usize) {
        let Some(sink) = &self.sinks[stream] else { return };
        if write_some(sink, &mut self.behind[stream]).is_err() {
            self.sinks[stream] = None;
            self.behind[stream] = Vec::new();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.source.is_none() && self.sinks.iter().all(Option::is_none)
    }
}

/// Writes until the buffer is empty or the descriptor full.
pub(super) fn write_some(fd: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    let result = loop {
        if done == buffer.len() {
            break Ok(());
        }
        match rustix::io::write(fd, &buffer[done..]) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break Ok(()),
            Err(e) => break Err(e.into()),
        }
    };
    buffer.drain(..done);
    if buffer.is_empty() && buffer.capacity() > 16 << 10 {
        *buffer = Vec::new();
    }
    result
}
