//! Validating admission policies as a client of the API sees them.

use anyhow::{Result, ensure};
use api::case::eventually;
use api::http::MERGE_PATCH;
use api::policies::*;
use api::{Space, cases};
use serde_json::{Value, json};

#[test]
fn policies() {
    api::run(cases![
        messages_and_reasons,
        params_by_name,
        params_by_selector,
        params_of_a_custom_kind,
        missing_params,
        warnings_instead,
        match_conditions,
        what_is_matched,
        what_expressions_see,
        authorizer,
        failing_expressions,
        equivalent_versions,
        updates_and_deletes,
        subresources,
        policies_refused,
    ]);
}

async fn messages_and_reasons(s: Space) -> Result<()> {
    let policy = Policy::start(&s, "validating", "p", json!({"validations": [
        {"expression": "object.data.k != 'plain'"},
        {"expression": "object.data.k != 'message'", "message": "  not this  "},
        {"expression": "object.data.k != 'made'", "message": "unused", "messageExpression": "'made of ' + object.data.k"},
        {"expression": "object.data.k != 'broken'", "message": "the fallback", "messageExpression": "string(object.data.none)"},
        {"expression": "object.data.k != 'empty'", "message": "another", "messageExpression": "'  '"},
        {"expression": "object.data.k != 'forbidden'", "reason": "Forbidden"},
        {"expression": "object.data.k != 'large'", "reason": "RequestEntityTooLarge"},
    ]}), json!({})).await?;
    let object = |k: &str| with(&s, "a", json!({"k": k}));
    refused(&s, &object("plain")).await?;
    for (k, code, reason, words) in [
        ("plain", 422, "Invalid", "failed expression: object.data.k != 'plain'"),
        ("message", 422, "Invalid", "not this"),
        ("made", 422, "Invalid", "made of made"),
        ("broken", 422, "Invalid", "the fallback"),
        ("empty", 422, "Invalid", "another"),
        ("forbidden", 403, "Forbidden", "failed expression: object.data.k != 'forbidden'"),
        ("large", 413, "RequestEntityTooLarge", "failed expression: object.data.k != 'large'"),
    ] {
        let status = dry(&s, &object(k)).await?.fails(code, reason, &[])?;
        let due = format!("configmaps \"a\" is forbidden: {}: {words}", policy.by());
        ensure!(status["message"] == due, "{due} was due: {status}");
        ensure!(status["details"]["name"] == "a" && status["details"]["kind"] == "configmaps", "{status}");
        ensure!(status["details"]["causes"][0]["message"] == format!("{}: {words}", policy.by()), "{status}");
    }
    dry(&s, &object("fine")).await?.is(201)?;
    policy.end().await
}

async fn params_by_name(s: Space) -> Result<()> {
    hold_params(&s).await?;
    s.api.post(&s.core("configmaps"), &with(&s, "limits", json!({"max": "2"}))).is(201).await?;
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": {"resourceRules": rules(&["CREATE"], "", "secrets")},
               "validations": [{"expression": "size(object.data) <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max + ' by ' + params.metadata.name"}]}),
        json!({"paramRef": {"name": "limits", "namespace": s.namespace, "parameterNotFoundAction": "Deny"}}),
    )
    .await?;
    let path = format!("{}?dryRun=All", s.core("secrets"));
    let secret = |n: usize| {
        let data: serde_json::Map<String, Value> = (0..n).map(|i| (format!("k{i}"), json!("eA=="))).collect();
        json!({"metadata": {"name": "a"}, "data": data})
    };
    let words = format!("{}: at most 2 by limits", policy.by());
    eventually("the policy", || async {
        let answer = s.api.post(&path, &secret(3)).send().await?;
        Ok(answer.fails(422, "Invalid", &[&words]).ok())
    })
    .await?;
    s.api.post(&path, &secret(2)).is(201).await?;
    // A changed parameter is seen.
    s.api
        .patch(&format!("{}/limits", s.core("configmaps")), MERGE_PATCH, &json!({"data": {"max": "5"}}))
        .is(200)
        .await?;
    eventually("the new limit", || async {
        Ok((s.api.post(&path, &secret(3)).send().await?.code == 201).then_some(()))
    })
    .await?;
    policy.end().await
}

