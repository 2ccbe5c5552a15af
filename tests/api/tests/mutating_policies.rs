//! Mutating admission policies as a client of the API sees them.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::policies::*;
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn mutating_policies() {
    api::run(cases![
        mutations_in_order,
        mutations_with_params,
        mutations_that_fail,
        mutations_of_lists,
        mutating_policies_refused,
    ]);
}

/// Creates, dry, until a mutating policy has left its mark.
async fn mutated(s: &Space, object: &Value) -> Result<Value> {
    eventually("the policy", || async {
        let made = dry(s, object).await?.is(201)?;
        Ok((made["data"]["mark"] == "yes").then_some(made))
    })
    .await
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

async fn mutations_in_order(s: Space) -> Result<()> {
    let spec = |letter: &str, again: &str| {
        json!({"reinvocationPolicy": again, "mutations": [patch(&format!(
            "[JSONPatch{{op: 'add', path: '/data/order', value: (has(object.data.order) ? object.data.order : '') + '{letter}'}}]"))]})
    };
    let a = Policy::start(&s, "mutating", "a", spec("a", "Never"), json!({})).await?;
    let b = Policy::start(&s, "mutating", "b", spec("b", "Never"), json!({})).await?;
    let c = Policy::start(&s, "mutating", "c", json!({"reinvocationPolicy": "Never", "mutations": [apply(MARK),
        patch("has(object.data.mark) ? [JSONPatch{op: 'add', path: '/data/second', value: object.data.mark}] : []")]}), json!({})).await?;
    let made = mutated(&s, &s.map("x")).await?;
    // Mutations of one policy run in their order, policies in any.
    let order = made["data"]["order"].as_str().unwrap_or_default();
    ensure!(["ab", "ba"].contains(&order), "{made}");
    ensure!(made["data"] == json!({"k": "v", "order": order, "mark": "yes", "second": "yes"}), "{made}");
    for policy in [a, b, c] {
        policy.end().await?;
    }
    Ok(())
}

async fn mutations_with_params(s: Space) -> Result<()> {
    hold_params(&s).await?;
    s.api.post(&s.core("configmaps"), &with(&s, "more", json!({"add": "it"}))).is(201).await?;
    let policy = Policy::start(
        &s,
        "mutating",
        "p",
        json!({"reinvocationPolicy": "Never", "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
               "variables": [{"name": "text", "expression": "params.data.add + '-' + object.metadata.name"}],
               "matchConditions": [{"name": "not-params", "expression": "object.metadata.name != 'more'"}],
               "mutations": [apply("Object{data: {'mark': 'yes', 'text': variables.text}, metadata: Object.metadata{annotations: {'by': params.metadata.name}}}")]}),
        json!({"paramRef": {"name": "more", "namespace": s.namespace, "parameterNotFoundAction": "Deny"}}),
    )
    .await?;
    let made = mutated(&s, &s.map("x")).await?;
    ensure!(made["data"] == json!({"k": "v", "mark": "yes", "text": "it-x"}), "{made}");
    ensure!(made["metadata"]["annotations"] == json!({"by": "more"}), "{made}");
    policy.end().await
}

async fn mutations_that_fail(s: Space) -> Result<()> {
    let name = |policy: &Policy<'_>| format!("policy '{0}' with binding '{0}' denied request", policy.name);
    for (at, expression, words) in [
        ("a", patch("[JSONPatch{op: 'remove', path: '/data/none'}]"), "JSON Patch: "),
        ("b", apply("Object{data: {'x': object.data.none}}"), "no such key: none"),
    ] {
        let policy = Policy::start(
            &s,
            "mutating",
            at,
            json!({"reinvocationPolicy": "Never", "mutations": [expression]}),
            json!({}),
        )
        .await?;
        let answer = refused(&s, &s.map("x")).await?;
        let said = answer.json()?;
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with(&name(&policy)) && message.contains(words), "{at}: {said}");
        ensure!(answer.code == 403 && said["reason"] == "Invalid", "{at}: {said}");
        ensure!(
            said["details"] == json!({"name": "x", "kind": "configmaps", "causes": [{"message": message}]}),
            "{said}"
        );
        policy.end().await?;
        eventually("its end", || async { Ok((dry(&s, &s.map("a")).await?.code == 201).then_some(())) })
            .await?;
    }
    // A test that fails stops its patch and nothing else.
    let tests = json!({"reinvocationPolicy": "Never", "mutations": [apply(MARK),
        patch("[JSONPatch{op: 'test', path: '/data/k', value: 'other'}, JSONPatch{op: 'add', path: '/data/x', value: 'y'}]")]});
    let policy = Policy::start(&s, "mutating", "t", tests, json!({})).await?;
    let made = mutated(&s, &s.map("x")).await?;
    ensure!(made["data"] == json!({"k": "v", "mark": "yes"}), "{made}");
    policy.end().await?;
    let ignored = Policy::start(&s, "mutating", "m", json!({"reinvocationPolicy": "Never", "failurePolicy": "Ignore", "mutations": [patch("[JSONPatch{op: 'remove', path: '/data/none'}]")]}), json!({})).await?;
    let marker = Policy::start(
        &s,
        "mutating",
        "z",
        json!({"reinvocationPolicy": "Never", "mutations": [apply(MARK)]}),
        json!({}),
    )
    .await?;
    mutated(&s, &s.map("x")).await?;
    ignored.end().await?;
    marker.end().await
}

