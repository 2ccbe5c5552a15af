//! get, list and watch: resource versions, chunks, bookmarks, time limits and selectors.

use anyhow::{Context, Result, ensure};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn reading() {
    api::run(cases![
        versions_of_get,
        versions_of_list,
        match_needs_a_version,
        chunks,
        chunks_are_a_snapshot,
        broken_tokens,
        watch_from_a_version,
        watch_from_nowhere,
        watch_of_initial_events,
        watch_bookmarks,
        watch_ends_in_time,
        watch_of_a_selection,
        watch_refuses,
        label_selectors,
        field_selectors,
        bad_selectors,
        paths_that_are_not,
    ]);
}

fn version(object: &Value) -> Result<u64> {
    object["metadata"]["resourceVersion"].as_str().context("no version")?.parse().context("version")
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|i| i["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn versions_of_get(s: Space) -> Result<()> {
    let made = s.make_map("a").await?;
    let path = format!("{}/a", s.core("configmaps"));
    ensure!(s.api.get(&format!("{path}?resourceVersion=0")).is(200).await?["metadata"]["name"] == "a");
    let now = version(&made)?;
    ensure!(s.api.get(&format!("{path}?resourceVersion={now}")).is(200).await? == made);
    let far = now + 1_000_000;
    let words = format!("Too large resource version: {far}, current: ");
    let status = s.api.get(&format!("{path}?resourceVersion={far}")).fails(504, "Timeout", &[&words]).await?;
    ensure!(status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge", "{status}");
    ensure!(status["details"]["retryAfterSeconds"] == 1, "{status}");
    s.api
        .get(&format!("{path}?resourceVersion=abc"))
        .fails(
            500,
            "",
            &["resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"],
        )
        .await?;
    s.api.get(&format!("{path}b")).fails(404, "NotFound", &["configmaps \"ab\" not found"]).await?;
    Ok(())
}

async fn versions_of_list(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let first = s.make_map("a").await?;
    let second = s.make_map("b").await?;
    let only = |list: &Value| names(list).into_iter().filter(|n| n.len() == 1).collect::<Vec<_>>();
    let latest = s.api.get(&path).is(200).await?;
    ensure!(only(&latest) == ["a", "b"] && version(&latest)? >= version(&second)?, "{latest}");
    ensure!(latest["kind"] == "ConfigMapList" && latest["apiVersion"] == "v1", "{latest}");
    let item = &latest["items"][0];
    ensure!(item.get("kind").is_none() && item.get("apiVersion").is_none(), "the list's kind tells: {item}");
    let at = version(&first)?;
    let exact = s.api.get(&format!("{path}?resourceVersion={at}&resourceVersionMatch=Exact")).is(200).await?;
    ensure!(only(&exact) == ["a"] && version(&exact)? == at, "{exact}");
    let after =
        s.api.get(&format!("{path}?resourceVersion={at}&resourceVersionMatch=NotOlderThan")).is(200).await?;
    ensure!(version(&after)? >= at && only(&after).contains(&"a".to_owned()), "{after}");
    let any =
        s.api.get(&format!("{path}?resourceVersion=0&resourceVersionMatch=NotOlderThan")).is(200).await?;
    ensure!(version(&any)? > 0);
    let far = version(&second)? + 1_000_000;
    let words = format!("Too large resource version: {far}, current: ");
    s.api.get(&format!("{path}?resourceVersion={far}")).fails(504, "Timeout", &[&words]).await?;
    // A version that a limit is given with is exact.
    let limited = s.api.get(&format!("{path}?resourceVersion={at}&limit=5")).is(200).await?;
    ensure!(version(&limited)? >= at, "{limited}");
    Ok(())
}

async fn match_needs_a_version(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for (query, words) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        ("resourceVersion=1&resourceVersionMatch=Nearly", "supported values: \"Exact\", \"NotOlderThan\""),
        ("resourceVersionMatch=NotOlderThan&watch=1", "resourceVersionMatch is forbidden for watch"),
        ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
    ] {
        s.api.get(&format!("{path}?{query}")).fails(422, "Invalid", &[words]).await.context(query)?;
    }
    Ok(())
}

async fn chunks(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for index in 0..7 {
        let mut map = s.map(&format!("m{index}"));
        map["metadata"]["labels"] = json!({"chunk": "yes"});
        s.api.post(&path, &map).is(201).await?;
    }
    let (mut seen, mut token, mut rest) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page =
            s.api.get(&format!("{path}?limit=3&labelSelector=chunk%3Dyes&continue={token}")).is(200).await?;
        seen.extend(names(&page));
        rest.push(page["metadata"]["remainingItemCount"].clone());
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    ensure!(seen == (0..7).map(|i| format!("m{i}")).collect::<Vec<_>>(), "{seen:?}");
    // With a selector nobody counts what remains.
    ensure!(rest.iter().all(Value::is_null), "{rest:?}");
    let page = s.api.get(&format!("{path}?limit=3")).is(200).await?;
    let remaining = page["metadata"]["remainingItemCount"].as_u64().context("no remainingItemCount")?;
    ensure!(remaining >= 4, "{page}");
    Ok(())
}

async fn chunks_are_a_snapshot(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for name in ["a", "b", "c", "d"] {
        s.make_map(name).await?;
    }
    let first = s.api.get(&format!("{path}?limit=2")).is(200).await?;
    let token = first["metadata"]["continue"].as_str().context("no token")?.to_owned();
    s.api.delete(&format!("{path}/d")).is(200).await?;
    s.make_map("bb").await?;
    let second = s.api.get(&format!("{path}?limit=9&continue={token}")).is(200).await?;
    let kept: Vec<String> = names(&second).into_iter().filter(|n| n != "kube-root-ca.crt").collect();
    ensure!(kept == ["c", "d"], "{second}");
    ensure!(version(&first)? == version(&second)?, "{first} {second}");
    let refused = format!("{path}?limit=2&continue={token}&resourceVersion=5");
    let words = ["specifying resource version is not allowed when using continue"];
    let answer = s.api.get(&refused).send().await?;
    ensure!([400, 422].contains(&answer.code) && answer.text().contains(words[0]), "{}", answer.text());
    Ok(())
}

async fn broken_tokens(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for token in ["abc", "%21%21", "bm90anNvbg"] {
        let words = ["continue key is not valid"];
        s.api.get(&format!("{path}?limit=2&continue={token}")).fails(400, "BadRequest", &words).await?;
    }
    // {"v":"meta.k8s.io/v1","rv":1,"start":"x"}: long gone.
    let old = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJ4In0";
    let answer = s.api.get(&format!("{path}?limit=2&continue={old}")).send().await?;
    ensure!([200, 410].contains(&answer.code), "{} {}", answer.code, answer.text());
    if answer.code == 410 {
        answer.fails(410, "Expired", &[])?;
    }
    s.api
        .get(&format!("{path}?limit=x"))
        .fails(400, "BadRequest", &["parsing \"x\": invalid syntax"])
        .await?;
    Ok(())
}

async fn watch_from_a_version(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let made = s.make_map("a").await?;
    let mut watch = s.api.get(&format!("{path}?watch=1&resourceVersion={}", version(&made)?)).watch().await?;
    let item = format!("{path}/a");
    let changed = s.api.patch(&item, api::http::MERGE_PATCH, &json!({"data": {"k": "w"}})).is(200).await?;
    s.api.delete(&item).is(200).await?;
    ensure!(watch.expect("MODIFIED", "a").await? == changed);
    let gone = watch.expect("DELETED", "a").await?;
    ensure!(gone["data"]["k"] == "w" && version(&gone)? > version(&changed)?, "{gone}");
    // The same from the path of old, and of one object.
    let one =
        format!("{path}?watch=true&resourceVersion={}&fieldSelector=metadata.name%3Da", version(&made)?);
    let mut again = s.api.get(&one).watch().await?;
    again.expect("MODIFIED", "a").await?;
    again.expect("DELETED", "a").await?;
    let old =
        format!("/api/v1/watch/namespaces/{}/configmaps/a?resourceVersion={}", s.namespace, version(&made)?);
    let mut old = s.api.get(&old).watch().await?;
    old.expect("MODIFIED", "a").await?;
    Ok(())
}

async fn watch_from_nowhere(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    s.make_map("a").await?;
    for version in ["", "&resourceVersion=0"] {
        let query = format!("{path}?watch=1&fieldSelector=metadata.name%3Da{version}");
        let mut watch = s.api.get(&query).watch().await?;
        watch.expect("ADDED", "a").await?;
    }
    s.api
        .get(&format!("{path}?watch=1&resourceVersion=abc"))
        .fails(
            500,
            "",
            &["resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"],
        )
        .await?;
    // Longer ago than anything a server remembers, or all it remembers: an error event or 410, or events.
    let answer = s.api.get(&format!("{path}?watch=1&resourceVersion=1&timeoutSeconds=1")).send().await?;
    ensure!([200, 410].contains(&answer.code), "{} {}", answer.code, answer.text());
    if answer.text().contains("ERROR") {
        ensure!(
            answer.text().contains("\"code\":410") && answer.text().contains("Expired"),
            "{}",
            answer.text()
        );
    }
    Ok(())
}

async fn watch_of_initial_events(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for name in ["a", "b"] {
        let mut map = s.map(name);
        map["metadata"]["labels"] = json!({"initial": "yes"});
        s.api.post(&path, &map).is(201).await?;
    }
    let selected = format!("{path}?watch=1&labelSelector=initial%3Dyes");
    let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = s.api.get(&format!("{selected}{query}")).watch().await?;
    let first = watch.next().await?.context("ended")?;
    if first["object"]["message"].as_str().is_some_and(|m| m.contains("RequestWatchProgress is disabled")) {
        println!("skipped: the server's etcd is too old for initial events");
        return Ok(());
    }
    ensure!(first["type"] == "ADDED" && first["object"]["metadata"]["name"] == "a", "{first}");
    watch.expect("ADDED", "b").await?;
    let end = watch.next().await?.context("ended")?;
    ensure!(end["type"] == "BOOKMARK", "{end}");
    ensure!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true", "{end}");
    ensure!(end["object"]["kind"] == "ConfigMap" && version(&end["object"])? > 0, "{end}");
    let mut map = s.map("c");
    map["metadata"]["labels"] = json!({"initial": "yes"});
    s.api.post(&path, &map).is(201).await?;
    watch.expect("ADDED", "c").await?;
    for (query, words) in [
        (
            "&sendInitialEvents=true",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    ] {
        s.api.get(&format!("{selected}{query}")).fails(422, "Invalid", &[words]).await.context(query)?;
    }
    Ok(())
}

async fn watch_bookmarks(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let made = s.make_map("a").await?;
    let query = format!(
        "{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds=4&resourceVersion={}&fieldSelector=metadata.name%3Dnone",
        version(&made)?
    );
    let mut watch = s.api.get(&query).watch().await?;
    for name in ["b", "c"] {
        s.make_map(name).await?;
    }
    // One comes shortly before the end, if not earlier.
    let mut last = version(&made)?;
    let mut seen = 0;
    while let Some(event) = watch.next().await? {
        ensure!(event["type"] == "BOOKMARK", "{event}");
        ensure!(version(&event["object"])? >= last, "{event}");
        ensure!(event["object"]["metadata"].get("name").is_none(), "{event}");
        last = version(&event["object"])?;
        seen += 1;
    }
    ensure!(seen > 0, "no bookmark came");
    Ok(())
}

async fn watch_ends_in_time(s: Space) -> Result<()> {
    let answer = s.api.get(&format!("{}?watch=1&timeoutSeconds=1", s.core("secrets"))).send().await?;
    ensure!(answer.code == 200, "{}", answer.text());
    ensure!(answer.header("content-type") == "application/json", "{:?}", answer.headers);
    let answer = s.api.get(&format!("{}?watch=1&timeoutSeconds=x", s.core("secrets"))).send().await?;
    answer.fails(400, "BadRequest", &["parsing \"x\": invalid syntax"])?;
    Ok(())
}

async fn watch_of_a_selection(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let made = s.make_map("a").await?;
    let query = format!("{path}?watch=1&labelSelector=color%3Dred&resourceVersion={}", version(&made)?);
    let mut watch = s.api.get(&query).watch().await?;
    let item = format!("{path}/a");
    let paint = |color: &str| {
        s.api.patch(&item, api::http::MERGE_PATCH, &json!({"metadata": {"labels": {"color": color}}}))
    };
    paint("red").is(200).await?;
    ensure!(watch.expect("ADDED", "a").await?["metadata"]["labels"]["color"] == "red");
    let blue = paint("blue").is(200).await?;
    // What leaves the selection is deleted for the watcher: as it was, at the version of the change.
    let gone = watch.expect("DELETED", "a").await?;
    ensure!(gone["metadata"]["labels"]["color"] == "red" && version(&gone)? == version(&blue)?, "{gone}");
    paint("green").is(200).await?;
    paint("red").is(200).await?;
    watch.expect("ADDED", "a").await?;
    Ok(())
}

async fn watch_refuses(s: Space) -> Result<()> {
    let far = version(&s.make_map("a").await?)? + 1_000_000;
    let query = format!("{}?watch=1&resourceVersion={far}&timeoutSeconds=2", s.core("configmaps"));
    let answer = s.api.get(&query).send().await?;
    // From the future: upstream waits, or says so.
    ensure!([200, 504].contains(&answer.code), "{} {}", answer.code, answer.text());
    Ok(())
}

async fn label_selectors(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for (name, labels) in
        [("a", json!({"x": "1", "t": ""})), ("b", json!({"x": "2", "t": ""})), ("c", json!({"t": ""}))]
    {
        let mut map = s.map(name);
        map["metadata"]["labels"] = labels;
        s.api.post(&path, &map).is(201).await?;
    }
    let cases: &[(&str, &[&str])] = &[
        ("t,x%3D1", &["a"]),
        ("t,x%3D%3D2", &["b"]),
        ("t,x!%3D1", &["b", "c"]),
        ("t,x", &["a", "b"]),
        ("t,!x", &["c"]),
        ("t,x%20in%20(1,2)", &["a", "b"]),
        ("t,x%20notin%20(1)", &["b", "c"]),
        ("t,x%3E1", &["b"]),
        ("t,x%3C2", &["a"]),
        ("t,x%20in%20(,2)", &["b"]),
        ("t%3D,x", &["a", "b"]),
        ("t,x%3D", &[]),
    ];
    for (selector, due) in cases {
        let list = s.api.get(&format!("{path}?labelSelector={selector}")).is(200).await.context(*selector)?;
        ensure!(names(&list) == *due, "{selector}: {:?}", names(&list));
    }
    Ok(())
}

async fn field_selectors(s: Space) -> Result<()> {
    s.service_account().await?;
    let pods = s.core("pods");
    for name in ["a", "b"] {
        let mut pod = s.pod(name);
        if name == "b" {
            pod["spec"]["nodeName"] = json!("elsewhere");
            pod["spec"]["restartPolicy"] = json!("Never");
        }
        s.api.post(&pods, &pod).is(201).await?;
    }
    let cases: &[(&str, &[&str])] = &[
        ("metadata.name%3Da", &["a"]),
        ("metadata.name!%3Da", &["b"]),
        ("spec.nodeName%3D", &["a"]),
        ("spec.nodeName%3Delsewhere", &["b"]),
        ("spec.restartPolicy%3DNever", &["b"]),
        ("spec.schedulerName%3Dnobody", &["a", "b"]),
        ("spec.serviceAccountName%3Ddefault", &["a", "b"]),
        ("spec.hostNetwork%3Dfalse", &["a", "b"]),
        ("status.phase%3DPending", &["a", "b"]),
        ("status.phase%3DRunning", &[]),
        ("status.podIP%3D", &["a", "b"]),
        ("status.nominatedNodeName%3D,metadata.name%3Db", &["b"]),
    ];
    for (selector, due) in cases {
        let list = s.api.get(&format!("{pods}?fieldSelector={selector}")).is(200).await.context(*selector)?;
        ensure!(names(&list) == *due, "{selector}: {:?}", names(&list));
    }
    let all = s
        .api
        .get(&format!("/api/v1/pods?fieldSelector=metadata.namespace%3D{}", s.namespace))
        .is(200)
        .await?;
    ensure!(names(&all) == ["a", "b"], "{all}");
    let secret = json!({"metadata": {"name": "s"}, "type": "example.com/kind"});
    s.api.post(&s.core("secrets"), &secret).is(201).await?;
    let list =
        s.api.get(&format!("{}?fieldSelector=type%3Dexample.com/kind", s.core("secrets"))).is(200).await?;
    ensure!(names(&list) == ["s"], "{list}");
    Ok(())
}

async fn bad_selectors(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for (query, words) in [
        ("labelSelector=a%3D%3D%3Db", "unable to parse requirement: found '=', expected: identifier"),
        ("labelSelector=a%20in%20", "unable to parse requirement: found '' expected: '('"),
        ("labelSelector=a%20is%20b", "unable to parse requirement: found 'is', expected: "),
        ("labelSelector=-a", "name part must consist of alphanumeric characters"),
        ("labelSelector=a%3Eb", "for 'Gt', 'Lt' operators, the value must be an integer"),
        (
            "labelSelector=a%3D-b",
            "a valid label must be an empty string or consist of alphanumeric characters",
        ),
        (
            "fieldSelector=foo%3Dbar",
            "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("fieldSelector=foo", "invalid selector: 'foo'; can't understand 'foo'"),
        ("fieldSelector=spec.nodeName%3Dx", "\"spec.nodeName\" is not a known field selector: only"),
    ] {
        s.api.get(&format!("{path}?{query}")).fails(400, "BadRequest", &[words]).await.context(query)?;
    }
    let gone = format!("{path}?labelSelector=a%3D%3D%3Db");
    s.api.delete(&gone).fails(400, "BadRequest", &["found '=', expected: identifier"]).await?;
    Ok(())
}

async fn paths_that_are_not(s: Space) -> Result<()> {
    for path in ["/apis/nosuch.example.com/v1/things", "/apis/nosuch.example.com", "/nosuch"] {
        let answer = s.api.get(path).send().await?;
        ensure!(
            answer.code == 404 && answer.text() == "404 page not found\n",
            "{path}: {} {}",
            answer.code,
            answer.text()
        );
    }
    s.api
        .get("/api/v1/nosuch")
        .fails(404, "NotFound", &["the server could not find the requested resource"])
        .await?;
    let sub = format!("{}/a/nosuch", s.core("configmaps"));
    s.api.get(&sub).fails(404, "NotFound", &["the server could not find the requested resource"]).await?;
    let words = ["the server does not allow this method on the requested resource"];
    s.api.post("/api/v1/configmaps", &s.map("a")).fails(405, "MethodNotAllowed", &words).await?;
    s.api.put("/api/v1/componentstatuses/a", &json!({})).fails(405, "MethodNotAllowed", &words).await?;
    let answer = s.api.get("/api/v1/namespaces/none-such/configmaps").is(200).await?;
    ensure!(answer["items"].as_array().is_some_and(Vec::is_empty), "{answer}");
    Ok(())
}
