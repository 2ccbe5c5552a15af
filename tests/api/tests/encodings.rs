//! JSON, YAML, protobuf, tables, metadata alone, gzip, HTTP/1.1, and what is refused.

use anyhow::{Context, Result, ensure};
use api::http::{JSON, PROTOBUF, YAML};
use api::{Space, cases};
use serde_json::{Value, json};
use std::io::Read;

#[test]
fn encodings() {
    api::run(cases![
        yaml_both_ways,
        protobuf_both_ways,
        protobuf_watch,
        tables,
        table_watch,
        metadata_alone,
        gzip,
        http_versions,
        unknown_media_types,
        malformed_bodies,
        oversized_bodies,
        head_and_methods,
        discovery,
        health,
    ]);
}

async fn yaml_both_ways(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: \"yes\"\n";
    let made = s.api.post(&path, &json!({})).body(YAML, body).is(201).await?;
    ensure!(made["data"]["k"] == "yes", "{made}");
    let answer = s.api.get(&format!("{path}/a")).accept(YAML).send().await?;
    ensure!(answer.code == 200 && answer.header("content-type") == YAML, "{answer:?}");
    let read: Value = serde_saphyr::from_str(&answer.text())?;
    ensure!(read["data"]["k"] == "yes" && read["kind"] == "ConfigMap", "{read}");
    let answer = s.api.get(&format!("{path}/none")).accept(YAML).send().await?;
    ensure!(answer.code == 404 && answer.text().contains("reason: NotFound"), "{}", answer.text());
    Ok(())
}

async fn protobuf_both_ways(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    s.make_map("a").await?;
    let answer = s.api.get(&format!("{path}/a")).accept(PROTOBUF).send().await?;
    ensure!(answer.code == 200 && answer.header("content-type") == PROTOBUF, "{answer:?}");
    ensure!(answer.body.starts_with(b"k8s\0"), "{answer:?}");
    // The same bytes are taken back, without a change.
    let before = s.api.get(&format!("{path}/a")).is(200).await?;
    let put = s.api.call(http::Method::PUT, &format!("{path}/a")).body(PROTOBUF, answer.body.clone());
    ensure!(put.is(200).await? == before);
    let list = s.api.get(&path).accept(PROTOBUF).send().await?;
    ensure!(
        list.body.starts_with(b"k8s\0") && list.body.windows(13).any(|w| w == b"ConfigMapList"),
        "{list:?}"
    );
    let both = s.api.get(&path).accept(&format!("{PROTOBUF};q=0.5,{JSON};q=0.1")).send().await?;
    ensure!(both.header("content-type") == PROTOBUF, "{both:?}");
    let missing = s.api.get(&format!("{path}/none")).accept(PROTOBUF).send().await?;
    ensure!(missing.code == 404 && missing.body.starts_with(b"k8s\0"), "{missing:?}");
    let broken = s.api.call(http::Method::POST, &path).body(PROTOBUF, "k8s\0nonsense").send().await?;
    ensure!(broken.code == 400, "{} {}", broken.code, broken.text());
    let broken = s.api.call(http::Method::POST, &path).body(PROTOBUF, "nonsense").send().await?;
    ensure!(
        broken.code == 400 && broken.text().contains("does not appear to be a protobuf message"),
        "{} {}",
        broken.code,
        broken.text()
    );
    Ok(())
}

