//! Port-forward: TCP connections into a pod's network namespace.
//!
//! Over SPDY (also tunnelled through a WebSocket) each connection is a pair of streams, data and error, with the same
//! request id. Over WebSocket channels each port has two channels for the life of the socket.

use super::{Answer, Api, Query, body, text};
use crate::pod::identity;
use crate::streaming::negotiate::{self, Kind};
use crate::streaming::spdy::{Connection, Stream, StreamReader, StreamWriter};
use crate::streaming::ws;
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runtime::{Duplex, Runtime};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const SPDY: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "portforward.k8s.io"];

struct Target {
    runtime: Arc<dyn Runtime>,
    sandbox: String,
    uid: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, String> {
        self.runtime.port_forward(&self.sandbox, port).await.map_err(|e| {
            format!(
                "error forwarding port {port} to pod {}, uid {}: {}",
                self.sandbox,
                self.uid,
                crate::images::kit_chain(&e)
            )
        })
    }
}

pub async fn answer(
    api: &Api,
    request: &mut Request<Incoming>,
    namespace: &str,
    pod: &str,
    query: &Query,
) -> Answer {
    let Some(found) = api.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
    };
    let uid = identity(&found).2.to_owned();
    let sandboxes = api.shared.runtime.list_pod_sandboxes().await.unwrap_or_default();
    let Some(sandbox) = sandboxes.into_iter().find(|s| s.ready && s.config.pod_uid == uid) else {
        return text(StatusCode::NOT_FOUND, format!("not found (\"{pod}_{namespace}\")\n"));
    };
    let Some(kind) = negotiate::kind(request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n");
    };
    let chosen = match kind {
        Kind::Spdy => negotiate::choose(&negotiate::spdy_protocols(request.headers()), &[SPDY], Some(SPDY)),
        Kind::WebSocket => {
            negotiate::choose(&negotiate::websocket_protocols(request.headers()), &CHANNELS, Some(""))
        }
    };
    let Some(name) = chosen else {
        return text(StatusCode::FORBIDDEN, "unable to negotiate protocol\n");
    };
    let mut ports = Vec::new();
    for p in query.all("port").iter().chain(&query.all("ports")).flat_map(|p| p.split(',')) {
        match p.parse::<u16>() {
            Ok(p) if p > 0 => ports.push(p),
            _ => return text(StatusCode::BAD_REQUEST, format!("invalid port {p:?}\n")),
        }
    }
    let tunnelled = kind == Kind::WebSocket && name == TUNNEL;
    if kind == Kind::WebSocket && !tunnelled && ports.is_empty() {
        return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required\n");
    }
    let Some(response) = negotiate::switching::<Bytes>(kind, request.headers(), name) else {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: bad handshake headers\n");
    };
    let upgrade = hyper::upgrade::on(request);
    let target = Arc::new(Target { runtime: api.shared.runtime.clone(), sandbox: sandbox.id, uid });
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        match kind {
            Kind::Spdy => streams(Connection::serve(TokioIo::new(io)), target).await,
            Kind::WebSocket if tunnelled => {
                streams(Connection::serve(ws::tunnel(ws::socket(io).await)), target).await;
            }
            Kind::WebSocket => {
                let protocol = ws::Protocol { name: "", base64: name.contains("base64"), version: 4 };
                channels(io, protocol, ports, target).await;
            }
        }
    });
    response.map(body)
}

/// Pairs streams up by request id and serves each pair.
async fn streams(mut connection: Connection, target: Arc<Target>) {
    let mut waiting: HashMap<String, (Option<Stream>, Option<Stream>)> = HashMap::new();
    let mut pairs = tokio::task::JoinSet::new();
    let mut last_error = 0u64;
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = pairs.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        // Clients older than request ids open the error stream first, then the data stream.
        let id = stream.header("requestid").map_or_else(
            || {
                if kind == "error" {
                    last_error += 1;
                }
                format!("old-{last_error}")
            },
            str::to_owned,
        );
        let pair = waiting.entry(id.clone()).or_default();
        match kind.as_str() {
            "error" => pair.0 = Some(stream),
            "data" => pair.1 = Some(stream),
            _ => {
                let _ = stream.writer.reset().await;
                continue;
            }
        }
        if pair.0.is_some()
            && pair.1.is_some()
            && let Some((Some(error), Some(data))) = waiting.remove(&id)
        {
            let target = target.clone();
            pairs.spawn(async move { serve_pair(error, data, &target).await });
        }
    }
    pairs.shutdown().await;
}

