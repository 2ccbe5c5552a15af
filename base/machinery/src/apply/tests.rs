//! What this module promises, case by case.

use super::*;
use crate::schema::builtin;
use proptest::prelude::*;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";

fn ctx<'a>(group: &str, version: &str, kind: &str, manager: &'a str, api_version: &'a str) -> Context<'a> {
    let b = builtin();
    Context {
        schema: &b.schema,
        root: b.kind(group, version, kind).unwrap(),
        manager,
        api_version,
        subresource: "",
        now: NOW,
        force: false,
        reset: &[&["status"]],
        builtin: true,
        others: None,
    }
}

fn deployment<'a>(manager: &'a str) -> Context<'a> {
    ctx("apps", "v1", "Deployment", manager, "apps/v1")
}

fn config(replicas: Option<i64>, image: &str) -> Value {
    let mut d = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}
        }
    });
    if let Some(replicas) = replicas {
        d["spec"]["replicas"] = replicas.into();
    }
    d
}

fn owned(object: &Value, manager: &str) -> Value {
    let entry = meta::managed_fields(object)
        .iter()
        .find(|e| e["manager"] == manager)
        .expect("the manager has an entry");
    entry["fieldsV1"].clone()
}

#[test]
fn apply_creates_with_upstreams_field_set() {
    let got = apply(None, &config(Some(2), "nginx"), &deployment("me")).unwrap();
    assert_eq!(
        owned(&got, "me"),
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:template": {"f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}
        })
    );
    assert_eq!(got["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(got["metadata"]["managedFields"][0]["time"], NOW);
}

#[test]
fn update_tracks_creation_as_upstream_shows_it() {
    let mut d = config(Some(2), "nginx");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    d["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({});
    d["spec"]["template"]["spec"]["securityContext"] = json!({});
    update(None, &mut d, &deployment("kubectl-create"));
    assert_eq!(
        owned(&d, "kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                        "f:resources": {}}},
                        "f:securityContext": {}}}}
        })
    );
}

