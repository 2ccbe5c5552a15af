//! The conversion webhook of a definition. Source: apiextensions-apiserver's `webhook_converter.go`; messages are its.

use crate::ApiServer;
use crate::aggregation::{Address, Pool, Service, client_tls, pool, request_bytes, target};
use crate::registry::meta;
use crate::status::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Upstream's for conversion.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 64 << 20;

enum At {
    Host(Address),
    Service(Service),
}

/// Where the webhook is and which reviews it speaks.
pub struct Webhook {
    at: At,
    path: String,
    /// As messages name the place.
    shown: String,
    /// `v1` or `v1beta1`: the first one named that this server speaks.
    review: Option<&'static str>,
    pool: Result<Pool, String>,
}

impl Webhook {
    /// From `spec.conversion`; `None` where the strategy is not `Webhook`.
    pub(super) fn read(conversion: &Value) -> Option<Self> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let client = &webhook["clientConfig"];
        let known = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let review = known.filter_map(Value::as_str).find_map(|v| match v {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        let (at, server_name, path) = match client["url"].as_str() {
            Some(url) => from_url(url)?,
            None => from_service(&client["service"])?,
        };
        let pool = bundle(client["caBundle"].as_str().unwrap_or_default())
            .and_then(|ca| client_tls(&ca, false, None))
            .and_then(|tls| pool(tls, &server_name));
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}timeout={}s", TIMEOUT.as_secs());
        let host = match &at {
            At::Host(address) => address.to_string(),
            At::Service(service) => format!("{}:{}", service.server_name(), service.port),
        };
        Some(Self { at, shown: format!("https://{host}{path}"), path, review, pool })
    }