async fn params_by_selector(s: Space) -> Result<()> {
    hold_params(&s).await?;
    for (name, word) in [("one", "bad"), ("two", "worse")] {
        let mut map = with(&s, name, json!({"word": word}));
        map["metadata"]["labels"] = json!({"words": "yes"});
        s.api.post(&s.core("configmaps"), &map).is(201).await?;
    }
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": {"resourceRules": rules(&["CREATE"], "", "secrets")},
               "validations": [{"expression": "object.metadata.name != params.data.word", "messageExpression": "'not ' + params.data.word"}]}),
        json!({"paramRef": {"selector": {"matchLabels": {"words": "yes"}}, "parameterNotFoundAction": "Deny"}}),
    )
    .await?;
    let path = format!("{}?dryRun=All", s.core("secrets"));
    for word in ["bad", "worse"] {
        let words = format!("{}: not {word}", policy.by());
        eventually("the policy", || async {
            let answer = s.api.post(&path, &json!({"metadata": {"name": word}})).send().await?;
            Ok(answer.fails(422, "Invalid", &[&words]).ok())
        })
        .await?;
    }
    s.api.post(&path, &json!({"metadata": {"name": "good"}})).is(201).await?;
    policy.end().await
}

async fn params_of_a_custom_kind(s: Space) -> Result<()> {
    let group = format!("{}.example.com", s.unique);
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"limit": {"type": "integer"}}}});
    let definition = json!({"metadata": {"name": format!("limits.{group}")}, "spec": {"group": group, "scope": "Cluster",
        "names": {"plural": "limits", "kind": "Limit"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    s.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).is(201).await?;
    let path = format!("/apis/{group}/v1/limits");
    eventually("the kind", || async { Ok((s.api.get(&path).send().await?.code == 200).then_some(())) })
        .await?;
    s.api.post(&path, &json!({"apiVersion": format!("{group}/v1"), "kind": "Limit", "metadata": {"name": "l"}, "limit": 1})).is(201).await?;
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"paramKind": {"apiVersion": format!("{group}/v1"), "kind": "Limit"}, "validations": [{"expression": "size(object.data) <= params.limit"}]}),
        json!({"paramRef": {"name": "l", "parameterNotFoundAction": "Deny"}}),
    )
    .await?;
    let words = format!("{}: failed expression: size(object.data) <= params.limit", policy.by());
    let big = with(&s, "a", json!({"a": "", "b": ""}));
    eventually("the policy", || async { Ok(dry(&s, &big).await?.fails(422, "Invalid", &[&words]).ok()) })
        .await?;
    dry(&s, &s.map("a")).await?.is(201)?;
    policy.end().await?;
    s.api
        .delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/limits.{group}"))
        .is(200)
        .await
        .map(drop)
}

async fn missing_params(s: Space) -> Result<()> {
    hold_params(&s).await?;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "params != null && object.data.k == params.data.k"}]});
    let missing = |action: &str| json!({"paramRef": {"name": "none", "namespace": s.namespace, "parameterNotFoundAction": action}});
    let deny = Policy::start(&s, "validating", "deny", spec.clone(), missing("Deny")).await?;
    let words = format!(
        "{}: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        deny.by()
    );
    eventually("the policy", || async {
        Ok(dry(&s, &s.map("a")).await?.fails(422, "Invalid", &[&words]).ok())
    })
    .await?;
    deny.end().await?;
    eventually("its end", || async { Ok((dry(&s, &s.map("a")).await?.code == 201).then_some(())) }).await?;
    // One that may go without, beside one that shows when it is in force.
    let allow = Policy::start(&s, "validating", "allow", spec, missing("Allow")).await?;
    let marker = Policy::start(
        &s,
        "validating",
        "z",
        json!({"validations": [{"expression": "object.metadata.name != 'marker'"}]}),
        json!({}),
    )
    .await?;
    refused(&s, &s.map("marker")).await?;
    dry(&s, &s.map("a")).await?.is(201)?;
    allow.end().await?;
    marker.end().await
}

async fn warnings_instead(s: Space) -> Result<()> {
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"validations": [{"expression": "object.data.k != 'v'", "message": "better not"}, {"expression": "false", "message": "never"}]}),
        json!({"validationActions": ["Warn", "Audit"]}),
    )
    .await?;
    let due = |text: &str| {
        format!(
            "Validation failed for ValidatingAdmissionPolicy '{0}' with binding '{0}': {text}",
            policy.name
        )
    };
    let answer = eventually("the policy", || async {
        let answer = dry(&s, &s.map("a")).await?;
        answer.is(201)?;
        Ok((!answer.warnings().is_empty()).then_some(answer))
    })
    .await?;
    ensure!(answer.warnings() == [due("better not"), due("never")], "{:?}", answer.warnings());
    policy.end().await
}

