//! Service-account tokens, checked against the cluster as it is now.
//!
//! Signature and claims of a token are checked once and remembered by the token's digest; what can change (time,
//! the account, the pod, secret or node the token is bound to) is looked up on every request, so a deleted pod's
//! token stops working at once.

use super::bearer::fingerprint;
use super::{AuthenticationError, TokenAnswer, TokenAuthenticator, UserInfo};
use crate::reader::{Reader, parse, text};
use crate::tokens::{Claims, Issuer, JwtError, Ref, Verified, tracking};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Verified tokens remembered: one a pod, and room for more.
const REMEMBERED: usize = 8192;
/// Clock skew granted to `exp` and `nbf`, as upstream's library grants.
const LEEWAY: i64 = 60;
/// How long a token outlives the deletion time of what it is bound to, so that a pod can end in an orderly way.
const DELETION_LEEWAY: i64 = 60;

struct Known {
    claims: Claims,
    /// The token lives in this Secret of its account's namespace.
    secret: Option<String>,
    user: UserInfo,
}

/// Told of every use of a Secret's token: namespace and name.
pub type Used = tokio::sync::mpsc::UnboundedSender<(String, String)>;

pub struct ServiceAccountTokens {
    issuer: Arc<Issuer>,
    reader: Arc<dyn Reader>,
    audiences: Vec<String>,
    known: Mutex<HashMap<[u8; 32], Arc<Known>>>,
    used: Option<Used>,
}

fn refuse(message: impl Into<String>) -> AuthenticationError {
    AuthenticationError(message.into())
}

impl ServiceAccountTokens {
    /// `audiences` are this API server's, for callers that ask for none.
    pub fn new(issuer: Arc<Issuer>, reader: Arc<dyn Reader>, audiences: Vec<String>) -> Self {
        Self { issuer, reader, audiences, known: Mutex::default(), used: None }
    }

    /// With somebody who keeps count of the tokens of Secrets.
    pub fn tracked(mut self, used: Used) -> Self {
        self.used = Some(used);
        self
    }

