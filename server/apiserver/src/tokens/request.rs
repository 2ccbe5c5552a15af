//! `POST .../serviceaccounts/<name>/token`.

use super::{Claims, EXTENDED_SECONDS, Issuer, Kubernetes, MOUNTED_TOKEN_SECONDS, Ref};
use crate::reader::{Reader, parse, strings, text};
use chrono::{DateTime, SecondsFormat, Utc};
use machinery::field::{ErrorKind, FieldError};
use serde_json::{Value, json};
use std::sync::Arc;

/// Each maps to one kind of `Status`.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// 422 with these causes.
    #[error("{} fields are invalid", .0.len())]
    Invalid(Vec<FieldError>),
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 404.
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: &'static str, name: String },
    /// 409.
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Conflict { resource: String, name: String, message: String },
    /// 500.
    #[error("failed to generate token: {0}")]
    Internal(String),
}

/// Answers TokenRequests.
pub struct TokenRequests {
    pub issuer: Arc<Issuer>,
    pub reader: Arc<dyn Reader>,
    /// The audiences of this API server, the first of which (all, upstream) are the default of a request.
    pub audiences: Vec<String>,
    /// Upstream's `--service-account-extend-token-expiration`.
    pub extend: bool,
    /// The longest lifetime that can be asked for (`--service-account-max-token-expiration`).
    pub longest: Option<i64>,
}

impl TokenRequests {
    /// The answered TokenRequest. `object` has been decoded and defaulted (`expirationSeconds` 3600).
    pub fn create(&self, namespace: &str, name: &str, object: &Value) -> Result<Value, RequestError> {
        self.create_at(namespace, name, object, Utc::now())
    }

