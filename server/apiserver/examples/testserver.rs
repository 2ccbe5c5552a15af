//! `testserver DIR PORT`: a server to try clients against. Not a product: one token, everything allowed.

#[path = "../tests/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = std::path::PathBuf::from(args.next().expect("a directory"));
    let port = args.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let server = support::start(&dir, port, |_| {}).await;
    println!("{}", server.kubeconfig);
    server.task.await.expect("the server runs");
}