async fn protobuf_watch(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let made = s.make_map("a").await?;
    s.api.delete(&format!("{path}/a")).is(200).await?;
    let version = made["metadata"]["resourceVersion"].as_str().context("version")?;
    let query =
        format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={version}&fieldSelector=metadata.name%3Da");
    let answer = s.api.get(&query).accept(PROTOBUF).send().await?;
    ensure!(answer.header("content-type") == format!("{PROTOBUF};stream=watch"), "{:?}", answer.headers);
    let size = answer.body.get(..4).context("no frame")?.try_into()?;
    let size = u32::from_be_bytes(size) as usize;
    let frame = answer.body.get(4..4 + size).context("the frame is short")?;
    ensure!(
        frame.windows(7).any(|w| w == b"DELETED") && frame.windows(4).any(|w| w == b"k8s\0"),
        "{frame:?}"
    );
    Ok(())
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn tables(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let path = s.core("configmaps");
    let table = s.api.get(&format!("{path}/a")).accept(TABLE).is(200).await?;
    ensure!(table["kind"] == "Table" && table["apiVersion"] == "meta.k8s.io/v1", "{table}");
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().into_iter().flatten().map(|c| c["name"].clone()).collect();
    ensure!(json!(columns) == json!(["Name", "Data", "Age"]), "{table}");
    ensure!(table["rows"][0]["cells"][0] == "a" && table["rows"][0]["cells"][1] == 1, "{table}");
    let partial = &table["rows"][0]["object"];
    ensure!(partial["kind"] == "PartialObjectMetadata" && partial["metadata"]["name"] == "a", "{table}");
    ensure!(partial.get("data").is_none(), "{table}");
    let with = s.api.get(&format!("{path}?includeObject=Object")).accept(TABLE).is(200).await?;
    ensure!(with["rows"][0]["object"]["kind"] == "ConfigMap", "{with}");
    let without = s.api.get(&format!("{path}?includeObject=None")).accept(TABLE).is(200).await?;
    ensure!(
        without["rows"][0]["object"].is_null() && without["metadata"]["resourceVersion"].is_string(),
        "{without}"
    );
    let fallback = s.api.get(&path).accept(&format!("{TABLE},{JSON}")).is(200).await?;
    ensure!(fallback["kind"] == "Table", "{fallback}");
    let answer = s.api.get(&path).accept("application/json;as=Table;v=v9;g=meta.k8s.io").send().await?;
    ensure!(answer.code == 406, "{} {}", answer.code, answer.text());
    // Statuses are never tables.
    s.api.get(&format!("{path}/none")).accept(TABLE).fails(404, "NotFound", &[]).await?;
    Ok(())
}

async fn table_watch(s: Space) -> Result<()> {
    let made = s.make_map("a").await?;
    let path = s.core("configmaps");
    s.make_map("b").await?;
    s.make_map("c").await?;
    let version = made["metadata"]["resourceVersion"].as_str().context("version")?;
    let mut watch =
        s.api.get(&format!("{path}?watch=1&resourceVersion={version}")).accept(TABLE).watch().await?;
    let (_, first) = watch.event().await?;
    ensure!(
        first["kind"] == "Table" && first["columnDefinitions"].as_array().is_some_and(|c| !c.is_empty()),
        "{first}"
    );
    let (_, second) = watch.event().await?;
    ensure!(
        second["columnDefinitions"].is_null() || second["columnDefinitions"] == json!([]),
        "columns come once: {second}"
    );
    Ok(())
}

async fn metadata_alone(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let path = s.core("configmaps");
    let one = s
        .api
        .get(&format!("{path}/a"))
        .accept("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
        .is(200)
        .await?;
    ensure!(one["kind"] == "PartialObjectMetadata" && one["apiVersion"] == "meta.k8s.io/v1", "{one}");
    ensure!(one.get("data").is_none() && one["metadata"]["name"] == "a", "{one}");
    let list = s
        .api
        .get(&path)
        .accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .is(200)
        .await?;
    ensure!(list["kind"] == "PartialObjectMetadataList" && list["items"][0].get("data").is_none(), "{list}");
    let call = s
        .api
        .get(&path)
        .accept("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let answer = call.send().await?;
    ensure!(answer.code == 200 && answer.body.starts_with(b"k8s\0"), "{answer:?}");
    Ok(())
}

async fn gzip(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let mut map = s.map("a");
    map["data"]["big"] = json!("x".repeat(200_000));
    s.api.post(&path, &map).is(201).await?;
    let plain = s.api.get(&path).send().await?;
    let packed = s.api.get(&path).header("accept-encoding", "gzip").send().await?;
    ensure!(
        packed.header("content-encoding") == "gzip" && packed.body.len() * 10 < plain.body.len(),
        "{:?}",
        packed.headers
    );
    ensure!(packed.header("vary").contains("Accept-Encoding"), "{:?}", packed.headers);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*packed.body).read_to_string(&mut text)?;
    let unpacked: Value = serde_json::from_str(&text)?;
    ensure!(unpacked["items"] == plain.json()?["items"]);
    let small =
        s.api.get(&format!("{path}?labelSelector=none")).header("accept-encoding", "gzip").send().await?;
    ensure!(small.header("content-encoding").is_empty(), "{:?}", small.headers);
    Ok(())
}

async fn http_versions(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let new = s.api.get(&path).send().await?;
    let old = s.api.get(&path).http1().send().await?;
    ensure!(new.version == http::Version::HTTP_2 && old.version == http::Version::HTTP_11, "{new:?} {old:?}");
    ensure!(new.json()?["items"] == old.json()?["items"]);
    for answer in [&new, &old] {
        ensure!(answer.header("cache-control") == "no-cache, private", "{:?}", answer.headers);
        ensure!(answer.header("content-type") == JSON, "{:?}", answer.headers);
        ensure!(answer.header("audit-id").len() == 36, "{:?}", answer.headers);
        ensure!(!answer.header("x-kubernetes-pf-flowschema-uid").is_empty(), "{:?}", answer.headers);
    }
    Ok(())
}

async fn unknown_media_types(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let words = [
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf",
    ];
    let call = s.api.call(http::Method::POST, &path).body("text/plain", "{}");
    call.fails(415, "UnsupportedMediaType", &words).await?;
    let answer = s.api.get(&path).accept("text/html").send().await?;
    let words = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf, application/json;stream=watch, \
                 application/vnd.kubernetes.protobuf;stream=watch";
    answer.fails(406, "NotAcceptable", &[words])?;
    s.api.get(&path).accept("text/html, */*").is(200).await?;
    s.api.get(&format!("{path}?pretty=true")).accept("*/*").is(200).await?;
    // A body without a type is JSON.
    let object = s.map("a").to_string();
    let answer = s.api.call(http::Method::POST, &path).body("", object).send().await?;
    ensure!(answer.code == 201, "{} {}", answer.code, answer.text());
    Ok(())
}

async fn malformed_bodies(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let post = |body: &str| s.api.call(http::Method::POST, &path).body(JSON, body.to_owned()).send();
    for (body, code, words) in [
        (
            "{\"a\":",
            400,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: \
             unexpected end of JSON input ({\"a\":)",
        ),
        (
            "",
            400,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind",
        ),
        ("[]", 400, "json: cannot unmarshal array into Go value of type"),
        (
            "nonsense",
            400,
            "couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u')",
        ),
        ("{\"kind\":7}", 400, "json: cannot unmarshal number into Go struct field"),
        (
            "{\"kind\":\"Foo\",\"apiVersion\":\"v1\"}",
            400,
            "no kind \"Foo\" is registered for version \"v1\" in scheme",
        ),
        (
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v9\"}",
            400,
            "no kind \"ConfigMap\" is registered for version \"v9\" in scheme",
        ),
        (
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"data\":[]}",
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field \
             ConfigMap.data of type map[string]string",
        ),
        (
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"data\":{\"a\":1}}",
            400,
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "{\"metadata\":{\"name\":\"a\",\"labels\":\"x\"}}",
            400,
            "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            "{\"metadata\":{\"name\":\"a\",\"creationTimestamp\":\"yesterday\"}}",
            400,
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
        ),
    ] {
        let answer = post(body).await?;
        answer.fails(code, "BadRequest", &[words]).with_context(|| body.to_owned())?;
    }
    let yaml = s.api.call(http::Method::POST, &path).body(YAML, "a: b: c\n\t").send().await?;
    ensure!(yaml.code == 400, "{} {}", yaml.code, yaml.text());
    let options = s.api.delete(&path).body(JSON, "{\"gracePeriodSeconds\":\"x\"}").send().await?;
    ensure!(options.code == 400, "{} {}", options.code, options.text());
    Ok(())
}

async fn oversized_bodies(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let body = format!(
        "{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(3 * 1024 * 1024 + 10)
    );
    let words = ["Request entity too large: limit is 3145728"];
    let call = s.api.call(http::Method::POST, &path).body(JSON, body).http1();
    call.fails(413, "RequestEntityTooLarge", &words).await?;
    // Within the limit of bodies, beyond that of config maps.
    let mut map = s.map("a");
    map["data"]["k"] = json!("x".repeat(1024 * 1024 + 10));
    let status = s
        .api
        .post(&path, &map)
        .fails(422, "Invalid", &["Too long: may not be more than 1048576 bytes"])
        .await?;
    ensure!(status["details"]["causes"][0]["reason"] == "FieldValueTooLong", "{status}");
    Ok(())
}

async fn head_and_methods(s: Space) -> Result<()> {
    s.make_map("a").await?;
    let item = format!("{}/a", s.core("configmaps"));
    for method in ["HEAD", "OPTIONS", "TRACE"] {
        let answer = s.api.call(method.parse()?, &item).send().await?;
        ensure!(answer.code == 405, "{method}: {} {}", answer.code, answer.text());
    }
    s.api.call(http::Method::POST, &item).json(&json!({})).fails(405, "MethodNotAllowed", &[]).await?;
    Ok(())
}

async fn discovery(s: Space) -> Result<()> {
    let versions = s.api.get("/api").is(200).await?;
    ensure!(versions["kind"] == "APIVersions" && versions["versions"] == json!(["v1"]), "{versions}");
    let groups = s.api.get("/apis").is(200).await?;
    ensure!(groups["kind"] == "APIGroupList" && groups["apiVersion"] == "v1", "{groups}");
    let group = s.api.get("/apis/apps").is(200).await?;
    ensure!(group["preferredVersion"]["groupVersion"] == "apps/v1", "{group}");
    let core = s.api.get("/api/v1").is(200).await?;
    let resources = core["resources"].as_array().context("resources")?;
    let pods = resources.iter().find(|r| r["name"] == "pods").context("pods")?;
    ensure!(
        pods["shortNames"] == json!(["po"]) && pods["singularName"] == "pod" && pods["namespaced"] == true,
        "{pods}"
    );
    ensure!(
        pods["verbs"]
            == json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        "{pods}"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = s.api.get("/apis").accept(accept).send().await?;
    let etag = all.header("etag").to_owned();
    ensure!(all.is(200)?["kind"] == "APIGroupDiscoveryList" && !etag.is_empty(), "{all:?}");
    ensure!(all.header("content-type") == accept, "{:?}", all.headers);
    let same = s.api.get("/apis").accept(accept).header("if-none-match", &etag).send().await?;
    ensure!(same.code == 304 && same.body.is_empty(), "{same:?}");
    let v3 = s.api.get("/openapi/v3").is(200).await?;
    let url = v3["paths"]["api/v1"]["serverRelativeURL"].as_str().context("no api/v1")?;
    let document = s.api.get(url).send().await?;
    ensure!(
        document.json()?["openapi"] == "3.0.0" && document.header("cache-control").contains("immutable"),
        "{:?}",
        document.headers
    );
    ensure!(s.api.get("/openapi/v2").is(200).await?["swagger"] == "2.0");
    ensure!(s.api.get("/version").is(200).await?["major"] == "1");
    Ok(())
}

async fn health(s: Space) -> Result<()> {
    for path in ["/livez", "/readyz", "/healthz", "/livez/ping"] {
        let answer = s.api.get(path).send().await?;
        ensure!(answer.code == 200 && answer.text() == "ok", "{path}: {} {}", answer.code, answer.text());
    }
    let verbose = s.api.get("/readyz?verbose").send().await?;
    ensure!(
        verbose.text().contains("[+]ping ok\n") && verbose.text().ends_with("readyz check passed\n"),
        "{}",
        verbose.text()
    );
    let answer = s.api.get("/livez?exclude=etcd&verbose=true").send().await?;
    ensure!(answer.text().contains("[+]etcd excluded: ok\n"), "{}", answer.text());
    let metrics = s.api.get("/metrics").send().await?;
    ensure!(metrics.code == 200 && metrics.text().contains("apiserver_request_total{"), "{}", metrics.code);
    let roots = s.api.get("/").is(200).await?;
    ensure!(
        roots["paths"]
            .as_array()
            .is_some_and(|p| p.contains(&json!("/api/v1")) && p.contains(&json!("/apis/apps/v1"))),
        "{roots}"
    );
    Ok(())
}
