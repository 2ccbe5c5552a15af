//! The PKI as its users see it: on disk, over TLS, in kubeconfigs.

#![allow(clippy::unwrap_used)]

use kit::pki::*;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

fn sans() -> Sans {
    Sans::new(
        ["localhost", "kubernetes.default.svc"],
        ["127.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()],
    )
}

#[test]
fn authorities_are_created_once_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path()).unwrap();
    let second = Pki::open(dir.path()).unwrap();
    assert_eq!(first.ca.certificate(), second.ca.certificate());
    assert_eq!(first.front_proxy_ca.certificate(), second.front_proxy_ca.certificate());
    assert_eq!(first.service_account.public_pem(), second.service_account.public_pem());
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir.path().join("pki")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub"]);
    assert_eq!(fs::metadata(dir.path().join("pki")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn damage_is_named_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path()).unwrap();
    let pki = dir.path().join("pki");
    let key = fs::read(pki.join("ca.key")).unwrap();
    fs::remove_file(pki.join("ca.key")).unwrap();
    assert!(matches!(Pki::open(dir.path()), Err(PkiError::MissingKey { .. })));
    fs::write(pki.join("ca.key"), fs::read(pki.join("sa.key")).unwrap()).unwrap();
    assert!(matches!(Pki::open(dir.path()), Err(PkiError::Mismatch { .. })));
    fs::write(pki.join("ca.key"), "garbage").unwrap();
    assert!(Pki::open(dir.path()).unwrap_err().to_string().contains("ca.key"));
    // Cut short between key and certificate: the key is kept, the certificate made.
    fs::write(pki.join("ca.key"), &key).unwrap();
    fs::remove_file(pki.join("ca.crt")).unwrap();
    Pki::open(dir.path()).unwrap();
    assert_eq!(fs::read(pki.join("ca.key")).unwrap(), key);
}

#[test]
fn leaves_are_reused_and_reissued_when_they_no_longer_fit() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let spec = LeafSpec::server("kube-apiserver", sans());
    let first = pki.leaf("apiserver", &spec).unwrap();
    assert_eq!(pki.leaf("apiserver", &spec).unwrap().chain, first.chain);
    let mut wider = spec.clone();
    wider.sans.dns.insert("example.org".into());
    let second = pki.leaf("apiserver", &wider).unwrap();
    assert_ne!(second.chain, first.chain);
    // Near its end: most of a two-hour life is behind it at issue, since validity starts an hour back.
    let mut short = spec.clone();
    short.lifetime = Duration::from_secs(60);
    let third = pki.leaf("short", &short).unwrap();
    assert!(third.renew_in().is_zero());
    assert_ne!(pki.leaf("short", &short).unwrap().chain, third.chain);
    // Another authority took over.
    let other = Authority::generate("other").unwrap();
    assert_ne!(pki.leaf_of(&other, "apiserver", &wider).unwrap().chain, second.chain);
    // Damaged on disk.
    fs::write(dir.path().join("pki/apiserver.crt"), "x").unwrap();
    pki.leaf("apiserver", &wider).unwrap();
}

#[test]
fn a_webpki_verifier_accepts_clients_and_only_clients() {
    let ca = Authority::generate("kubernetes").unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let client = ca.issue(&LeafSpec::client("jane", &["dev", "ops"])).unwrap();
    verifier.verify_client_cert(&client.chain[0], &[], UnixTime::now()).unwrap();
    let server = ca.issue(&LeafSpec::server("srv", sans())).unwrap();
    assert!(verifier.verify_client_cert(&server.chain[0], &[], UnixTime::now()).is_err());
    let stranger = Authority::generate("kubernetes").unwrap().issue(&LeafSpec::client("jane", &[])).unwrap();
    assert!(verifier.verify_client_cert(&stranger.chain[0], &[], UnixTime::now()).is_err());
}

#[test]
fn every_organization_survives() {
    use x509_parser::prelude::FromDer as _;
    let ca = Authority::generate("kubernetes").unwrap();
    let leaf = ca.issue(&LeafSpec::client("jane", &["dev", "ops", "système"])).unwrap();
    let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&leaf.chain[0]).unwrap();
    let organizations: Vec<&str> =
        parsed.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
    assert_eq!(organizations, ["dev", "ops", "système"]);
    assert!(!parsed.is_ca());
}

