//! Nobody grants what they do not hold: checks on writes of roles and bindings.
//!
//! Upstream keeps these in the storage of its four RBAC kinds; here they are a validating admission step, the one
//! place every write passes.

use super::rbac::RoleRef;
use super::rules::{Rule, covers, describe, go_list};
use super::{Attributes, Authorizer, Rbac};
use crate::admission::{Denied, Operation, Plugin, Request};
use crate::authentication::{PRIVILEGED_GROUP, UserInfo};
use crate::reader::items;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Escalation {
    pub rbac: Arc<Rbac>,
    /// Decides `bind` and `escalate`.
    pub authorizer: Arc<dyn Authorizer>,
}

fn forbidden(message: String) -> Denied {
    Denied::forbidden(message)
}

impl Escalation {
    /// That `user` holds every one of `rules` in `namespace`.
    fn confirm(&self, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
        let (held, unresolved) = self.rbac.rules(user, namespace);
        let missing = covers(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut message = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            go_list(&user.groups),
            describe(&missing)
        );
        if !unresolved.is_empty() {
            message.push_str(&format!("; resolution errors: [{}]", unresolved.join(" ")));
        }
        Err(message)
    }

    async fn may(&self, request: &Request<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let question = Attributes {
            user: request.user.clone(),
            verb: verb.into(),
            namespace: request.namespace.into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            resource: resource.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        };
        self.authorizer.authorize(&question).await.is_allowed()
    }

    async fn role(&self, request: &Request<'_>, object: &Value) -> Result<(), Denied> {
        if let Some(old) = request.old
            && same(old, object, "rules")
            && same(old, object, "aggregationRule")
        {
            return Ok(());
        }
        if self.may(request, "escalate", request.resource, request.name).await {
            return Ok(());
        }
        let rules = Rule::read_all(items(object, "/rules"));
        self.confirm(request.user, request.namespace, &rules).map_err(forbidden)?;
        let aggregates = !items(object, "/aggregationRule/clusterRoleSelectors").is_empty();
        if aggregates && request.resource == "clusterroles" {
            let everything = [
                Rule::read(&json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
                Rule::read(&json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
            ];
            self.confirm(request.user, request.namespace, &everything).map_err(|why| {
                forbidden(format!("must have cluster-admin privileges to use the aggregationRule: {why}"))
            })?;
        }
        Ok(())
    }

    async fn binding(&self, request: &Request<'_>, object: &Value) -> Result<(), Denied> {
        if let Some(old) = request.old
            && same(old, object, "roleRef")
            && same(old, object, "subjects")
        {
            return Ok(());
        }
        let role = RoleRef::read(&object["roleRef"]);
        let resource = if role.cluster { "clusterroles" } else { "roles" };
        if self.may(request, "bind", resource, &role.name).await {
            return Ok(());
        }
        let Some(rules) = self.rbac.role_rules(request.namespace, &role) else {
            let message = format!("{resource}.{GROUP} {:?} not found", role.name);
            return Err(Denied::new(404, "NotFound", message));
        };
        self.confirm(request.user, request.namespace, &rules).map_err(forbidden)
    }
}

fn same(old: &Value, new: &Value, member: &str) -> bool {
    let absent = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    old[member] == new[member] || (absent(&old[member]) && absent(&new[member]))
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.group == GROUP
            && request.subresource.is_empty()
            && matches!(request.operation, Operation::Create | Operation::Update)
            && !request.user.in_group(PRIVILEGED_GROUP)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(object) = object else { return Ok(()) };
        match request.resource {
            "roles" | "clusterroles" => self.role(request, object).await,
            "rolebindings" | "clusterrolebindings" => self.binding(request, object).await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;

    async fn attempt(rights: Value, resource: &str, object: Value, old: Option<Value>) -> Result<(), Denied> {
        let cluster = FakeCluster::new();
        let put = |resource: &str, name: &str, mut o: Value| {
            o["metadata"] = json!({"name": name});
            cluster.put(GROUP, resource, o);
        };
        put("clusterroles", "mine", json!({"rules": rights}));
        put("clusterroles", "secrets", json!({"rules": [rule("get", "secrets")]}));
        let subjects = json!([{"kind": "User", "name": "jane"}]);
        put(
            "clusterrolebindings",
            "b",
            json!({"roleRef": {"kind": "ClusterRole", "name": "mine"}, "subjects": subjects}),
        );
        let rbac = Arc::new(Rbac::new(cluster));
        let plugin = Escalation { rbac: rbac.clone(), authorizer: rbac };
        let user = UserInfo::new("jane", &["dev"]);
        let request = Request {
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            group: GROUP,
            version: "v1",
            kind: "",
            resource,
            subresource: "",
            namespace: if resource.starts_with("cluster") { "" } else { "default" },
            name: "new",
            old: old.as_ref(),
            options: &Value::Null,
            user: &user,
            dry_run: false,
            versions: None,
            notes: Default::default(),
        };
        assert!(plugin.handles(&request));
        plugin.validate(&request, Some(&object)).await
    }

    fn rule(verb: &str, resource: &str) -> Value {
        json!({"verbs": [verb], "apiGroups": [""], "resources": [resource]})
    }

    #[tokio::test]
    async fn roles_hold_at_most_what_their_author_holds() {
        let mine = || json!([rule("get", "pods")]);
        attempt(mine(), "roles", json!({"rules": [rule("get", "pods")]}), None).await.unwrap();
        let refused =
            attempt(mine(), "roles", json!({"rules": [rule("get", "secrets")]}), None).await.unwrap_err();
        assert_eq!(
            refused.message,
            "user \"jane\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
        );
        // Other changes of a role that already holds more are fine.
        let old = json!({"rules": [rule("get", "secrets")]});
        attempt(mine(), "roles", old.clone(), Some(old)).await.unwrap();
        // `escalate` lifts the check.
        let escalate = json!([{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"]}]);
        attempt(escalate, "roles", json!({"rules": [rule("get", "secrets")]}), None).await.unwrap();
    }

    #[tokio::test]
    async fn aggregation_needs_everything() {
        let object = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        let refused = attempt(json!([rule("*", "*")]), "clusterroles", object, None).await.unwrap_err();
        assert!(
            refused
                .message
                .starts_with("must have cluster-admin privileges to use the aggregationRule: user")
        );
    }

    #[tokio::test]
    async fn bindings_grant_at_most_what_their_author_holds() {
        let binding = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []});
        assert_eq!(attempt(json!([]), "rolebindings", binding("secrets"), None).await.unwrap_err().code, 403);
        attempt(json!([rule("get", "secrets")]), "rolebindings", binding("secrets"), None).await.unwrap();
        let bind = |name: &str| json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": [name]}]);
        attempt(bind("secrets"), "rolebindings", binding("secrets"), None).await.unwrap();
        assert_eq!(
            attempt(bind("other"), "rolebindings", binding("secrets"), None).await.unwrap_err().code,
            403
        );
        assert_eq!(attempt(json!([]), "rolebindings", binding("none"), None).await.unwrap_err().code, 404);
    }
}