    /// Objects of one kind in other versions, in the wanted one, in their order.
    pub(super) async fn convert(
        &self,
        server: &ApiServer,
        kind: &str,
        wanted: &str,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let started = std::time::Instant::now();
        let what = objects.first().map(described).unwrap_or_default();
        let single = objects.len() == 1;
        let failed = |why: String| ApiError::generic(500, "", why);
        let Some(review) = self.review else {
            return Err(failed("no supported conversion review versions".into()));
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        });
        let outcome = async {
            let answer = self.post(server, request.to_string()).await?;
            results(review, &uid, answer)
        };
        let answered = outcome.await;
        let result = answered
            .map_err(|why| failed(format!("conversion webhook for {what} failed: {why}")))
            .and_then(|found| check(kind, wanted, &what, &objects, found, single).map_err(failed));
        tracing::debug!(target: "conversion", %what, wanted, objects = objects.len(), ok = result.is_ok(),
            micros = started.elapsed().as_micros() as u64, "asked a conversion webhook");
        result
    }

    async fn post(&self, server: &ApiServer, review: String) -> Result<Value, String> {
        let url = &self.shown;
        let failed = |why: String| format!("Post {url:?}: {why}");
        let pool = self.pool.as_ref().map_err(Clone::clone)?;
        let address = match &self.at {
            At::Host(address) => address.clone(),
            At::Service(service) => {
                let all = service.resolve(server.storage.cache(), server.own_address()).map_err(failed)?;
                let at = rand::random_range(0..all.len().max(1));
                all.into_iter().nth(at).ok_or_else(|| failed("no addresses".into()))?
            }
        };
        let mut request = Request::new(request_bytes(review.into()));
        *request.method_mut() = Method::POST;
        let path = self.path.parse().map_err(|e| failed(format!("{e}")))?;
        *request.uri_mut() = target(&address, path).map_err(|e| failed(e.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        let exchange = async {
            let response = pool
                .request(request)
                .await
                .map_err(|e| failed(crate::aggregation::failure(&e, &address.to_string())))?;
            let code = response.status().as_u16();
            let kind =
                response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| failed(e.to_string()))?.to_bytes();
            match code {
                200..=299 => serde_json::from_slice(&body).map_err(|e| e.to_string()),
                code => Err(crate::aggregation::server_response(code, &kind, &body)),
            }
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }
}

fn from_url(url: &str) -> Option<(At, String, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Some((At::Host(Address { host: host.clone(), port }), host, path))
}

fn from_service(service: &Value) -> Option<(At, String, String)> {
    let text = |f: &str| service[f].as_str().unwrap_or_default().to_owned();
    let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
    let at = Service { namespace: text("namespace"), name: text("name"), port };
    let path = text("path");
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let name = at.server_name();
    service.is_object().then_some((At::Service(at), name, path))
}

/// White space alone is no bundle.
fn bundle(encoded: &str) -> Result<Vec<u8>, String> {
    let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    Ok(if bytes.iter().all(u8::is_ascii_whitespace) { Vec::new() } else { bytes })
}

/// `a.b/v1, Kind=Foo`.
fn described(object: &Value) -> String {
    let text = |f: &str| object[f].as_str().unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// The converted objects of an answer that is one.
fn results(review: &str, uid: &str, mut answer: Value) -> Result<Vec<Value>, String> {
    if review == "v1" {
        let wanted = "apiextensions.k8s.io/v1, Kind=ConversionReview";
        let got = described(&answer);
        if got != wanted {
            return Err(format!("expected webhook response of {wanted}, got {got}"));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    if review == "v1" && response["uid"] != uid {
        let got = response["uid"].as_str().unwrap_or_default();
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let result = &response["result"];
    let status = result["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match result["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("response.result.status was '{status}', not 'Success'"),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// What of a converted object is wrong.
#[derive(Clone, Copy)]
enum Part {
    Version,
    Identity,
    Metadata,
}

/// The objects with their metadata restored, if they are what was asked for.
fn check(
    kind: &str,
    wanted: &str,
    what: &str,
    sent: &[Value],
    found: Vec<Value>,
    single: bool,
) -> Result<Vec<Value>, String> {
    if found.len() != sent.len() {
        return Err(format!(
            "conversion webhook for {what} returned {} objects, expected {}",
            found.len(),
            sent.len()
        ));
    }
    let mut out = Vec::with_capacity(found.len());
    for (index, (original, mut converted)) in sent.iter().zip(found).enumerate() {
        let refuse = |part: Part, why: String| {
            let place = match (part, single) {
                (Part::Version, true) => "object at index 0".to_owned(),
                (Part::Identity, true) => "object".to_owned(),
                (Part::Metadata, true) => "metadata".to_owned(),
                (Part::Metadata, false) => format!("metadata in object at index {index}"),
                (_, false) => format!("converted object at index {index}"),
            };
            format!("conversion webhook for {what} returned invalid {place}: {why}")
        };
        let got = converted["apiVersion"].as_str().unwrap_or_default();
        if got != wanted {
            let why = format!("invalid groupVersion (expected {wanted}, received {got})");
            return Err(refuse(Part::Version, why));
        }
        let got = converted["kind"].as_str().unwrap_or_default();
        if got != kind {
            return Err(refuse(Part::Version, format!("invalid kind (expected {kind}, received {got})")));
        }
        same(original, &converted).map_err(|why| refuse(Part::Identity, why))?;
        restore(original, &mut converted).map_err(|why| refuse(Part::Metadata, why))?;
        out.push(converted);
    }
    Ok(out)
}

/// Identity, which no conversion may change.
fn same(original: &Value, converted: &Value) -> Result<(), String> {
    for (field, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (e, a) = (meta::text(original, field), meta::text(converted, field));
        if e != a {
            return Err(format!("must have the same {shown}: {e} != {a}"));
        }
    }
    Ok(())
}

/// The original's metadata with the converted object's labels and annotations.
fn restore(original: &Value, converted: &mut Value) -> Result<(), String> {
    let theirs = match converted.get_mut("metadata").map(Value::take) {
        None => return Err("missing metadata in converted object".into()),
        Some(Value::Object(theirs)) => theirs,
        Some(other) => {
            return Err(format!("invalid metadata of type {} in converted object", go_type(&other)));
        }
    };
    let mut restored = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match theirs.get(field) {
            None | Some(Value::Null) => {
                restored.remove(field);
            }
            Some(Value::Object(values)) => {
                check_map(field, values, restored.get(field))?;
                restored.insert(field.to_owned(), Value::Object(values.clone()));
            }
            Some(other) => {
                return Err(format!(
                    "invalid metadata.{field} of type {} in converted object",
                    go_type(other)
                ));
            }
        }
    }
    converted["metadata"] = Value::Object(restored);
    Ok(())
}

fn check_map(field: &str, values: &Map<String, Value>, before: Option<&Value>) -> Result<(), String> {
    for (key, value) in values {
        if !value.is_string() {
            return Err(format!(
                "metadata.{field}[{key}] must be a string, but is {} in converted object",
                go_type(value)
            ));
        }
    }
    if before.and_then(Value::as_object) == Some(values) {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    let metadata = Path::new("metadata");
    if field == "labels" {
        let path = metadata.child("labels");
        for (key, value) in values {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(&path, key.as_str(), names::qualified_name(key));
            errors.invalid_each(&path, value, names::label_value(value));
        }
    } else {
        let all = Value::Object(values.clone());
        machinery::meta::validate_annotations(Some(&all), &metadata.child("annotation"), &mut errors);
    }
    errors.aggregate().map_or(Ok(()), Err)
}

/// As Go's `%T` says it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
    }

    #[test]
    fn answers_are_read_as_upstream_reads_them() {
        let read = |a: Value| results("v1", "1", a).unwrap_err();
        assert_eq!(read(answer(Value::Null)), "no response provided");
        assert_eq!(read(answer(json!({"uid": "2"}))), "expected response.uid=\"1\", got \"2\"");
        assert_eq!(
            read(answer(json!({"uid": "1", "result": {"status": "Failed"}}))),
            "response.result.status was 'Failed', not 'Success'"
        );
        assert_eq!(
            read(answer(json!({"uid": "1", "result": {"status": "Failed", "message": "no such thing"}}))),
            "no such thing"
        );
        assert_eq!(
            read(json!({"kind": "X", "apiVersion": "a/v1"})),
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got a/v1, Kind=X"
        );
        let good = answer(json!({"uid": "1", "result": {"status": "Success"}, "convertedObjects": [{}]}));
        assert_eq!(results("v1", "1", good).unwrap(), [json!({})]);
        let old = json!({"response": {"result": {"status": "Success"}, "convertedObjects": []}});
        assert!(results("v1beta1", "1", old).unwrap().is_empty(), "the old form is not checked");
    }

    fn object(version: &str, metadata: Value) -> Value {
        json!({"kind": "Foo", "apiVersion": format!("a.b/{version}"), "metadata": metadata})
    }

    #[test]
    fn only_labels_and_annotations_may_change() {
        let sent = [object("v1", json!({"name": "x", "uid": "u", "labels": {"a": "b"}, "generation": 2}))];
        let convert = |found: Vec<Value>| check("Foo", "a.b/v2", "a.b/v1, Kind=Foo", &sent, found, true);
        let new = object("v2", json!({"name": "x", "uid": "u", "annotations": {"k": "v"}, "generation": 9}));
        let got = convert(vec![new]).unwrap();
        assert_eq!(
            got[0]["metadata"],
            json!({"name": "x", "uid": "u", "annotations": {"k": "v"}, "generation": 2})
        );
        let said = |found: Vec<Value>| convert(found).unwrap_err();
        assert_eq!(said(vec![]), "conversion webhook for a.b/v1, Kind=Foo returned 0 objects, expected 1");
        assert_eq!(
            said(vec![object("v2", json!({"name": "y", "uid": "u"}))]),
            "conversion webhook for a.b/v1, Kind=Foo returned invalid object: must have the same name: x != y"
        );
        assert_eq!(
            said(vec![object("v3", json!({"name": "x", "uid": "u"}))]),
            "conversion webhook for a.b/v1, Kind=Foo returned invalid object at index 0: invalid groupVersion (expected a.b/v2, received a.b/v3)"
        );
        assert_eq!(
            said(vec![object("v2", json!({"name": "x", "uid": "u", "labels": {"a": 1}}))]),
            "conversion webhook for a.b/v1, Kind=Foo returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object"
        );
    }
}
