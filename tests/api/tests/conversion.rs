//! Conversion webhooks of definitions: one object in two versions, and what fails when the webhook does.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::http::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH};
use api::service::{Asked, Reply, Service};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn conversion() {
    api::run(cases![
        both_ways,
        lists_and_watches,
        patches_and_status,
        what_is_asked,
        another_storage_version,
        failures,
        invalid_objects,
        old_reviews,
        unreachable,
        definitions_refused,
    ]);
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition with `v1` (`spec.host` and `spec.port`) and `v2` (`spec.address`), converted by the test.
struct Kind<'a> {
    s: &'a Space,
    group: String,
    name: String,
    service: Service,
}

/// Between `host`, `port` and `address`.
fn converted(mut object: Value, wanted: &Value) -> Value {
    if object["apiVersion"] == *wanted {
        return object;
    }
    object["apiVersion"] = wanted.clone();
    if let Some(spec) = object["spec"].as_object_mut() {
        match spec.remove("address") {
            Some(address) => {
                let (host, port) = address.as_str().and_then(|a| a.split_once(':')).unwrap_or_default();
                spec.insert("host".into(), host.into());
                spec.insert("port".into(), port.parse::<u64>().unwrap_or_default().into());
            }
            None => {
                let host = spec.remove("host").unwrap_or_default();
                let port = spec.remove("port").unwrap_or_default();
                let address = format!("{}:{port}", host.as_str().unwrap_or_default());
                spec.insert("address".into(), address.into());
            }
        }
    }
    object
}

fn objects(asked: &Asked) -> Vec<Value> {
    asked.body["request"]["objects"].as_array().cloned().unwrap_or_default()
}

