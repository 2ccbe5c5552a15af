//! The cluster's CA in every namespace, as `kube-root-ca.crt`.

use client::controller::Outcome;
use client::objects::{is_deleting, name, namespace};
use client::{ObjectKey, Scope, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};

use crate::{Context, Error, synced};

const NAME: &str = "root-ca-cert-publisher";
const MAP: &str = "kube-root-ca.crt";
const WORDS: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                     guaranteed across distributions of Kubernetes clusters.";

/// Returns at once when the configuration holds no CA.
pub async fn run(cx: Context) -> Result<(), Error> {
    let Some(ca) = cx.config.root_ca.clone() else { return Ok(()) };
    let client = cx.client_for(NAME);
    let namespaces = cx.informers.informer::<Namespace>();
    let scope = Scope { fields: Some(format!("metadata.name={MAP}")), ..Default::default() };
    let maps = cx.informers.scoped::<ConfigMap>(scope);
    if !synced!(cx, namespaces, maps) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::new().named("root_ca_cert_publisher");
    let sink = queue.clone();
    namespaces.subscribe(move |change| {
        if !change.is_deleted() {
            sink.add(name(&change.object().metadata).to_owned());
        }
    });
    let sink = queue.clone();
    maps.subscribe(move |change| sink.add(namespace(&change.object().metadata).to_owned()));
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |namespace| {
        let (client, namespaces, maps, ca) = (&client, &namespaces, &maps, &ca);
        async move {
            let lives =
                namespaces.get(&ObjectKey::cluster(&namespace)).is_some_and(|n| !is_deleting(&n.metadata));
            if !lives {
                return Ok(Outcome::DONE);
            }
            let current = maps.get(&ObjectKey::new(&namespace, MAP));
            let Some(wanted) = plan(current.as_deref(), ca) else { return Ok(Outcome::DONE) };
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
            let result = match current {
                Some(_) => api.replace(MAP, &PostParams::default(), &wanted).await,
                None => api.create(&PostParams::default(), &wanted).await,
            };
            match result {
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

/// The map to write, or `None` when the current one is right.
fn plan(current: Option<&ConfigMap>, ca: &str) -> Option<ConfigMap> {
    let data = Some([("ca.crt".to_owned(), ca.to_owned())].into());
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(MAP.into()),
            annotations: Some([("kubernetes.io/description".to_owned(), WORDS.to_owned())].into()),
            ..Default::default()
        },
        ..Default::default()
    });
    map.data = data;
    (current != Some(&map)).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_was_changed_is_put_right_and_a_right_one_left_alone() {
        let made = plan(None, "CA").unwrap();
        assert!(plan(Some(&made), "CA").is_none());
        let mut changed = made.clone();
        changed.data = Some([("ca.crt".to_owned(), "other".to_owned())].into());
        changed.metadata.labels = Some([("mine".to_owned(), String::new())].into());
        let fixed = plan(Some(&changed), "CA").unwrap();
        assert_eq!(fixed.data, made.data);
        assert_eq!(fixed.metadata.labels, changed.metadata.labels);
    }
}
