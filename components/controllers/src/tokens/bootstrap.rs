//! Deletes bootstrap tokens whose time has passed (upstream's token cleaner).

use crate::{Context, Error, synced};
use client::controller::Outcome;
use client::objects::is_deleting;
use client::{ObjectKey, Scope, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Preconditions};
use std::time::Duration;

const NAME: &str = "token-cleaner";
const TYPE: &str = "bootstrap.kubernetes.io/token";

pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(NAME);
    let scope = Scope { fields: Some(format!("type={TYPE}")), ..Scope::default() };
    let secrets = cx.informers.scoped::<Secret>(scope);
    if !synced!(cx, secrets) {
        return Ok(());
    }
    let queue = WorkQueue::<ObjectKey>::new();
    let sink = queue.clone();
    secrets.subscribe(move |change| {
        if !change.is_deleted() {
            sink.add(ObjectKey::of(&**change.object()));
        }
    });
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |key| {
        let (client, secrets) = (&client, &secrets);
        async move {
            let Some(secret) = secrets.get(&key).filter(|_| key.namespace == "kube-system") else {
                return Ok(Outcome::DONE);
            };
            let Some(left) = left(&secret, Timestamp::now()) else { return Ok(Outcome::DONE) };
            if !left.is_zero() {
                return Ok(Outcome::after(left));
            }
            let only = Preconditions { uid: secret.metadata.uid.clone(), ..Preconditions::default() };
            let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
            let done = api.delete(&key.name, &DeleteParams::default().preconditions(only)).await;
            client::errors::ignore_not_found(done).map(|()| Outcome::DONE)
        }
    })
    .await;
    Ok(())
}

/// How long the token still has; `None`: it does not end by itself. A time that cannot be read has passed.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get("expiration")?;
    let text = std::str::from_utf8(&text.0).unwrap_or_default();
    if text.is_empty() || is_deleting(&secret.metadata) {
        return None;
    }
    let Ok(end) = text.parse::<Timestamp>() else { return Some(Duration::ZERO) };
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn only_what_has_ended_goes() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = |expiration: &str| {
            let data = [("expiration".to_owned(), ByteString(expiration.as_bytes().to_vec()))];
            Secret { data: Some(data.into_iter().collect()), ..Secret::default() }
        };
        assert_eq!(left(&Secret::default(), now), None);
        assert_eq!(left(&secret(""), now), None);
        assert_eq!(left(&secret("2026-01-01T00:01:00Z"), now), Some(Duration::from_secs(60)));
        assert_eq!(left(&secret("2025-01-01T00:00:00Z"), now), Some(Duration::ZERO));
        assert_eq!(left(&secret("soon"), now), Some(Duration::ZERO));
    }
}
