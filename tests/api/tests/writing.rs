//! create, update, delete: concurrency, names, dry runs, validation of fields, finalizers and grace.

use anyhow::{Context, Result, ensure};
use api::http::{MERGE_PATCH, YAML};
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn writing() {
    api::run(cases![
        creation_makes_metadata,
        generated_names,
        optimistic_concurrency,
        updates_keep_what_is_not_theirs,
        update_may_create_nothing,
        one_of_many_updates_wins,
        no_change_no_version,
        preconditions,
        dry_runs,
        unknown_fields,
        finalizers,
        graceful_deletion,
        propagation,
        deletion_of_many,
        names_that_do_not_fit,
        status_is_another_thing,
        immutable_things,
        a_namespace_goes,
        scale,
        eviction_and_binding,
    ]);
}

fn meta(object: &Value, field: &str) -> Value {
    object["metadata"][field].clone()
}

async fn creation_makes_metadata(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let mut map = s.map("a");
    map["metadata"]["uid"] = json!("mine");
    map["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    map["metadata"]["generation"] = json!(7);
    map["metadata"]["selfLink"] = json!("/x");
    map["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    let made = s.api.post(&path, &map).is(201).await?;
    ensure!(meta(&made, "uid").as_str().is_some_and(|u| u.len() == 36), "{made}");
    ensure!(
        meta(&made, "creationTimestamp") != "2001-01-01T00:00:00Z" && meta(&made, "namespace") == s.namespace,
        "{made}"
    );
    ensure!(meta(&made, "deletionTimestamp").is_null() && meta(&made, "selfLink").is_null(), "{made}");
    let entry = &made["metadata"]["managedFields"][0];
    ensure!(
        entry["manager"] == "suite" && entry["operation"] == "Update" && entry["fieldsType"] == "FieldsV1",
        "{entry}"
    );
    ensure!(entry["fieldsV1"] == json!({"f:data": {".": {}, "f:k": {}}}), "{entry}");
    s.api.post(&path, &map).fails(409, "AlreadyExists", &["configmaps \"a\" already exists"]).await?;
    let mut map = s.map("b");
    map["metadata"]["resourceVersion"] = json!("5");
    let words = ["resourceVersion should not be set on objects to be created"];
    let status = s.api.post(&path, &map).fails(500, "", &words).await?;
    ensure!(status.get("reason").is_none(), "what is empty is left out: {status}");
    let mut map = s.map("b");
    map["metadata"]["namespace"] = json!("elsewhere");
    let words = ["the namespace of the provided object does not match the namespace sent on the request"];
    s.api.post(&path, &map).fails(400, "BadRequest", &words).await?;
    let words = ["namespaces \"none-such\" not found"];
    s.api.post("/api/v1/namespaces/none-such/configmaps", &s.map("a")).fails(404, "NotFound", &words).await?;
    let mut secret = s.map("b");
    secret["kind"] = json!("Secret");
    let words = ["Secret in version \"v1\" cannot be handled as a ConfigMap"];
    s.api.post(&path, &secret).fails(400, "BadRequest", &words).await?;
    Ok(())
}

async fn generated_names(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = s.api.post(&path, &json!({"metadata": {"generateName": "gen-"}})).is(201).await?;
        let name = meta(&made, "name").as_str().context("no name")?.to_owned();
        let tail = name.strip_prefix("gen-").context("prefix")?;
        ensure!(tail.len() == 5 && tail.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{name}");
        ensure!(meta(&made, "generateName") == "gen-", "{made}");
        names.insert(name);
    }
    ensure!(names.len() == 20);
    let words = ["name or generateName is required"];
    s.api.post(&path, &json!({"metadata": {}})).fails(422, "Invalid", &words).await?;
    let long = "x".repeat(300);
    let made =
        s.api.post(&path, &json!({"metadata": {"generateName": long}})).fails(422, "Invalid", &[]).await?;
    ensure!(
        made["details"]["causes"][0]["field"].as_str().is_some_and(|f| f.starts_with("metadata.")),
        "{made}"
    );
    Ok(())
}

async fn optimistic_concurrency(s: Space) -> Result<()> {
    let item = format!("{}/a", s.core("configmaps"));
    let first = s.make_map("a").await?;
    let mut second = first.clone();
    second["data"]["k"] = json!("w");
    let second = s.api.put(&item, &second).is(200).await?;
    let mut stale = first.clone();
    stale["data"]["k"] = json!("x");
    let words = [
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the \
         latest version and try again",
    ];
    let status = s.api.put(&item, &stale).fails(409, "Conflict", &words).await?;
    ensure!(status["details"] == json!({"name": "a", "kind": "configmaps"}), "{status}");
    let patch = json!({"metadata": {"resourceVersion": meta(&first, "resourceVersion")}, "data": {"k": "x"}});
    s.api.patch(&item, MERGE_PATCH, &patch).fails(409, "Conflict", &words).await?;
    let mut other = second.clone();
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let words = [
        "Precondition failed: UID in precondition: 00000000-0000-0000-0000-000000000000, UID in object meta: ",
    ];
    s.api.put(&item, &other).fails(409, "Conflict", &words).await?;
    // Without a version the last one wins.
    s.api.put(&item, &s.map("a")).is(200).await?;
    let mut junk = s.map("a");
    junk["metadata"]["resourceVersion"] = json!("junk");
    s.api.put(&item, &junk).fails(500, "", &["strconv.ParseUint: parsing \"junk\": invalid syntax"]).await?;
    let words = ["the name of the object (b) does not match the name on the URL (a)"];
    s.api.put(&item, &s.map("b")).fails(400, "BadRequest", &words).await?;
    Ok(())
}

async fn updates_keep_what_is_not_theirs(s: Space) -> Result<()> {
    let item = format!("{}/a", s.core("configmaps"));
    let made = s.make_map("a").await?;
    let mut next = made.clone();
    next["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    next["metadata"]["labels"] = json!({"l": "1"});
    let said = s.api.put(&item, &next).send().await?;
    // Upstream restores what the server owns.
    let changed = said.is(200)?;
    ensure!(meta(&changed, "creationTimestamp") == meta(&made, "creationTimestamp"), "{changed}");
    ensure!(
        meta(&changed, "uid") == meta(&made, "uid") && meta(&changed, "labels") == json!({"l": "1"}),
        "{changed}"
    );
    Ok(())
}

async fn update_may_create_nothing(s: Space) -> Result<()> {
    let item = format!("{}/none", s.core("configmaps"));
    s.api.put(&item, &s.map("none")).fails(404, "NotFound", &["configmaps \"none\" not found"]).await?;
    s.api
        .patch(&item, MERGE_PATCH, &json!({}))
        .fails(404, "NotFound", &["configmaps \"none\" not found"])
        .await?;
    s.api.delete(&item).fails(404, "NotFound", &["configmaps \"none\" not found"]).await?;
    // Leases may be created by an update.
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let path = s.path("coordination.k8s.io/v1", "leases");
    s.api.put(&format!("{path}/l"), &lease).is(201).await?;
    Ok(())
}

async fn one_of_many_updates_wins(s: Space) -> Result<()> {
    let item = format!("{}/a", s.core("configmaps"));
    let made = s.make_map("a").await?;
    let calls = (0..8).map(|n| {
        let mut next = made.clone();
        next["data"]["k"] = json!(format!("{n}"));
        s.api.put(&item, &next).send()
    });
    let codes: Vec<u16> = futures::future::try_join_all(calls).await?.iter().map(|a| a.code).collect();
    let won = codes.iter().filter(|c| **c == 200).count();
    ensure!(won == 1 && codes.iter().all(|c| [200, 409].contains(c)), "{codes:?}");
    // Patches without a version are all carried out.
    let calls =
        (0..4).map(|n| s.api.patch(&item, MERGE_PATCH, &json!({"data": {format!("p{n}"): "1"}})).send());
    for answer in futures::future::try_join_all(calls).await? {
        answer.is(200)?;
    }
    let end = s.api.get(&item).is(200).await?;
    ensure!((0..4).all(|n| end["data"][format!("p{n}")] == "1"), "{end}");
    Ok(())
}

async fn no_change_no_version(s: Space) -> Result<()> {
    let item = format!("{}/a", s.core("configmaps"));
    let made = s.make_map("a").await?;
    ensure!(s.api.put(&item, &made).is(200).await? == made);
    ensure!(s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": "v"}})).is(200).await? == made);
    Ok(())
}

async fn preconditions(s: Space) -> Result<()> {
    let item = format!("{}/a", s.core("configmaps"));
    let made = s.make_map("a").await?;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let words = [
        "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match the UID in \
         record (",
    ];
    s.api.delete(&item).json(&options).fails(409, "Conflict", &words).await?;
    let options = json!({"preconditions": {"resourceVersion": "1"}});
    let words = [
        "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (",
    ];
    s.api.delete(&item).json(&options).fails(409, "Conflict", &words).await?;
    let options = json!({"preconditions": {"uid": meta(&made, "uid"), "resourceVersion": meta(&made, "resourceVersion")}});
    let done = s.api.delete(&item).json(&options).is(200).await?;
    ensure!(done["status"] == "Success" && done["details"]["uid"] == meta(&made, "uid"), "{done}");
    ensure!(done["details"]["name"] == "a" && done["details"]["kind"] == "configmaps", "{done}");
    Ok(())
}

async fn dry_runs(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let dry = s.api.post(&format!("{path}?dryRun=All"), &s.map("a")).is(201).await?;
    ensure!(meta(&dry, "uid").is_string() && meta(&dry, "resourceVersion").is_null(), "{dry}");
    s.api.get(&format!("{path}/a")).is(404).await?;
    let made = s.make_map("a").await?;
    let item = format!("{path}/a?dryRun=All");
    let dry = s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": "w"}})).is(200).await?;
    ensure!(dry["data"]["k"] == "w", "{dry}");
    s.api.delete(&item).is(200).await?;
    s.api.delete(&format!("{path}?dryRun=All")).is(200).await?;
    s.api.delete(&format!("{path}/a")).json(&json!({"dryRun": ["All"]})).is(200).await?;
    ensure!(s.api.get(&format!("{path}/a")).is(200).await? == made);
    let words = ["dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""];
    s.api.post(&format!("{path}?dryRun=Some"), &s.map("b")).fails(422, "Invalid", &words).await?;
    Ok(())
}

async fn unknown_fields(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labelz":{}},"data":{"k":"1","k":"2"},"dat":{}}"#;
    let send = |mode: &str| {
        s.api
            .post(&format!("{path}?dryRun=All&fieldValidation={mode}"), &json!({}))
            .body("application/json", body)
            .send()
    };
    let strict = send("Strict").await?;
    let due = "strict decoding error: duplicate field \"data.k\", unknown field \"dat\", unknown field \"metadata.labelz\"";
    let status = strict.is(400)?;
    ensure!(status["reason"] == "BadRequest", "{status}");
    for word in [
        "strict decoding error: ",
        "duplicate field \"data.k\"",
        "unknown field \"dat\"",
        "unknown field \"metadata.labelz\"",
    ] {
        ensure!(status["message"].as_str().is_some_and(|m| m.contains(word)), "{due} was due: {status}");
    }
    let warn = send("Warn").await?;
    warn.is(201)?;
    let mut warnings = warn.warnings();
    warnings.sort();
    ensure!(
        warnings
            == ["duplicate field \"data.k\"", "unknown field \"dat\"", "unknown field \"metadata.labelz\""],
        "{warnings:?}"
    );
    let ignore = send("Ignore").await?;
    ensure!(ignore.is(201)?["data"]["k"] == "2" && ignore.warnings().is_empty(), "{ignore:?}");
    let words = [
        "fieldValidation: Unsupported value: \"Loud\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
    ];
    send("Loud").await?.fails(422, "Invalid", &words)?;
    // The same of YAML and of patches.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\nnope: 1\n";
    let words = ["strict decoding error: unknown field \"nope\""];
    let call = s.api.post(&format!("{path}?dryRun=All&fieldValidation=Strict"), &json!({})).body(YAML, yaml);
    call.fails(400, "BadRequest", &words).await?;
    s.make_map("a").await?;
    let item = format!("{path}/a?fieldValidation=Strict");
    s.api.patch(&item, MERGE_PATCH, &json!({"nope": 1})).fails(422, "Invalid", &words).await?;
    let item = format!("{path}/a?fieldValidation=Warn");
    let warned = s.api.patch(&item, MERGE_PATCH, &json!({"nope": 1})).send().await?;
    warned.is(200)?;
    ensure!(warned.warnings() == ["unknown field \"nope\""], "{warned:?}");
    Ok(())
}

async fn finalizers(s: Space) -> Result<()> {
    let (path, item) = (s.core("configmaps"), format!("{}/a", s.core("configmaps")));
    let mut map = s.map("a");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    s.api.post(&path, &map).is(201).await?;
    let held = s.api.delete(&item).is(200).await?;
    ensure!(held["kind"] == "ConfigMap" && meta(&held, "deletionTimestamp").is_string(), "{held}");
    ensure!(meta(&held, "deletionGracePeriodSeconds") == 0, "{held}");
    // Nothing may be added now, and a second deletion changes nothing.
    let again = s.api.delete(&item).is(200).await?;
    ensure!(meta(&again, "deletionTimestamp") == meta(&held, "deletionTimestamp"), "{again}");
    let patch = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let words =
        ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"];
    s.api.patch(&item, MERGE_PATCH, &patch).fails(422, "Invalid", &words).await?;
    s.api
        .post(&path, &s.map("a"))
        .fails(409, "AlreadyExists", &["object is being deleted: configmaps \"a\" already exists"])
        .await?;
    let last = s.api.patch(&item, MERGE_PATCH, &json!({"metadata": {"finalizers": null}})).is(200).await?;
    ensure!(meta(&last, "deletionTimestamp").is_string(), "{last}");
    s.api.get(&item).is(404).await?;
    let mut map = s.map("b");
    map["metadata"]["finalizers"] = json!(["nodomain"]);
    let words = [
        "metadata.finalizers[0]: Invalid value: \"nodomain\": name is neither a standard finalizer name nor is it fully qualified",
    ];
    let answer = s.api.post(&path, &map).send().await?;
    ensure!(answer.fails(422, "Invalid", &words).is_ok(), "{}", answer.text());
    Ok(())
}

async fn graceful_deletion(s: Space) -> Result<()> {
    s.service_account().await?;
    let (path, item) = (s.core("pods"), format!("{}/a", s.core("pods")));
    // One that runs somewhere waits for its node.
    let mut pod = s.pod("a");
    pod["spec"]["nodeName"] = json!("elsewhere");
    s.api.post(&path, &pod).is(201).await?;
    let going = s.api.delete(&format!("{item}?gracePeriodSeconds=600")).is(200).await?;
    ensure!(meta(&going, "deletionGracePeriodSeconds") == 600, "{going}");
    ensure!(meta(&going, "deletionTimestamp").is_string() && meta(&going, "generation") == 2, "{going}");
    let sooner = s.api.delete(&item).json(&json!({"gracePeriodSeconds": 60})).is(200).await?;
    ensure!(meta(&sooner, "deletionGracePeriodSeconds") == 60, "{sooner}");
    let longer = s.api.delete(&format!("{item}?gracePeriodSeconds=100")).is(200).await?;
    ensure!(meta(&longer, "deletionGracePeriodSeconds") == 60, "it only shrinks: {longer}");
    s.api.delete(&format!("{item}?gracePeriodSeconds=0")).is(200).await?;
    s.api.get(&item).is(404).await?;
    // One that runs nowhere goes at once.
    s.api.post(&path, &s.pod("b")).is(201).await?;
    s.api.delete(&format!("{path}/b")).is(200).await?;
    s.api.get(&format!("{path}/b")).is(404).await?;
    s.api
        .delete(&format!("{item}?gracePeriodSeconds=x"))
        .fails(400, "BadRequest", &["parsing \"x\": invalid syntax"])
        .await?;
    Ok(())
}

async fn propagation(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "replicasets");
    let set = |name: &str| {
        json!({"metadata": {"name": name, "finalizers": ["example.com/hold"]},
               "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                        "template": {"metadata": {"labels": {"a": "b"}},
                                     "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (policy, due) in [
        ("Foreground", json!(["example.com/hold", "foregroundDeletion"])),
        ("Orphan", json!(["example.com/hold", "orphan"])),
        ("Background", json!(["example.com/hold"])),
    ] {
        let name = policy.to_lowercase();
        s.api.post(&path, &set(&name)).is(201).await?;
        let going = s.api.delete(&format!("{path}/{name}?propagationPolicy={policy}")).is(200).await?;
        let mut finalizers = meta(&going, "finalizers").as_array().cloned().unwrap_or_default();
        finalizers.sort_by_key(Value::to_string);
        ensure!(json!(finalizers) == due, "{policy}: {going}");
        s.api
            .patch(&format!("{path}/{name}"), MERGE_PATCH, &json!({"metadata": {"finalizers": null}}))
            .is(200)
            .await?;
    }
    s.api.post(&path, &set("x")).is(201).await?;
    let words = [
        "propagationPolicy: Unsupported value: \"Sometimes\": supported values: \"Background\", \"Foreground\", \"Orphan\"",
    ];
    let answer = s.api.delete(&format!("{path}/x?propagationPolicy=Sometimes")).send().await?;
    ensure!(answer.code == 422, "{}", answer.text());
    ensure!(answer.text().contains("Sometimes"), "{} was due: {}", words[0], answer.text());
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    let words = ["orphanDependents and deletionPropagation cannot be both set"];
    s.api.delete(&format!("{path}/x")).json(&both).fails(422, "Invalid", &words).await?;
    s.api
        .patch(&format!("{path}/x"), MERGE_PATCH, &json!({"metadata": {"finalizers": null}}))
        .is(200)
        .await?;
    Ok(())
}

async fn deletion_of_many(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        let mut map = s.map(name);
        map["metadata"]["labels"] = json!({"color": color});
        s.api.post(&path, &map).is(201).await?;
    }
    let gone = s.api.delete(&format!("{path}?labelSelector=color%3Dred")).is(200).await?;
    ensure!(
        gone["kind"] == "ConfigMapList" && gone["items"].as_array().is_some_and(|i| i.len() == 2),
        "{gone}"
    );
    let left = s.api.get(&format!("{path}?labelSelector=color")).is(200).await?;
    ensure!(
        left["items"].as_array().is_some_and(|i| i.len() == 1 && i[0]["metadata"]["name"] == "c"),
        "{left}"
    );
    s.api.delete(&format!("{path}?fieldSelector=metadata.name%3Dc")).is(200).await?;
    s.api.get(&format!("{path}/c")).is(404).await?;
    Ok(())
}

async fn names_that_do_not_fit(s: Space) -> Result<()> {
    let maps = s.core("configmaps");
    for (path, name, words) in [
        (
            &maps,
            "Upper",
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
        ),
        (&maps, "a_b", "a lowercase RFC 1123 subdomain must consist of"),
        (
            &s.core("services"),
            "-a",
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'",
        ),
        (&s.path("rbac.authorization.k8s.io/v1", "roles"), "a%b", "may not contain '%'"),
        (&s.path("rbac.authorization.k8s.io/v1", "roles"), "a/b", "may not contain '/'"),
    ] {
        let mut object = json!({"metadata": {"name": name}});
        if path.ends_with("services") {
            object["spec"] = json!({"ports": [{"port": 80}]});
        }
        let status = s
            .api
            .post(path, &object)
            .fails(422, "Invalid", &["metadata.name: Invalid value", words])
            .await
            .context(name)?;
        ensure!(status["details"]["causes"][0]["field"] == "metadata.name", "{status}");
    }
    Ok(())
}

async fn status_is_another_thing(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    let object = json!({"metadata": {"name": "d"}, "status": {"replicas": 9},
        "spec": {"paused": true, "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = s.api.post(&path, &object).is(201).await?;
    ensure!(made["status"] == json!({}) && meta(&made, "generation") == 1, "{made}");
    let item = format!("{path}/d");
    let next = s.api.patch(&item, MERGE_PATCH, &json!({"status": {"replicas": 8}})).is(200).await?;
    ensure!(next["status"].get("replicas").is_none() && meta(&next, "generation") == 1, "{next}");
    let patch = json!({"spec": {"minReadySeconds": 5}, "status": {"conditions": [{"type": "Sunny", "status": "True"}]}});
    let next = s.api.patch(&format!("{item}/status"), MERGE_PATCH, &patch).is(200).await?;
    ensure!(
        next["spec"].get("minReadySeconds").is_none() && next["status"]["conditions"][0]["type"] == "Sunny",
        "{next}"
    );
    let next = s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"minReadySeconds": 5}})).is(200).await?;
    ensure!(meta(&next, "generation") == 2 && next["status"]["conditions"][0]["type"] == "Sunny", "{next}");
    Ok(())
}

async fn immutable_things(s: Space) -> Result<()> {
    let path = s.core("configmaps");
    let mut map = s.map("a");
    map["immutable"] = json!(true);
    s.api.post(&path, &map).is(201).await?;
    let item = format!("{path}/a");
    let words = ["data: Forbidden: field is immutable when `immutable` is set"];
    s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": "w"}})).fails(422, "Invalid", &words).await?;
    let words = ["immutable: Forbidden: field is immutable when `immutable` is set"];
    s.api.patch(&item, MERGE_PATCH, &json!({"immutable": false})).fails(422, "Invalid", &words).await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"metadata": {"labels": {"a": "b"}}})).is(200).await?;
    s.service_account().await?;
    s.api.post(&s.core("pods"), &s.pod("p")).is(201).await?;
    let words = ["spec: Forbidden: pod updates may not change fields other than"];
    let patch = json!({"spec": {"hostname": "x"}});
    s.api.patch(&format!("{}/p", s.core("pods")), MERGE_PATCH, &patch).fails(422, "Invalid", &words).await?;
    Ok(())
}

async fn a_namespace_goes(s: Space) -> Result<()> {
    let name = format!("{}-x", s.unique);
    let body = json!({"metadata": {"name": name}});
    let made = s.api.post("/api/v1/namespaces", &body).is(201).await?;
    ensure!(
        made["spec"]["finalizers"] == json!(["kubernetes"]) && made["status"]["phase"] == "Active",
        "{made}"
    );
    ensure!(made["metadata"]["labels"]["kubernetes.io/metadata.name"] == name, "{made}");
    let path = format!("/api/v1/namespaces/{name}/configmaps");
    let mut held = s.map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    s.api.post(&path, &held).is(201).await?;
    let going = s.api.delete(&format!("/api/v1/namespaces/{name}")).is(200).await?;
    ensure!(going["status"]["phase"] == "Terminating", "{going}");
    let words = format!("unable to create new content in namespace {name} because it is being terminated");
    let status = s.api.post(&path, &s.map("late")).fails(403, "Forbidden", &[&words]).await?;
    ensure!(status["details"]["causes"][0]["reason"] == "NamespaceTerminating", "{status}");
    s.api
        .patch(&format!("{path}/held"), MERGE_PATCH, &json!({"metadata": {"finalizers": null}}))
        .is(200)
        .await?;
    let words = ["this namespace may not be deleted"];
    s.api.delete("/api/v1/namespaces/kube-system").fails(403, "Forbidden", &words).await?;
    Ok(())
}

async fn scale(s: Space) -> Result<()> {
    let path = s.path("apps/v1", "deployments");
    let object = json!({"metadata": {"name": "d"},
        "spec": {"paused": true, "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}}}});
    s.api.post(&path, &object).is(201).await?;
    let item = format!("{path}/d/scale");
    let mut scale = s.api.get(&item).is(200).await?;
    ensure!(
        scale["kind"] == "Scale" && scale["apiVersion"] == "autoscaling/v1" && scale["spec"] == json!({}),
        "{scale}"
    );
    ensure!(scale["status"]["selector"] == "a=b", "{scale}");
    scale["spec"]["replicas"] = json!(1);
    let stale = scale.clone();
    scale["metadata"]["resourceVersion"] = Value::Null;
    let next = s.api.put(&item, &scale).is(200).await?;
    ensure!(next["spec"]["replicas"] == 1, "{next}");
    s.api.put(&item, &stale).fails(409, "Conflict", &["the object has been modified"]).await?;
    let words = ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"];
    s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"replicas": -1}})).fails(422, "Invalid", &words).await?;
    ensure!(
        s.api.patch(&item, MERGE_PATCH, &json!({"spec": {"replicas": 0}})).is(200).await?["spec"]
            == json!({})
    );
    Ok(())
}

