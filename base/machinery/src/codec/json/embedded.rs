//! Go's embedded structures: their members stand among those of the structure around them, but errors of decoding name
//! them on the way.

use crate::schema::{Field, TypeDef};

/// The structures that lie between the type and its field, outermost first.
pub(super) fn within(owner: &TypeDef, field: &Field) -> &'static [&'static str] {
    if field.embed.is_empty() {
        return &[];
    }
    let all: &'static [&'static str] = match owner.go {
        "ConfigMapEnvSource"
        | "ConfigMapKeySelector"
        | "ConfigMapProjection"
        | "ConfigMapVolumeSource"
        | "SecretEnvSource"
        | "SecretKeySelector"
        | "SecretProjection" => &["LocalObjectReference"],
        "DeviceAllocationConfiguration" | "DeviceClaimConfiguration" | "DeviceClassConfiguration" => {
            &["DeviceConfiguration"]
        }
        "EphemeralContainer" => &["EphemeralContainerCommon"],
        "IngressRule" => &["IngressRuleValue"],
        "NamedRuleWithOperations" => &["RuleWithOperations", "Rule"],
        "PersistentVolumeSpec" => &["PersistentVolumeSource"],
        "Probe" => &["ProbeHandler"],
        "RuleWithOperations" => &["Rule"],
        "Volume" => &["VolumeSource"],
        _ => &[],
    };
    &all[..field.embed.len().min(all.len())]
}
