//! The default service account of every namespace.

use client::controller::Outcome;
use client::objects::{is_deleting, name, namespace};
use client::{Change, ObjectKey, Scope, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};

use crate::{Context, Error, synced};

const NAME: &str = "service-account-controller";

pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(NAME);
    let namespaces = cx.informers.informer::<Namespace>();
    let scope = Scope { fields: Some("metadata.name=default".into()), ..Default::default() };
    let accounts = cx.informers.scoped::<ServiceAccount>(scope);
    if !synced!(cx, namespaces, accounts) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::new().named("serviceaccount");
    let sink = queue.clone();
    namespaces.subscribe(move |change| {
        if !change.is_deleted() {
            sink.add(name(&change.object().metadata).to_owned());
        }
    });
    let sink = queue.clone();
    accounts.subscribe(move |change| {
        if let Change::Deleted(account) = change {
            sink.add(namespace(&account.metadata).to_owned());
        }
    });
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |namespace| {
        let (client, namespaces, accounts) = (&client, &namespaces, &accounts);
        async move {
            let lives =
                namespaces.get(&ObjectKey::cluster(&namespace)).is_some_and(|n| !is_deleting(&n.metadata));
            if !lives || accounts.get(&ObjectKey::new(&namespace, "default")).is_some() {
                return Ok(Outcome::DONE);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some("default".into()), ..Default::default() },
                ..Default::default()
            };
            let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
            match api.create(&PostParams::default(), &account).await {
                Ok(_) => Ok(Outcome::DONE),
                Err(e) if client::errors::is_already_exists(&e) || client::errors::is_not_found(&e) => {
                    Ok(Outcome::DONE)
                }
                Err(e) if client::errors::is_namespace_terminating(&e) => Ok(Outcome::DONE),
                Err(e) => Err(e),
            }
        }
    })
    .await;
    Ok(())
}
