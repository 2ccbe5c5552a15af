//! The secure port: TLS, HTTP/1.1 and HTTP/2, drained on shutdown.

use super::body::request_body;
use crate::ApiServer;
use crate::authentication::PeerCertificates;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use kit::Shutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The peer's address, in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// Where the listener gets its TLS configuration: asked once per connection, so certificates rotate live.
/// ALPN must offer `h2` and `http/1.1`; client certificates are asked for, not required.
pub type TlsSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections may take to go once no request is in flight: the last bytes of answers and watches.
const LINGER: Duration = Duration::from_secs(2);
/// Milliseconds for which what was sent may stay unread in the client's receive window.
const UNREAD: u32 = 60_000;
const LOOK: Duration = Duration::from_millis(20);

/// Serves until the server is stopped; then takes no more connections, tells those there are (GOAWAY, or
/// `Connection: close`), ends watches, and waits for every request in flight, at most the request timeout. Tunnels and
/// followed logs are cut.
///
/// Errors of one connection end that connection only.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: TlsSource) {
    let shutdown = server.shutdown.clone();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(32));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    let builder = Arc::new(builder);
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                // A client that takes nothing for so long, of a watch for instance, is gone.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD);
                let task = connection(server.clone(), builder.clone(), tls(), stream, peer, shutdown.clone());
                tracker.spawn(task);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    let began = tokio::time::Instant::now();
    let mut quiet_since = began;
    loop {
        tokio::select! {
            () = tracker.wait() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if server.metrics.in_flight() > 0 {
            quiet_since = tokio::time::Instant::now();
        }
        if quiet_since.elapsed() > LINGER || began.elapsed() > server.config.request_timeout {
            tracing::info!(open = tracker.len(), "closing connections that did not drain");
            return;
        }
    }
}

/// What the first bytes of a plain HTTP request look like (as Go's `net/http` tells them).
fn speaks_http(first: &[u8; 5]) -> bool {
    matches!(first, b"GET /" | b"HEAD " | b"POST " | b"PUT /" | b"PATCH" | b"DELET" | b"OPTIO")
}

/// One sentence to who forgot the `s` of `https`.
async fn refuse_plain(mut stream: TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
        .await?;
    stream.shutdown().await?;
    // Closing over unread bytes would reset the connection before the sentence is read.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn connection(
    server: ApiServer,
    builder: Arc<Builder<TokioExecutor>>,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: Shutdown,
) {
    let handshake = async move {
        let mut first = [0; 5];
        if stream.peek(&mut first).await? == first.len() && speaks_http(&first) {
            refuse_plain(stream).await?;
            return Err(std::io::Error::other("client sent an HTTP request to an HTTPS server"));
        }
        TlsAcceptor::from(tls).accept(stream).await
    };
    let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            server.metrics.tls_errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake timed out");
            return;
        }
    };
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| PeerCertificates(Arc::new(chain.iter().map(|c| c.as_ref().to_vec()).collect())));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(request_body);
        request.extensions_mut().insert(PeerAddress(peer));
        if let Some(chain) = &certificates {
            request.extensions_mut().insert(chain.clone());
        }
        let answer = crate::chain::handle(server.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
