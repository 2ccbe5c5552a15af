//! As much of an API server as the node agent needs: objects in memory, list, watch, create, patch, delete.

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;

type Body = BoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    objects: Mutex<(u64, BTreeMap<String, Value>)>,
    events: broadcast::Sender<(String, Value)>,
    /// Everything that happened, for watches that begin in the past.
    log: Mutex<Vec<(u64, String, Value)>>,
    changed: tokio::sync::watch::Sender<u64>,
    writes: Mutex<Vec<String>>,
}

impl Api {
    pub fn new() -> Self {
        let inner = Inner {
            objects: Mutex::default(),
            events: broadcast::channel(10_000).0,
            log: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            writes: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                Ok::<_, tower::BoxError>(api.answer(&parts.method, &parts.uri, &body))
            }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, path: &str, value: Value) {
        let mut all = self.0.objects.lock();
        self.store(&mut all, path, value);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().1.get(path).cloned()
    }

    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let all = self.0.objects.lock();
        all.1
            .range(prefix.to_owned()..)
            .take_while(|(k, _)| k.starts_with(prefix))
            .map(|(_, v)| v.clone())
            .collect()
    }

    pub fn remove(&self, path: &str) {
        let mut all = self.0.objects.lock();
        self.drop_object(&mut all, path);
    }

    /// Patches of pods, as they came.
    pub fn writes(&self) -> Vec<String> {
        self.0.writes.lock().clone()
    }

    /// Waits until the object satisfies the condition, for a bounded time.
    pub async fn wait(
        &self,
        path: &str,
        what: &str,
        check: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let mut changed = self.0.changed.subscribe();
        let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            changed.mark_unchanged();
            let now = self.get(path);
            if check(now.as_ref()) {
                return now;
            }
            let waited = tokio::time::timeout_at(limit, changed.changed()).await;
            assert!(
                waited.is_ok(),
                "{what}: {path} is {}",
                serde_json::to_string_pretty(&now).expect("json")
            );
        }
    }

    fn store(&self, all: &mut (u64, BTreeMap<String, Value>), path: &str, mut value: Value) -> Value {
        all.0 += 1;
        value["metadata"]["resourceVersion"] = json!(all.0.to_string());
        if value["metadata"]["uid"].is_null() {
            value["metadata"]["uid"] = json!(format!("uid-{}", all.0));
        }
        let kind = if all.1.contains_key(path) { "MODIFIED" } else { "ADDED" };
        all.1.insert(path.to_owned(), value.clone());
        self.tell(all.0, path, json!({"type": kind, "object": value}));
        value
    }

    fn tell(&self, revision: u64, path: &str, event: Value) {
        self.0.log.lock().push((revision, path.to_owned(), event.clone()));
        let _ = self.0.events.send((path.to_owned(), event));
        self.0.changed.send_modify(|n| *n += 1);
    }

    fn drop_object(&self, all: &mut (u64, BTreeMap<String, Value>), path: &str) {
        if let Some(value) = all.1.remove(path) {
            all.0 += 1;
            self.tell(all.0, path, json!({"type": "DELETED", "object": value}));
        }
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> Response<Body> {
        let path = uri.path().trim_end_matches('/').to_owned();
        let query = uri.query().unwrap_or_default();
        let sent: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let mut all = self.0.objects.lock();
        if *method == Method::POST && path.ends_with("/token") {
            let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                "spec": {"audiences": []},
                "status": {"token": "the-token", "expirationTimestamp": "2036-01-01T00:00:00Z"}});
            return reply(201, &token);
        }
        match *method {
            Method::POST => {
                let name = sent["metadata"]["name"].as_str().unwrap_or("x").to_owned();
                let full = format!("{path}/{name}");
                if all.1.contains_key(&full) {
                    return failure(409, "AlreadyExists");
                }
                reply(201, &self.store(&mut all, &full, sent))
            }
            Method::PATCH => {
                let object = path.trim_end_matches("/status").to_owned();
                let Some(mut value) = all.1.get(&object).cloned() else { return failure(404, "NotFound") };
                if object.contains("/pods/") {
                    self.0.writes.lock().push(sent.to_string());
                }
                merge(&mut value, &sent);
                reply(200, &self.store(&mut all, &object, value))
            }
            Method::DELETE => {
                if !all.1.contains_key(&path) {
                    return failure(404, "NotFound");
                }
                self.drop_object(&mut all, &path);
                reply(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ if query.contains("watch=") => {
                let events = self.0.events.subscribe();
                let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")?.parse().ok());
                let missed: Vec<(String, Value)> = self
                    .0
                    .log
                    .lock()
                    .iter()
                    .filter(|(revision, ..)| from.is_some_and(|f: u64| *revision > f))
                    .map(|(_, path, event)| (path.clone(), event.clone()))
                    .collect();
                drop(all);
                let filter = Filter::new(&path, query);
                let live = tokio_stream::wrappers::BroadcastStream::new(events).filter_map(async |i| i.ok());
                let stream = futures::stream::iter(missed).chain(live).filter_map(move |item| {
                    let chosen = Some(item).filter(|(p, e)| filter.fits(p, &e["object"]));
                    let line = chosen.map(|(_, e)| Ok(Frame::data(Bytes::from(format!("{e}\n")))));
                    async move { line }
                });
                Response::new(BodyExt::boxed(StreamBody::new(stream)))
            }
            _ => {
                if let Some(one) = all.1.get(&path) {
                    return reply(200, one);
                }
                let last = path.rsplit('/').next().unwrap_or_default();
                if !["pods", "nodes", "services", "configmaps", "secrets", "events", "leases"].contains(&last)
                {
                    return failure(404, "NotFound");
                }
                let filter = Filter::new(&path, query);
                let items: Vec<&Value> =
                    all.1.iter().filter(|(p, v)| filter.fits(p, v)).map(|(_, v)| v).collect();
                reply(
                    200,
                    &json!({"kind": "List", "apiVersion": "v1",
                    "metadata": {"resourceVersion": all.0.to_string()}, "items": items}),
                )
            }
        }
    }
}

