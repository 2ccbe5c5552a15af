//! Backends and records.

use super::*;
use chrono::TimeZone as _;
use event::Status;
use serde_json::{Value, json};

pub(super) fn event() -> Event {
    let at = Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap();
    Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: Level::RequestResponse,
        audit_id: "i".into(),
        stage: Stage::ResponseComplete,
        request_uri: "/x".into(),
        verb: "get",
        user: User { username: "jane".into(), groups: vec!["ops".into()], ..User::default() },
        impersonated_user: None,
        source_ips: vec!["10.0.0.1".into()],
        user_agent: String::new(),
        object_ref: None,
        response_status: Some(Status { code: 200, ..Status::default() }),
        request_object: None,
        response_object: None,
        request_received_timestamp: at,
        stage_timestamp: at,
        annotations: BTreeMap::new(),
    }
}

fn policy(text: &str) -> Policy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}")).unwrap();
    Policy::load(&path).unwrap()
}

type Posted = Arc<Mutex<Vec<Value>>>;

/// A service that fails so many times first.
fn service(failures: usize) -> (Post, Posted) {
    let posted = Posted::default();
    let (seen, left) = (posted.clone(), Arc::new(Mutex::new(failures)));
    let post: Post = Arc::new(move |body| {
        let mut left = left.lock();
        if *left > 0 {
            *left -= 1;
            return Box::pin(async { Err("503".into()) });
        }
        seen.lock().push(serde_json::from_slice(&body).unwrap());
        Box::pin(async { Ok(()) })
    });
    (post, posted)
}

