//! ServiceAccount: every pod runs under an account of its namespace and gets its token.

use super::support::{await_object, containers, is_mirror, list, secret_names};
use super::{Denied, Operation, Plugin, Request};
use crate::reader::{Reader, items, parse_as, text};
use crate::tokens::MOUNTED_TOKEN_SECONDS;
use async_trait::async_trait;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The default account of a new namespace is made by a controller, which may be a moment behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// What counts of an account here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Account {
    metadata: Metadata,
    automount_service_account_token: Option<bool>,
    image_pull_secrets: Option<Vec<Reference>>,
    secrets: Option<Vec<Reference>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    name: String,
}

pub(super) struct ServiceAccount {
    reader: Arc<dyn Reader>,
}

impl ServiceAccount {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    async fn account(&self, namespace: &str, name: &str) -> Result<Account, Denied> {
        let patience = if name == "default" { PATIENCE } else { Duration::from_millis(50) };
        match await_object(&*self.reader, "", "serviceaccounts", namespace, name, patience).await {
            Some(entry) => Ok(parse_as(&entry)),
            None => Err(Denied::forbidden(format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))),
        }
    }
}

/// A projected volume with the account's token, the cluster's authority and the namespace.
fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": MOUNTED_TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn volume_name() -> String {
    // The alphabet of generated names: no vowels, so no words.
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let suffix: String = (0..5).map(|_| ALPHABET[random.random_range(0..ALPHABET.len())] as char).collect();
    format!("{VOLUME_PREFIX}{suffix}")
}

fn mount(pod: &mut Value) {
    let existing = items(pod, "/spec/volumes").iter().find(|v| text(v, "/name").starts_with(VOLUME_PREFIX));
    let existing = existing.map(|v| text(v, "/name").to_owned());
    let name = existing.clone().unwrap_or_else(volume_name);
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            needed = true;
            list(container, "volumeMounts")
                .push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
    if needed && existing.is_none() {
        list(&mut pod["spec"], "volumes").push(token_volume(&name));
    }
}

