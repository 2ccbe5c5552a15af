//! Doing what a probe or a lifecycle hook says: a command, an HTTP request, a TCP connection, a gRPC health check.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::Runtime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// What came of it; the text is what an event shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(String),
    /// It could not be tried at all.
    Unknown(String),
}

pub fn port(p: &IntOrString, container: &Container) -> Result<u16, String> {
    match p {
        IntOrString::Int(n) => {
            u16::try_from(*n).ok().filter(|n| *n > 0).ok_or(format!("invalid port number: {n}"))
        }
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok())
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(|| format!("couldn't find port: {name:?}")),
    }
}

pub async fn exec(runtime: &dyn Runtime, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(out) if out.timed_out => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}",
            command.join(" "),
            crate::pod::backoff::go_duration(timeout.try_into().unwrap_or_default())
        )),
        Ok(out) if out.exit_code == 0 => Outcome::Success,
        Ok(out) => {
            let mut text = out.stdout;
            text.extend_from_slice(&out.stderr);
            text.truncate(MAX_BODY);
            Outcome::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => Outcome::Unknown(crate::images::kit_chain(&error)),
    }
}

pub async fn tcp(address: SocketAddr, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(e)) => Outcome::Failure(format!("dial tcp {address}: connect: {}", errno(&e))),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

fn errno(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        _ => e.to_string(),
    }
}

