//! Persistent volumes and claims.

use super::words::{age, items, name, text};
use super::{AGE, NAME, Printer, column, wide};
use crate::registry::meta;
use serde_json::Value;

fn access_modes(value: &Value) -> String {
    let short = |mode: &Value| match text(mode) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(value).iter().map(short).filter(|s| !s.is_empty()).collect::<Vec<_>>().join(",")
}

pub(super) const VOLUME: Printer = Printer {
    columns: &[
        NAME,
        column("Capacity"),
        column("Access Modes"),
        column("Reclaim Policy"),
        column("Status"),
        column("Claim"),
        column("StorageClass"),
        column("VolumeAttributesClass"),
        column("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |o| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        let phase = if meta::deleting(o) { "Terminating" } else { text(&status["phase"]) };
        vec![
            name(o),
            text(&spec["capacity"]["storage"]).into(),
            access_modes(&spec["accessModes"]).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            phase.into(),
            claim.into(),
            text(&spec["storageClassName"]).into(),
            unset(&spec["volumeAttributesClassName"]),
            text(&status["reason"]).into(),
            age(o),
            unset(&spec["volumeMode"]),
        ]
    },
};

fn unset(value: &Value) -> Value {
    if text(value).is_empty() { "<unset>".into() } else { value.clone() }
}

pub(super) const CLAIM: Printer = Printer {
    columns: &[
        NAME,
        column("Status"),
        column("Volume"),
        column("Capacity"),
        column("Access Modes"),
        column("StorageClass"),
        column("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |o| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let phase = if meta::deleting(o) { "Terminating" } else { text(&status["phase"]) };
        let bound = !text(&spec["volumeName"]).is_empty();
        vec![
            name(o),
            phase.into(),
            text(&spec["volumeName"]).into(),
            if bound { text(&status["capacity"]["storage"]).into() } else { "".into() },
            if bound { access_modes(&status["accessModes"]).into() } else { "".into() },
            text(&spec["storageClassName"]).into(),
            unset(&spec["volumeAttributesClassName"]),
            age(o),
            unset(&spec["volumeMode"]),
        ]
    },
};
