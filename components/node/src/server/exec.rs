//! Exec and attach: a process's streams, carried to the client and back.

use super::{Answer, Api, Query, body, text};
use crate::streaming::negotiate::{self, Kind};
use crate::streaming::{Command, Output, Wanted, ws};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use runtime::Session;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Exec,
    Attach,
}

/// The API server's spelling (`stdin`) and the kubelet's own (`input`) both count.
fn wanted(query: &Query) -> Wanted {
    Wanted {
        stdin: query.flag("stdin") || query.flag("input"),
        stdout: query.flag("stdout") || query.flag("output"),
        stderr: query.flag("stderr") || query.flag("error"),
        tty: query.flag("tty"),
    }
}

pub async fn answer(
    api: &Api,
    request: &mut Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    what: What,
) -> Answer {
    let wanted = wanted(query);
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr\n");
    }
    let command = query.all("command");
    if what == What::Exec && command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify a command\n");
    }
    let found = match api.running(namespace, pod, container).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let Some(kind) = negotiate::kind(request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n");
    };
    let (name, socket_protocol) = match kind {
        Kind::Spdy => {
            let asked = negotiate::spdy_protocols(request.headers());
            match negotiate::choose(&asked, &negotiate::SPDY_COMMAND, Some("channel.k8s.io")) {
                Some(name) => (name, None),
                None => {
                    let why = format!("unable to negotiate protocol: client supports {asked:?}\n");
                    return text(StatusCode::FORBIDDEN, why);
                }
            }
        }
        Kind::WebSocket => {
            let asked = negotiate::websocket_protocols(request.headers());
            let ours: Vec<&str> = ws::COMMAND.iter().map(|p| p.name).collect();
            match negotiate::choose(&asked, &ours, Some("")) {
                Some("") => ("", Some(ws::Protocol { name: "", base64: false, version: 1 })),
                Some(name) => (name, ws::COMMAND.iter().find(|p| p.name == name).copied()),
                None => {
                    let why = format!("unable to negotiate protocol: client supports {asked:?}\n");
                    return text(StatusCode::BAD_REQUEST, why);
                }
            }
        }
    };
    let Some(response) = negotiate::switching::<Bytes>(kind, request.headers(), name) else {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: bad handshake headers\n");
    };
    let upgrade = hyper::upgrade::on(request);
    let runtime = api.shared.runtime.clone();
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(io) => io,
            Err(error) => {
                tracing::debug!(%error, "connection not upgraded");
                return;
            }
        };
        let streams = match socket_protocol {
            None => negotiate::command_spdy(io, name, wanted).await,
            Some(protocol) => negotiate::command_websocket(io, protocol, wanted).await,
        };
        let Some(streams) = streams else {
            tracing::debug!("the client did not open its streams");
            return;
        };
        let session = match what {
            What::Exec => runtime.exec(&found.id, &command, wanted.tty, wanted.stdin).await,
            What::Attach => runtime.attach(&found.id, wanted.tty, wanted.stdin).await,
        };
        match session {
            Ok(session) => run(streams, session, what).await,
            Err(error) => {
                let why = crate::images::kit_chain(&error);
                let message = match what {
                    What::Exec => format!("error executing command in container: {why}"),
                    What::Attach => format!("error attaching to container: {why}"),
                };
                refuse(streams, &message).await;
            }
        }
    });
    response.map(body)
}

async fn refuse(streams: Command, message: &str) {
    let text = if streams.status {
        json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
            "details": {"causes": [{"message": message}]}, "code": 500})
        .to_string()
    } else {
        message.to_owned()
    };
    let _ = streams.error.send(text.into()).await;
    finish(streams).await;
}

async fn finish(streams: Command) {
    for out in [streams.stdout, streams.stderr, Some(streams.error)].into_iter().flatten() {
        out.finish().await;
    }
    streams.carrier.close().await;
}

/// What the error stream says of an exit.
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// Carries bytes until the process has ended and its output is through, or the client is gone.
async fn run(mut streams: Command, session: Session, what: What) {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let mut helpers = tokio::task::JoinSet::new();
    if let (Some(from), Some(to)) = (streams.stdin.take(), stdin) {
        helpers.spawn(feed(from, to));
    }
    if let (Some(from), Some(to)) = (streams.resize.take(), resize) {
        helpers.spawn(sizes(from, to));
    }
    let out = pump(stdout, streams.stdout.clone());
    let err = pump(stderr, streams.stderr.clone());
    let code = tokio::select! {
        (_, _, code) = async { tokio::join!(out, err, exit) } => code,
        () = streams.closed.cancelled() => {
            helpers.shutdown().await;
            return;
        }
    };
    helpers.shutdown().await;
    let code = code.unwrap_or(if what == What::Attach { 0 } else { 255 });
    let code = if what == What::Attach { 0 } else { code };
    let report = if streams.status {
        Some(exit_status(code).to_string())
    } else {
        (code != 0).then(|| format!("command terminated with non-zero exit code: exit status {code}"))
    };
    if let Some(report) = report {
        let _ = streams.error.send(report.into()).await;
    }
    finish(streams).await;
}

async fn pump(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: Option<Output>) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::with_capacity(32 << 10);
    loop {
        buffer.reserve(16 << 10);
        match from.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {
                let data = buffer.split().freeze();
                if let Some(to) = &to
                    && to.send(data).await.is_err()
                {
                    return;
                }
            }
            _ => break,
        }
    }
    if let Some(to) = to {
        to.finish().await;
    }
}

async fn feed(mut from: mpsc::Receiver<Bytes>, mut to: Box<dyn AsyncWrite + Send + Unpin>) {
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

async fn sizes(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<(u16, u16)>) {
    let mut gathered = BytesMut::new();
    while let Some(data) = from.recv().await {
        gathered.extend_from_slice(&data);
        let mut reader = serde_json::Deserializer::from_slice(&gathered).into_iter::<Size>();
        let mut last = None;
        while let Some(Ok(size)) = reader.next() {
            last = Some(size);
        }
        let used = reader.byte_offset();
        let _ = gathered.split_to(used.min(gathered.len()));
        if gathered.len() > 4096 {
            gathered.clear();
        }
        if let Some(size) = last
            && to.send((size.width, size.height)).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_may_come_in_pieces() {
        let (tx, rx) = mpsc::channel(4);
        let (out, mut got) = mpsc::channel(4);
        tokio::spawn(sizes(rx, out));
        tx.send(Bytes::from_static(b"{\"Width\":80,")).await.expect("sent");
        tx.send(Bytes::from_static(b"\"Height\":24}\n{\"Width\":1,\"Height\":2}")).await.expect("sent");
        assert_eq!(got.recv().await, Some((1, 2)));
    }

    #[test]
    fn exit_codes() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(3)["details"]["causes"][0]["message"], "3");
    }
}
