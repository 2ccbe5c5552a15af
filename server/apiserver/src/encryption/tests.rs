//! The encrypting store over a real engine, and a KMS plugin over a real socket.

use super::kms::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use super::kms::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use super::*;
use ::store::{Expect, Op, Write};
use bytes::Bytes;
use futures::StreamExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use tonic::{Request, Response, Status};

const SECRET: &[u8] = b"/registry/secrets/a/s";
const POD: &[u8] = b"/registry/pods/a/p";
const KEY_1: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const KEY_2: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn raw(folder: &Path) -> Arc<dyn Store> {
    let options = ::store::embedded::Options::default();
    ::store::embedded::open(&folder.join("store"), options).unwrap()
}

fn write_config(folder: &Path, resources: &str) -> PathBuf {
    let path = folder.join("encryption.yaml");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
    std::fs::write(&path, format!("{head}resources: {resources}")).unwrap();
    path
}

fn keys(provider: &str, names: &[(&str, &str)]) -> String {
    let keys: Vec<String> =
        names.iter().map(|(name, secret)| format!("{{name: {name}, secret: '{secret}'}}")).collect();
    format!("{{{provider}: {{keys: [{}]}}}}", keys.join(", "))
}

fn secrets(providers: &str) -> String {
    format!("[{{resources: [secrets], providers: [{providers}]}}]")
}

async fn put(store: &dyn Store, key: &[u8], value: &str) -> u64 {
    let op = Op::Put { value: Bytes::copy_from_slice(value.as_bytes()), ttl: None };
    store.write(Write { key: Bytes::copy_from_slice(key), expect: Expect::Any, op }).await.unwrap().revision
}

async fn value(store: &dyn Store, key: &[u8]) -> Result<Vec<u8>, String> {
    let found = store.get(key).await.map_err(|e| e.to_string())?.0;
    Ok(found.unwrap().value.to_vec())
}

