//! Fills Secrets of type `kubernetes.io/service-account-token` (upstream's tokens controller): the token, the
//! namespace and the cluster's CA, for as long as their service account is the one they name.

use super::{ACCOUNT, ACCOUNT_UID, token_secrets};
use crate::{Context, Error, synced};
use client::controller::Outcome;
use client::objects::{entry, is_deleting, name, namespace, uid};
use client::{ObjectKey, WorkQueue};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

const NAME: &str = "serviceaccount-token-controller";

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// It names an account that is not there, or that is another one by now.
    Delete,
    Write(Box<Secret>),
}

/// Returns at once when the configuration signs no such tokens.
pub async fn run(cx: Context) -> Result<(), Error> {
    let Some(sign) = cx.config.legacy_token.clone() else { return Ok(()) };
    let ca = cx.config.root_ca.clone().unwrap_or_default();
    // Upstream runs this one with the controller manager's own credentials, which make all the others'.
    let client = cx.client.clone();
    let secrets = cx.informers.scoped::<Secret>(token_secrets());
    let accounts = cx.informers.informer::<ServiceAccount>();
    if !synced!(cx, secrets, accounts) {
        return Ok(());
    }
    let queue = WorkQueue::<ObjectKey>::new();
    let sink = queue.clone();
    secrets.subscribe(move |change| {
        if !change.is_deleted() {
            sink.add(ObjectKey::of(&**change.object()));
        }
    });
    let (sink, known) = (queue.clone(), secrets.clone());
    accounts.subscribe(move |change| {
        let account = change.object();
        for secret in known.namespace(namespace(&account.metadata)) {
            if entry(secret.metadata.annotations.as_ref(), ACCOUNT) == Some(name(&account.metadata)) {
                sink.add(ObjectKey::of(&*secret));
            }
        }
    });
    client::controller::run(NAME, 2, queue, cx.stop.clone(), |key| {
        let (client, secrets, accounts, sign, ca) = (&client, &secrets, &accounts, &sign, &ca);
        async move {
            let Some(secret) = secrets.get(&key) else { return Ok(Outcome::DONE) };
            let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
            let wanted = entry(secret.metadata.annotations.as_ref(), ACCOUNT).unwrap_or_default();
            let mut account = accounts.get(&ObjectKey::new(&key.namespace, wanted)).map(|a| (*a).clone());
            if account.is_none() && !wanted.is_empty() {
                // The account may be a moment younger than what is known of it.
                let live: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.namespace);
                account = live.get_opt(wanted).await?;
            }
            match plan(&secret, account.as_ref(), ca, &**sign) {
                Plan::Nothing => Ok(Outcome::DONE),
                Plan::Delete => {
                    let only = Preconditions { uid: secret.metadata.uid.clone(), ..Preconditions::default() };
                    let params = DeleteParams::default().preconditions(only);
                    match api.delete(&key.name, &params).await {
                        Err(e) if client::errors::is_conflict(&e) => Ok(Outcome::DONE),
                        done => client::errors::ignore_not_found(done).map(|()| Outcome::DONE),
                    }
                }
                Plan::Write(filled) => match api.replace(&key.name, &PostParams::default(), &filled).await {
                    Err(e) if client::errors::is_not_found(&e) => Ok(Outcome::DONE),
                    done => done.map(|_| Outcome::DONE),
                },
            }
        }
    })
    .await;
    Ok(())
}

fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    ca: &str,
    sign: &dyn Fn(&str, &str, &str, &str) -> Option<String>,
) -> Plan {
    let metadata = &secret.metadata;
    if is_deleting(metadata) {
        return Plan::Nothing;
    }
    let annotation = |key: &str| entry(metadata.annotations.as_ref(), key).unwrap_or_default();
    let Some(account) = account.filter(|a| {
        let pinned = annotation(ACCOUNT_UID);
        pinned.is_empty() || pinned == uid(&a.metadata)
    }) else {
        return Plan::Delete;
    };
    let data =
        |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice()).unwrap_or_default();
    let needs_ca = !ca.is_empty() && data("ca.crt") != ca.as_bytes();
    let (needs_namespace, needs_token) = (data("namespace").is_empty(), data("token").is_empty());
    if !needs_ca && !needs_namespace && !needs_token {
        return Plan::Nothing;
    }
    let mut filled = secret.clone();
    let place = namespace(metadata);
    let to = filled.data.get_or_insert_default();
    if needs_ca {
        to.insert("ca.crt".into(), ByteString(ca.as_bytes().to_vec()));
    }
    if needs_namespace {
        to.insert("namespace".into(), ByteString(place.as_bytes().to_vec()));
    }
    if needs_token {
        let (of, id) = (name(&account.metadata), uid(&account.metadata));
        let Some(token) = sign(place, of, id, name(metadata)) else { return Plan::Nothing };
        to.insert("token".into(), ByteString(token.into_bytes()));
    }
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT.into(), name(&account.metadata).into());
    annotations.insert(ACCOUNT_UID.into(), uid(&account.metadata).into());
    Plan::Write(Box::new(filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn account(id: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "sa", "uid": id}})).unwrap()
    }

    fn secret(annotations: serde_json::Value) -> Secret {
        let metadata = json!({"namespace": "a", "name": "s", "uid": "1", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "type": super::super::TYPE})).unwrap()
    }

    fn decide(secret: &Secret, account: Option<&ServiceAccount>, ca: &str) -> Plan {
        plan(secret, account, ca, &|ns, sa, uid, secret| Some(format!("{ns}/{sa}/{uid}/{secret}")))
    }

    #[test]
    fn a_secret_is_filled_once() {
        let empty = secret(json!({ACCOUNT: "sa"}));
        let Plan::Write(filled) = decide(&empty, Some(&account("u")), "CA") else { panic!("to be filled") };
        let data = filled.data.as_ref().unwrap();
        assert_eq!(data["token"].0, b"a/sa/u/s");
        assert_eq!((&data["ca.crt"].0[..], &data["namespace"].0[..]), (&b"CA"[..], &b"a"[..]));
        assert_eq!(filled.metadata.annotations.as_ref().unwrap()[ACCOUNT_UID], "u");
        assert_eq!(decide(&filled, Some(&account("u")), "CA"), Plan::Nothing);
        // A new CA comes in, the token stays.
        let Plan::Write(renewed) = decide(&filled, Some(&account("u")), "CB") else { panic!("a new CA") };
        assert_eq!(renewed.data.unwrap()["token"].0, b"a/sa/u/s");
    }

    #[test]
    fn it_goes_with_its_account() {
        assert_eq!(decide(&secret(json!({ACCOUNT: "sa"})), None, ""), Plan::Delete);
        let pinned = secret(json!({ACCOUNT: "sa", ACCOUNT_UID: "old"}));
        assert_eq!(decide(&pinned, Some(&account("new")), ""), Plan::Delete);
        let mut dying = pinned;
        dying.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(decide(&dying, None, ""), Plan::Nothing);
    }
}
