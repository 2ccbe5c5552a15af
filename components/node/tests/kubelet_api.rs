//! The kubelet API as API server and kubectl use it.

mod common;

use bytes::{Bytes, BytesMut};
use common::{Bed, WAIT, shell};
use futures::{SinkExt, StreamExt};
use node::streaming::spdy::frame::Frame;
use node::streaming::spdy::headers::{Packer, Unpacker};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, headers: &str) -> (u16, String) {
    let method = if headers.contains("SPDY/3.1\r\n") { "POST" } else { "GET" };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: n1\r\n{headers}\r\n");
    io.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("head"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("status");
    (code, head)
}

fn socket_headers(protocol: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_strangers() {
    let Some(bed) = Bed::new().await else { return };
    let path =
        bed.pod("talks", json!({"containers": [shell("main", &format!("echo one; echo two; {WAIT}"))]}));
    bed.ready(&path).await;
    let mut io = bed.connect(false).await;
    assert_eq!(ask(&mut io, "/containerLogs/default/talks/main", "").await.0, 401);
    let mut io = bed.connect(false).await;
    assert_eq!(ask(&mut io, "/healthz", "").await.0, 200);
    loop {
        let mut io = bed.connect(true).await;
        let request = "/containerLogs/default/talks/main?tailLines=1";
        assert_eq!(ask(&mut io, request, "Connection: close\r\n").await.0, 200);
        let mut body = String::new();
        io.read_to_string(&mut body).await.expect("body");
        if body.contains("two\n") {
            assert!(!body.contains("one"));
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut io = bed.connect(true).await;
    assert_eq!(ask(&mut io, "/containerLogs/default/talks/main?previous=true", "").await.0, 400);
    let mut io = bed.connect(true).await;
    assert_eq!(ask(&mut io, "/containerLogs/default/none/main", "").await.0, 404);
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_websocket() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.pod("shell", json!({"containers": [shell("main", WAIT)]}));
    bed.ready(&path).await;
    let mut io = bed.connect(true).await;
    let request =
        "/exec/default/shell/main?command=sh&command=-c&command=cat%3B%20exit%203&input=1&output=1&error=1";
    let (code, head) = ask(&mut io, request, &socket_headers("v5.channel.k8s.io, v4.channel.k8s.io")).await;
    assert_eq!(code, 101);
    assert!(head.contains("sec-websocket-protocol: v5.channel.k8s.io"));
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="));
    let mut ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    ws.send(Message::binary(b"\0hello".to_vec())).await.expect("sent");
    ws.send(Message::binary(vec![255, 0])).await.expect("sent");
    let mut by_channel: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(Ok(message)) = ws.next().await {
        if let Message::Binary(data) = message {
            by_channel.entry(data[0]).or_default().extend_from_slice(&data[1..]);
        }
    }
    assert_eq!(by_channel[&1], b"hello");
    let status: Value = serde_json::from_slice(&by_channel[&3]).expect("status");
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

/// The client's end of SPDY over anything.
struct Peer<S> {
    io: S,
    packer: Packer,
    unpacker: Unpacker,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(io: S) -> Self {
        Self { io, packer: Packer::new().expect("packer"), unpacker: Unpacker::new(), input: BytesMut::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        self.io.write_all(&wire).await.expect("sent");
        self.io.flush().await.expect("sent");
    }

    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers: Vec<_> = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let block = self.packer.pack(&headers).expect("packed").into();
        self.send(Frame::SynStream { stream, associated: 0, priority: 0, flags: 0, block }).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.input).expect("frame") {
                if let Frame::SynReply { block, .. } = &frame {
                    self.unpacker.unpack(block).expect("headers");
                }
                return Some(frame);
            }
            if self.io.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_spdy() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.pod("shell", json!({"containers": [shell("main", WAIT)]}));
    bed.ready(&path).await;
    let mut io = bed.connect(true).await;
    let request = "/exec/default/shell/main?command=sh&command=-c&command=cat%3B%20echo%20oops%20%3E%262&stdin=true&stdout=true&stderr=true";
    let headers = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
        X-Stream-Protocol-Version: v3.channel.k8s.io\r\nContent-Length: 0\r\n";
    let (code, head) = ask(&mut io, request, headers).await;
    assert_eq!(code, 101, "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"));
    let mut peer = Peer::new(io);
    for (i, kind) in ["error", "stdin", "stdout", "stderr"].into_iter().enumerate() {
        peer.open(u32::try_from(i).expect("small") * 2 + 1, &[("streamType", kind)]).await;
    }
    peer.send(Frame::Data { stream: 3, fin: true, data: Bytes::from_static(b"hello") }).await;
    let mut got: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some(frame) = peer.next().await {
        if let Frame::Data { stream, data, .. } = frame {
            got.entry(stream).or_default().extend_from_slice(&data);
        }
    }
    assert_eq!(got[&5], b"hello");
    assert_eq!(got[&7], b"oops\n");
    let status: Value = serde_json::from_slice(&got[&1]).expect("status");
    assert_eq!(status["status"], "Success");
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward_over_a_tunnel() {
    let Some(bed) = Bed::new().await else { return };
    let web = "busybox mkdir -p /www; echo pong > /www/ping; exec busybox httpd -f -p 8080 -h /www";
    let mut c = shell("main", web);
    let look = ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/ping"];
    c["readinessProbe"] = json!({"exec": {"command": look}, "periodSeconds": 1});
    let path = bed.pod("echo", json!({"containers": [c]}));
    bed.ready(&path).await;
    let mut io = bed.connect(true).await;
    let (code, head) =
        ask(&mut io, "/portForward/default/echo", &socket_headers("SPDY/3.1+portforward.k8s.io")).await;
    assert_eq!(code, 101, "{head}");
    let ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let (mut sink, mut stream) = ws.split();
        let (mut read, mut write) = tokio::io::split(far);
        let up = async {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = read.read(&mut buffer).await {
                if sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                    break;
                }
            }
        };
        let down = async {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Binary(data) = message
                    && write.write_all(&data).await.is_err()
                {
                    break;
                }
            }
        };
        tokio::join!(up, down);
    });
    let mut peer = Peer::new(near);
    for (n, port) in [(0, "8080"), (1, "8081")] {
        let id = n.to_string();
        let of = |kind| [("streamtype", kind), ("port", port), ("requestid", id.as_str())];
        let (error, data) = (of("error"), of("data"));
        peer.open(n * 4 + 1, &error).await;
        peer.open(n * 4 + 3, &data).await;
    }
    peer.send(Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"GET /ping HTTP/1.0\r\n\r\n") })
        .await;
    let mut got: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while got.get(&3).is_none_or(|d| !d.ends_with(b"pong\n")) || got.get(&5).is_none_or(Vec::is_empty) {
        match peer.next().await.expect("more") {
            Frame::Data { stream, data, .. } => got.entry(stream).or_default().extend_from_slice(&data),
            _ => continue,
        }
    }
    let refused = String::from_utf8_lossy(&got[&5]).into_owned();
    assert!(refused.starts_with("error forwarding port 8081 to pod"), "{refused}");
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}