#[test]
fn requests_round_trip_and_forgeries_fail() {
    let key = PrivateKey::generate().unwrap();
    let subject = Subject::new("system:node:n1", &["system:nodes"]);
    let text = new_request(&key, &subject, &sans()).unwrap();
    let request = Request::from_pem(text.as_bytes()).unwrap();
    assert_eq!(request.subject, subject);
    assert_eq!(request.sans, sans());
    assert!(!request.other_names);
    let ca = Authority::generate("kubernetes").unwrap();
    let signed = ca.sign_request(&request, Usages::CLIENT, Duration::from_secs(7200)).unwrap();
    let leaf = Leaf::from_pem(signed.as_bytes(), key.to_pem().as_bytes()).unwrap();
    assert!(leaf.not_after - leaf.not_before <= Duration::from_secs(3600 + 7200));
    // Flip one byte of the signed part: the signature no longer fits.
    let mut der = pem::request(text.as_bytes()).unwrap();
    let at = der.windows(4).position(|w| w == b"node").unwrap();
    der[at] = b'm';
    let forged = pem::encode("CERTIFICATE REQUEST", &der);
    assert!(matches!(Request::from_pem(forged.as_bytes()), Err(PkiError::Crypto(_))));
    assert!(Request::from_pem(b"nothing").is_err());
}

/// A whole handshake in memory; returns the certificates each side saw.
fn handshake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
) -> Result<(Vec<u8>, Option<Vec<u8>>), rustls::Error> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name)?;
    let mut server = rustls::ServerConnection::new(Arc::new(server))?;
    for _ in 0..10 {
        let mut buffer = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut buffer).unwrap();
        }
        let mut input = buffer.as_slice();
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets()?;
        }
        let mut buffer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut buffer).unwrap();
        }
        let mut input = buffer.as_slice();
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets()?;
        }
    }
    let first = |certs: Option<&[rustls::pki_types::CertificateDer<'static>]>| certs.map(|c| c[0].to_vec());
    Ok((first(client.peer_certificates()).unwrap(), first(server.peer_certificates())))
}

#[test]
fn tls_works_rotates_and_refuses_strangers() {
    let ca = Authority::generate("kubernetes").unwrap();
    let leaf = ca.issue(&LeafSpec::server("srv", sans())).unwrap();
    let slot = RotatingCertificate::new(&leaf).unwrap();
    let verifier = ClientVerifier::new(&[ca.certificate()]).unwrap();
    let server = server_config(slot.clone(), Some(verifier)).unwrap();
    let me = ca.issue(&LeafSpec::client("jane", &[])).unwrap();
    let mine = RotatingCertificate::new(&me).unwrap();
    let client = client_config(&[ca.certificate().clone()], Some(mine)).unwrap();
    let (seen, peer) = handshake(client, server.clone()).unwrap();
    assert_eq!(seen, leaf.chain[0].to_vec());
    assert_eq!(peer.as_deref(), Some(me.chain[0].as_ref()));
    let renewed = ca.issue(&LeafSpec::server("srv", sans())).unwrap();
    slot.replace(&renewed).unwrap();
    // A new client: the old one would resume its session and not look at a certificate again.
    let fresh = client_config(&[ca.certificate().clone()], None).unwrap();
    assert_eq!(handshake(fresh, server.clone()).unwrap().0, renewed.chain[0].to_vec());
    // No certificate is fine; a server of another authority is not.
    let plain = client_config(&[ca.certificate().clone()], None).unwrap();
    assert_eq!(handshake(plain, server.clone()).unwrap().1, None);
    let other = Authority::generate("kubernetes").unwrap();
    assert!(handshake(client_config(&[other.certificate().clone()], None).unwrap(), server).is_err());
}

#[test]
fn token_signatures() {
    let key = PrivateKey::generate().unwrap();
    let signature = key.sign_fixed(b"header.claims").unwrap();
    assert_eq!(signature.len(), 64);
    assert!(verify_fixed(key.public_point(), b"header.claims", &signature));
    assert!(!verify_fixed(key.public_point(), b"header.Claims", &signature));
    assert!(!verify_fixed(PrivateKey::generate().unwrap().public_point(), b"header.claims", &signature));
}

#[test]
fn kubeconfigs_are_private_and_stable() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::generate("kubernetes").unwrap();
    let leaf = ca.issue(&LeafSpec::client("kubernetes-admin", &["system:masters"])).unwrap();
    let config = Kubeconfig {
        server: "https://127.0.0.1:6443",
        cluster: "ironclad",
        user: "kubernetes-admin",
        ca_pem: ca.certificate_pem(),
        credentials: Credentials::Certificate(&leaf),
    };
    let path = dir.path().join("admin.kubeconfig");
    config.write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("    server: https://127.0.0.1:6443\n"), "{text}");
    assert!(text.contains("current-context: kubernetes-admin@ironclad\n"), "{text}");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    config.write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
}
