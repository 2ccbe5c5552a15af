//! WebSocket channels: the first byte of a message says which stream it belongs to. Also a WebSocket as plain bytes, for
//! SPDY tunnelled through it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 64;
/// A v5 message of this channel closes the channel its second byte names.
const CLOSE: u8 = 255;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub async fn socket(io: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: &'static str,
    pub base64: bool,
    pub version: u8,
}

/// The protocols of command streams; the first the client names that is here is taken.
pub const COMMAND: [Protocol; 5] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, version: 5 },
    Protocol { name: "v4.channel.k8s.io", base64: false, version: 4 },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, version: 4 },
    Protocol { name: "channel.k8s.io", base64: false, version: 1 },
    Protocol { name: "base64.channel.k8s.io", base64: true, version: 1 },
];

/// What the peer sent on a channel; `None` closes it.
pub type Received = (u8, Option<Bytes>);

#[derive(Clone)]
pub struct Sender {
    queue: mpsc::Sender<Message>,
    base64: bool,
}

impl Sender {
    pub async fn send(&self, channel: u8, data: &[u8]) -> Result<(), super::Gone> {
        self.queue.send(encode(channel, data, self.base64)).await.map_err(|_| super::Gone)
    }

    pub async fn close(&self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.queue.send(Message::Close(Some(frame))).await;
    }
}

pub fn encode(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        let mut text = String::with_capacity(data.len() * 4 / 3 + 5);
        text.push(char::from(b'0' + channel));
        STANDARD.encode_string(data, &mut text);
        Message::text(text)
    } else {
        let mut out = BytesMut::with_capacity(data.len() + 1);
        out.extend_from_slice(&[channel]);
        out.extend_from_slice(data);
        Message::binary(out.freeze())
    }
}

pub fn decode(message: Message, protocol: Protocol) -> Option<Received> {
    let data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => Bytes::from(text.as_str().to_owned()),
        _ => return None,
    };
    let first = *data.first()?;
    if protocol.base64 {
        let channel = first.checked_sub(b'0')?;
        return Some((channel, Some(STANDARD.decode(&data[1..]).ok()?.into())));
    }
    if first == CLOSE && protocol.version >= 5 {
        return Some((*data.get(1)?, None));
    }
    Some((first, Some(data.slice(1..))))
}

/// Serves the socket's two directions until either ends; `closed` is cancelled then.
pub fn channels(socket: Socket, protocol: Protocol) -> (Sender, mpsc::Receiver<Received>, CancellationToken) {
    let (mut sink, mut stream) = socket.split();
    let (queue, mut outgoing) = mpsc::channel::<Message>(QUEUE);
    let (tx, incoming) = mpsc::channel(QUEUE);
    let closed = CancellationToken::new();
    let token = closed.clone();
    tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            let last = message.is_close();
            if sink.send(message).await.is_err() || last {
                break;
            }
        }
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                break;
            }
            if let Some(received) = decode(message, protocol)
                && tx.send(received).await.is_err()
            {
                // Nobody listens any more; reading goes on so that the closing handshake can end.
                continue;
            }
        }
        token.cancel();
    });
    (Sender { queue, base64: protocol.base64 }, incoming, closed)
}

/// The socket's binary messages as one stream of bytes.
pub fn tunnel(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(256 << 10);
    let (mut read, mut write) = tokio::io::split(far);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) if write.write_all(&data).await.is_ok() => {}
                Message::Binary(_) | Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            buffer.reserve(32 << 10);
            match read.read_buf(&mut buffer).await {
                Ok(n) if n > 0 => {
                    if let Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_)) =
                        sink.send(Message::binary(buffer.split().freeze())).await
                    {
                        break;
                    }
                }
                _ => break,
            }
        }
        let _ = sink.close().await;
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip(channel in 0u8..5, data in prop::collection::vec(any::<u8>(), 0..100), which in 0usize..5) {
            let protocol = COMMAND[which];
            let message = encode(channel, &data, protocol.base64);
            prop_assert_eq!(decode(message, protocol), Some((channel, Some(Bytes::from(data)))));
        }
    }

    #[test]
    fn only_v5_closes_channels() {
        let message = || Message::binary(vec![CLOSE, 0]);
        assert_eq!(decode(message(), COMMAND[0]), Some((0, None)));
        assert_eq!(decode(message(), COMMAND[1]), Some((CLOSE, Some(Bytes::from_static(&[0])))));
        assert_eq!(decode(Message::binary(Vec::new()), COMMAND[0]), None);
    }
}
