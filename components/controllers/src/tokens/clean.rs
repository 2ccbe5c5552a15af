//! Tokens of Secrets that were made by themselves, long ago, and that nobody uses (upstream's legacy service account
//! token cleaner): first marked invalid, deleted a year later.

use super::{ACCOUNT, ACCOUNT_UID, token_secrets};
use crate::{Context, Error, synced};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use client::ObjectKey;
use client::objects::{entry, is_deleting, name, namespace, uid};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

const NAME: &str = "legacy-service-account-token-cleaner";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long a token must have been idle, and how long it stays marked.
const PERIOD: TimeDelta = TimeDelta::days(365);

pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(NAME);
    let secrets = cx.informers.scoped::<Secret>(token_secrets());
    let accounts = cx.informers.informer::<ServiceAccount>();
    let pods = cx.informers.informer::<Pod>();
    if !synced!(cx, secrets, accounts, pods) {
        return Ok(());
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    loop {
        if !secrets.is_empty() {
            match maps.get_opt(TRACKING).await {
                Ok(map) => {
                    let since = map.and_then(|m| date(entry(m.data.as_ref(), "since")?));
                    let mounted = mounted(&pods.list());
                    for secret in secrets.list() {
                        let key = entry(secret.metadata.annotations.as_ref(), ACCOUNT).unwrap_or_default();
                        let account = accounts.get(&ObjectKey::new(namespace(&secret.metadata), key));
                        let step = plan(&secret, account.as_deref(), &mounted, since, Utc::now());
                        if let Err(error) = act(&client, &secret, step).await {
                            tracing::warn!(%error, secret = name(&secret.metadata), "a stale token was not cleaned");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the tracking of tokens cannot be read"),
            }
        }
        tokio::select! {
            () = cx.stop.wait() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Midnight of a day.
fn date(text: &str) -> Option<DateTime<Utc>> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc())
}

/// Namespace and name of every Secret a pod has as a volume.
fn mounted(pods: &[std::sync::Arc<Pod>]) -> HashSet<(String, String)> {
    let mut out = HashSet::new();
    for pod in pods {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            if let Some(secret) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
                out.insert((namespace(&pod.metadata).to_owned(), secret));
            }
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Keep,
    Mark(NaiveDate),
    Delete,
}

fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: &HashSet<(String, String)>,
    since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Step {
    let metadata = &secret.metadata;
    // Uses count from the day after tracking began.
    let long_tracked = since.is_some_and(|since| now >= since + TimeDelta::days(1) + PERIOD);
    let old = metadata
        .creation_timestamp
        .as_ref()
        .and_then(|t| DateTime::from_timestamp(t.0.as_second(), 0))
        .is_some_and(|made| made < now - PERIOD);
    let annotation = |key: &str| entry(metadata.annotations.as_ref(), key).unwrap_or_default();
    // Made by itself: its account lists it.
    let listed = account.is_some_and(|a| {
        annotation(ACCOUNT_UID) == uid(&a.metadata)
            && a.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(name(metadata)))
    });
    let key = (namespace(metadata).to_owned(), name(metadata).to_owned());
    if !long_tracked || !old || is_deleting(metadata) || !listed || mounted.contains(&key) {
        return Step::Keep;
    }
    let label = |key: &str| entry(metadata.labels.as_ref(), key).and_then(date);
    if label(LAST_USED).is_some_and(|used| now < used + PERIOD) {
        return Step::Keep;
    }
    match label(INVALID_SINCE) {
        None => Step::Mark(now.date_naive()),
        Some(marked) if now < marked + PERIOD => Step::Keep,
        Some(_) => Step::Delete,
    }
}

async fn act(client: &kube::Client, secret: &Secret, step: Step) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace(&secret.metadata));
    let of = name(&secret.metadata);
    match step {
        Step::Keep => Ok(()),
        Step::Mark(day) => {
            let version = secret.metadata.resource_version.as_deref().unwrap_or_default();
            let patch = json!({"metadata": {"resourceVersion": version,
                "labels": {INVALID_SINCE: day.format("%Y-%m-%d").to_string()}}});
            api.patch(of, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
        }
        Step::Delete => {
            let only = Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
            };
            let params = DeleteParams::default().preconditions(only);
            client::errors::ignore_not_found(api.delete(of, &params).await)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn marked_after_a_year_deleted_after_two() {
        let now = date("2026-06-01").unwrap();
        let account: ServiceAccount = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "sa", "uid": "u"}, "secrets": [{"name": "s"}]}))
        .unwrap();
        let secret = |made: &str, labels: Value| -> Secret {
            let annotations = json!({ACCOUNT: "sa", ACCOUNT_UID: "u"});
            let metadata = json!({"namespace": "a", "name": "s", "annotations": annotations, "labels": labels,
                                  "creationTimestamp": format!("{made}T00:00:00Z")});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let since = date("2020-01-01");
        let none = HashSet::new();
        let decide = |s: &Secret| plan(s, Some(&account), &none, since, now);
        let old = secret("2020-01-01", json!({}));
        assert_eq!(decide(&old), Step::Mark(now.date_naive()));
        assert_eq!(decide(&secret("2026-01-01", json!({}))), Step::Keep);
        assert_eq!(decide(&secret("2020-01-01", json!({LAST_USED: "2026-05-01"}))), Step::Keep);
        let unused = json!({LAST_USED: "2021-05-01", INVALID_SINCE: "2026-01-01"});
        assert_eq!(decide(&secret("2020-01-01", unused)), Step::Keep);
        assert_eq!(decide(&secret("2020-01-01", json!({INVALID_SINCE: "2025-01-01"}))), Step::Delete);
        // Not tracked for long enough, mounted, made by hand, or of another account.
        assert_eq!(plan(&old, Some(&account), &none, date("2026-01-01"), now), Step::Keep);
        assert_eq!(plan(&old, Some(&account), &none, None, now), Step::Keep);
        let used = HashSet::from([("a".to_owned(), "s".to_owned())]);
        assert_eq!(plan(&old, Some(&account), &used, since, now), Step::Keep);
        assert_eq!(plan(&old, None, &none, since, now), Step::Keep);
        let mut other = account.clone();
        other.secrets = None;
        assert_eq!(plan(&old, Some(&other), &none, since, now), Step::Keep);
    }
}