    fn known(&self, token: &str) -> Result<Option<Arc<Known>>, AuthenticationError> {
        let key = fingerprint(token.as_bytes());
        if let Some(known) = self.known.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let (claims, secret) = match self.issuer.verify_any(token) {
            Ok(Verified::Bound(claims)) => (claims, None),
            Ok(Verified::Legacy(claims)) => {
                for (claim, value) in [
                    ("namespace", &claims.namespace),
                    ("secretName", &claims.secret),
                    ("serviceAccountName", &claims.name),
                    ("serviceAccountUID", &claims.uid),
                ] {
                    if value.is_empty() {
                        return Err(refuse(format!("{claim} claim is missing")));
                    }
                }
                let secret = Some(claims.secret.clone());
                (Claims::from(claims), secret)
            }
            Err(JwtError::Foreign) => return Ok(None),
            Err(error) => return Err(refuse(error.to_string())),
        };
        let kubernetes = &claims.kubernetes;
        let (namespace, name) = (&kubernetes.namespace, &kubernetes.serviceaccount.name);
        if namespace.is_empty()
            || name.is_empty()
            || claims.sub != super::service_account_user(namespace, name)
        {
            return Err(refuse("service account token claims are invalid"));
        }
        let mut user = UserInfo::service_account(namespace, name, &kubernetes.serviceaccount.uid);
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        if !claims.jti.is_empty() {
            extra("credential-id", &format!("JTI={}", claims.jti));
        }
        if let Some(pod) = &kubernetes.pod {
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(node) = &kubernetes.node {
            extra("node-name", &node.name);
            extra("node-uid", &node.uid);
        }
        let known = Arc::new(Known { claims, secret, user });
        let mut all = self.known.lock();
        if all.len() >= REMEMBERED {
            let now = Utc::now().timestamp();
            all.retain(|_, k| k.claims.exp > now);
            if all.len() >= REMEMBERED {
                all.clear();
            }
        }
        all.insert(key, known.clone());
        Ok(Some(known))
    }

    /// That the account and everything the token is bound to are the objects they were.
    fn check_live(&self, known: &Known, now: DateTime<Utc>) -> Result<(), AuthenticationError> {
        let kubernetes = &known.claims.kubernetes;
        let namespace = kubernetes.namespace.as_str();
        let check = |resource: &str, wanted: &Ref| -> Result<(), AuthenticationError> {
            let word = match resource {
                "serviceaccounts" => "service account",
                "pods" => "pod",
                "secrets" => "secret",
                _ => "node",
            };
            let scope = if resource == "nodes" { "" } else { namespace };
            let entry = self.reader.get("", resource, scope, &wanted.name).ok_or_else(|| {
                refuse(format!(
                    "service account token has been invalidated: {word} {:?} not found",
                    wanted.name
                ))
            })?;
            if entry.uid() != wanted.uid {
                let was = &wanted.uid;
                return Err(refuse(format!(
                    "service account token has been invalidated: {word} UID ({}) does not match {word} ref claim ({was})",
                    entry.uid()
                )));
            }
            if entry.metadata().deletion_timestamp.as_deref().is_some_and(|at| deleted(at, now)) {
                return Err(refuse(format!(
                    "service account token has been invalidated: {word} has been deleted"
                )));
            }
            Ok(())
        };
        check("serviceaccounts", &kubernetes.serviceaccount)?;
        if let Some(secret) = &kubernetes.secret {
            check("secrets", secret)?;
        }
        if let Some(pod) = &kubernetes.pod {
            check("pods", pod)?;
        } else if let Some(node) = &kubernetes.node {
            // With a pod, the node is a fact about the pod and not what the token is bound to.
            check("nodes", node)?;
        }
        Ok(())
    }

    /// That a Secret's token is still the Secret's, and its account the one it was made for.
    fn check_secret(
        &self,
        known: &Known,
        name: &str,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(), AuthenticationError> {
        let claims = &known.claims.kubernetes;
        let namespace = claims.namespace.as_str();
        let invalidated = || refuse("Token has been invalidated");
        let entry = self.reader.get("", "secrets", namespace, name).ok_or_else(invalidated)?;
        if entry.metadata().deletion_timestamp.is_some() {
            return Err(invalidated());
        }
        let secret = parse(&entry);
        let kept = STANDARD.decode(text(&secret, "/data/token")).unwrap_or_default();
        if fingerprint(&kept) != fingerprint(token.as_bytes()) {
            return Err(refuse("Token does not match server's copy"));
        }
        let wanted = &claims.serviceaccount;
        let account = self
            .reader
            .get("", "serviceaccounts", namespace, &wanted.name)
            .ok_or_else(|| refuse(format!("serviceaccounts {:?} not found", wanted.name)))?;
        if account.metadata().deletion_timestamp.is_some() {
            return Err(refuse(format!("ServiceAccount {namespace}/{} has been deleted", wanted.name)));
        }
        if account.uid() != wanted.uid {
            return Err(refuse(format!(
                "ServiceAccount UID ({}) does not match claim ({})",
                account.uid(),
                wanted.uid
            )));
        }
        let label = |key: &str| secret["metadata"]["labels"][key].as_str().unwrap_or_default();
        if !label(tracking::INVALID_SINCE).is_empty() {
            return Err(refuse(format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{} has been marked invalid. Use \
                 tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{}' label from \
                 the secret to temporarily allow use of this token",
                wanted.name,
                tracking::INVALID_SINCE
            )));
        }
        if let Some(used) = &self.used
            && label(tracking::LAST_USED) != now.format("%Y-%m-%d").to_string()
        {
            // Nobody listens once the server stops.
            let _ = used.send((namespace.to_owned(), name.to_owned()));
        }
        Ok(())
    }

    fn check_at(
        &self,
        token: &str,
        wanted: &[String],
        now: DateTime<Utc>,
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        let Some(known) = self.known(token)? else { return Ok(None) };
        if let Some(secret) = &known.secret {
            self.check_secret(&known, secret, token, now)?;
            return Ok(Some(TokenAnswer { user: known.user.clone(), audiences: Vec::new() }));
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let audiences: Vec<String> =
            wanted.iter().filter(|a| known.claims.aud.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(refuse(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                known.claims.aud
            )));
        }
        let seconds = now.timestamp();
        if known.claims.nbf > seconds + LEEWAY {
            return Err(refuse("service account token is not valid yet"));
        }
        if known.claims.exp < seconds - LEEWAY {
            return Err(refuse("service account token has expired"));
        }
        self.check_live(&known, now)?;
        Ok(Some(TokenAnswer { user: known.user.clone(), audiences }))
    }
}

fn deleted(at: &str, now: DateTime<Utc>) -> bool {
    let at = DateTime::parse_from_rfc3339(at);
    at.is_ok_and(|at| (now - at.with_timezone(&Utc)).num_seconds() > DELETION_LEEWAY)
}

impl TokenAuthenticator for ServiceAccountTokens {
    fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        self.check_at(token, audiences, Utc::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;
    use crate::tokens::TokenRequests;
    use kit::pki::PrivateKey;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    struct World {
        cluster: Arc<FakeCluster>,
        requests: TokenRequests,
        tokens: ServiceAccountTokens,
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": "p", "uid": uid}, "spec": {"serviceAccountName": "sa"}})
    }

    fn world() -> World {
        let cluster = FakeCluster::new();
        cluster.put(
            "",
            "serviceaccounts",
            json!({"metadata": {"namespace": "a", "name": "sa", "uid": "sa-1"}}),
        );
        cluster.put("", "pods", pod("pod-1"));
        let issuer = Arc::new(Issuer::new(PrivateKey::generate().unwrap(), ISSUER));
        let audiences = vec![ISSUER.to_owned()];
        World {
            requests: TokenRequests {
                issuer: issuer.clone(),
                reader: cluster.clone(),
                audiences: audiences.clone(),
                extend: false,
                longest: None,
            },
            tokens: ServiceAccountTokens::new(issuer, cluster.clone(), audiences),
            cluster,
        }
    }

    impl World {
        fn token(&self, spec: Value) -> String {
            text(&self.requests.create("a", "sa", &json!({"spec": spec})).unwrap(), "/status/token")
                .to_owned()
        }

        fn bound(&self) -> String {
            self.token(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}))
        }

