//! Storage plugins: default class, protection while in use, growing claims.

use super::support::{annotation, default_class, list};
use super::{Denied, Operation, Plugin, Request};
use crate::reader::{Reader, parse, text};
use async_trait::async_trait;
use machinery::quantity::Quantity;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "storage.k8s.io";
const LEGACY_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Claims that name no class get the default one.
pub(super) struct DefaultStorageClass {
    reader: Arc<dyn Reader>,
}

impl DefaultStorageClass {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "persistentvolumeclaims", &[Operation::Create])
    }

    async fn mutate(&self, _: &Request<'_>, claim: &mut Value) -> Result<(), Denied> {
        // An empty class is a choice: no class at all.
        if !claim["spec"]["storageClassName"].is_null() || annotation(claim, LEGACY_CLASS).is_some() {
            return Ok(());
        }
        const MARKS: [&str; 2] = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        if let Some((name, _)) = default_class(&*self.reader, GROUP, "storageclasses", &MARKS) {
            claim["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}

/// Volumes and claims carry a finalizer that a controller takes off once nobody uses them.
pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        finalizer(r).is_some() && r.is(r.group, r.resource, &[Operation::Create])
    }

    async fn mutate(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Denied> {
        let Some(finalizer) = finalizer(r) else { return Ok(()) };
        let finalizers = list(&mut object["metadata"], "finalizers");
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

fn finalizer(r: &Request<'_>) -> Option<&'static str> {
    match (r.group, r.resource) {
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        (GROUP, "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

/// Claims grow only when bound, and only where their class allows it.
pub(super) struct PersistentVolumeClaimResize {
    reader: Arc<dyn Reader>,
}

impl PersistentVolumeClaimResize {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "persistentvolumeclaims", &[Operation::Update])
    }

    async fn validate(&self, r: &Request<'_>, claim: Option<&Value>) -> Result<(), Denied> {
        let Some((old, new)) = r.old.zip(claim) else { return Ok(()) };
        let size =
            |c: &Value| Quantity::parse(text(c, "/spec/resources/requests/storage")).unwrap_or_default();
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(Denied::forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = annotation(new, LEGACY_CLASS).unwrap_or_else(|| text(new, "/spec/storageClassName"));
        let class = self.reader.get(GROUP, "storageclasses", "", class).map(|e| parse(&e));
        if class.is_none_or(|c| c["allowVolumeExpansion"] != true) {
            return Err(Denied::forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                 support resize",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn class(name: &str, created: &str, default: &str) -> Value {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": default});
        json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": annotations},
               "allowVolumeExpansion": name == "grows"})
    }

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let cluster = FakeCluster::new();
        let plugin = DefaultStorageClass::new(cluster.clone());
        let ask = Ask::create("", "persistentvolumeclaims");
        let claim = json!({"metadata": {}, "spec": {}});
        assert!(ask.run(&plugin, claim.clone()).await.unwrap()["spec"]["storageClassName"].is_null());
        cluster.put(GROUP, "storageclasses", class("old", "2025-01-01T00:00:00Z", "true"));
        cluster.put(GROUP, "storageclasses", class("new", "2026-01-01T00:00:00Z", "true"));
        cluster.put(GROUP, "storageclasses", class("newest", "2026-06-01T00:00:00Z", "false"));
        assert_eq!(ask.run(&plugin, claim).await.unwrap()["spec"]["storageClassName"], "new");
        let none = json!({"metadata": {}, "spec": {"storageClassName": ""}});
        assert_eq!(ask.run(&plugin, none).await.unwrap()["spec"]["storageClassName"], "");
    }

    #[tokio::test]
    async fn finalizers_are_added_once() {
        let ask = Ask::create("", "persistentvolumeclaims");
        let once = ask.run(&StorageObjectInUseProtection, json!({"metadata": {}})).await.unwrap();
        assert_eq!(once["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        assert_eq!(ask.run(&StorageObjectInUseProtection, once.clone()).await.unwrap(), once);
    }

    #[tokio::test]
    async fn claims_grow_only_where_they_may() {
        let cluster = FakeCluster::new();
        cluster.put(GROUP, "storageclasses", class("grows", "", ""));
        cluster.put(GROUP, "storageclasses", class("fixed", "", ""));
        let plugin = PersistentVolumeClaimResize::new(cluster);
        let claim = |class: &str, phase: &str, size: &str| {
            json!({"metadata": {}, "status": {"phase": phase},
                   "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        for (class, phase, size, ok) in [
            ("grows", "Bound", "2Gi", true),
            ("grows", "Pending", "2Gi", false),
            ("fixed", "Bound", "2Gi", false),
            ("none", "Bound", "2Gi", false),
            ("fixed", "Pending", "1024Mi", true),
        ] {
            let ask = Ask::update("", "persistentvolumeclaims", claim(class, phase, "1Gi"));
            assert_eq!(
                ask.run(&plugin, claim(class, phase, size)).await.is_ok(),
                ok,
                "{class} {phase} {size}"
            );
        }
    }
}
