//! `pods/eviction`: a delete that asks the disruption budget first.

use crate::ApiServer;
use crate::admission::{Operation, Request};
use crate::chain::Call;
use crate::crd::Current;
use crate::encode;
use crate::http::options::{DeleteOptions, WriteOptions};
use crate::http::{Body, negotiate};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, manager, meta};
use crate::resolve::Resource;
use crate::schemas;
use crate::status::ApiError;
use crate::verbs;
use http::Response;
use machinery::labels;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn create(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let encoding = negotiate::input(&call.parts.headers, true)?;
    let accept = negotiate::negotiate(&call.parts.headers, false, true)?;
    let bytes = verbs::read_body(call).await?;
    // Old clients say policy/v1beta1; the shape is the same.
    let (schema, root) = schemas::kind_shape("policy", "v1", "Eviction")
        .ok_or_else(|| ApiError::internal("Eviction is not in the schema"))?;
    let eviction = schemas::decode_any(schema, root, encoding, &bytes)?;
    if !matches!(eviction["kind"].as_str(), None | Some("" | "Eviction")) {
        return Err(ApiError::bad_request(format!("not an Eviction: {}", eviction["kind"])));
    }
    crate::audit::request_object(&eviction);
    let given = meta::name(&eviction);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let sent = eviction["deleteOptions"].as_object().map(|o| Value::Object(o.clone()));
    let mut delete = DeleteOptions::read(Some(&sent.unwrap_or_else(|| json!({}))), &call.query)?;
    delete.dry_run |= options.dry_run;
    let agent = crate::chain::user_agent(&call.parts.headers).to_owned();
    let target = Target {
        resource,
        subresource: "eviction",
        namespace,
        name,
        user: &call.user,
        options: &options,
        manager: manager(&options.field_manager, &agent),
    };
    let asked = options.to_value("CreateOptions");
    let admission = Request {
        operation: Operation::Create,
        group: "",
        version: "v1",
        kind: "Eviction",
        resource: "pods",
        subresource: "eviction",
        namespace,
        name,
        old: None,
        options: &asked,
        user: &call.user,
        dry_run: delete.dry_run,
        versions: None,
        notes: Default::default(),
    };
    server.admit(&admission, &mut eviction.clone()).await?;
    server.admit_validating(&admission, Some(&eviction)).await?;
    let Some(Current { value: pod, .. }) = server.current(resource, namespace, name).await? else {
        return Err(target.not_found());
    };
    if !ignores_budgets(&pod) {
        ask_budget(server, call, &options, &delete, namespace, &pod).await?;
    }
    server.delete_admitted(&target, &delete).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    encode::other(accept, 201, &status, schemas::status_shape())
}

/// Pods that serve nobody.
fn ignores_budgets(pod: &Value) -> bool {
    meta::deleting(pod) || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the pod's budget, or refuses.
async fn ask_budget(
    server: &ApiServer,
    call: &Call,
    options: &WriteOptions,
    delete: &DeleteOptions,
    namespace: &str,
    pod: &Value,
) -> Result<(), ApiError> {
    let index = server.index.load();
    let Some(budgets) = index.find("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(()) };
    drop(index);
    let mut found = Vec::new();
    for entry in budgets.cache.snapshot().page(Some(namespace), None) {
        let budget = entry.object().map_err(ApiError::internal)?;
        let selector = labels::Selector::from_object(budget["spec"].get("selector"));
        if selector.is_ok_and(|s| s.matches_object(pod)) {
            found.push(entry.name.clone());
        }
    }
    let name = match found.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        _ => {
            return Err(ApiError::generic(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let pod_name = meta::name(pod).to_owned();
    let ready = is_ready(pod);
    let target = Target {
        resource: &budgets,
        subresource: "status",
        namespace,
        name: &name,
        user: &call.user,
        options,
        manager: manager("", crate::chain::user_agent(&call.parts.headers)),
    };
    let dry_run = delete.dry_run;
    let change = Box::new(|old: &Value| {
        let wanted = take(old, &pod_name, ready)?;
        Ok(Wanted::plain(if dry_run { old.clone() } else { wanted.unwrap_or_else(|| old.clone()) }))
    });
    let mode = Mode { trusted: true, ..Mode::default() };
    server.update(&target, change, mode, &mut Vec::new()).await.map(|_| ())
}

/// The budget with one disruption fewer; `None` where the pod needs none.
fn take(budget: &Value, pod: &str, ready: bool) -> Result<Option<Value>, ApiError> {
    const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
    let name = meta::name(budget);
    let status = &budget["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let forbidden = |why: &str| ApiError::forbidden("policy", "poddisruptionbudget", name, why);
    if !ready {
        let healthy = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || healthy {
            return Ok(None);
        }
    }
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(ApiError::too_many_requests(REFUSAL, 10).with_cause(
            "DisruptionBudget",
            format!("The disruption budget {name} is still being processed by the server."),
            "",
        ));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|p| p.len() > 2000) {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(ApiError::too_many_requests(REFUSAL, 0).with_cause(
            "DisruptionBudget",
            format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            ),
            "",
        ));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = meta::now().into();
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_spent_and_refuse() {
        let budget = |allowed: i64| {
            json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
                "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2}})
        };
        let spent = take(&budget(1), "p", true).unwrap().unwrap();
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert!(spent["status"]["disruptedPods"]["p"].is_string());
        let refused = take(&budget(0), "p", true).unwrap_err();
        assert_eq!(refused.code, 429);
        let causes = &refused.details.as_ref().unwrap().causes;
        assert_eq!(causes[0].message, "The disruption budget b needs 2 healthy pods and has 2 currently");
        assert!(take(&budget(0), "p", false).unwrap().is_none());
        let mut unseen = budget(5);
        unseen["metadata"]["generation"] = 2.into();
        assert_eq!(take(&unseen, "p", true).unwrap_err().details.unwrap().retry_after_seconds, 10);
    }
}
