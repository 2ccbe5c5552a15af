//! The extension API server as a program.

use aggregated::{FrontProxy, Library, in_cluster, serve};
use anyhow::{Context, Result};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "Serves books.library.example.com/v1 behind an aggregating API server")]
struct Flags {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: String,
    /// PEM of the serving certificate; without it one is made for --tls-san
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// Names in the certificate that is made
    #[arg(long, default_values_t = ["library.library.svc".to_owned(), "localhost".to_owned()])]
    tls_san: Vec<String>,
    /// Where to write the certificate that was made, for the APIService's caBundle
    #[arg(long)]
    write_certificate: Option<PathBuf>,
    /// PEM of the front proxy's authority; without it the cluster is asked
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; all of the authority where none is given
    #[arg(long)]
    requestheader_allowed_names: Vec<String>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let front_proxy = match &flags.requestheader_client_ca_file {
        Some(path) => FrontProxy::new(&read(path)?, flags.requestheader_allowed_names.clone())?,
        None => in_cluster::front_proxy().await?,
    };
    let (certificate, key) = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
        _ => {
            let made = rcgen::generate_simple_self_signed(flags.tls_san.clone())?;
            (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
        }
    };
    if let Some(path) = &flags.write_certificate {
        std::fs::write(path, &certificate).with_context(|| format!("write {}", path.display()))?;
    }
    let tls = Arc::new(front_proxy.tls(&certificate, &key)?);
    let listener =
        TcpListener::bind(&flags.listen).await.with_context(|| format!("listen on {}", flags.listen))?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        () = serve(listener, tls, Library::new(front_proxy)) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