        fn check(&self, token: &str) -> Result<UserInfo, String> {
            let answer = self.tokens.authenticate_token(token, &[ISSUER.to_owned()]).map_err(|e| e.0)?;
            Ok(answer.expect("a token of ours").user)
        }
    }

    #[test]
    fn a_bound_token_says_who_and_where() {
        let world = world();
        let user = world.check(&world.bound()).unwrap();
        assert_eq!(user.name, "system:serviceaccount:a:sa");
        assert_eq!(user.uid, "sa-1");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["pod-1"]);
        assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("JTI="));
    }

    #[test]
    fn a_deleted_or_recreated_pod_ends_its_tokens_at_once() {
        let world = world();
        let token = world.bound();
        world.check(&token).unwrap();
        world.cluster.remove("", "pods", "a", "p");
        assert!(world.check(&token).unwrap_err().contains("not found"));
        world.cluster.put("", "pods", pod("pod-2"));
        assert!(world.check(&token).unwrap_err().contains("pod UID (pod-2) does not match"));
        world.cluster.put("", "pods", pod("pod-1"));
        world.check(&token).unwrap();
    }

    #[test]
    fn a_terminating_pod_keeps_its_token_for_a_minute_after_its_end() {
        let world = world();
        let token = world.bound();
        let mut dying = pod("pod-1");
        let at = |offset: i64| (Utc::now() + chrono::Duration::seconds(offset)).to_rfc3339();
        dying["metadata"]["deletionTimestamp"] = json!(at(30));
        world.cluster.put("", "pods", dying.clone());
        world.check(&token).unwrap();
        dying["metadata"]["deletionTimestamp"] = json!(at(-30));
        world.cluster.put("", "pods", dying.clone());
        world.check(&token).unwrap();
        dying["metadata"]["deletionTimestamp"] = json!(at(-61));
        world.cluster.put("", "pods", dying);
        assert!(world.check(&token).unwrap_err().contains("has been deleted"));
    }

    #[test]
    fn a_recreated_account_ends_its_tokens() {
        let world = world();
        let token = world.token(json!({}));
        world.check(&token).unwrap();
        world.cluster.put(
            "",
            "serviceaccounts",
            json!({"metadata": {"namespace": "a", "name": "sa", "uid": "sa-2"}}),
        );
        assert!(world.check(&token).is_err());
        world.cluster.remove("", "serviceaccounts", "a", "sa");
        assert!(world.check(&token).is_err());
    }

    #[test]
    fn audience_and_time_are_checked_every_time() {
        let world = world();
        let vault = world.token(json!({"audiences": ["vault"]}));
        assert!(world.check(&vault).unwrap_err().contains("is invalid for the target audiences"));
        let answer = world.tokens.authenticate_token(&vault, &["vault".into(), "x".into()]).unwrap().unwrap();
        assert_eq!(answer.audiences, ["vault"]);
        let token = world.token(json!({"expirationSeconds": 600}));
        world.check(&token).unwrap();
        let at = |seconds: i64| {
            world.tokens.check_at(&token, &[], Utc::now() + chrono::Duration::seconds(seconds))
        };
        assert!(at(655).is_ok());
        assert_eq!(at(665).unwrap_err().0, "service account token has expired");
        assert_eq!(at(-65).unwrap_err().0, "service account token is not valid yet");
    }

    #[test]
    fn a_secrets_token_lives_as_long_as_its_secret() {
        let world = world();
        let token = world.tokens.issuer.sign_legacy("a", "sa", "sa-1", "s").unwrap();
        assert_eq!(world.check(&token).unwrap_err(), "Token has been invalidated");
        let secret = |token: &str, labels: Value| {
            let metadata = json!({"namespace": "a", "name": "s", "uid": "s-1", "labels": labels});
            world.cluster.put(
                "",
                "secrets",
                json!({"metadata": metadata, "data": {"token": STANDARD.encode(token)}}),
            );
        };
        secret("other", json!({}));
        assert_eq!(world.check(&token).unwrap_err(), "Token does not match server's copy");
        secret(&token, json!({}));
        let user = world.check(&token).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:a:sa", "sa-1"));
        assert!(user.extra.is_empty());
        secret(&token, json!({"kubernetes.io/legacy-token-invalid-since": "2020-01-01"}));
        assert!(world.check(&token).unwrap_err().contains("has been marked invalid"));
        secret(&token, json!({}));
        let other = json!({"metadata": {"namespace": "a", "name": "sa", "uid": "sa-2"}});
        world.cluster.put("", "serviceaccounts", other);
        assert_eq!(world.check(&token).unwrap_err(), "ServiceAccount UID (sa-2) does not match claim (sa-1)");
    }

    #[test]
    fn tokens_of_another_key_or_kind() {
        let (one, other) = (world(), world());
        assert_eq!(one.check(&other.bound()).unwrap_err(), "invalid signature");
        assert_eq!(one.tokens.authenticate_token("abcdef.0123456789abcdef", &[]), Ok(None));
    }
}
