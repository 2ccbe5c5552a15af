//! Claims: a bound one may tie the pod to nodes, an unbound one makes it wait.

use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::PersistentVolume;

use super::affinity::node_selector_matches;
use crate::framework::{Happening, Plugin, Prepared, Refusal, State};
use crate::world::{NodeInfo, PodInfo, World};

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn prepare(&self, world: &World, pod: &PodInfo) -> Prepared {
        let volumes = pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let mut bound: Vec<Arc<PersistentVolume>> = Vec::new();
        let mut uses = false;
        for volume in volumes {
            let name = if let Some(claim) = &volume.persistent_volume_claim {
                claim.claim_name.clone()
            } else if volume.ephemeral.is_some() {
                format!("{}-{}", pod.key.name, volume.name)
            } else {
                continue;
            };
            uses = true;
            let key = ObjectKey::new(&pod.key.namespace, &name);
            let Some(claim) = world.volumes.claims.get(&key) else {
                let words = match volume.ephemeral {
                    Some(_) => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    ),
                    None => format!("persistentvolumeclaim \"{name}\" not found"),
                };
                return Prepared::Reject(Refusal::unresolvable(self.name(), words));
            };
            if client::objects::is_deleting(&claim.metadata) {
                let words = format!("persistentvolumeclaim \"{name}\" is being deleted");
                return Prepared::Reject(Refusal::unresolvable(self.name(), words));
            }
            let spec = claim.spec.as_ref();
            let volume_name = spec.and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
            match volume_name {
                Some(volume_name) => match world.volumes.volumes.get(volume_name) {
                    Some(volume) => bound.push(volume.clone()),
                    None => {
                        let words = format!("persistentvolume \"{volume_name}\" not found");
                        return Prepared::Reject(Refusal::unresolvable(self.name(), words));
                    }
                },
                None => {
                    let class = spec.and_then(|s| s.storage_class_name.as_deref()).unwrap_or("");
                    // Placing the first consumer of a waiting claim needs a provisioner, which this build lacks.
                    let words = if world.volumes.wait_classes.contains(class) {
                        "node(s) didn't find available persistent volumes to bind"
                    } else {
                        "pod has unbound immediate PersistentVolumeClaims"
                    };
                    return Prepared::Reject(Refusal::unresolvable(self.name(), words));
                }
            }
        }
        if uses { Prepared::Use(Some(Box::new(bound))) } else { Prepared::Skip }
    }

    fn filter(&self, _: &World, state: &State, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(bound) = state.as_ref().and_then(|s| s.downcast_ref::<Vec<Arc<PersistentVolume>>>()) else {
            return Ok(());
        };
        for volume in bound {
            let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
            if let Some(required) = affinity.and_then(|a| a.required.as_ref())
                && !node_selector_matches(required, node)
            {
                let words = "node(s) didn't match PersistentVolume's node affinity";
                return Err(Refusal::unresolvable(self.name(), words));
            }
        }
        Ok(())
    }

    fn cured_by(&self, happening: Happening) -> bool {
        use Happening::{NodeAdded, NodeChanged, PodChanged, VolumesChanged};
        matches!(happening, VolumesChanged | NodeAdded | NodeChanged | PodChanged)
    }
}
