//! The server's end of a SPDY/3.1 connection, as Go's spdystream speaks it: the peer opens streams, both sides write
//! data, nobody keeps flow-control windows.
//!
//! Two tasks serve a connection. The reader hands data to streams through bounded queues, so a stream that is not read
//! holds up the connection rather than filling memory; the writer alone holds the compressor.

pub mod frame;
pub mod headers;

use bytes::{Bytes, BytesMut};
use frame::{FIN, Frame};
use headers::{Headers, Packer, Unpacker};
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 64;
const PROTOCOL_ERROR: u32 = 1;

enum Out {
    Frame(Frame),
    Reply(u32),
}

/// The peer or the connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Gone;

pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    closed: CancellationToken,
    out: mpsc::Sender<Out>,
}

/// A stream the peer opened; it has been answered already.
pub struct Stream {
    pub headers: Headers,
    pub reader: StreamReader,
    pub writer: StreamWriter,
}

impl Stream {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

pub struct StreamReader(mpsc::Receiver<Bytes>);

impl StreamReader {
    /// `None` once the peer has finished or reset its side.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    pub fn into_inner(self) -> mpsc::Receiver<Bytes> {
        self.0
    }
}

#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    out: mpsc::Sender<Out>,
}

impl StreamWriter {
    pub async fn send(&self, data: Bytes) -> Result<(), Gone> {
        self.put(Frame::Data { stream: self.id, fin: false, data }).await
    }

    /// Ends our side.
    pub async fn finish(&self) -> Result<(), Gone> {
        self.put(Frame::Data { stream: self.id, fin: true, data: Bytes::new() }).await
    }

    pub async fn reset(&self) -> Result<(), Gone> {
        self.put(Frame::Reset { stream: self.id, status: 5 }).await
    }

    async fn put(&self, frame: Frame) -> Result<(), Gone> {
        self.out.send(Out::Frame(frame)).await.map_err(|_| Gone)
    }
}

