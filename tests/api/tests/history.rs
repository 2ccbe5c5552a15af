//! Versions that are gone: lists and watches of a past that is no longer kept.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::{Space, cases};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

#[test]
fn history() {
    api::run(cases![watches_of_the_past, versions_of_the_future, tokens_of_strangers]);
}

#[test]
fn compaction() {
    if std::env::var_os(api::subject::VARIABLE).is_some() && !api::subject::is_said("SUBJECT_FORGETS") {
        println!("skipped: SUBJECT_FORGETS does not say that the server forgets quickly");
        return;
    }
    api::case::run_with(cases![lists_of_the_past], &["--etcd-compaction-interval=2s"]);
}

/// A kind that did not exist at the beginning of the history that is asked for.
async fn watches_of_the_past(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let definition = json!({"metadata": {"name": format!("things.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    s.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).is(201).await?;
    let path = s.path(&format!("{group}/v1"), "things");
    eventually("the kind", || async { Ok((s.api.get(&path).send().await?.code == 200).then_some(())) })
        .await?;
    let thing = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "a"}});
    s.api.post(&path, &thing).is(201).await?;
    let mut watch = s.api.get(&format!("{path}?watch=true&resourceVersion=1")).watch().await?;
    let (kind, status) = watch.event().await?;
    // A server that remembers all of its history may tell it; one that does not says so, and ends the stream.
    if kind == "ERROR" {
        ensure!(
            status["kind"] == "Status" && status["code"] == 410 && status["reason"] == "Expired",
            "{status}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with("too old resource version: 1 ("), "{status}");
        ensure!(watch.next().await?.is_none(), "the stream ends");
    } else {
        ensure!(kind == "ADDED" && status["metadata"]["name"] == "a", "{kind} {status}");
    }
    // Any version will do for one that only wants what is there.
    let mut watch = s.api.get(&format!("{path}?watch=true&resourceVersion=0")).watch().await?;
    watch.expect("ADDED", "a").await?;
    s.api
        .delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}"))
        .is(200)
        .await
        .map(drop)
}

async fn versions_of_the_future(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let far = "9000000000000";
    for query in [
        format!("resourceVersion={far}"),
        format!("resourceVersion={far}&resourceVersionMatch=NotOlderThan"),
        format!("resourceVersion={far}&resourceVersionMatch=Exact"),
    ] {
        let status = s
            .api
            .get(&format!("{path}?{query}"))
            .fails(504, "Timeout", &["Timeout: Too large resource version: 9000000000000, current: "])
            .await;
        let status = status.with_context(|| query.clone())?;
        ensure!(status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge", "{status}");
    }
    s.make_map("a").await?;
    s.api
        .get(&format!("{path}/a?resourceVersion={far}"))
        .fails(504, "Timeout", &["Too large resource version"])
        .await?;
    for (query, words) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Sometimes",
            "resourceVersionMatch: Unsupported value: \"Sometimes\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
    ] {
        s.api.get(&format!("{path}?{query}")).fails(422, "Invalid", &[words]).await?;
    }
    s.api.get(&format!("{path}?resourceVersion=soon")).send().await.and_then(|a| {
        ensure!([400, 500].contains(&a.code), "{} {}", a.code, a.text());
        Ok(())
    })
}

fn token(object: &Value) -> String {
    URL_SAFE_NO_PAD.encode(object.to_string())
}

async fn tokens_of_strangers(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for name in ["a", "b", "c"] {
        s.make_map(name).await?;
    }
    for (what, words) in [
        ("!!".to_owned(), "continue key is not valid: illegal base64 data at input byte 0"),
        (
            token(&json!("text")),
            "continue key is not valid: json: cannot unmarshal string into Go value of type storage.continueToken",
        ),
        (
            token(&json!({"v": "meta.k8s.io/v9", "rv": 1, "start": "x\u{0}"})),
            "continue key is not valid: server does not recognize this encoded version meta.k8s.io/v9",
        ),
        (
            token(&json!({"v": "meta.k8s.io/v1", "start": "x\u{0}"})),
            "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ),
        (
            token(&json!({"v": "meta.k8s.io/v1", "rv": 1})),
            "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
        ),
        (
            token(&json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "../x\u{0}"})),
            "continue key is not valid: ../x",
        ),
    ] {
        s.api
            .get(&format!("{path}?limit=1&continue={what}"))
            .fails(400, "BadRequest", &[words])
            .await
            .with_context(|| what.clone())?;
    }
    let page = s.api.get(&format!("{path}?limit=1")).is(200).await?;
    let next = page["metadata"]["continue"].as_str().context("continue")?;
    let words = "specifying resource version is not allowed when using continue";
    s.api
        .get(&format!("{path}?limit=1&continue={next}&resourceVersion=5"))
        .fails(400, "BadRequest", &[words])
        .await?;
    let words =
        "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided";
    s.api
        .get(&format!("{path}?limit=1&continue={next}&resourceVersion=5&resourceVersionMatch=Exact"))
        .fails(422, "Invalid", &[words])
        .await?;
    // A token without a version goes on with what is there now.
    let decoded: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(next)?)?;
    let mut now = decoded.clone();
    now["rv"] = json!(-1);
    s.make_map("d").await?;
    let rest = s.api.get(&format!("{path}?limit=9&continue={}", token(&now))).is(200).await?;
    let names: Vec<_> =
        rest["items"].as_array().context("items")?.iter().map(|i| i["metadata"]["name"].clone()).collect();
    ensure!(names.contains(&json!("d")), "{names:?}");
    let rest = s.api.get(&format!("{path}?limit=9&continue={next}")).is(200).await?;
    let names: Vec<_> =
        rest["items"].as_array().context("items")?.iter().map(|i| i["metadata"]["name"].clone()).collect();
    ensure!(!names.contains(&json!("d")), "{names:?}");
    Ok(())
}