async fn serve_pair(error: Stream, data: Stream, target: &Target) {
    let port = data.header("port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0);
    let outcome = match port {
        None => Err(format!("invalid port {:?}", data.header("port").unwrap_or_default())),
        Some(port) => target.connect(port).await,
    };
    let Stream { reader, writer, .. } = data;
    match outcome {
        Ok(pod) => {
            copy(pod, reader, &writer).await;
            let _ = writer.finish().await;
        }
        Err(why) => {
            let _ = error.writer.send(why.into()).await;
            let _ = writer.finish().await;
        }
    }
    let _ = error.writer.finish().await;
}

/// Both directions, each ending by itself; it is over when the pod's side has ended.
async fn copy(pod: Box<dyn Duplex>, mut reader: StreamReader, writer: &StreamWriter) {
    let (mut from, mut to) = tokio::io::split(pod);
    let upward = async {
        while let Some(data) = reader.next().await {
            if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let downward = async {
        let mut buffer = BytesMut::with_capacity(32 << 10);
        loop {
            buffer.reserve(16 << 10);
            match from.read_buf(&mut buffer).await {
                Ok(n) if n > 0 => {
                    if writer.send(buffer.split().freeze()).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    tokio::pin!(upward, downward);
    tokio::select! {
        () = &mut downward => {}
        () = &mut upward => downward.await,
    }
}

/// Channel `2n` is data and `2n+1` errors of the n-th port; each begins with the port's number.
async fn channels(
    io: hyper::upgrade::Upgraded,
    protocol: ws::Protocol,
    ports: Vec<u16>,
    target: Arc<Target>,
) {
    let (sender, mut incoming, closed) = ws::channels(ws::socket(io).await, protocol);
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (i, port) in ports.into_iter().enumerate().take(64) {
        let Ok(channel) = u8::try_from(i * 2) else { break };
        let number = port.to_le_bytes();
        if sender.send(channel, &number).await.is_err() || sender.send(channel + 1, &number).await.is_err() {
            return;
        }
        let (tx, rx) = mpsc::channel::<Bytes>(64);
        inputs.push(tx);
        let (sender, target) = (sender.clone(), target.clone());
        tasks.spawn(async move {
            match target.connect(port).await {
                Ok(pod) => copy_channel(pod, rx, &sender, channel).await,
                Err(why) => {
                    let _ = sender.send(channel + 1, why.as_bytes()).await;
                }
            }
        });
    }
    loop {
        tokio::select! {
            received = incoming.recv() => match received {
                Some((channel, Some(data))) if channel % 2 == 0 => {
                    if let Some(tx) = inputs.get(usize::from(channel / 2)) {
                        let _ = tx.send(data).await;
                    }
                }
                Some(_) => {}
                None => break,
            },
            done = tasks.join_next() => if done.is_none() { break },
            () = closed.cancelled() => break,
        }
    }
    sender.close().await;
    tasks.shutdown().await;
}

async fn copy_channel(pod: Box<dyn Duplex>, mut rx: mpsc::Receiver<Bytes>, sender: &ws::Sender, channel: u8) {
    let (mut from, mut to) = tokio::io::split(pod);
    let upward = async {
        while let Some(data) = rx.recv().await {
            if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let downward = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 || sender.send(channel, &buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(upward, downward);
    tokio::select! {
        () = &mut downward => {}
        () = &mut upward => downward.await,
    }
}