#[test]
fn conflicts_and_force() {
    let mut live = config(Some(2), "nginx");
    update(None, &mut live, &deployment("kubectl-client-side-apply"));
    let error = apply(Some(&live), &config(Some(3), "nginx"), &deployment("me")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        error.causes(),
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    let two = apply(Some(&live), &config(Some(3), "other"), &deployment("me")).unwrap_err().to_string();
    assert_eq!(
        two,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let forced =
        apply(Some(&live), &config(Some(3), "nginx"), &Context { force: true, ..deployment("me") }).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert!(owned(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
    assert!(owned(&forced, "me")["f:spec"].get("f:replicas").is_some());
}

#[test]
fn fields_given_up_go_unless_shared() {
    let one = apply(None, &config(Some(2), "nginx"), &deployment("me")).unwrap();
    let dropped = apply(Some(&one), &config(None, "nginx"), &deployment("me")).unwrap();
    assert!(dropped["spec"].get("replicas").is_none());

    let shared = apply(Some(&one), &config(Some(2), "nginx"), &deployment("you")).unwrap();
    let kept = apply(Some(&shared), &config(None, "nginx"), &deployment("me")).unwrap();
    assert_eq!(kept["spec"]["replicas"], 2);

    // A container another manager added stays, the applier's own goes.
    let mut more = one.clone();
    more["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "side", "image": "s"}));
    update(Some(&one), &mut more, &deployment("injector"));
    let again = apply(Some(&more), &config(Some(2), "nginx"), &deployment("me")).unwrap();
    let names: Vec<&Value> = again["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["c", "side"]);
}

#[test]
fn updates_move_ownership_and_cost_nothing_when_equal() {
    let mut one = config(Some(1), "nginx");
    update(None, &mut one, &deployment("a"));
    let mut two = one.clone();
    two["spec"]["replicas"] = 5.into();
    update(Some(&one), &mut two, &Context { now: "2026-01-02T00:00:00Z", ..deployment("b") });
    assert_eq!(owned(&two, "b"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(owned(&two, "a")["f:spec"].get("f:replicas").is_none());
    let mut three = two.clone();
    update(Some(&two), &mut three, &Context { now: "2027-01-02T00:00:00Z", ..deployment("c") });
    assert_eq!(two, three);
    // A writer that removes a field takes it from its owner and is not recorded itself.
    let mut four = three.clone();
    four["metadata"].as_object_mut().unwrap().remove("labels");
    update(Some(&three), &mut four, &deployment("d"));
    assert!(owned(&four, "a")["f:metadata"].get("f:labels").is_none());
    assert!(!meta::managed_fields(&four).iter().any(|e| e["manager"] == "d"));
}

#[test]
fn status_is_its_own_manager_and_reset_fields_are_not_owned() {
    let mut one = config(Some(1), "nginx");
    one["status"] = json!({"replicas": 1});
    update(None, &mut one, &deployment("a"));
    assert!(owned(&one, "a").get("f:status").is_none());
    let mut two = one.clone();
    two["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    update(Some(&one), &mut two, &Context { subresource: "status", reset: &[&["spec"]], ..deployment("a") });
    let entry = meta::managed_fields(&two).iter().find(|e| e["subresource"] == "status").unwrap();
    assert_eq!(
        entry["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Available\"}"]["f:status"],
        json!({})
    );
}

#[test]
fn kubectl_migrates_from_client_side_apply() {
    let mut live = config(Some(2), "nginx");
    meta::set_annotation(&mut live, LAST_APPLIED, &config(Some(2), "nginx").to_string());
    update(None, &mut live, &deployment("kubectl-client-side-apply"));
    let merged = apply(Some(&live), &config(Some(4), "nginx"), &deployment("kubectl")).unwrap();
    assert_eq!(merged["spec"]["replicas"], 4);
    let last: Value = serde_json::from_str(meta::annotation(&merged, LAST_APPLIED).unwrap()).unwrap();
    assert_eq!(last["spec"]["replicas"], 4);
    // Had somebody else changed it since, it is a conflict.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 9.into();
    update(Some(&live), &mut scaled, &deployment("hpa"));
    assert!(
        matches!(apply(Some(&scaled), &config(Some(4), "nginx"), &deployment("kubectl")), Err(ApplyError::Conflicts(c)) if c.len() == 1)
    );
}

#[test]
fn update_entries_are_capped() {
    let mut object = config(Some(0), "nginx");
    update(None, &mut object, &deployment("m00"));
    for i in 1..15 {
        let old = object.clone();
        meta::set_annotation(&mut object, &format!("a{i}"), "x");
        let manager = format!("m{i:02}");
        let now = format!("2026-01-01T00:00:{i:02}Z");
        update(Some(&old), &mut object, &Context { now: &now, ..deployment(&manager) });
    }
    let entries = meta::managed_fields(&object);
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert!(entries[0]["fieldsV1"]["f:metadata"]["f:annotations"].get("f:a3").is_some());
}

#[test]
fn untracked_stays_untracked_until_applied() {
    let one = config(Some(1), "nginx");
    let mut two = one.clone();
    two["spec"]["replicas"] = 2.into();
    update(Some(&one), &mut two, &deployment("a"));
    assert!(meta::managed_fields(&two).is_empty());
    let applied = apply(Some(&two), &config(Some(2), "nginx"), &deployment("me")).unwrap();
    assert!(owned(&applied, "before-first-apply")["f:spec"].get("f:replicas").is_some());
    let mut reset = applied.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    update(Some(&applied), &mut reset, &deployment("a"));
    assert!(meta::managed_fields(&reset).is_empty());
}

#[test]
fn bad_configurations() {
    let mut bad = config(Some(1), "nginx");
    bad["spec"]["foo"] = 1.into();
    let message = apply(None, &bad, &deployment("me")).unwrap_err().to_string();
    assert_eq!(
        message,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    let mut twice = config(Some(1), "nginx");
    twice["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "c"}));
    let message = apply(None, &twice, &deployment("me")).unwrap_err().to_string();
    assert!(
        message.ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"c\"]"),
        "{message}"
    );
}

#[test]
fn list_order_follows_the_applied_one() {
    let service = |m| ctx("", "v1", "Pod", m, "v1");
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": containers}})
    };
    for (live, applied, want) in [
        (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
        (&["a", "b"], &["b", "x"], &["a", "b", "x"]),
        (&["a", "b"], &["x", "a"], &["x", "a", "b"]),
        (&[], &["x", "a"], &["x", "a"]),
    ] {
        let mut object = pod(live);
        update(None, &mut object, &service("other"));
        let merged = apply(Some(&object), &pod(applied), &service("me")).unwrap();
        let names: Vec<&str> = merged["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, want, "{live:?} + {applied:?}");
    }
}

/// Small Deployments that differ in the places where merging differs.
fn any_config() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
    let containers = proptest::sample::subsequence(vec!["c", "d", "e"], 1..=3).prop_shuffle();
    let ports = proptest::sample::subsequence(vec![80, 81], 0..=2);
    (proptest::option::of(0i64..3), labels, containers, ports, "[xy]").prop_map(
        |(replicas, labels, containers, ports, image)| {
            let mut d = config(replicas, &image);
            d["metadata"]["labels"] = json!(labels);
            let ports: Vec<Value> = ports.iter().map(|p| json!({"containerPort": p})).collect();
            let list: Vec<Value> =
                containers.iter().map(|n| json!({"name": n, "image": image, "ports": ports})).collect();
            d["spec"]["template"]["spec"]["containers"] = json!(list);
            d
        },
    )
}

proptest! {
    #[test]
    fn apply_is_idempotent(first in any_config(), other in any_config(), second in any_config()) {
        let mut live = apply(None, &first, &deployment("me")).unwrap();
        live = apply(Some(&live), &other, &Context { force: true, ..deployment("you") }).unwrap();
        let once = apply(Some(&live), &second, &Context { force: true, ..deployment("me") }).unwrap();
        let twice = apply(Some(&once), &second, &Context { now: "2030-01-01T00:00:00Z", ..deployment("me") }).unwrap();
        prop_assert_eq!(&once, &twice);
        // What was applied is there.
        let merged = merge::merge(&builtin().schema, deployment("me").root_kind(), Some(&once), Some(&second)).unwrap();
        prop_assert_eq!(once, merged);
    }

    #[test]
    fn a_sole_applier_leaves_exactly_its_configuration(first in any_config(), second in any_config()) {
        let live = apply(None, &first, &deployment("me")).unwrap();
        let mut got = apply(Some(&live), &second, &deployment("me")).unwrap();
        strip(&mut got);
        let mut want = apply(None, &second, &deployment("me")).unwrap();
        strip(&mut want);
        prop_assert_eq!(drop_empty(got), drop_empty(want));
    }

    #[test]
    fn after_an_update_every_change_is_owned(first in any_config(), second in any_config()) {
        let mut one = first;
        update(None, &mut one, &deployment("a"));
        let mut two = second;
        update(Some(&one), &mut two, &deployment("b"));
        let mut again = two.clone();
        update(Some(&two), &mut again, &deployment("c"));
        prop_assert_eq!(two, again);
    }
}

fn drop_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(k, v)| (k, drop_empty(v)))
                .filter(|(_, v)| {
                    !v.as_object().is_some_and(|m| m.is_empty())
                        && !v.as_array().is_some_and(|l| l.is_empty())
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(drop_empty).collect()),
        other => other,
    }
}