async fn lists_of_the_past(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for name in ["a", "b", "c"] {
        s.make_map(name).await?;
    }
    let page = s.api.get(&format!("{path}?limit=1&labelSelector=!none")).is(200).await?;
    let next = page["metadata"]["continue"].as_str().context("continue")?.to_owned();
    let version = page["metadata"]["resourceVersion"].as_str().context("version")?.to_owned();
    s.api.get(&format!("{path}?limit=1&continue={next}&labelSelector=!none")).is(200).await?;
    s.api.get(&format!("{path}?resourceVersion={version}&resourceVersionMatch=Exact")).is(200).await?;
    let mut count = 0;
    let status = eventually("the past to be forgotten", || {
        count += 1;
        let (name, next, path) = (format!("later-{count}"), &next, &path);
        let s = &s;
        async move {
            // History moves on with writes.
            s.make_map(&name).await?;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let answer = s.api.get(&format!("{path}?limit=1&continue={next}&labelSelector=!none")).send().await?;
            if answer.code == 200 {
                return Ok(None);
            }
            answer.fails(410, "Expired", &["The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."]).map(Some)
        }
    })
    .await?;
    let again = status["metadata"]["continue"].as_str().context("a token to go on with")?;
    let rest = s.api.get(&format!("{path}?limit=500&continue={again}")).is(200).await?;
    let names: Vec<_> = rest["items"]
        .as_array()
        .context("items")?
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    ensure!(names.contains(&"later-1") && names.contains(&"c"), "{names:?}");
    let words = ["The resourceVersion for the provided list is too old."];
    s.api
        .get(&format!("{path}?resourceVersion={version}&resourceVersionMatch=Exact"))
        .fails(410, "Expired", &words)
        .await?;
    // Lists that only want no older state are answered.
    s.api.get(&format!("{path}?resourceVersion={version}&resourceVersionMatch=NotOlderThan")).is(200).await?;
    s.api.get(&format!("{path}?resourceVersion={version}")).is(200).await.map(drop)
}