struct Filter {
    path: String,
    resource: String,
    node: Option<String>,
    name: Option<String>,
}

impl Filter {
    fn new(path: &str, query: &str) -> Self {
        let value = |key: &str| {
            let at = query.find(key)? + key.len();
            Some(query[at..].split('&').next()?.to_owned())
        };
        Self {
            path: path.to_owned(),
            resource: path.rsplit('/').next().unwrap_or_default().to_owned(),
            node: value("fieldSelector=spec.nodeName%3D"),
            name: value("fieldSelector=metadata.name%3D"),
        }
    }

    fn fits(&self, path: &str, object: &Value) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let namespaced = self.path.contains("/namespaces/");
        let same = parts.get(parts.len() - 2) == Some(&self.resource.as_str());
        same && (!namespaced || path.starts_with(&format!("{}/", self.path)))
            && self.node.as_ref().is_none_or(|n| object["spec"]["nodeName"] == n.as_str())
            && self.name.as_ref().is_none_or(|n| object["metadata"]["name"] == n.as_str())
    }
}

fn reply(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": reason, "code": code}),
    )
}

/// Merge patch, with conditions merged by type and `$patch: replace` understood.
fn merge(value: &mut Value, patch: &Value) {
    let Some(map) = patch.as_object() else { return };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, new) in map {
        match new {
            Value::Null => {
                value.as_object_mut().expect("object").remove(key);
            }
            Value::Object(_) => merge(&mut value[key], new),
            Value::Array(list) if key == "conditions" => {
                let mut have = value[key].as_array().cloned().unwrap_or_default();
                for c in list {
                    match have.iter_mut().find(|h| h["type"] == c["type"]) {
                        Some(h) => merge(h, c),
                        None => have.push(c.clone()),
                    }
                }
                value[key] = Value::Array(have);
            }
            Value::Array(list) => {
                let plain = list.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
                value[key] = Value::Array(plain);
            }
            other => value[key] = other.clone(),
        }
    }
}
