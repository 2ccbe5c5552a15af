//! The demo application's server: the binary is its own image. Answers with a greeting and its pod's name, stops
//! accepting on SIGTERM and finishes what it has begun.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for requests under way once SIGTERM came.
const DRAIN: Duration = Duration::from_secs(5);

/// `hello [--port N]`, the image's entrypoint.
pub async fn main(arguments: &[String]) -> Result<()> {
    let port = match arguments {
        [] => 8080,
        [flag, port] if flag == "--port" => {
            port.parse().with_context(|| format!("{port:?} is not a port"))?
        }
        _ => bail!("usage: ironclad hello [--port N]"),
    };
    run(port).await
}

/// Serves until SIGTERM or SIGINT.
async fn run(port: u16) -> Result<()> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".into());
    let pod =
        std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "nobody".into());
    let text = Bytes::from(format!("{greeting}, {pod} speaking\n"));
    let listener =
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("listen on port {port}"))?;
    println!("listening on {port}");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let text = text.clone();
                let service = service_fn(move |request| answer(request, text.clone()));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    // A client that hangs up is its own business.
                    let _ = connection.await;
                });
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    println!("draining");
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

async fn answer<B>(request: Request<B>, text: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/" => (StatusCode::OK, text),
        "/healthz" => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"not found\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}
