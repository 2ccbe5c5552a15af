//! The streams of exec, attach and port-forward, over SPDY/3.1 or WebSocket.

pub mod negotiate;
pub mod spdy;
pub mod ws;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use spdy::Gone;

/// A stream towards the client.
#[derive(Clone)]
pub enum Output {
    Spdy(spdy::StreamWriter),
    Channel(ws::Sender, u8),
}

impl Output {
    pub async fn send(&self, data: Bytes) -> Result<(), Gone> {
        match self {
            Output::Spdy(w) => w.send(data).await,
            Output::Channel(w, channel) => w.send(*channel, &data).await,
        }
    }

    /// A WebSocket channel has no end of its own: the socket's end is it.
    pub async fn finish(&self) {
        if let Output::Spdy(w) = self {
            let _ = w.finish().await;
        }
    }
}

/// What holds the connection open.
pub enum Carrier {
    Spdy(spdy::Connection),
    Socket(ws::Sender),
}

impl Carrier {
    pub async fn close(self) {
        match self {
            Carrier::Spdy(c) => c.close().await,
            Carrier::Socket(s) => s.close().await,
        }
    }
}

/// The streams of one command.
pub struct Command {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub error: Output,
    pub resize: Option<mpsc::Receiver<Bytes>>,
    /// The error stream carries a Status (version 4 on), not just text.
    pub status: bool,
    pub carrier: Carrier,
    pub closed: CancellationToken,
}

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}