#[tokio::test]
async fn stored_bytes_hold_no_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    for provider in ["secretbox", "aesgcm", "aescbc"] {
        let path = write_config(folder.path(), &secrets(&keys(provider, &[("key1", KEY_1)])));
        let encryption = Encryption::load(&path, false).await.unwrap();
        let store = encryption.wrap(raw.clone());
        put(&*store, SECRET, "{\"password\":\"hunter2\"}").await;
        put(&*store, POD, "{\"plain\":true}").await;
        let stored = value(&*raw, SECRET).await.unwrap();
        assert!(stored.starts_with(format!("k8s:enc:{provider}:v1:key1:").as_bytes()));
        assert!(!stored.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(value(&*raw, POD).await.unwrap(), b"{\"plain\":true}");
        assert_eq!(value(&*store, SECRET).await.unwrap(), b"{\"password\":\"hunter2\"}");
        let range = store.range(b"/registry/", 0).await.unwrap();
        assert!(range.kvs.iter().all(|kv| kv.value.starts_with(b"{")));
        assert!(!encryption.is_stale(SECRET).await.unwrap());
        // The same bytes under another key are another value's, where the cipher can tell.
        if provider == "aesgcm" {
            put(&*raw, b"/registry/secrets/a/other", "").await;
            let stolen = Op::Put { value: stored.into(), ttl: None };
            let key = Bytes::from_static(b"/registry/secrets/a/other");
            raw.write(Write { key: key.clone(), expect: Expect::Any, op: stolen }).await.unwrap();
            assert!(value(&*store, &key).await.unwrap_err().contains("message authentication failed"));
            raw.write(Write { key, expect: Expect::Any, op: Op::Delete }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn keys_rotate_and_a_missing_one_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let identity = "{identity: {}}";
    let path = write_config(folder.path(), &secrets(identity));
    put(&*raw, SECRET, "{\"n\":0}").await;
    let encryption = Encryption::load(&path, true).await.unwrap();
    let store = encryption.wrap(raw.clone());
    assert_eq!(value(&*store, SECRET).await.unwrap(), b"{\"n\":0}");
    assert!(!encryption.reload().await.unwrap(), "nothing has changed");

    // Plain values are read, and are stale, once a key writes.
    let box_1 = keys("secretbox", &[("key1", KEY_1)]);
    write_config(folder.path(), &secrets(&format!("{box_1}, {identity}")));
    assert!(encryption.reload().await.unwrap());
    assert_eq!(value(&*store, SECRET).await.unwrap(), b"{\"n\":0}");
    assert!(encryption.is_stale(SECRET).await.unwrap());
    put(&*store, SECRET, "{\"n\":1}").await;
    assert!(!encryption.is_stale(SECRET).await.unwrap());

    // A second key in front: the old value is read, and is stale.
    write_config(folder.path(), &secrets(&keys("secretbox", &[("key2", KEY_2), ("key1", KEY_1)])));
    assert!(encryption.reload().await.unwrap());
    assert_eq!(value(&*store, SECRET).await.unwrap(), b"{\"n\":1}");
    assert!(encryption.is_stale(SECRET).await.unwrap());

    // Without the old key: an error that says why, in its place among the others.
    write_config(folder.path(), &secrets(&keys("secretbox", &[("key2", KEY_2)])));
    assert!(encryption.reload().await.unwrap());
    assert_eq!(
        value(&*store, SECRET).await.unwrap_err(),
        "unable to transform key \"/registry/secrets/a/s\": no matching key was found for the provided Secretbox transformer"
    );
    put(&*store, b"/registry/secrets/a/t", "{}").await;
    let range = store.range(b"/registry/secrets/", 0).await.unwrap();
    let values: Vec<&[u8]> = range.kvs.iter().map(|kv| &kv.value[..]).collect();
    assert_eq!(values, [UNREADABLE, b"{}"]);
    let page = &mut String::new();
    encryption.render(page);
    assert!(page.contains("automatic_reloads_total{status=\"success\"} 3"), "{page}");
    assert!(page.contains("status=\"Unknown\",transformation_type=\"from_storage\""), "{page}");

    // A broken file changes nothing.
    std::fs::write(&path, "kind: Nonsense").unwrap();
    assert!(encryption.reload().await.is_err());
    assert_eq!(value(&*store, b"/registry/secrets/a/t").await.unwrap(), b"{}");

    // A plain reader of encrypted values, and a reader of plain values with no identity, say so.
    write_config(folder.path(), &secrets(identity));
    assert!(encryption.reload().await.unwrap());
    assert!(value(&*store, SECRET).await.unwrap_err().ends_with("no matching prefix found"));
}

#[tokio::test]
async fn watches_conflicts_and_wildcards_are_decrypted_too() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let aes = keys("aescbc", &[("k", KEY_1)]);
    let everything = format!(
        "[{{resources: [pods], providers: [{{identity: {{}}}}]}}, {{resources: ['*.apps'], providers: [{aes}]}}, \
         {{resources: ['*.*'], providers: [{aes}]}}]"
    );
    let encryption = Encryption::load(&write_config(folder.path(), &everything), false).await.unwrap();
    let store = encryption.wrap(raw.clone());
    let mut watch = store.watch(b"/registry/", 0).await.unwrap();
    let custom: &[u8] = b"/registry/example.com/things/a/t";
    let deployment: &[u8] = b"/registry/apps/deployments/a/d";
    for (key, encrypted) in [(SECRET, true), (POD, false), (custom, true), (deployment, true)] {
        put(&*store, key, "{\"x\":1}").await;
        let stored = value(&*raw, key).await.unwrap();
        assert_eq!(stored.starts_with(ENCRYPTED), encrypted, "{}", key.escape_ascii());
        let event = loop {
            let mut batch = watch.next().await.unwrap().unwrap();
            if let Some(event) = batch.events.pop() {
                break event;
            }
        };
        assert_eq!(event.value.unwrap(), "{\"x\":1}");
    }
    let op = Op::Put { value: Bytes::from_static(b"{}"), ttl: None };
    let write = Write { key: Bytes::from_static(SECRET), expect: Expect::Absent, op };
    let Err(StoreError::Conflict { current: Some(current) }) = store.write(write).await else {
        panic!("the key is there")
    };
    assert_eq!(current.value, "{\"x\":1}");
}

/// Encrypts by turning bytes over, which is not the point.
#[derive(Default)]
struct Plugin {
    generation: AtomicUsize,
    ill: AtomicBool,
    decrypted: AtomicUsize,
}

impl Plugin {
    fn key_id(&self) -> String {
        format!("key-{}", self.generation.load(Relaxed))
    }

    fn well(&self) -> Result<(), Status> {
        if self.ill.load(Relaxed) { Err(Status::unavailable("ill")) } else { Ok(()) }
    }
}

struct Service(Arc<Plugin>);

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.0.well()?;
        let (version, healthz) = ("v2".into(), "ok".into());
        Ok(Response::new(StatusResponse { version, healthz, key_id: self.0.key_id() }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        self.0.well()?;
        let ciphertext = request.into_inner().plaintext.iter().map(|b| !b).collect();
        let annotations = [("version.example.com".to_owned(), b"1".to_vec())].into();
        Ok(Response::new(EncryptResponse { ciphertext, key_id: self.0.key_id(), annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.well()?;
        let request = request.into_inner();
        assert_eq!(request.annotations["version.example.com"], b"1");
        self.0.decrypted.fetch_add(1, Relaxed);
        Ok(Response::new(DecryptResponse { plaintext: request.ciphertext.iter().map(|b| !b).collect() }))
    }
}

#[tokio::test]
async fn a_kms_plugin_guards_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let plugin = Arc::new(Plugin::default());
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let service = KeyManagementServiceServer::new(Service(plugin.clone()));
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let serving =
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let kms = format!(
        "{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 1s}}}}",
        socket.display()
    );
    let path = write_config(folder.path(), &secrets(&format!("{kms}, {{identity: {{}}}}")));
    let raw = raw(folder.path());
    let encryption = Encryption::load(&path, false).await.unwrap();
    assert_eq!(encryption.health(), Some(Ok(())));
    let store = encryption.wrap(raw.clone());
    for i in 0..5 {
        put(&*store, format!("/registry/secrets/a/s{i}").as_bytes(), "{\"password\":\"hunter2\"}").await;
    }
    let stored = value(&*raw, b"/registry/secrets/a/s0").await.unwrap();
    assert!(stored.starts_with(b"k8s:enc:kms:v2:vault:") && !stored.windows(7).any(|w| w == b"hunter2"));
    assert_eq!(plugin.decrypted.load(Relaxed), 0, "our own seed is known");

    // Another server, which knows no seed yet, asks once.
    let second = Encryption::load(&path, false).await.unwrap();
    let other = second.wrap(raw.clone());
    let range = other.range(b"/registry/secrets/", 0).await.unwrap();
    assert!(range.kvs.iter().all(|kv| kv.value == "{\"password\":\"hunter2\"}"));
    assert_eq!(plugin.decrypted.load(Relaxed), 1);

    // The plugin's key changes: what was written before is stale, and still read.
    plugin.generation.fetch_add(1, Relaxed);
    let key: &[u8] = b"/registry/secrets/a/s1";
    assert!(!encryption.is_stale(key).await.unwrap());
    for kms in &encryption.current.load().kms {
        kms.check().await.unwrap();
    }
    assert!(encryption.is_stale(key).await.unwrap());
    put(&*store, key, "{}").await;
    assert!(!encryption.is_stale(key).await.unwrap());

    // The plugin is ill: known seeds go on working, others say so; then it is well again.
    plugin.ill.store(true, Relaxed);
    for kms in &encryption.current.load().kms {
        assert!(kms.check().await.unwrap_err().contains("desc = ill"));
    }
    assert!(matches!(encryption.health(), Some(Err(_))));
    assert_eq!(value(&*store, key).await.unwrap(), b"{}");
    put(&*store, key, "{\"a\":1}").await;
    let third = Encryption::load(&path, false).await.unwrap();
    let blind = third.wrap(raw.clone());
    let error = value(&*blind, key).await.unwrap_err();
    assert!(
        error.contains("failed to decrypt DEK, error: rpc error: code = Unavailable desc = ill"),
        "{error}"
    );
    plugin.ill.store(false, Relaxed);
    for kms in &third.current.load().kms {
        kms.check().await.unwrap();
        kms.forget_failures();
    }
    assert_eq!(value(&*blind, key).await.unwrap(), b"{\"a\":1}");
    serving.abort();
}
