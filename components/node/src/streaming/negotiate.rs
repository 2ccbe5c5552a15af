//! From an HTTP request that asks for an upgrade to the streams behind it.

use super::{Carrier, Command, Output, Wanted, spdy, ws};
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The client has to open its streams within this.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Spdy,
    WebSocket,
}

pub fn kind(headers: &HeaderMap) -> Option<Kind> {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v: &str| v.split(',').any(|p| p.trim().eq_ignore_ascii_case(word)))
    };
    if !has(CONNECTION, "upgrade") {
        return None;
    }
    if has(UPGRADE, "websocket") {
        Some(Kind::WebSocket)
    } else if has(UPGRADE, "SPDY/3.1") {
        Some(Kind::Spdy)
    } else {
        None
    }
}

fn listed(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.is_empty())
        .collect()
}

pub fn spdy_protocols(headers: &HeaderMap) -> Vec<String> {
    listed(headers, STREAM_PROTOCOL)
}

pub fn websocket_protocols(headers: &HeaderMap) -> Vec<String> {
    listed(headers, SEC_WEBSOCKET_PROTOCOL)
}

/// The first of the client's protocols that we speak. A client that names none gets `default`.
pub fn choose<'a>(client: &[String], ours: &[&'a str], default: Option<&'a str>) -> Option<&'a str> {
    if client.is_empty() {
        return default;
    }
    client.iter().find_map(|c| ours.iter().find(|o| *o == c)).copied()
}

pub fn switching<B: Default>(kind: Kind, headers: &HeaderMap, protocol: &str) -> Option<Response<B>> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match kind {
        Kind::Spdy => {
            out.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            if !protocol.is_empty() {
                out.insert(STREAM_PROTOCOL, HeaderValue::from_str(protocol).ok()?);
            }
        }
        Kind::WebSocket => {
            let key = headers.get(SEC_WEBSOCKET_KEY)?;
            out.insert(UPGRADE, HeaderValue::from_static("websocket"));
            out.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?);
            if !protocol.is_empty() {
                out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).ok()?);
            }
        }
    }
    Some(response)
}

pub const SPDY_COMMAND: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// The command's streams over SPDY: waits for the client to open all it announced.
pub async fn command_spdy(io: hyper::upgrade::Upgraded, protocol: &str, wanted: Wanted) -> Option<Command> {
    let mut connection = spdy::Connection::serve(TokioIo::new(io));
    let with_resize = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let stderr = wanted.stderr && !wanted.tty;
    let count = 1
        + usize::from(wanted.stdin)
        + usize::from(wanted.stdout)
        + usize::from(stderr)
        + usize::from(with_resize);
    let closed = connection.closed();
    let gather = async {
        let (mut stdin, mut stdout, mut err, mut error, mut resize) = (None, None, None, None, None);
        for _ in 0..count {
            let stream = connection.accept().await?;
            match stream.header("streamtype").unwrap_or_default() {
                "stdin" => stdin = Some(stream.reader.into_inner()),
                "stdout" => stdout = Some(Output::Spdy(stream.writer)),
                "stderr" => err = Some(Output::Spdy(stream.writer)),
                "error" => error = Some(Output::Spdy(stream.writer)),
                "resize" => resize = Some(stream.reader.into_inner()),
                other => {
                    tracing::debug!(kind = other, "stream of an unknown type");
                    let _ = stream.writer.reset().await;
                }
            }
        }
        Some((stdin, stdout, err, error?, resize))
    };
    let (stdin, stdout, stderr, error, resize) = tokio::time::timeout(PATIENCE, gather).await.ok()??;
    Some(Command {
        stdin,
        stdout,
        stderr,
        error,
        resize,
        status: protocol == "v4.channel.k8s.io",
        carrier: Carrier::Spdy(connection),
        closed,
    })
}

/// The command's streams over WebSocket channels.
pub async fn command_websocket(
    io: hyper::upgrade::Upgraded,
    protocol: ws::Protocol,
    wanted: Wanted,
) -> Option<Command> {
    let (sender, mut incoming, closed) = ws::channels(ws::socket(io).await, protocol);
    let (stdin_tx, stdin) = mpsc::channel::<Bytes>(64);
    let (resize_tx, resize) = mpsc::channel::<Bytes>(8);
    tokio::spawn(async move {
        let (mut stdin_tx, mut resize_tx) = (Some(stdin_tx), Some(resize_tx));
        while let Some((channel, data)) = incoming.recv().await {
            let slot = match channel {
                0 => &mut stdin_tx,
                4 => &mut resize_tx,
                _ => continue,
            };
            match data {
                None => *slot = None,
                Some(data) if data.is_empty() => {}
                Some(data) => {
                    if let Some(tx) = slot
                        && tx.send(data).await.is_err()
                    {
                        *slot = None;
                    }
                }
            }
        }
    });
    let output = |channel: u8| Output::Channel(sender.clone(), channel);
    // An empty message on the first channel tells the client that the streams are open.
    let first = if wanted.stdout {
        1
    } else if wanted.stderr {
        2
    } else {
        3
    };
    sender.send(first, &[]).await.ok()?;
    Some(Command {
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then(|| output(1)),
        stderr: (wanted.stderr && !wanted.tty).then(|| output(2)),
        error: output(3),
        resize: wanted.tty.then_some(resize),
        status: protocol.version >= 4,
        carrier: Carrier::Socket(sender.clone()),
        closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_recognised() {
        let mut h = HeaderMap::new();
        h.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(kind(&h), None);
        h.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        assert_eq!(kind(&h), Some(Kind::Spdy));
        h.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        assert_eq!(kind(&h), Some(Kind::WebSocket));
    }

    #[test]
    fn the_clients_order_decides() {
        let client = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            choose(&client(&["v9", "v3.channel.k8s.io", "v4.channel.k8s.io"]), &SPDY_COMMAND, None),
            Some("v3.channel.k8s.io")
        );
        assert_eq!(choose(&client(&["v9"]), &SPDY_COMMAND, Some("x")), None);
        assert_eq!(choose(&[], &SPDY_COMMAND, Some("channel.k8s.io")), Some("channel.k8s.io"));
    }
}
