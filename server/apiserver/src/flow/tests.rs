//! Matching and limits over the bootstrap objects.

use super::config::Found;
use super::spec::{FlowSchema, PriorityLevel};
use super::*;
use std::sync::Arc;

fn defaults() -> (Vec<PriorityLevel>, Vec<FlowSchema>) {
    let (levels, schemas) = crate::bootstrap::flow_objects();
    let identified = |mut object: serde_json::Value| {
        object["metadata"]["uid"] = object["metadata"]["name"].clone();
        object
    };
    (
        levels.into_iter().map(identified).filter_map(|o| PriorityLevel::read(&o)).collect(),
        schemas.into_iter().map(identified).filter_map(|o| FlowSchema::read(&o)).collect(),
    )
}

fn matched(flow: &FlowControl, user: &UserInfo, method: &str, path: &str) -> (String, String) {
    let info = RequestInfo::read(&method.parse().unwrap(), path, &[]).unwrap();
    let table = flow.table.load();
    let schema = table.find(user, &info).unwrap();
    (schema.name.to_string(), schema.level.name.to_string())
}

#[test]
fn the_defaults_match_as_upstreams_do() {
    let flow = FlowControl::new(600);
    let (levels, schemas) = defaults();
    assert!(flow.configure(&levels, &schemas).iter().all(|f| f.found));
    let everyone = "system:authenticated";
    let admin = UserInfo::new("admin", &["system:masters", everyone]);
    let node = UserInfo::new("system:node:a", &["system:nodes", everyone]);
    let pod = UserInfo::service_account("default", "default", "");
    let controller = UserInfo::service_account("kube-system", "deployment-controller", "");
    let manager = UserInfo::new("system:kube-controller-manager", &[everyone]);
    let jane = UserInfo::new("jane", &[everyone]);
    let nobody = UserInfo::new("system:anonymous", &["system:unauthenticated"]);
    for (user, method, path, schema, level) in [
        (&admin, "GET", "/api/v1/pods", "exempt", "exempt"),
        (&nobody, "GET", "/healthz", "probes", "exempt"),
        (&nobody, "GET", "/version", "global-default", "global-default"),
        (&node, "PATCH", "/api/v1/nodes/a/status", "system-node-high", "node-high"),
        (
            &node,
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
            "system-node-high",
            "node-high",
        ),
        (&node, "GET", "/api/v1/pods", "system-nodes", "system"),
        (
            &manager,
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "system-leader-election",
            "leader-election",
        ),
        (&manager, "GET", "/api/v1/pods", "kube-controller-manager", "workload-high"),
        (
            &controller,
            "POST",
            "/apis/apps/v1/namespaces/a/replicasets",
            "kube-system-service-accounts",
            "workload-high",
        ),
        (&pod, "GET", "/api/v1/namespaces/a/pods", "service-accounts", "workload-low"),
        (&jane, "GET", "/api/v1/namespaces/a/pods", "global-default", "global-default"),
        (&UserInfo::new("ghost", &[]), "GET", "/api/v1/pods", "catch-all", "catch-all"),
    ] {
        assert_eq!(matched(&flow, user, method, path), (schema.into(), level.into()), "{} {path}", user.name);
    }
}

#[test]
fn limits_follow_shares_and_demand() {
    let flow = FlowControl::new(600);
    let (levels, schemas) = defaults();
    flow.configure(&levels, &schemas);
    let limits = |name: &str| *flow.state.lock().levels[name].level.limits.lock();
    // Shares sum to 245; upstream's documentation lists these.
    assert_eq!((limits("system").nominal, limits("system").least), (74, 50));
    assert_eq!((limits("workload-low").nominal, limits("workload-low").least), (245, 24));
    assert_eq!(limits("catch-all").nominal, 13);
    assert_eq!(limits("exempt").nominal, 0);
    // With no demand every level stays near its nominal share, and all seats are handed out.
    flow.adjust(std::time::Instant::now());
    let sum: u32 = flow.state.lock().levels.values().map(|h| h.level.limits.lock().current).sum();
    assert!((590..=620).contains(&sum), "{sum}");
}

#[test]
fn a_dangling_schema_is_told_and_left_out() {
    let flow = FlowControl::new(10);
    let (levels, mut schemas) = defaults();
    let mut own = schemas[0].clone();
    own.metadata.name = "mine".into();
    own.spec.matching_precedence = 3;
    own.spec.priority_level_configuration.name = "nowhere".into();
    schemas.push(own);
    let found = flow.configure(&levels, &schemas);
    let mine = found.into_iter().find(|f| f.schema == "mine").unwrap();
    assert_eq!(mine, Found { schema: "mine".into(), level: "nowhere".into(), found: false });
    let condition = super::config::dangling(&mine);
    assert_eq!(
        condition["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object"
    );
    assert!(!flow.table.load().schemas.iter().any(|s| &*s.name == "mine"));
}

#[tokio::test]
async fn a_level_that_is_taken_away_drains_first() {
    let flow = FlowControl::new(600);
    let (mut levels, schemas) = defaults();
    flow.configure(&levels, &schemas);
    let held = {
        let state = flow.state.lock();
        state.levels["workload-low"].level.clone()
    };
    let series = Arc::new(level::Series::new("workload-low", "x"));
    let second = Duration::from_secs(1);
    let seat = held.enter(&series, 1, queues::Work::ONE, false, second, Details::default).await.ok().unwrap();
    levels.retain(|l| l.metadata.name != "workload-low");
    flow.configure(&levels, &schemas);
    assert!(flow.state.lock().levels["workload-low"].leaving);
    drop(seat);
    flow.adjust(std::time::Instant::now());
    assert!(!flow.state.lock().levels.contains_key("workload-low"));
}

/// The budget is 1 µs an uncontended request, optimised; a debug build is given fifty.
#[tokio::test]
async fn the_uncontended_path_is_cheap() {
    let flow = FlowControl::new(600);
    let (levels, schemas) = defaults();
    flow.configure(&levels, &schemas);
    let user = UserInfo::service_account("default", "default", "");
    let info = RequestInfo::read(&http::Method::GET, "/api/v1/namespaces/a/pods/b", &[]).unwrap();
    let rounds = 20_000u32;
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        let schema = flow.table.load().find(&user, &info).cloned().unwrap();
        let hash = schema.hash(schema.distinguisher(&user, &info));
        let second = Duration::from_secs(1);
        let entered =
            schema.level.enter(&schema.series, hash, queues::Work::ONE, false, second, Details::default);
        drop(entered.await.ok().unwrap());
    }
    println!("{:?} a request", began.elapsed() / rounds);
    let state = flow.state.lock();
    assert_eq!(state.levels["workload-low"].level.queues.lock().seats, 0);
}