async fn eviction_and_binding(s: Space) -> Result<()> {
    s.service_account().await?;
    let pods = s.core("pods");
    s.api.post(&pods, &s.pod("a")).is(201).await?;
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "elsewhere"}});
    s.api.post(&format!("{pods}/a/binding"), &bind).is(201).await?;
    let words = ["pod a is already assigned to node \"elsewhere\""];
    s.api.post(&format!("{pods}/a/binding"), &bind).fails(409, "Conflict", &words).await?;
    let bound = s.api.get(&format!("{pods}/a")).is(200).await?;
    ensure!(bound["spec"]["nodeName"] == "elsewhere", "{bound}");
    let scheduled =
        bound["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "PodScheduled");
    ensure!(scheduled.is_some_and(|c| c["status"] == "True"), "{bound}");
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    s.api.post(&format!("{pods}/a/eviction?dryRun=All"), &evict).is(201).await?;
    ensure!(meta(&s.api.get(&format!("{pods}/a")).is(200).await?, "deletionTimestamp").is_null());
    s.api.post(&format!("{pods}/a/eviction"), &evict).is(201).await?;
    ensure!(meta(&s.api.get(&format!("{pods}/a")).is(200).await?, "deletionTimestamp").is_string());
    s.api.delete(&format!("{pods}/a?gracePeriodSeconds=0")).is(200).await?;
    Ok(())
}
