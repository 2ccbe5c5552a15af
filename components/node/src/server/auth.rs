//! Who may use the kubelet API.

use super::{Answer, text};
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, X509Certificate};

const REMEMBER: Duration = Duration::from_secs(60);
/// The API server's own identity towards kubelets.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const MASTERS: &str = "system:masters";

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    pub name: Option<String>,
    pub groups: Vec<String>,
}

impl Caller {
    /// The subject of a certificate that the TLS layer has verified.
    pub fn from_certificates(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Self::default() };
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return Self::default() };
        let subject = cert.subject();
        let name = subject.iter_common_name().next().and_then(|a| a.as_str().ok()).map(str::to_owned);
        let groups = subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
        Self { name, groups }
    }

    fn is_api_server(&self) -> bool {
        self.name.as_deref() == Some(API_SERVER) || self.groups.iter().any(|g| g == MASTERS)
    }
}

/// The node sub-resource a path stands for.
fn subresource(path: &str) -> &'static str {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "pods" | "runningpods" => "pods",
        "configz" => "configz",
        _ => "proxy",
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

pub struct Authorizer {
    client: kube::Client,
    node: String,
    tokens: Mutex<HashMap<String, (Instant, Caller)>>,
    verdicts: Mutex<HashMap<(Caller, &'static str, &'static str), (Instant, bool)>>,
}

impl Authorizer {
    pub fn new(client: kube::Client, node: String) -> Self {
        Self { client, node, tokens: Mutex::default(), verdicts: Mutex::default() }
    }

    pub async fn check(
        &self,
        caller: &Caller,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Answer> {
        if caller.is_api_server() {
            return Ok(());
        }
        let by_token;
        let caller = if caller.name.is_some() {
            caller
        } else {
            by_token =
                self.token(headers).await.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
            &by_token
        };
        let (verb, sub) = (verb(method), subresource(path));
        if self.allowed(caller, verb, sub).await {
            return Ok(());
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{sub}])\n",
            caller.name.as_deref().unwrap_or_default()
        );
        Err(text(StatusCode::FORBIDDEN, message))
    }

    async fn token(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?.to_owned();
        if let Some((at, caller)) = self.tokens.lock().get(&token)
            && at.elapsed() < REMEMBER
        {
            return Some(caller.clone());
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.clone(), ..Default::default() },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await.ok()?.status?;
        if status.authenticated != Some(true) {
            return None;
        }
        let user = status.user?;
        let caller = Caller { name: user.username, groups: user.groups.unwrap_or_default() };
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (at, _)| at.elapsed() < REMEMBER);
        tokens.insert(token, (Instant::now(), caller.clone()));
        Some(caller)
    }

    async fn allowed(&self, caller: &Caller, verb: &'static str, sub: &'static str) -> bool {
        let key = (caller.clone(), verb, sub);
        if let Some((at, verdict)) = self.verdicts.lock().get(&key)
            && at.elapsed() < REMEMBER
        {
            return *verdict;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: caller.name.clone(),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(sub.into()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let Ok(answer) = api.create(&PostParams::default(), &review).await else { return false };
        let verdict = answer.status.is_some_and(|s| s.allowed);
        let mut verdicts = self.verdicts.lock();
        verdicts.retain(|_, (at, _)| at.elapsed() < REMEMBER);
        verdicts.insert(key, (Instant::now(), verdict));
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_verbs() {
        assert_eq!(subresource("/stats/summary"), "stats");
        assert_eq!(subresource("/exec/a/b/c"), "proxy");
        assert_eq!(subresource("/metrics/resource"), "metrics");
        assert_eq!(verb(&Method::POST), "create");
    }
}
