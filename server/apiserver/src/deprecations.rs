//! Versions that are served and will not be for ever: who uses one is warned.

use crate::resolve::Resource;

/// Group, version, kind (all where empty), the release it is deprecated in and the one that has it no more.
const DEPRECATED: &[(&str, &str, &str, u32, u32)] = &[
    ("admissionregistration.k8s.io", "v1alpha1", "MutatingAdmissionPolicy", 35, 38),
    ("admissionregistration.k8s.io", "v1alpha1", "MutatingAdmissionPolicyBinding", 35, 38),
    ("certificates.k8s.io", "v1alpha1", "ClusterTrustBundle", 34, 37),
    ("coordination.k8s.io", "v1alpha2", "LeaseCandidate", 35, 38),
    ("coordination.k8s.io", "v1beta1", "LeaseCandidate", 36, 39),
    ("networking.k8s.io", "v1beta1", "", 34, 37),
    ("resource.k8s.io", "v1alpha3", "DeviceTaintRule", 36, 39),
    ("resource.k8s.io", "v1beta1", "", 35, 38),
    ("resource.k8s.io", "v1beta2", "DeviceClass", 36, 39),
    ("resource.k8s.io", "v1beta2", "ResourceClaim", 36, 39),
    ("resource.k8s.io", "v1beta2", "ResourceClaimTemplate", 36, 39),
    ("resource.k8s.io", "v1beta2", "ResourceSlice", 36, 39),
];

/// What users of this version are told.
pub(crate) fn warning(resource: &Resource) -> Option<String> {
    if resource.custom.is_some() {
        return None;
    }
    let (group, version, kind) = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
    if version == "v1" {
        let endpoints = group.is_empty() && resource.plural == "endpoints";
        return endpoints
            .then(|| "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into());
    }
    let found = DEPRECATED
        .iter()
        .find(|(g, v, k, ..)| *g == group && *v == version && (k.is_empty() || *k == kind))?;
    Some(format!("{group}/{version} {kind} is deprecated in v1.{}+, unavailable in v1.{}+", found.3, found.4))
}
