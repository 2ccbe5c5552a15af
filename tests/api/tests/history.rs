//! Versions that are gone: lists and watches of a past that is no longer kept.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::{Space, cases};
use serde_json::json;

#[test]
fn history() {
    api::run(cases![watches_of_the_past]);
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