#[test]
fn events_have_upstreams_shape() {
    let mut one = event();
    one.request_object = Some(Arc::new(json!({"a": 1})));
    let text = String::from_utf8(one.json()).unwrap();
    assert_eq!(
        text,
        "{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"RequestResponse\",\"auditID\":\"i\",\
         \"stage\":\"ResponseComplete\",\"requestURI\":\"/x\",\"verb\":\"get\",\"user\":{\"username\":\"jane\",\
         \"groups\":[\"ops\"]},\"sourceIPs\":[\"10.0.0.1\"],\"responseStatus\":{\"metadata\":{},\"code\":200},\
         \"requestObject\":{\"a\":1},\"requestReceivedTimestamp\":\"2026-01-02T03:04:05.000000Z\",\
         \"stageTimestamp\":\"2026-01-02T03:04:05.000000Z\"}"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_are_posted_again_until_the_service_takes_them() {
    let (post, posted) = service(3);
    let audit = Audit::new(policy("rules: [{level: Metadata}]"));
    let audit = audit.with_webhook(post, Duration::from_secs(1), Delivery::of_webhook());
    for _ in 0..401 {
        assert!(audit.emit(Arc::new(event())).await);
    }
    audit.flush().await;
    let sizes: Vec<usize> = posted.lock().iter().map(|l| l["items"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [400, 1]);
    assert_eq!(posted.lock()[0]["kind"], "EventList");
    let mut page = String::new();
    audit.render(&mut page);
    assert!(page.contains("apiserver_audit_event_total 401\n"), "{page}");
    assert!(page.contains("apiserver_audit_error_total{plugin=\"webhook\"} 0\n"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_counted_and_strict_backends_say_so() {
    for (mode, fine) in [(Mode::Blocking, true), (Mode::BlockingStrict, false)] {
        let (post, _) = service(usize::MAX);
        let audit = Audit::new(policy("rules: [{level: Metadata}]"));
        let audit =
            audit.with_webhook(post, Duration::from_secs(1), Delivery { mode, ..Delivery::of_webhook() });
        assert_eq!(audit.emit(Arc::new(event())).await, fine);
        assert_eq!(audit.backends[0].errors.load(Relaxed), 1);
    }
}

#[tokio::test]
async fn large_events_lose_their_objects() {
    let (post, posted) = service(0);
    let audit = Audit::new(policy("rules: [{level: Metadata}]"));
    let truncate = Some(Truncate { max_event: 1000, max_batch: 1500 });
    let delivery = Delivery { mode: Mode::Blocking, truncate, ..Delivery::of_webhook() };
    let audit = audit.with_webhook(post, Duration::ZERO, delivery);
    let mut big = event();
    big.request_object = Some(Arc::new("x".repeat(2000).into()));
    audit.emit(Arc::new(big.clone())).await;
    big.user_agent = "y".repeat(2000);
    audit.emit(Arc::new(big)).await;
    let posted = posted.lock();
    assert_eq!(posted.len(), 1);
    let kept = &posted[0]["items"][0];
    assert!(kept["requestObject"].is_null());
    assert_eq!(kept["annotations"]["audit.k8s.io/truncated"], "true");
    assert_eq!(audit.backends[0].errors.load(Relaxed), 1);
}

#[tokio::test]
async fn records_are_filled_from_where_things_are_known() {
    let (post, posted) = service(0);
    let audit = Audit::new(policy(
        "omitStages: [RequestReceived]\nrules: [{level: Request, omitManagedFields: true}]",
    ));
    let delivery = Delivery { mode: Mode::Blocking, ..Delivery::of_webhook() };
    let audit = Arc::new(audit.with_webhook(post, Duration::ZERO, delivery));
    let (parts, ()) = http::Request::post("/api/v1/namespaces/a/pods?x=1")
        .header("user-agent", "test")
        .header("x-forwarded-for", "1.2.3.4, nonsense")
        .body(())
        .unwrap()
        .into_parts();
    let info = RequestInfo::read(&parts.method, parts.uri.path(), &[]).unwrap();
    let user = UserInfo::new("jane", &["ops"]);
    annotate("outside", "is ignored");
    let record = audit.begin("id", Some(&user), &info, &parts, Utc::now()).unwrap();
    assert!(record.stage(Stage::RequestReceived).await);
    scope(Some(record.clone()), async {
        annotate("k", "first");
        annotate("k", "second");
        annotate_at(Level::RequestResponse, "deep", || unreachable!("the level is lower"));
        request_object(&json!({"metadata": {"name": "p", "uid": "u", "managedFields": [1]}, "spec": {}}));
    })
    .await;
    let mut response = http::Response::new(crate::http::Body::full("{}"));
    *response.status_mut() = http::StatusCode::CREATED;
    record.set_response(&response);
    record.stage(Stage::ResponseComplete).await;
    let posted = posted.lock();
    assert_eq!(posted.len(), 1, "the first stage is omitted");
    let event = &posted[0]["items"][0];
    assert_eq!(event["requestURI"], "/api/v1/namespaces/a/pods?x=1");
    assert_eq!((&event["verb"], &event["sourceIPs"]), (&json!("create"), &json!(["1.2.3.4"])));
    assert_eq!(
        event["objectRef"],
        json!({"resource": "pods", "namespace": "a", "name": "p", "uid": "u", "apiVersion": "v1"})
    );
    assert_eq!(event["requestObject"], json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}}));
    assert_eq!(event["annotations"], json!({"k": "first"}));
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
}

#[tokio::test]
async fn a_kubeconfig_names_the_service() {
    let remote = crate::remote::testing::TestService::start().await;
    let refusals = Arc::new(AtomicU64::new(1));
    remote.handle("/audit", move |_| {
        let refuse = refusals.load(Relaxed) > 0;
        if refuse {
            refusals.fetch_sub(1, Relaxed);
        }
        (if refuse { 503 } else { 200 }, json!({}))
    });
    let (_folder, file) = remote.kubeconfig("/audit");
    let audit = Audit::new(policy("rules: [{level: Metadata}]"));
    let delivery = Delivery { mode: Mode::Blocking, ..Delivery::of_webhook() };
    let audit = audit.with_webhook(service_of(&file), Duration::from_millis(1), delivery);
    assert!(audit.emit(Arc::new(event())).await);
    let bodies = remote.bodies();
    assert_eq!(bodies.len(), 2, "refused once, and sent again");
    assert_eq!(bodies[1]["kind"], "EventList");
    assert_eq!(bodies[1]["items"][0]["auditID"], "i");
    let missing = super::service(std::path::Path::new("/nonexistent")).err().unwrap().to_string();
    assert!(missing.starts_with("/nonexistent: "), "{missing}");
}

fn service_of(file: &std::path::Path) -> Post {
    super::service(file).unwrap()
}
