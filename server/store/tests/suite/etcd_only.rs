//! What only a server elsewhere can do: be absent, go away, come back, belong to several, speak TLS.

use crate::subjects::{Etcd, connect};
use bytes::Bytes;
use futures::StreamExt;
use std::time::Duration;
use store::{Expect, Op, Store, StoreError, Write};

const PATIENCE: Duration = Duration::from_secs(30);

fn put(key: &str) -> Write {
    let op = Op::Put { value: "v".into(), ttl: None };
    Write { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, op }
}

/// Writes until it works: a cluster that just lost or found a server may refuse for a while.
async fn put_eventually(store: &dyn Store, key: &str) -> u64 {
    let attempt = async {
        loop {
            match store.write(put(key)).await {
                Ok(written) => return written.revision,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap()
}

#[tokio::test]
async fn an_unreachable_etcd_is_named() {
    let urls = ["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
    let error = store::etcd::connect(&urls, None, "").await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1: ") && error.contains("http://127.0.0.1:2: "), "{error}");
    assert!(error.contains("refused"), "{error}");
    for (url, what) in [("ftp://x", "must start with"), ("https://x:1", "CA certificate"), ("::", "endpoint")]
    {
        let error =
            store::etcd::connect(&[url.to_owned()], None, "").await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(store::etcd::connect(&[], None, "").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_a_restart_and_requests_fail_over() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = Etcd::start(dir.path(), &[]) else { return };
    let port = server.port();
    let dead = "http://127.0.0.1:1".to_owned();
    let store = connect(&[dead, server.url.clone()], None, "").await;
    let first = put_eventually(&*store, "/w/1").await;
    let mut watch = store.watch(b"/w/", first - 1).await.unwrap();
    let mut seen = watch.next().await.unwrap().unwrap().events;

    drop(server);
    assert!(matches!(store.write(put("/w/lost")).await, Err(StoreError::Unavailable(_))));
    assert!(store.health().await.is_err());
    let server = Etcd::start_at(dir.path(), port, &[]).unwrap();
    let last = put_eventually(&*store, "/w/2").await;
    let rest = async {
        while seen.last().is_none_or(|event| event.revision < last) {
            seen.extend(watch.next().await.unwrap().unwrap().events);
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.unwrap();
    assert_eq!(seen.iter().map(|e| e.revision).collect::<Vec<_>>(), (first..=last).collect::<Vec<_>>());
    store.health().await.unwrap();
    drop(server);
    // Gone for good: the watch says so in the end.
    let end = async { while watch.next().await.unwrap().is_ok() {} };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
}

/// A member dies under writes: what was acknowledged stays, the watch goes on without gap or repetition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_a_member_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut members) = Etcd::start_three(dir.path()) else { return };
    let urls: Vec<_> = members.iter().map(|member| member.url.clone()).collect();
    let store = connect(&urls, None, "").await;
    let first = put_eventually(&*store, "/k/first").await;
    let mut watch = store.watch(b"/k/", first).await.unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..120 {
        if n == 40 {
            // The one in use: the store's first.
            drop(members.remove(0));
        }
        acknowledged.push((put_eventually(&*store, &format!("/k/{n}")).await, format!("/k/{n}")));
    }
    let last = acknowledged.last().unwrap().0;
    let mut seen = Vec::new();
    let read = async {
        loop {
            let batch = watch.next().await.unwrap().unwrap();
            seen.extend(
                batch.events.into_iter().map(|e| (e.revision, String::from_utf8(e.key.to_vec()).unwrap())),
            );
            if batch.revision >= last {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    assert_eq!(
        seen.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(),
        (first + 1..=last).collect::<Vec<_>>()
    );
    assert!(acknowledged.iter().all(|write| seen.contains(write)));
    assert_eq!(store.range(b"/k/", 0).await.unwrap().kvs.len(), 121);
}

#[tokio::test]
async fn stores_on_one_etcd_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = Etcd::start(dir.path(), &[]) else { return };
    let (one, two) = (server.connect("/one").await, server.connect("/two").await);
    let start = one.revision().await.unwrap();
    let mut watch = one.watch(b"/k", start).await.unwrap();
    two.write(put("/k/theirs")).await.unwrap();
    let mine = one.write(put("/k/mine")).await.unwrap().revision;
    let seen = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((seen.revision, seen.events.len(), &seen.events[0].key[..]), (mine, 1, &b"/k/mine"[..]));
    let range = one.range(b"", 0).await.unwrap();
    assert_eq!(range.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"/k/mine"]);
    one.nudge().await.unwrap();
    assert_eq!(one.range(b"", 0).await.unwrap().kvs.len(), 1, "what a nudge leaves behind is not seen");
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let signed = |names: &[&str]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (server_cert, server_key) = signed(&["127.0.0.1"]);
    let arguments = [
        format!("--cert-file={}", file("server.pem", &server_cert)),
        format!("--key-file={}", file("server.key", &server_key)),
        format!("--trusted-ca-file={}", file("ca.pem", &ca_pem)),
        "--client-cert-auth".to_owned(),
    ];
    let Some(server) = Etcd::start(dir.path(), &arguments.each_ref().map(String::as_str)) else { return };
    let (certificate, key) = signed(&["client"]);
    let identity = Some((certificate.into_bytes(), key.into_bytes()));
    let tls = store::etcd::Tls { ca: ca_pem.clone().into_bytes(), identity };
    let urls = [server.url.clone()];
    let store = connect(&urls, Some(tls.clone()), "").await;
    store.write(put("/k")).await.unwrap();

    let nameless = store::etcd::Tls { identity: None, ..tls.clone() };
    assert!(store::etcd::connect(&urls, Some(nameless), "").await.is_err(), "a client without a certificate");
    let other_key = rcgen::KeyPair::generate().unwrap();
    let other_ca = ca.self_signed(&other_key).unwrap().pem();
    let stranger = store::etcd::Tls { ca: other_ca.into_bytes(), ..tls };
    assert!(
        store::etcd::connect(&urls, Some(stranger), "").await.is_err(),
        "a server signed by someone else"
    );
}
