//! The specification's examples, section by section.

use super::*;
use serde_json::json;

fn zone() -> Zone {
    let zone = Zone::new("cluster.local", Informer::detached(), Informer::detached());
    let service = |name: &str, spec: serde_json::Value| {
        let value = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        zone.services.apply(serde_json::from_value(value).unwrap());
    };
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    service("web", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports}));
    service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}));
    service("idle", json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    service("out", json!({"type": "ExternalName", "externalName": "example.com"}));
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "ns", "labels": {SERVICE_NAME: "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.9"], "conditions": {"ready": false}},
        ],
    });
    zone.slices.apply(serde_json::from_value(slice).unwrap());
    zone
}

fn ask(name: &str, kind: RecordType) -> Option<Answer> {
    zone().answer(&Name::from_ascii(name).unwrap(), kind)
}

fn data(name: &str, kind: RecordType) -> Vec<String> {
    ask(name, kind).unwrap().answers.iter().map(|r| r.data.to_string()).collect()
}

fn code(name: &str, kind: RecordType) -> Option<ResponseCode> {
    ask(name, kind).unwrap().code
}

#[test]
fn cluster_ip_services_2_3() {
    assert_eq!(data("web.ns.svc.cluster.local.", RecordType::A), ["10.96.0.7"]);
    assert_eq!(data("WEB.ns.SVC.cluster.local.", RecordType::A), ["10.96.0.7"]);
    assert_eq!(
        data("_http._tcp.web.ns.svc.cluster.local.", RecordType::SRV),
        ["0 100 80 web.ns.svc.cluster.local."]
    );
    assert_eq!(data("7.0.96.10.in-addr.arpa.", RecordType::PTR), ["web.ns.svc.cluster.local."]);
}

#[test]
fn headless_services_2_4() {
    assert_eq!(data("db.ns.svc.cluster.local.", RecordType::A), ["10.244.0.5", "10.244.0.6"]);
    assert_eq!(data("db-0.db.ns.svc.cluster.local.", RecordType::A), ["10.244.0.5"]);
    assert_eq!(data("10-244-0-6.db.ns.svc.cluster.local.", RecordType::A), ["10.244.0.6"]);
    assert_eq!(
        data("_http._tcp.db.ns.svc.cluster.local.", RecordType::SRV),
        ["0 100 8080 db-0.db.ns.svc.cluster.local.", "0 100 8080 10-244-0-6.db.ns.svc.cluster.local."]
    );
    assert_eq!(data("5.0.244.10.in-addr.arpa.", RecordType::PTR), ["db-0.db.ns.svc.cluster.local."]);
    assert_eq!(code("idle.ns.svc.cluster.local.", RecordType::A), Some(ResponseCode::NXDomain));
}

#[test]
fn external_names_2_5() {
    let answer = ask("out.ns.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(answer.answers[0].data.to_string(), "example.com.");
    assert_eq!(answer.follow.unwrap().to_string(), "example.com.");
}

#[test]
fn schema_version_2_2() {
    assert_eq!(data("dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
}

#[test]
fn pod_names() {
    assert_eq!(data("10-244-0-5.ns.pod.cluster.local.", RecordType::A), ["10.244.0.5"]);
    assert_eq!(code("10-244-0.ns.pod.cluster.local.", RecordType::A), Some(ResponseCode::NXDomain));
}

#[test]
fn nothing_there_is_told_apart_from_nothing_of_that_type() {
    let missing = ask("nope.ns.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!((missing.code, missing.authority.len()), (Some(ResponseCode::NXDomain), 1));
    let empty = ask("web.ns.svc.cluster.local.", RecordType::AAAA).unwrap();
    assert_eq!((empty.code, empty.answers.len(), empty.authority.len()), (None, 0, 1));
    assert_eq!(code("ns.svc.cluster.local.", RecordType::A), None);
    assert_eq!(code("other.svc.cluster.local.", RecordType::A), Some(ResponseCode::NXDomain));
}

#[test]
fn other_names_are_not_ours() {
    assert!(ask("example.com.", RecordType::A).is_none());
    assert!(ask("4.4.8.8.in-addr.arpa.", RecordType::PTR).is_none());
    assert!(ask("notcluster.local.", RecordType::A).is_none());
}