async fn match_conditions(s: Space) -> Result<()> {
    let validations = json!([{"expression": "false", "message": "no"}]);
    let conditions = json!([{"name": "labelled", "expression": "has(object.metadata.labels) && 'policed' in object.metadata.labels"},
                            {"name": "not-me", "expression": "object.metadata.labels.policed != 'error' || object.data.none == 'x'"}]);
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"validations": validations, "matchConditions": conditions}),
        json!({}),
    )
    .await?;
    let labelled = |value: &str| {
        let mut map = s.map("a");
        map["metadata"]["labels"] = json!({"policed": value});
        map
    };
    refused(&s, &labelled("yes")).await?.fails(422, "Invalid", &[&format!("{}: no", policy.by())])?;
    dry(&s, &s.map("a")).await?.is(201)?;
    dry(&s, &labelled("error")).await?.fails(422, "Invalid", &[&format!("{}: expression 'object.metadata.labels.policed != 'error' || object.data.none == 'x'' resulted in error: no such key: none", policy.by())])?;
    policy.end().await
}

async fn what_is_matched(s: Space) -> Result<()> {
    let named = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"], "resourceNames": ["a", "b"]}]);
    let except = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"], "resourceNames": ["b"]}]);
    let policy = Policy::start(
        &s,
        "validating",
        "p",
        json!({"validations": [{"expression": "false"}], "matchConstraints": {"resourceRules": named, "excludeResourceRules": except,
               "objectSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]}}}),
        json!({}),
    )
    .await?;
    refused(&s, &s.map("a")).await?.fails(422, "Invalid", &[])?;
    dry(&s, &s.map("b")).await?.is(201)?;
    dry(&s, &s.map("c")).await?.is(201)?;
    let mut free = s.map("a");
    free["metadata"]["labels"] = json!({"free": ""});
    dry(&s, &free).await?.is(201)?;
    s.service_account().await?;
    s.api
        .post(&format!("{}?dryRun=All", s.core("secrets")), &json!({"metadata": {"name": "a"}}))
        .is(201)
        .await?;
    policy.end().await
}

async fn what_expressions_see(s: Space) -> Result<()> {
    let policy = Policy::start(&s, "validating", "p", json!({
        "variables": [{"name": "name", "expression": "object.metadata.name"}, {"name": "long", "expression": "size(variables.name) > 3"}],
        "validations": [
            {"expression": "!variables.long || namespaceObject.metadata.name == request.namespace && false", "messageExpression": "variables.name + ' in ' + namespaceObject.metadata.name"},
            {"expression": "variables.name != 'user' || false", "messageExpression": "request.userInfo.username + ' ' + request.operation + ' ' + request.resource.resource + ' ' + request.kind.kind + ' ' + string(request.dryRun)"},
            {"expression": "variables.name != 'old' || oldObject != null", "message": "no old"},
        ]}), json!({})).await?;
    let object = s.map("longer");
    let words = format!("{}: longer in {}", policy.by(), s.namespace);
    refused(&s, &object).await?.fails(422, "Invalid", &[&words])?;
    dry(&s, &s.map("old")).await?.fails(422, "Invalid", &["no old"])?;
    let jane = s.api.as_user("jane", &["system:masters"])?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    jane.post(&path, &s.map("user")).fails(422, "Invalid", &["user in "]).await?;
    policy.end().await
}

async fn authorizer(s: Space) -> Result<()> {
    let check =
        "authorizer.group('').resource('configmaps').namespace(request.namespace).name(object.metadata.name)";
    let policy = Policy::start(&s, "validating", "p", json!({"validations": [
        {"expression": format!("{check}.check('frob').allowed()"), "message": "no frobbing"},
        {"expression": "authorizer.requestResource.check('create').allowed()", "message": "how did you come here"},
    ]}), json!({})).await?;
    let kim = s.api.as_user("kim", &[])?;
    let role = json!({"metadata": {"name": "kim"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["frob"]}]});
    s.api.post(&s.path("rbac.authorization.k8s.io/v1", "roles"), &role).is(201).await?;
    let binding = json!({"metadata": {"name": "kim"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kim"},
                         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kim"}]});
    s.api.post(&s.path("rbac.authorization.k8s.io/v1", "rolebindings"), &binding).is(201).await?;
    let path = format!("{}?dryRun=All", s.core("configmaps"));
    let words = format!("{}: no frobbing", policy.by());
    eventually("the policy", || async {
        Ok(kim.post(&path, &s.map("other")).send().await?.fails(422, "Invalid", &[&words]).ok())
    })
    .await?;
    kim.post(&path, &s.map("mine")).is(201).await?;
    s.api.post(&path, &s.map("other")).is(201).await?;
    policy.end().await
}

async fn failing_expressions(s: Space) -> Result<()> {
    let spec = |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.data.missing == 'x'"}]});
    let policy = Policy::start(&s, "validating", "p", spec("Fail"), json!({})).await?;
    let words = format!(
        "{}: expression 'object.data.missing == 'x'' resulted in error: no such key: missing",
        policy.by()
    );
    refused(&s, &s.map("a")).await?.fails(422, "Invalid", &[&words])?;
    policy.end().await?;
    eventually("its end", || async { Ok((dry(&s, &s.map("a")).await?.code == 201).then_some(())) }).await?;
    let ignore = Policy::start(&s, "validating", "q", spec("Ignore"), json!({})).await?;
    let marker = Policy::start(
        &s,
        "validating",
        "z",
        json!({"validations": [{"expression": "object.metadata.name != 'marker'"}]}),
        json!({}),
    )
    .await?;
    refused(&s, &s.map("marker")).await?;
    dry(&s, &s.map("a")).await?.is(201)?;
    ignore.end().await?;
    marker.end().await
}

/// A policy about one version sees requests of another in its own.
async fn equivalent_versions(s: Space) -> Result<()> {
    let rule = |version: &str| json!([{"apiGroups": ["autoscaling"], "apiVersions": [version], "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]);
    let policy = Policy::start(&s, "validating", "p", json!({"matchConstraints": {"resourceRules": rule("v1")},
        "validations": [{"expression": "object.spec.targetCPUUtilizationPercentage < 50",
            "messageExpression": "request.kind.version + ' of ' + request.requestKind.version + ': ' + string(object.spec.targetCPUUtilizationPercentage)"}]}), json!({})).await?;
    let path = format!("{}?dryRun=All", s.path("autoscaling/v2", "horizontalpodautoscalers"));
    let object = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    let answer = eventually("the policy", || async {
        let answer = s.api.post(&path, &object).send().await?;
        Ok((answer.code != 201).then_some(answer))
    })
    .await?;
    answer.fails(422, "Invalid", &[&format!("{}: v1 of v2: 70", policy.by())])?;
    policy.end().await?;
    let exact = Policy::start(&s, "validating", "q", json!({"matchConstraints": {"resourceRules": rule("v1"), "matchPolicy": "Exact"}, "validations": [{"expression": "false"}]}), json!({})).await?;
    let old = format!("{}?dryRun=All", s.path("autoscaling/v1", "horizontalpodautoscalers"));
    let first = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    eventually("the policy", || async {
        Ok((s.api.post(&old, &first).send().await?.code == 422).then_some(()))
    })
    .await?;
    eventually("the first policy's end", || async {
        Ok((s.api.post(&path, &object).send().await?.code == 201).then_some(()))
    })
    .await?;
    exact.end().await
}

async fn updates_and_deletes(s: Space) -> Result<()> {
    let policy = Policy::start(&s, "validating", "p", json!({"matchConstraints": {"resourceRules": rules(&["UPDATE", "DELETE"], "", "configmaps")},
        "validations": [{"expression": "request.operation != 'UPDATE' || object.data.k >= oldObject.data.k", "message": "only up"},
                        {"expression": "request.operation != 'DELETE' || (object == null && oldObject.data.k != 'keep')", "message": "kept"}]}), json!({})).await?;
    s.make_map("a").await?;
    s.api.post(&s.core("configmaps"), &with(&s, "b", json!({"k": "keep"}))).is(201).await?;
    let item = format!("{}/a", s.core("configmaps"));
    let patch = json!({"data": {"k": "a"}});
    eventually("the policy", || async {
        let answer = s.api.patch(&format!("{item}?dryRun=All"), MERGE_PATCH, &patch).send().await?;
        Ok(answer.fails(422, "Invalid", &["only up"]).ok())
    })
    .await?;
    s.api.patch(&item, MERGE_PATCH, &json!({"data": {"k": "z"}})).is(200).await?;
    s.api
        .delete(&format!("{}/b", s.core("configmaps")))
        .fails(422, "Invalid", &[&format!("configmaps \"b\" is forbidden: {}: kept", policy.by())])
        .await?;
    s.api.delete(&item).is(200).await?;
    policy.end().await
}

async fn subresources(s: Space) -> Result<()> {
    let policy = Policy::start(&s, "validating", "p", json!({"matchConstraints": {"resourceRules": rules(&["UPDATE"], "apps", "deployments/scale")},
        "validations": [{"expression": "object.spec.replicas <= 3", "messageExpression": "request.kind.kind + ' ' + request.subResource + ' ' + string(object.spec.replicas)"}]}), json!({})).await?;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let path = s.path("apps/v1", "deployments");
    s.api.post(&path, &deployment).is(201).await?;
    let words = format!("deployments.apps \"d\" is forbidden: {}: Scale scale 9", policy.by());
    eventually("the policy", || async {
        let answer = s
            .api
            .patch(&format!("{path}/d/scale?dryRun=All"), MERGE_PATCH, &json!({"spec": {"replicas": 9}}))
            .send()
            .await?;
        if answer.code == 200 { Ok(None) } else { answer.fails(422, "Invalid", &[&words]).map(Some) }
    })
    .await?;
    s.api
        .patch(&format!("{path}/d?dryRun=All"), MERGE_PATCH, &json!({"spec": {"replicas": 9}}))
        .is(200)
        .await?;
    policy.end().await
}

async fn policies_refused(s: Space) -> Result<()> {
    let path = format!("{GROUP}/validatingadmissionpolicies?dryRun=All");
    for (more, words) in [
        (
            json!({"validations": []}),
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
        ),
        (
            json!({"validations": [{"expression": ""}]}),
            "spec.validations[0].expression: Required value: expression is not specified",
        ),
        (
            json!({"validations": [{"expression": "1 + 1"}]}),
            "spec.validations[0].expression: Invalid value: \"1 + 1\": must evaluate to bool",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "1"}]}),
            "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string",
        ),
        (
            json!({"validations": [{"expression": "true", "reason": "Because"}]}),
            "spec.validations[0].reason: Unsupported value: \"Because\": supported values: ",
        ),
        (json!({"validations": [{"expression": "params.x == 1"}]}), "undeclared reference to 'params'"),
        (
            json!({"validations": [{"expression": "true"}], "variables": [{"name": "a b", "expression": "1"}]}),
            "spec.variables[0].name: Invalid value: \"a b\": must be a valid CEL identifier",
        ),
        (
            json!({"validations": [{"expression": "true"}], "failurePolicy": "Perhaps"}),
            "spec.failurePolicy: Unsupported value: \"Perhaps\": supported values: \"Fail\", \"Ignore\"",
        ),
        (
            json!({"validations": [{"expression": "true"}], "matchConstraints": {"resourceRules": []}}),
            "spec.matchConstraints.resourceRules: Required value",
        ),
        (
            json!({"validations": [{"expression": "true"}], "auditAnnotations": [{"key": "a", "valueExpression": "1"}]}),
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type]",
        ),
    ] {
        let mut spec = json!({"matchConstraints": {"resourceRules": rules(&["CREATE"], "", "configmaps")}});
        extend(&mut spec, &more);
        s.api
            .post(&path, &json!({"metadata": {"name": s.unique}, "spec": spec}))
            .fails(422, "Invalid", &[words])
            .await?;
    }
    let path = format!("{GROUP}/validatingadmissionpolicybindings?dryRun=All");
    for (more, words) in [
        (
            json!({"validationActions": []}),
            "spec.validationActions: Required value: at least one validation action is required",
        ),
        (
            json!({"validationActions": ["Deny", "Warn"]}),
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ),
        (
            json!({"validationActions": ["Shout"]}),
            "spec.validationActions[0]: Unsupported value: \"Shout\": supported values: \"Audit\", \"Deny\", \"Warn\"",
        ),
        (json!({"policyName": ""}), "spec.policyName: Required value"),
        (
            json!({"paramRef": {"parameterNotFoundAction": "Deny"}}),
            "spec.paramRef: Required value: one of name or selector must be specified",
        ),
        (json!({"paramRef": {"name": "a"}}), "spec.paramRef.parameterNotFoundAction: Required value"),
    ] {
        let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
        extend(&mut spec, &more);
        s.api
            .post(&path, &json!({"metadata": {"name": s.unique}, "spec": spec}))
            .fails(422, "Invalid", &[words])
            .await?;
    }
    Ok(())
}
