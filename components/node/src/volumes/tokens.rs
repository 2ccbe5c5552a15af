//! Service account tokens of projected volumes, asked for through TokenRequest and replaced before they run out.

use super::Context;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::PostParams;
use std::collections::BTreeMap;

const DAY: SignedDuration = SignedDuration::from_hours(24);

struct Held {
    token: String,
    renew: Timestamp,
    expires: Timestamp,
}

/// The tokens of one pod.
#[derive(Default)]
pub struct Tokens(BTreeMap<(String, String), Held>);

impl Tokens {
    /// A valid token; a fresh one once 80 % of its life, or a day, has passed. When a fresh one cannot be had the old
    /// one serves until it expires.
    pub async fn get(
        &mut self,
        ctx: &Context,
        pod: &Pod,
        volume: &str,
        t: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let key = (volume.to_owned(), t.path.clone());
        let now = Timestamp::now();
        if let Some(held) = self.0.get(&key).filter(|h| h.renew > now) {
            return Ok(held.token.clone());
        }
        match request(ctx, pod, t).await {
            Ok(held) => {
                let token = held.token.clone();
                self.0.insert(key, held);
                Ok(token)
            }
            Err(why) => match self.0.get_mut(&key).filter(|h| h.expires > now) {
                Some(held) => {
                    tracing::warn!(error = why, "service account token not renewed yet");
                    held.renew = now.checked_add(SignedDuration::from_secs(30)).unwrap_or(now);
                    Ok(held.token.clone())
                }
                None => Err(why),
            },
        }
    }

    /// When the next one has to be renewed.
    pub fn next_renewal(&self) -> Option<Timestamp> {
        self.0.values().map(|h| h.renew).min()
    }
}

async fn request(ctx: &Context, pod: &Pod, t: &ServiceAccountTokenProjection) -> Result<Held, String> {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(t.audience.clone().filter(|a| !a.is_empty()).into_iter().collect()),
            expiration_seconds: Some(t.expiration_seconds.unwrap_or(3600)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        }),
        ..Default::default()
    };
    let fail = |e: String| format!("failed to fetch token: {e}");
    let api: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let answer: TokenRequest = api
        .create_subresource("token", account, &PostParams::default(), &body)
        .await
        .map_err(|e| fail(crate::api_message(&e)))?;
    let status = answer.status.ok_or_else(|| fail("the answer has no status".into()))?;
    let now = Timestamp::now();
    let expires = status.expiration_timestamp.map_or(now, |t| t.0);
    Ok(Held { renew: renewal(now, expires), expires, token: status.token.unwrap_or_default() })
}

fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now);
    let part = SignedDuration::from_secs(life.as_secs() * 8 / 10).min(DAY);
    now.checked_add(part).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_at_four_fifths_but_daily() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        assert_eq!(renewal(at(0), at(1000)), at(800));
        assert_eq!(renewal(at(0), at(31_536_000)), at(86_400));
    }
}