fn validate_mirror(pod: &Value) -> Result<(), Denied> {
    let refuse = |what| Err(Denied::forbidden(what));
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if !secret_names(&pod["spec"]).is_empty() {
        return refuse("a mirror pod may not reference secrets");
    }
    let sources = items(pod, "/spec/volumes").iter().flat_map(|v| items(v, "/projected/sources"));
    if sources.into_iter().any(|s| s["serviceAccountToken"].is_object()) {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Accounts that say so let their pods use only the secrets they list.
fn limit_secrets(account: &Account, pod: &Value) -> Result<(), Denied> {
    let enforced = account.metadata.annotations.as_ref().and_then(|a| a.get(ENFORCE));
    if enforced.is_none_or(|enforced| enforced != "true") {
        return Ok(());
    }
    let name = &account.metadata.name;
    let listed =
        |list: &Option<Vec<Reference>>, secret: &str| list.iter().flatten().any(|s| s.name == secret);
    let mountable = |secret: &str| listed(&account.secrets, secret);
    let pullable = |secret: &str| listed(&account.image_pull_secrets, secret);
    let refuse = |what: String| {
        Err(Denied::forbidden(format!(
            "{what} is not allowed because service account {name} does not reference that secret"
        )))
    };
    for volume in items(pod, "/spec/volumes") {
        let secret = text(volume, "/secret/secretName");
        if !secret.is_empty() && !mountable(secret) {
            return refuse(format!("volume with secret.secretName={secret:?}"));
        }
    }
    for (kind, _, container) in containers(&pod["spec"]) {
        let word = match kind {
            "initContainers" => "init container",
            "ephemeralContainers" => "ephemeral container",
            _ => "container",
        };
        for env in items(container, "/env") {
            let secret = text(env, "/valueFrom/secretKeyRef/name");
            if !secret.is_empty() && !mountable(secret) {
                let (container, env) = (text(container, "/name"), text(env, "/name"));
                return refuse(format!(
                    "{word} {container} with envVar {env} referencing secret.secretName={secret:?}"
                ));
            }
        }
        for from in items(container, "/envFrom") {
            let secret = text(from, "/secretRef/name");
            if !secret.is_empty() && !mountable(secret) {
                let container = text(container, "/name");
                return refuse(format!(
                    "{word} {container} with envFrom referencing secret.secretName={secret:?}"
                ));
            }
        }
    }
    for secret in items(pod, "/spec/imagePullSecrets") {
        let secret = text(secret, "/name");
        if !pullable(secret) {
            return refuse(format!("imagePullSecret with name={secret:?}"));
        }
    }
    Ok(())
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "pods", &[Operation::Create])
            || (r.group.is_empty() && r.resource == "pods" && r.subresource == "ephemeralcontainers")
    }

    async fn mutate(&self, r: &Request<'_>, pod: &mut Value) -> Result<(), Denied> {
        if r.operation != Operation::Create
            || !r.subresource.is_empty()
            || is_mirror(pod)
            || !pod["spec"].is_object()
        {
            return Ok(());
        }
        if text(pod, "/spec/serviceAccountName").is_empty() {
            let deprecated = text(pod, "/spec/serviceAccount").to_owned();
            let name = if deprecated.is_empty() { "default".to_owned() } else { deprecated };
            pod["spec"]["serviceAccountName"] = name.into();
        }
        // Upstream keeps the deprecated field in step.
        pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
        let account = self.account(r.namespace, text(pod, "/spec/serviceAccountName")).await?;
        let own = pod["spec"]["automountServiceAccountToken"].as_bool();
        if own.or(account.automount_service_account_token).unwrap_or(true) {
            mount(pod);
        }
        if items(pod, "/spec/imagePullSecrets").is_empty() {
            let secrets: Vec<Value> =
                account.image_pull_secrets.iter().flatten().map(|s| json!({"name": s.name})).collect();
            if !secrets.is_empty() {
                pod["spec"]["imagePullSecrets"] = secrets.into();
            }
        }
        Ok(())
    }

    async fn validate(&self, r: &Request<'_>, pod: Option<&Value>) -> Result<(), Denied> {
        let Some(pod) = pod else { return Ok(()) };
        if is_mirror(pod) {
            return validate_mirror(pod);
        }
        let name = text(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            return Ok(());
        }
        let account = self.account(r.namespace, name).await?;
        limit_secrets(&account, pod)
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;

    fn world(account: Value) -> ServiceAccount {
        let cluster = FakeCluster::new();
        let mut account = account;
        account["metadata"]["namespace"] = "a".into();
        account["metadata"]["name"] = "default".into();
        cluster.put("", "serviceaccounts", account);
        ServiceAccount::new(cluster)
    }

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"namespace": "a", "name": "p"},
                             "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    async fn admit(plugin: &ServiceAccount, spec: Value) -> Result<Value, Denied> {
        Ask::create("", "pods").run(plugin, pod(spec)).await
    }

    #[tokio::test]
    async fn pods_get_their_account_token_and_pull_secrets() {
        let plugin = world(json!({"metadata": {}, "imagePullSecrets": [{"name": "pull"}]}));
        let pod = admit(&plugin, json!({})).await.unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["serviceAccount"], "default");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
        let volume = &pod["spec"]["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        for kind in ["containers", "initContainers"] {
            let mount = &pod["spec"][kind][0]["volumeMounts"][0];
            assert_eq!(mount, &json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }

    #[tokio::test]
    async fn automount_can_be_turned_off_by_pod_or_account() {
        let plugin = world(json!({"metadata": {}, "automountServiceAccountToken": false}));
        assert!(admit(&plugin, json!({})).await.unwrap()["spec"]["volumes"].is_null());
        let on = admit(&plugin, json!({"automountServiceAccountToken": true})).await.unwrap();
        assert_eq!(items(&on, "/spec/volumes").len(), 1);
        let plugin = world(json!({"metadata": {}}));
        assert!(
            admit(&plugin, json!({"automountServiceAccountToken": false})).await.unwrap()["spec"]["volumes"]
                .is_null()
        );
        // A container that mounts something there itself keeps it; a second pass adds nothing.
        let own = json!([{"name": "c", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]);
        let pod = admit(&plugin, json!({"containers": own, "initContainers": []})).await.unwrap();
        assert!(pod["spec"]["volumes"].is_null());
        let once = admit(&plugin, json!({})).await.unwrap();
        assert_eq!(Ask::create("", "pods").run(&plugin, once.clone()).await.unwrap(), once);
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_accounts_and_bad_mirror_pods_are_refused() {
        let plugin = world(json!({"metadata": {}}));
        let refused = admit(&plugin, json!({"serviceAccountName": "none"})).await.unwrap_err();
        assert_eq!(
            refused.message,
            "error looking up service account a/none: serviceaccount \"none\" not found"
        );
        let mirror = |spec: Value| {
            let mut pod = pod(spec);
            pod["metadata"]["annotations"] = json!({MIRROR: "x"});
            pod
        };
        const MIRROR: &str = super::super::support::MIRROR_ANNOTATION;
        let ask = Ask::create("", "pods");
        let plain = ask.run(&plugin, mirror(json!({}))).await.unwrap();
        assert!(plain["spec"]["serviceAccountName"].is_null());
        let error = ask.run(&plugin, mirror(json!({"serviceAccountName": "x"}))).await.unwrap_err();
        assert_eq!(error.message, "a mirror pod may not reference service accounts");
        let secret = json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        let error = ask.run(&plugin, mirror(secret)).await.unwrap_err();
        assert_eq!(error.message, "a mirror pod may not reference secrets");
    }

    #[tokio::test]
    async fn mountable_secrets_can_be_enforced() {
        let annotations = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
        let plugin = world(json!({"metadata": {"annotations": annotations}, "secrets": [{"name": "good"}]}));
        let with = |name: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": name}}]});
        admit(&plugin, with("good")).await.unwrap();
        let refused = admit(&plugin, with("bad")).await.unwrap_err();
        assert_eq!(
            refused.message,
            "volume with secret.secretName=\"bad\" is not allowed because service account default does not reference \
             that secret"
        );
    }
}
