//! Patches and writes that every controller sends.

use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// Sends `object` to its status sub-resource. The resourceVersion in it makes the write conditional.
pub async fn replace_status<K>(api: &Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: kube::Resource + Clone + DeserializeOwned + Serialize + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    api.replace_status(&name, &PostParams::default(), object).await
}

/// A merge patch of `object/<name>`.
pub async fn merge<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// A strategic merge patch of `object/<name>`.
pub async fn strategic<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// The patch that makes `owner` the controller of an object, conditional on the object's uid.
pub fn adopt(owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [owner]}})
}

/// The strategic merge patch that removes the owner reference with `owner_uid`, conditional on the object's uid.
pub fn release(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}