impl Connection {
    /// Takes over an upgraded connection. Dropping the result closes it once what was written is out.
    pub fn serve<S>(io: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let (out, frames) = mpsc::channel(QUEUE);
        let (opened, streams) = mpsc::channel(QUEUE);
        let closed = CancellationToken::new();
        let (reader_out, token) = (out.downgrade(), closed.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = read_frames(read, &reader_out, opened) => ended,
                () = token.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "SPDY connection ended");
            }
            token.cancel();
        });
        let token = closed.clone();
        tokio::spawn(async move {
            if let Err(error) = write_frames(write, frames).await {
                tracing::debug!(%error, "SPDY connection not written");
            }
            token.cancel();
        });
        Self { streams, closed, out }
    }

    /// The next stream the peer opens; `None` when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Cancelled when the peer is gone.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Says goodbye; what was queued is written first.
    pub async fn close(self) {
        let _ = self.out.send(Out::Frame(Frame::GoAway { last: 0, status: 0 })).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    #[error("{0}")]
    Header(#[from] headers::HeaderError),
}

async fn read_frames(
    mut io: impl AsyncRead + Unpin,
    out: &mpsc::WeakSender<Out>,
    opened: mpsc::Sender<Stream>,
) -> Result<(), Ended> {
    let mut unpacker = Unpacker::new();
    let mut buffer = BytesMut::with_capacity(32 << 10);
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let say = async |message: Out| {
        if let Some(out) = out.upgrade() {
            let _ = out.send(message).await;
        }
    };
    loop {
        while let Some(frame) = Frame::decode(&mut buffer)? {
            match frame {
                Frame::SynStream { stream, flags, block, .. } => {
                    let headers = unpacker.unpack(&block)?;
                    let Some(sender) = out.upgrade() else { return Ok(()) };
                    if streams.contains_key(&stream) || stream.is_multiple_of(2) {
                        say(Out::Frame(Frame::Reset { stream, status: PROTOCOL_ERROR })).await;
                        continue;
                    }
                    let (tx, rx) = mpsc::channel(QUEUE);
                    if flags & FIN == 0 {
                        streams.insert(stream, tx);
                    }
                    say(Out::Reply(stream)).await;
                    let writer = StreamWriter { id: stream, out: sender };
                    let made = Stream { headers, reader: StreamReader(rx), writer };
                    if opened.send(made).await.is_err() {
                        say(Out::Frame(Frame::Reset { stream, status: 3 })).await;
                        streams.remove(&stream);
                    }
                }
                Frame::Data { stream, fin, data } => {
                    if let Some(tx) = streams.get(&stream)
                        && !data.is_empty()
                    {
                        // A reader that went away just loses the data.
                        let _ = tx.send(data).await;
                    }
                    if fin {
                        streams.remove(&stream);
                    }
                }
                Frame::Headers { stream, fin, block } => {
                    unpacker.unpack(&block)?;
                    if fin {
                        streams.remove(&stream);
                    }
                }
                Frame::SynReply { block, .. } => {
                    unpacker.unpack(&block)?;
                }
                Frame::Reset { stream, .. } => {
                    streams.remove(&stream);
                }
                Frame::Ping(id) => say(Out::Frame(Frame::Ping(id))).await,
                Frame::GoAway { .. }
                | Frame::Settings { .. }
                | Frame::WindowUpdate { .. }
                | Frame::Other { .. } => {}
            }
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Out>) -> Result<(), Ended> {
    let mut packer = Packer::new()?;
    let mut buffer = BytesMut::with_capacity(32 << 10);
    while let Some(first) = frames.recv().await {
        let mut next = Some(first);
        while let Some(out) = next {
            match out {
                Out::Frame(frame) => frame.encode(&mut buffer),
                Out::Reply(stream) => {
                    let block = packer.pack(&[])?.into();
                    Frame::SynReply { stream, fin: false, block }.encode(&mut buffer);
                }
            }
            next = if buffer.len() < 64 << 10 { frames.try_recv().ok() } else { None };
        }
        io.write_all(&buffer).await?;
        io.flush().await?;
        buffer.clear();
    }
    io.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client made of the same frames, on the other end of a pipe.
    #[tokio::test]
    async fn streams_data_and_ping() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut server = Connection::serve(near);
        let mut packer = Packer::new().expect("packer");
        let mut wire = BytesMut::new();
        let block = packer.pack(&[("streamType".into(), "stdin".into())]).expect("packed").into();
        Frame::SynStream { stream: 1, associated: 0, priority: 0, flags: 0, block }.encode(&mut wire);
        Frame::Data { stream: 1, fin: false, data: Bytes::from_static(b"hello") }.encode(&mut wire);
        Frame::Ping(7).encode(&mut wire);
        Frame::Data { stream: 1, fin: true, data: Bytes::from_static(b" world") }.encode(&mut wire);
        far.write_all(&wire).await.expect("written");
        let mut stream = server.accept().await.expect("stream");
        assert_eq!(stream.header("streamtype"), Some("stdin"));
        let mut got = Vec::new();
        while let Some(data) = stream.reader.next().await {
            got.extend_from_slice(&data);
        }
        assert_eq!(got, b"hello world");
        stream.writer.send(Bytes::from_static(b"back")).await.expect("sent");
        stream.writer.finish().await.expect("finished");
        drop(stream);
        server.close().await;
        let mut input = BytesMut::new();
        while far.read_buf(&mut input).await.expect("read") > 0 {}
        let mut seen = Vec::new();
        let mut unpacker = Unpacker::new();
        while let Some(f) = Frame::decode(&mut input).expect("frame") {
            seen.push(match f {
                Frame::SynReply { stream, block, .. } => {
                    assert!(unpacker.unpack(&block).expect("headers").is_empty());
                    format!("reply {stream}")
                }
                Frame::Ping(id) => format!("ping {id}"),
                Frame::Data { data, fin, .. } => format!("data {:?} {fin}", String::from_utf8_lossy(&data)),
                Frame::GoAway { .. } => "goaway".into(),
                other => format!("{other:?}"),
            });
        }
        assert_eq!(seen, ["reply 1", "ping 7", "data \"back\" false", "data \"\" true", "goaway"]);
    }
}