/// Success is a status of 200 to 399; redirects on the same host are followed.
pub async fn http(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: IpAddr,
    agent: &str,
    timeout: Duration,
) -> Outcome {
    let port = match port(&action.port, container) {
        Ok(p) => p,
        Err(why) => return Outcome::Unknown(why),
    };
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| match pod_ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    });
    let tls = action.scheme.as_deref().unwrap_or("HTTP").eq_ignore_ascii_case("HTTPS");
    let scheme = if tls { "https" } else { "http" };
    let mut path = action.path.clone().unwrap_or_default();
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let url = format!("{scheme}://{host}:{port}{path}");
    let run = async {
        let mut path = path;
        for _ in 0..=MAX_REDIRECTS {
            let (status, location, body) = request(action, &host, port, tls, &path, agent).await?;
            if (300..400).contains(&status)
                && let Some(next) = location.and_then(|l| same_host(&l, &host, port))
            {
                path = next;
                continue;
            }
            return Ok(if (200..400).contains(&status) {
                Outcome::Success
            } else {
                tracing::debug!(status, body = %String::from_utf8_lossy(&body), "HTTP probe failed");
                Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
            });
        }
        Ok(Outcome::Success)
    };
    match tokio::time::timeout(timeout, run).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err::<Outcome, String>(why)) => Outcome::Failure(format!("Get {url:?}: {why}")),
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// The path to go on with, if the redirect stays on the host.
fn same_host(location: &str, host: &str, port: u16) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let uri: http::Uri = location.parse().ok()?;
    let same = uri.host() == Some(host) && uri.port_u16().is_none_or(|p| p == port);
    same.then(|| uri.path_and_query().map_or("/".into(), ToString::to_string))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(|e| format!("dial tcp {host}:{port}: connect: {}", errno(&e)))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn request(
    action: &HTTPGetAction,
    host: &str,
    port: u16,
    tls: bool,
    path: &str,
    agent: &str,
) -> Result<(u16, Option<String>, Bytes), String> {
    let stream = connect(host, port).await?;
    let mut build = http::Request::get(path);
    let given = action.http_headers.as_deref().unwrap_or_default();
    for h in given {
        build = build.header(h.name.as_str(), h.value.as_str());
    }
    let has = |name: &str| given.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    for (name, value) in
        [("host", format!("{host}:{port}")), ("user-agent", agent.to_owned()), ("accept", "*/*".to_owned())]
    {
        if !has(name) {
            build = build.header(name, value);
        }
    }
    let request =
        build.header("connection", "close").body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
    if tls {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(TRUSTING.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Full<Bytes>>,
) -> Result<(u16, Option<String>, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| crate::images::kit_chain(&e))?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map(|b| b.to_bytes());
        Ok((status, location, body.unwrap_or_default()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut exchange => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// `grpc.health.v1.Health/Check` without TLS, as upstream.
pub async fn grpc(address: SocketAddr, service: &str, timeout: Duration) -> Outcome {
    let run = async {
        let stream = match TcpStream::connect(address).await {
            Ok(s) => s,
            Err(e) => {
                return Outcome::Failure(format!(
                    "error: failed to connect service {:?}: dial tcp {address}: connect: {}",
                    address.to_string(),
                    errno(&e)
                ));
            }
        };
        match check(stream, address, service).await {
            Ok(1) => Outcome::Success,
            Ok(other) => {
                let word = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(usize::from(other));
                Outcome::Failure(format!(
                    "service unhealthy (responded with {:?})",
                    word.copied().unwrap_or("UNKNOWN")
                ))
            }
            Err(why) => Outcome::Failure(format!("error: health rpc failed: {why}")),
        }
    };
    tokio::time::timeout(timeout, run).await.unwrap_or_else(|_| {
        Outcome::Failure(format!(
            "timeout: failed to connect service {:?} within {timeout:?}",
            address.to_string()
        ))
    })
}

async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<u8, String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let exchange = async {
        let mut message = Vec::new();
        if !service.is_empty() {
            let length =
                u8::try_from(service.len()).ok().filter(|n| *n < 128).ok_or("service name too long")?;
            message.extend([0x0a, length]);
            message.extend(service.as_bytes());
        }
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        body.extend(message);
        let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let early = grpc_status(response.headers());
        let collected =
            Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        let code = early.or_else(|| collected.trailers().and_then(grpc_status)).unwrap_or(0);
        if code != 0 {
            return Err(format!("rpc error: code = {code}"));
        }
        let bytes = collected.to_bytes();
        // Message: one varint field number 1; absent means UNKNOWN.
        Ok(match bytes.get(5..) {
            Some([0x08, status, ..]) => *status,
            _ => 0,
        })
    };
    let out = exchange.await;
    driver.abort();
    out
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Probes talk to whatever certificate the pod shows, as upstream's do.
static TRUSTING: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    // Safe: ring supports both protocol versions.
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(b) => b,
        Err(_) => unreachable!("ring supports TLS 1.2 and 1.3"),
    };
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn answer(response: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut s, _)) = listener.accept().await {
                let mut buf = [0; 1024];
                let n = s.read(&mut buf).await.unwrap_or(0);
                let text = if buf[..n].starts_with(b"GET /there") {
                    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
                } else {
                    response
                };
                let _ = s.write_all(text.as_bytes()).await;
            }
        });
        port
    }

    async fn get(port: u16) -> Outcome {
        let action = HTTPGetAction {
            port: IntOrString::Int(port.into()),
            path: Some("/x".into()),
            ..Default::default()
        };
        http(
            &action,
            &Container::default(),
            "127.0.0.1".parse().expect("ip"),
            "kube-probe/1.36",
            Duration::from_secs(5),
        )
        .await
    }

    #[tokio::test]
    async fn http_statuses() {
        let port = answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(get(port).await, Outcome::Success);
        let port = answer("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(get(port).await, Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
        let port = answer("HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(get(port).await, Outcome::Success);
    }

    #[tokio::test]
    async fn refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let Outcome::Failure(why) = get(address.port()).await else { panic!("expected a failure") };
        assert!(why.ends_with("connect: connection refused"), "{why}");
        assert!(matches!(tcp(address, Duration::from_secs(1)).await, Outcome::Failure(_)));
    }

    #[test]
    fn named_ports() {
        let c = Container {
            ports: Some(vec![k8s_openapi::api::core::v1::ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(8080));
        assert!(port(&IntOrString::String("nope".into()), &c).is_err());
        assert!(port(&IntOrString::Int(0), &c).is_err());
    }
}