fn answer(asked: &Asked, objects: Vec<Value>) -> Value {
    json!({"apiVersion": asked.body["apiVersion"], "kind": "ConversionReview",
           "response": {"uid": asked.body["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn convert(asked: &Asked) -> Reply {
    let wanted = &asked.body["request"]["desiredAPIVersion"];
    Reply::json(&answer(asked, objects(asked).into_iter().map(|o| converted(o, wanted)).collect()))
}

impl<'a> Kind<'a> {
    async fn define(s: &'a Space, storage: &str, reviews: &[&str]) -> Result<Self> {
        let service = Service::start().await?;
        service.on("/convert", convert);
        let group = format!("{}.example.com", s.unique);
        let kind = Self { s, name: format!("things.{group}"), group, service };
        let made = s.api.post(CRDS, &kind.definition(storage, reviews)).is(201).await?;
        ensure!(made["spec"]["conversion"]["strategy"] == "Webhook", "{made}");
        for version in ["v1", "v2"] {
            let path = kind.path(version);
            eventually("the kind", || async {
                Ok((s.api.get(&path).send().await?.code == 200).then_some(()))
            })
            .await?;
        }
        kind.service.forget();
        Ok(kind)
    }

    fn definition(&self, storage: &str, reviews: &[&str]) -> Value {
        let version = |name: &str, spec: Value| {
            json!({"name": name, "served": true, "storage": name == storage, "subresources": {"status": {}},
                   "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                       "spec": {"type": "object", "properties": spec},
                       "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
        };
        let versions = [
            version("v1", json!({"host": {"type": "string"}, "port": {"type": "integer", "default": 80}})),
            version("v2", json!({"address": {"type": "string", "pattern": "^[a-z.]*:[0-9]+$"}})),
        ];
        json!({"metadata": {"name": self.name}, "spec": {"group": self.group, "scope": "Namespaced", "versions": versions,
            "names": {"plural": "things", "kind": "Thing"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": reviews,
                "clientConfig": {"url": format!("{}/convert", self.service.url), "caBundle": self.service.bundle()}}}}})
    }

    fn path(&self, version: &str) -> String {
        self.s.path(&format!("{}/{version}", self.group), "things")
    }

    fn thing(&self, version: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{}/{version}", self.group), "kind": "Thing", "metadata": {"name": name}, "spec": spec})
    }

    async fn end(self) -> Result<()> {
        self.service.on("/convert", convert);
        self.s.api.delete(&format!("{CRDS}/{}", self.name)).is(200).await.map(drop)
    }
}

async fn both_ways(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    let (v1, v2) = (kind.path("v1"), kind.path("v2"));
    let made = s.api.post(&v1, &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    ensure!(made["spec"] == json!({"host": "x", "port": 1}), "{made}");
    ensure!(kind.service.asked("/convert").is_empty(), "nothing to convert in the storage version");
    let read = s.api.get(&format!("{v2}/a")).is(200).await?;
    ensure!(
        read["spec"] == json!({"address": "x:1"}) && read["apiVersion"] == format!("{}/v2", kind.group),
        "{read}"
    );
    ensure!(
        read["metadata"]["uid"] == made["metadata"]["uid"]
            && read["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"],
        "{read}"
    );
    let made = s.api.post(&v2, &kind.thing("v2", "b", json!({"address": "y:2"}))).is(201).await?;
    ensure!(
        made["spec"] == json!({"address": "y:2"}) && made["apiVersion"] == format!("{}/v2", kind.group),
        "{made}"
    );
    let read = s.api.get(&format!("{v1}/b")).is(200).await?;
    ensure!(read["spec"] == json!({"host": "y", "port": 2}), "{read}");
    let words = ["spec.address: Invalid value: \"NO\": spec.address in body should match '^[a-z.]*:[0-9]+$'"];
    s.api.post(&v2, &kind.thing("v2", "c", json!({"address": "NO"}))).fails(422, "Invalid", &words).await?;
    let mut next = read.clone();
    next["spec"]["port"] = json!(3);
    s.api.put(&format!("{v1}/b"), &next).is(200).await?;
    let read = s.api.get(&format!("{v2}/b")).is(200).await?;
    ensure!(read["spec"] == json!({"address": "y:3"}) && read["metadata"]["generation"] == 2, "{read}");
    let gone = s.api.delete(&format!("{v2}/b")).is(200).await?;
    ensure!(gone["kind"] == "Status" || gone["apiVersion"] == format!("{}/v2", kind.group), "{gone}");
    kind.end().await
}

async fn lists_and_watches(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    let (v1, v2) = (kind.path("v1"), kind.path("v2"));
    for (name, port) in [("a", 1), ("b", 2), ("c", 3)] {
        s.api.post(&v1, &kind.thing("v1", name, json!({"host": name, "port": port}))).is(201).await?;
    }
    let list = s.api.get(&v2).is(200).await?;
    ensure!(list["apiVersion"] == format!("{}/v2", kind.group) && list["kind"] == "ThingList", "{list}");
    let specs: Vec<_> =
        list["items"].as_array().context("items")?.iter().map(|i| i["spec"]["address"].clone()).collect();
    ensure!(specs == ["a:1", "b:2", "c:3"], "{list}");
    let page = s.api.get(&format!("{v2}?limit=2")).is(200).await?;
    ensure!(page["items"].as_array().is_some_and(|i| i.len() == 2), "{page}");
    let from = list["metadata"]["resourceVersion"].as_str().context("version")?;
    let mut watch = s.api.get(&format!("{v2}?watch=true&resourceVersion={from}")).watch().await?;
    let mut old = s.api.get(&format!("{v1}?watch=true&resourceVersion={from}")).watch().await?;
    s.api.post(&v2, &kind.thing("v2", "d", json!({"address": "d:4"}))).is(201).await?;
    s.api.patch(&format!("{v1}/d"), MERGE_PATCH, &json!({"spec": {"port": 5}})).is(200).await?;
    s.api.delete(&format!("{v1}/d")).is(200).await?;
    for (kind, address, spec) in [
        ("ADDED", "d:4", json!({"host": "d", "port": 4})),
        ("MODIFIED", "d:5", json!({"host": "d", "port": 5})),
        ("DELETED", "d:5", json!({"host": "d", "port": 5})),
    ] {
        let seen = watch.expect(kind, "d").await?;
        ensure!(seen["spec"] == json!({"address": address}), "{seen}");
        let seen = old.expect(kind, "d").await?;
        ensure!(seen["spec"] == spec, "{seen}");
    }
    kind.end().await
}

async fn patches_and_status(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    let (v1, v2) = (kind.path("v1"), kind.path("v2"));
    s.api.post(&v1, &kind.thing("v1", "a", json!({"host": "x"}))).is(201).await?;
    let next =
        s.api.patch(&format!("{v2}/a"), MERGE_PATCH, &json!({"spec": {"address": "y:7"}})).is(200).await?;
    ensure!(next["spec"] == json!({"address": "y:7"}), "{next}");
    let patch = json!([{"op": "test", "path": "/spec/address", "value": "y:7"}, {"op": "replace", "path": "/spec/address", "value": "z:8"}]);
    s.api.patch(&format!("{v2}/a"), JSON_PATCH, &patch).is(200).await?;
    let read = s.api.get(&format!("{v1}/a")).is(200).await?;
    ensure!(read["spec"] == json!({"host": "z", "port": 8}), "{read}");
    let next = s
        .api
        .patch(
            &format!("{v2}/a/status"),
            MERGE_PATCH,
            &json!({"status": {"seen": true}, "spec": {"address": "no:1"}}),
        )
        .is(200)
        .await?;
    ensure!(next["status"] == json!({"seen": true}) && next["spec"] == json!({"address": "z:8"}), "{next}");
    let path = format!("{v2}/b?fieldManager=me");
    let apply = |spec: Value| {
        s.api
            .call(http::Method::PATCH, &path)
            .body(APPLY_PATCH, kind.thing("v2", "b", spec).to_string())
            .send()
    };
    apply(json!({"address": "a:1"})).await?.is(201)?;
    let applied = apply(json!({"address": "a:2"})).await?.is(200)?;
    ensure!(applied["spec"] == json!({"address": "a:2"}), "{applied}");
    let fields = &applied["metadata"]["managedFields"][0];
    ensure!(
        fields["apiVersion"] == format!("{}/v2", kind.group) && fields["operation"] == "Apply",
        "{fields}"
    );
    let read = s.api.get(&format!("{v1}/b")).is(200).await?;
    ensure!(read["spec"] == json!({"host": "a", "port": 2}), "{read}");
    kind.end().await
}

async fn what_is_asked(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v2", "v1", "v1beta1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    s.api.get(&format!("{}/a", kind.path("v2"))).is(200).await?;
    let asked = kind.service.asked("/convert");
    let first = asked.first().context("asked")?;
    ensure!(first.query == "timeout=30s", "{}", first.query);
    ensure!(
        first.body["apiVersion"] == "apiextensions.k8s.io/v1" && first.body["kind"] == "ConversionReview",
        "{}",
        first.body
    );
    let request = &first.body["request"];
    ensure!(request["desiredAPIVersion"] == format!("{}/v2", kind.group), "{request}");
    ensure!(request["uid"].as_str().is_some_and(|u| u.len() == 36), "{request}");
    let object = &request["objects"][0];
    ensure!(
        object["apiVersion"] == format!("{}/v1", kind.group)
            && object["spec"] == json!({"host": "x", "port": 1}),
        "{object}"
    );
    ensure!(object["metadata"]["name"] == "a", "{object}");
    kind.end().await
}

/// The storage version changes under objects that lie in the old one.
async fn another_storage_version(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
                       {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let item = format!("{CRDS}/{}", kind.name);
    s.api.patch(&item, JSON_PATCH, &patch).is(200).await?;
    let crd = eventually("both versions to be told", || async {
        let crd = s.api.get(&item).is(200).await?;
        Ok((crd["status"]["storedVersions"] == json!(["v1", "v2"])).then_some(crd))
    })
    .await?;
    let patch = json!([{"op": "remove", "path": "/spec/versions/0"}]);
    let words = [
        "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions",
    ];
    s.api
        .patch(&item, JSON_PATCH, &patch)
        .fails(422, "Invalid", &words)
        .await
        .with_context(|| crd.to_string())?;
    let read = s.api.get(&format!("{}/a", kind.path("v2"))).is(200).await?;
    ensure!(read["spec"] == json!({"address": "x:1"}), "{read}");
    let read = s.api.get(&format!("{}/a", kind.path("v1"))).is(200).await?;
    ensure!(read["spec"] == json!({"host": "x", "port": 1}), "{read}");
    // A write that changes nothing stores it anew.
    let again = s.api.patch(&format!("{}/a", kind.path("v2")), MERGE_PATCH, &json!({})).is(200).await?;
    ensure!(again["metadata"]["resourceVersion"] != read["metadata"]["resourceVersion"], "{again}");
    kind.end().await
}

async fn failures(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    let item = format!("{}/a", kind.path("v2"));
    let group = &kind.group;
    let by = format!("conversion webhook for {group}/v1, Kind=Thing");
    let cases: Vec<(fn(&Asked) -> Reply, String)> = vec![
        (
            |_| Reply::text(500, "text/plain", "it broke"),
            format!(
                "{by} failed: an error on the server (\"it broke\") has prevented the request from succeeding"
            ),
        ),
        (
            |_| Reply::text(404, "text/plain", "x"),
            format!("{by} failed: the server could not find the requested resource"),
        ),
        (
            |a| {
                let mut review = answer(a, vec![]);
                review["response"]["result"] = json!({"status": "Failure", "message": "not today"});
                Reply::json(&review)
            },
            format!("{by} failed: not today"),
        ),
        (
            |a| {
                let mut review = answer(a, vec![]);
                review["response"]["result"] = json!({"status": "Failure"});
                Reply::json(&review)
            },
            format!("{by} failed: response.result.status was 'Failure', not 'Success'"),
        ),
        (
            |a| {
                let mut review = answer(a, vec![]);
                review["response"]["uid"] = json!("other");
                Reply::json(&review)
            },
            format!("{by} failed: expected response.uid=\""),
        ),
        (
            |a| Reply::json(&json!({"apiVersion": a.body["apiVersion"], "kind": "ConversionReview"})),
            format!("{by} failed: no response provided"),
        ),
        (|a| Reply::json(&answer(a, vec![])), format!("{by} returned 0 objects, expected 1")),
        (|_| Reply::text(200, "application/json", "{\"kind\":"), format!("{by} failed: ")),
    ];
    for (handler, words) in cases {
        kind.service.on("/convert", handler);
        let said = s.api.get(&item).is(500).await?;
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with(&words), "{words} was due: {message}");
        ensure!(said["reason"] == "" || said.get("reason").is_none(), "{said}");
        let said = s.api.get(&kind.path("v2")).is(500).await?;
        ensure!(said["message"].as_str().is_some_and(|m| m.starts_with(&words)), "{words} was due: {said}");
    }
    // The storage version is read all the same.
    s.api.get(&format!("{}/a", kind.path("v1"))).is(200).await?;
    kind.end().await
}

async fn invalid_objects(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    let item = format!("{}/a", kind.path("v2"));
    let group = &kind.group;
    let by = format!("conversion webhook for {group}/v1, Kind=Thing returned invalid");
    type Spoil = fn(&mut Value);
    let cases: Vec<(Spoil, String)> = vec![
        (
            |o| o["apiVersion"] = json!("a/v9"),
            format!("{by} object at index 0: invalid groupVersion (expected {group}/v2, received a/v9)"),
        ),
        (
            |o| o["kind"] = json!("Other"),
            format!("{by} object at index 0: invalid kind (expected Thing, received Other)"),
        ),
        (|o| o["metadata"]["name"] = json!("b"), format!("{by} object: must have the same name: a != b")),
        (|o| o["metadata"]["uid"] = json!("b"), format!("{by} object: must have the same UID: ")),
        (|o| o["metadata"]["namespace"] = json!("b"), format!("{by} object: must have the same namespace: ")),
        (
            |o| o["metadata"]["labels"] = json!({"a": 1}),
            format!("{by} metadata: metadata.labels[a] must be a string, but is int64 in converted object"),
        ),
        (
            |o| o["metadata"]["labels"] = json!({"a b": "c"}),
            format!(
                "{by} metadata: metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters"
            ),
        ),
    ];
    for (spoil, words) in cases {
        kind.service.on("/convert", move |asked| {
            let wanted = &asked.body["request"]["desiredAPIVersion"];
            let mut all: Vec<_> = objects(asked).into_iter().map(|o| converted(o, wanted)).collect();
            all.iter_mut().for_each(spoil);
            Reply::json(&answer(asked, all))
        });
        let said = s.api.get(&item).is(500).await?;
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with(&words), "{words} was due: {message}");
    }
    // Labels and annotations may change, nothing else of the metadata does.
    kind.service.on("/convert", |asked| {
        let wanted = &asked.body["request"]["desiredAPIVersion"];
        let mut all: Vec<_> = objects(asked).into_iter().map(|o| converted(o, wanted)).collect();
        for object in &mut all {
            object["metadata"]["labels"] = json!({"by": "webhook"});
            object["metadata"]["generation"] = json!(77);
            object["metadata"]["finalizers"] = json!(["a.b/c"]);
            object["unknown"] = json!(1);
        }
        Reply::json(&answer(asked, all))
    });
    let read = s.api.get(&item).is(200).await?;
    ensure!(
        read["metadata"]["labels"] == json!({"by": "webhook"}) && read["metadata"]["generation"] == 1,
        "{read}"
    );
    ensure!(read["metadata"].get("finalizers").is_none() && read.get("unknown").is_none(), "{read}");
    kind.end().await
}

async fn old_reviews(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1beta1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    let read = s.api.get(&format!("{}/a", kind.path("v2"))).is(200).await?;
    ensure!(read["spec"] == json!({"address": "x:1"}), "{read}");
    ensure!(kind.service.asked("/convert")[0].body["apiVersion"] == "apiextensions.k8s.io/v1beta1");
    kind.end().await
}

async fn unreachable(s: Space) -> Result<()> {
    let kind = Kind::define(&s, "v1", &["v1"]).await?;
    s.api.post(&kind.path("v1"), &kind.thing("v1", "a", json!({"host": "x", "port": 1}))).is(201).await?;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let patch = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": format!("https://{nobody}/convert")}]);
    s.api.patch(&format!("{CRDS}/{}", kind.name), JSON_PATCH, &patch).is(200).await?;
    let words = format!(
        "conversion webhook for {}/v1, Kind=Thing failed: Post \"https://{nobody}/convert?timeout=30s\": dial tcp {nobody}: connect: connection refused",
        kind.group
    );
    eventually("the new address", || async {
        let answer = s.api.get(&format!("{}/a", kind.path("v2"))).send().await?;
        if answer.code == 200 {
            return Ok(None);
        }
        let said = answer.is(500)?;
        ensure!(said["message"] == words, "{words} was due: {said}");
        Ok(Some(()))
    })
    .await?;
    let other = Service::start().await?;
    let patch = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": format!("{}/convert", other.url)}]);
    s.api.patch(&format!("{CRDS}/{}", kind.name), JSON_PATCH, &patch).is(200).await?;
    eventually("the stranger", || async {
        let said = s.api.get(&format!("{}/a", kind.path("v2"))).is(500).await?;
        let message = said["message"].as_str().unwrap_or_default();
        Ok(message
            .contains("tls: failed to verify certificate: x509: certificate signed by unknown authority")
            .then_some(()))
    })
    .await?;
    kind.end().await
}

async fn definitions_refused(s: Space) -> Result<()> {
    let service = Service::start().await?;
    let group = format!("{}.example.com", s.unique);
    let kind = Kind { s: &s, name: format!("things.{group}"), group, service };
    let good = kind.definition("v1", &["v1"]);
    for (path, value, words) in [
        (
            "/spec/conversion/webhook/conversionReviewVersions",
            json!([]),
            "spec.conversion.conversionReviewVersions: Required value",
        ),
        (
            "/spec/conversion/webhook/conversionReviewVersions",
            json!(["v9"]),
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
        ),
        (
            "/spec/conversion/webhook/clientConfig",
            json!({}),
            "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required",
        ),
        (
            "/spec/conversion/webhook/clientConfig/url",
            json!("http://x/y"),
            "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            "/spec/conversion/webhook",
            Value::Null,
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            "/spec/conversion/strategy",
            json!("Magic"),
            "spec.conversion.strategy: Unsupported value: \"Magic\": supported values: \"None\", \"Webhook\"",
        ),
    ] {
        let mut bad = good.clone();
        if let Some(at) = bad.pointer_mut(path) {
            *at = value;
        }
        s.api.post(&format!("{CRDS}?dryRun=All"), &bad).fails(422, "Invalid", &[words]).await?;
    }
    Ok(())
}