async fn mutations_of_lists(s: Space) -> Result<()> {
    s.service_account().await?;
    let policy = Policy::start(&s, "mutating", "p", json!({"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": rules(&["CREATE"], "", "pods")}, "mutations": [
        apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', env: [Object.spec.containers.env{name: 'A', value: 'b'}]}], initContainers: [Object.spec.initContainers{name: 'init', image: 'i:1'}]}}")]}), json!({})).await?;
    let path = format!("{}?dryRun=All", s.core("pods"));
    let made = eventually("the policy", || async {
        let made = s.api.post(&path, &s.pod("x")).is(201).await?;
        Ok(made["spec"]["initContainers"].is_array().then_some(made))
    })
    .await?;
    let container = &made["spec"]["containers"][0];
    ensure!(
        container["env"] == json!([{"name": "A", "value": "b"}])
            && container["image"] == "example.com/image:1",
        "{container}"
    );
    let init = &made["spec"]["initContainers"][0];
    ensure!(init["name"] == "init" && init["terminationMessagePath"] == "/dev/termination-log", "{init}");
    policy.end().await
}

async fn mutating_policies_refused(s: Space) -> Result<()> {
    let path = format!("{GROUP}/mutatingadmissionpolicies?dryRun=All");
    for (more, words) in [
        (
            json!({"mutations": []}),
            "spec.mutations: Required value: mutations must contain at least one item",
        ),
        (
            json!({"mutations": [{"patchType": "Magic"}]}),
            "spec.mutations[0].patchType: Unsupported value: \"Magic\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
        ),
        (
            json!({"mutations": [{"patchType": "JSONPatch"}]}),
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
        ),
        (
            json!({"mutations": [apply("object.(")]}),
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"object.(\": compilation failed: ",
        ),
        (
            json!({"mutations": [apply("'text'")]}),
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"'text'\": must evaluate to Object",
        ),
        (
            json!({"mutations": [patch("1")]}),
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"1\": must evaluate to list(JSONPatch)",
        ),
        (
            json!({"reinvocationPolicy": "Often"}),
            "spec.reinvocationPolicy: Unsupported value: \"Often\": supported values: \"IfNeeded\", \"Never\"",
        ),
    ] {
        let mut spec = json!({"reinvocationPolicy": "Never", "mutations": [apply(MARK)], "matchConstraints": {"resourceRules": rules(&["CREATE"], "", "configmaps")}});
        extend(&mut spec, &more);
        s.api
            .post(&path, &json!({"metadata": {"name": s.unique}, "spec": spec}))
            .fails(422, "Invalid", &[words])
            .await
            .context(more.to_string())?;
    }
    Ok(())
}