    fn create_at(
        &self,
        namespace: &str,
        name: &str,
        object: &Value,
        now: DateTime<Utc>,
    ) -> Result<Value, RequestError> {
        let mut out = object.clone();
        if !out.is_object() {
            return Err(RequestError::BadRequest("the request is not a TokenRequest".into()));
        }
        let given = (text(object, "/metadata/name"), text(object, "/metadata/namespace"));
        for (given, wanted, word) in [(given.0, name, "name"), (given.1, namespace, "namespace")] {
            if !given.is_empty() && given != wanted {
                return Err(RequestError::BadRequest(format!(
                    "the {word} of the provided object does not match the {word} sent on the request"
                )));
            }
        }
        let account = self
            .reader
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| RequestError::NotFound { resource: "serviceaccounts", name: name.into() })?;
        let mut seconds = validate(object)?;
        let asked = text(object, "/metadata/uid");
        if !asked.is_empty() && asked != account.uid() {
            return Err(RequestError::Conflict {
                resource: "serviceaccounts".into(),
                name: name.into(),
                message: format!(
                    "the UID in the token request ({asked}) does not match the UID of the service account ({})",
                    account.uid()
                ),
            });
        }
        if let Some(longest) = self.longest.filter(|longest| seconds > *longest) {
            seconds = longest;
        }
        let mut audiences = strings(object, "/spec/audiences");
        if audiences.is_empty() {
            audiences = self.audiences.clone();
            out["spec"]["audiences"] = json!(audiences);
        }
        let mut kubernetes = Kubernetes {
            namespace: namespace.into(),
            serviceaccount: Ref { name: name.into(), uid: account.uid().to_owned() },
            ..Kubernetes::default()
        };
        self.bind(&mut kubernetes, namespace, name, object)?;
        let mut lifetime = seconds;
        let ours = audiences.iter().all(|a| self.audiences.contains(a));
        if self.extend && kubernetes.pod.is_some() && seconds == MOUNTED_TOKEN_SECONDS && ours {
            kubernetes.warnafter = Some(now.timestamp() + seconds);
            lifetime = self.longest.unwrap_or(EXTENDED_SECONDS).min(EXTENDED_SECONDS).max(seconds);
        }
        let claims = Claims {
            aud: audiences,
            exp: now.timestamp() + lifetime,
            iat: now.timestamp(),
            iss: self.issuer.url().into(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes,
            nbf: now.timestamp(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        let token = self.issuer.sign(&claims).map_err(|e| RequestError::Internal(e.to_string()))?;
        out["apiVersion"] = json!("authentication.k8s.io/v1");
        out["kind"] = json!("TokenRequest");
        if !out["metadata"].is_object() {
            out["metadata"] = json!({});
        }
        out["metadata"]["name"] = json!(name);
        out["metadata"]["namespace"] = json!(namespace);
        out["metadata"]["creationTimestamp"] = json!(now.to_rfc3339_opts(SecondsFormat::Secs, true));
        out["spec"]["expirationSeconds"] = json!(seconds);
        let expires = now + chrono::Duration::seconds(seconds);
        let expires = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
        out["status"] = json!({"token": token, "expirationTimestamp": expires});
        Ok(out)
    }

    /// Fills in the object the token dies with.
    fn bind(
        &self,
        to: &mut Kubernetes,
        namespace: &str,
        account: &str,
        object: &Value,
    ) -> Result<(), RequestError> {
        let Some(reference) = object.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else {
            return Ok(());
        };
        let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
        let (name, wanted) = (text(reference, "/name"), text(reference, "/uid"));
        let resource = match (version, kind) {
            ("v1", "Pod") => "pods",
            ("v1", "Secret") => "secrets",
            ("v1", "Node") => "nodes",
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                return Err(RequestError::BadRequest(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let scope = if resource == "nodes" { "" } else { namespace };
        let bound = self
            .reader
            .get("", resource, scope, name)
            .ok_or_else(|| RequestError::NotFound { resource, name: name.into() })?;
        let found = Some(Ref { name: name.into(), uid: bound.uid().to_owned() });
        match resource {
            "pods" => {
                let pod = parse(&bound);
                if text(&pod, "/spec/serviceAccountName") != account {
                    return Err(RequestError::BadRequest(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount \
                         name."
                    )));
                }
                let node = text(&pod, "/spec/nodeName");
                if !node.is_empty() {
                    let uid = self
                        .reader
                        .get("", "nodes", "", node)
                        .map(|n| n.uid().to_owned())
                        .unwrap_or_default();
                    to.node = Some(Ref { name: node.into(), uid });
                }
                to.pod = found;
            }
            "secrets" => to.secret = found,
            _ => to.node = found,
        }
        if !wanted.is_empty() && wanted != bound.uid() {
            return Err(RequestError::Conflict {
                resource: kind.into(),
                name: name.into(),
                message: format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object \
                     might have been deleted and then recreated"
                ),
            });
        }
        Ok(())
    }
}

/// `spec.expirationSeconds`, checked.
fn validate(object: &Value) -> Result<i64, RequestError> {
    let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    let detail = if seconds < 600 {
        "may not specify a duration less than 10 minutes"
    } else if seconds > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    Err(RequestError::Invalid(vec![FieldError {
        kind: ErrorKind::Invalid,
        path: "spec.expirationSeconds".into(),
        bad_value: json!(seconds),
        detail: detail.into(),
    }]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;
    use kit::pki::PrivateKey;

    fn service() -> (Arc<FakeCluster>, TokenRequests) {
        let cluster = FakeCluster::new();
        cluster.put(
            "",
            "serviceaccounts",
            json!({"metadata": {"namespace": "a", "name": "sa", "uid": "sa-1"}}),
        );
        let pod = |name: &str, sa: &str| {
            json!({"metadata": {"namespace": "a", "name": name, "uid": "pod-1"},
                   "spec": {"serviceAccountName": sa, "nodeName": "n1"}})
        };
        cluster.put("", "pods", pod("p", "sa"));
        cluster.put("", "pods", pod("q", "other"));
        cluster.put("", "nodes", json!({"metadata": {"name": "n1", "uid": "node-1"}}));
        let issuer = Arc::new(Issuer::new(PrivateKey::generate().unwrap(), "https://issuer"));
        let requests = TokenRequests {
            issuer,
            reader: cluster.clone(),
            audiences: vec!["https://issuer".into()],
            extend: true,
            longest: None,
        };
        (cluster, requests)
    }

    fn claims(service: &TokenRequests, answer: &Value) -> Claims {
        service.issuer.verify(text(answer, "/status/token")).unwrap()
    }

    #[test]
    fn a_plain_request_gets_the_defaults() {
        let (_, service) = service();
        let answer = service.create("a", "sa", &json!({"spec": {}})).unwrap();
        let claims = claims(&service, &answer);
        assert_eq!(claims.aud, ["https://issuer"]);
        assert_eq!(claims.exp - claims.iat, 3600);
        assert_eq!(claims.sub, "system:serviceaccount:a:sa");
        assert_eq!(claims.kubernetes.serviceaccount, Ref { name: "sa".into(), uid: "sa-1".into() });
        assert_eq!(claims.kubernetes.pod, None);
        assert_eq!(answer["spec"]["audiences"], json!(["https://issuer"]));
        assert!(answer["status"]["expirationTimestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn pods_bind_with_their_node_and_mounted_tokens_are_extended() {
        let (_, service) = service();
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-1"});
        let spec = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": reference}});
        let answer = service.create("a", "sa", &spec).unwrap();
        let claims = claims(&service, &answer);
        assert_eq!(claims.kubernetes.pod, Some(Ref { name: "p".into(), uid: "pod-1".into() }));
        assert_eq!(claims.kubernetes.node, Some(Ref { name: "n1".into(), uid: "node-1".into() }));
        assert_eq!(claims.exp - claims.iat, EXTENDED_SECONDS);
        assert_eq!(claims.kubernetes.warnafter, Some(claims.iat + 3607));
        // Another audience is not ours to extend.
        let mut other = spec.clone();
        other["spec"]["audiences"] = json!(["vault"]);
        let answer = service.create("a", "sa", &other).unwrap();
        assert_eq!(super::tests::claims(&service, &answer).exp - claims.iat, 3607);
    }

    #[test]
    fn what_cannot_be_bound_is_refused() {
        let (_, service) = service();
        let ask =
            |reference: Value| service.create("a", "sa", &json!({"spec": {"boundObjectRef": reference}}));
        let error = ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "old"})).unwrap_err();
        assert!(error.to_string().contains("does not match the UID in record"), "{error}");
        assert!(matches!(error, RequestError::Conflict { .. }));
        let error = ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "q"})).unwrap_err();
        assert!(error.to_string().contains("different serviceaccount"), "{error}");
        assert!(matches!(
            ask(json!({"apiVersion": "v1", "kind": "Secret", "name": "none"})),
            Err(RequestError::NotFound { resource: "secrets", .. })
        ));
        assert!(matches!(
            ask(json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"})),
            Err(RequestError::BadRequest(_))
        ));
        assert!(matches!(service.create("a", "none", &json!({})), Err(RequestError::NotFound { .. })));
        assert!(matches!(service.create("a", "sa", &json!([])), Err(RequestError::BadRequest(_))));
    }

    #[test]
    fn the_longest_lifetime_and_the_accounts_uid() {
        let (_, mut service) = service();
        service.longest = Some(7200);
        let answer = service.create("a", "sa", &json!({"spec": {"expirationSeconds": 86400}})).unwrap();
        assert_eq!(answer["spec"]["expirationSeconds"], 7200);
        let claims = claims(&service, &answer);
        assert_eq!(claims.exp - claims.iat, 7200);
        let right = json!({"metadata": {"uid": "sa-1"}, "spec": {}});
        assert!(service.create("a", "sa", &right).is_ok());
        let wrong = json!({"metadata": {"uid": "sa-0"}, "spec": {}});
        assert!(matches!(service.create("a", "sa", &wrong), Err(RequestError::Conflict { .. })));
    }

    #[test]
    fn lifetimes_are_bounded() {
        let (_, service) = service();
        for (seconds, ok) in
            [(599, false), (600, true), (1i64 << 32, true), ((1i64 << 32) + 1, false), (-1, false)]
        {
            let answer = service.create("a", "sa", &json!({"spec": {"expirationSeconds": seconds}}));
            assert_eq!(answer.is_ok(), ok, "{seconds}");
        }
    }
}
