//! A small extension API server: `books.library.example.com/v1`, kept in memory.
//!
//! It knows nothing of the API server in front of it but what every aggregated server is told: the ConfigMap
//! `kube-system/extension-apiserver-authentication` names the authority of the front proxy, and the front proxy's
//! headers name the user. Discovery comes in both forms, OpenAPI in both versions; lists are tables where asked;
//! watches stream; `books/echo` upgrades the connection.

mod api;
mod discovery;
mod front_proxy;
pub mod in_cluster;
mod openapi;
mod shelf;

pub use api::Library;
pub use front_proxy::{FrontProxy, User};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Serves until dropped, and then ends every connection.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, library: Arc<Library>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, TlsAcceptor::from(tls.clone()), library.clone()));
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, library: Arc<Library>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let peer = session.peer_certificates().and_then(|chain| chain.first()).cloned();
    let service = service_fn(move |request| {
        let (library, peer) = (library.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(library.answer(request, peer.as_ref(), h2).await) }
    });
    let io = TokioIo::new(stream);
    // What ends a connection early is the client's business.
    let _ = if h2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}
