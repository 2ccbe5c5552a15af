//! The rows, in the order discovery publishes them. One line a resource, one line a subresource.

use super::verbs::*;
use super::{Builtin, cluster, namespaced, sub};

pub(super) static ROWS: &[Builtin] = &[
    namespaced("", "v1", "bindings", "Binding", CREATE),
    cluster("", "v1", "componentstatuses", "ComponentStatus", READ).short(&["cs"]),
    namespaced("", "v1", "configmaps", "ConfigMap", ALL).short(&["cm"]),
    namespaced("", "v1", "endpoints", "Endpoints", ALL).short(&["ep"]),
    namespaced("", "v1", "events", "Event", ALL).short(&["ev"]),
    namespaced("", "v1", "limitranges", "LimitRange", ALL).short(&["limits"]),
    cluster("", "v1", "namespaces", "Namespace", NO_COLLECTION).short(&["ns"]).subresources(&[
        sub("finalize", "", "", "Namespace", UPDATE),
        sub("status", "", "", "Namespace", GPU),
    ]),
    cluster("", "v1", "nodes", "Node", ALL)
        .short(&["no"])
        .subresources(&[sub("proxy", "", "", "NodeProxyOptions", PROXY), sub("status", "", "", "Node", GPU)]),
    namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", ALL)
        .short(&["pvc"])
        .subresources(&[sub("status", "", "", "PersistentVolumeClaim", GPU)]),
    cluster("", "v1", "persistentvolumes", "PersistentVolume", ALL).short(&["pv"]).subresources(&[sub(
        "status",
        "",
        "",
        "PersistentVolume",
        GPU,
    )]),
    namespaced("", "v1", "pods", "Pod", ALL).short(&["po"]).categories(&["all"]).subresources(&[
        sub("attach", "", "", "PodAttachOptions", CONNECT),
        sub("binding", "", "", "Binding", CREATE),
        sub("ephemeralcontainers", "", "", "Pod", GPU),
        sub("eviction", "policy", "v1", "Eviction", CREATE),
        sub("exec", "", "", "PodExecOptions", CONNECT),
        sub("log", "", "", "Pod", GET),
        sub("portforward", "", "", "PodPortForwardOptions", CONNECT),
        sub("proxy", "", "", "PodProxyOptions", PROXY),
        sub("resize", "", "", "Pod", GPU),
        sub("status", "", "", "Pod", GPU),
    ]),
    namespaced("", "v1", "podtemplates", "PodTemplate", ALL),
    namespaced("", "v1", "replicationcontrollers", "ReplicationController", ALL)
        .short(&["rc"])
        .categories(&["all"])
        .subresources(&[
            sub("scale", "autoscaling", "v1", "Scale", GPU),
            sub("status", "", "", "ReplicationController", GPU),
        ]),
    namespaced("", "v1", "resourcequotas", "ResourceQuota", ALL).short(&["quota"]).subresources(&[sub(
        "status",
        "",
        "",
        "ResourceQuota",
        GPU,
    )]),
    namespaced("", "v1", "secrets", "Secret", ALL),
    namespaced("", "v1", "serviceaccounts", "ServiceAccount", ALL).short(&["sa"]).subresources(&[sub(
        "token",
        "authentication.k8s.io",
        "v1",
        "TokenRequest",
        CREATE,
    )]),
    namespaced("", "v1", "services", "Service", ALL).short(&["svc"]).categories(&["all"]).subresources(&[
        sub("proxy", "", "", "ServiceProxyOptions", PROXY),
        sub("status", "", "", "Service", GPU),
    ]),
    cluster("apiregistration.k8s.io", "v1", "apiservices", "APIService", ALL)
        .categories(&["api-extensions"])
        .subresources(&[sub("status", "", "", "APIService", GPU)]),
    namespaced("apps", "v1", "controllerrevisions", "ControllerRevision", ALL),
    namespaced("apps", "v1", "daemonsets", "DaemonSet", ALL)
        .short(&["ds"])
        .categories(&["all"])
        .subresources(&[sub("status", "", "", "DaemonSet", GPU)]),
    namespaced("apps", "v1", "deployments", "Deployment", ALL)
        .short(&["deploy"])
        .categories(&["all"])
        .subresources(&[
            sub("scale", "autoscaling", "v1", "Scale", GPU),
            sub("status", "", "", "Deployment", GPU),
        ]),
    namespaced("apps", "v1", "replicasets", "ReplicaSet", ALL)
        .short(&["rs"])
        .categories(&["all"])
        .subresources(&[
            sub("scale", "autoscaling", "v1", "Scale", GPU),
            sub("status", "", "", "ReplicaSet", GPU),
        ]),
    namespaced("apps", "v1", "statefulsets", "StatefulSet", ALL)
        .short(&["sts"])
        .categories(&["all"])
        .subresources(&[
            sub("scale", "autoscaling", "v1", "Scale", GPU),
            sub("status", "", "", "StatefulSet", GPU),
        ]),
    namespaced("events.k8s.io", "v1", "events", "Event", ALL).short(&["ev"]).stored_as("", "v1"),
    cluster("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", CREATE),
    cluster("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", CREATE),
    namespaced("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", CREATE),
    cluster("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", CREATE),
    cluster("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", CREATE),
    cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", CREATE),
    namespaced("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", ALL)
        .short(&["hpa"])
        .categories(&["all"])
        .subresources(&[sub("status", "", "", "HorizontalPodAutoscaler", GPU)]),
    namespaced("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", ALL)
        .short(&["hpa"])
        .categories(&["all"])
        .stored_as("autoscaling", "v2")
        .subresources(&[sub("status", "", "", "HorizontalPodAutoscaler", GPU)]),
    namespaced("batch", "v1", "cronjobs", "CronJob", ALL)
        .short(&["cj"])
        .categories(&["all"])
        .subresources(&[sub("status", "", "", "CronJob", GPU)]),
    namespaced("batch", "v1", "jobs", "Job", ALL)
        .categories(&["all"])
        .subresources(&[sub("status", "", "", "Job", GPU)]),
    cluster("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", ALL)
        .short(&["csr"])
        .subresources(&[
            sub("approval", "", "", "CertificateSigningRequest", GPU),
            sub("status", "", "", "CertificateSigningRequest", GPU),
        ]),
    cluster("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle", ALL),
    namespaced("certificates.k8s.io", "v1beta1", "podcertificaterequests", "PodCertificateRequest", ALL)
        .subresources(&[sub("status", "", "", "PodCertificateRequest", GPU)]),
    cluster("certificates.k8s.io", "v1alpha1", "clustertrustbundles", "ClusterTrustBundle", ALL)
        .stored_as("certificates.k8s.io", "v1beta1"),
    cluster("networking.k8s.io", "v1", "ingressclasses", "IngressClass", ALL),
    namespaced("networking.k8s.io", "v1", "ingresses", "Ingress", ALL)
        .short(&["ing"])
        .subresources(&[sub("status", "", "", "Ingress", GPU)]),
    cluster("networking.k8s.io", "v1", "ipaddresses", "IPAddress", ALL).short(&["ip"]),
    namespaced("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", ALL).short(&["netpol"]),
    cluster("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", ALL).subresources(&[sub(
        "status",
        "",
        "",
        "ServiceCIDR",
        GPU,
    )]),
    cluster("networking.k8s.io", "v1beta1", "ipaddresses", "IPAddress", ALL)
        .short(&["ip"])
        .stored_as("networking.k8s.io", "v1"),
    cluster("networking.k8s.io", "v1beta1", "servicecidrs", "ServiceCIDR", ALL)
        .stored_as("networking.k8s.io", "v1")
        .subresources(&[sub("status", "", "", "ServiceCIDR", GPU)]),
    namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", ALL)
        .short(&["pdb"])
        .subresources(&[sub("status", "", "", "PodDisruptionBudget", GPU)]),
    cluster("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", ALL),
    cluster("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", ALL),
    namespaced("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", ALL),
    namespaced("rbac.authorization.k8s.io", "v1", "roles", "Role", ALL),
    cluster("storage.k8s.io", "v1", "csidrivers", "CSIDriver", ALL),
    cluster("storage.k8s.io", "v1", "csinodes", "CSINode", ALL),
    namespaced("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", ALL),
    cluster("storage.k8s.io", "v1", "storageclasses", "StorageClass", ALL).short(&["sc"]),
    cluster("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", ALL).subresources(&[sub(
        "status",
        "",
        "",
        "VolumeAttachment",
        GPU,
    )]),
    cluster("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", ALL).short(&["vac"]),
    cluster("storage.k8s.io", "v1beta1", "volumeattributesclasses", "VolumeAttributesClass", ALL)
        .short(&["vac"])
        .stored_as("storage.k8s.io", "v1"),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingadmissionpolicies",
        "MutatingAdmissionPolicy",
        ALL,
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        ALL,
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        ALL,
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        ALL,
    )
    .categories(&["api-extensions"])
    .subresources(&[sub("status", "", "", "ValidatingAdmissionPolicy", GPU)]),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        ALL,
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        ALL,
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "v1beta1",
        "mutatingadmissionpolicies",
        "MutatingAdmissionPolicy",
        ALL,
    )
    .categories(&["api-extensions"])
    .stored_as("admissionregistration.k8s.io", "v1"),
    cluster(
        "admissionregistration.k8s.io",
        "v1beta1",
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        ALL,
    )
    .categories(&["api-extensions"])
    .stored_as("admissionregistration.k8s.io", "v1"),
    cluster(
        "admissionregistration.k8s.io",
        "v1alpha1",
        "mutatingadmissionpolicies",
        "MutatingAdmissionPolicy",
        ALL,
    )
    .categories(&["api-extensions"])
    .stored_as("admissionregistration.k8s.io", "v1"),
    cluster(
        "admissionregistration.k8s.io",
        "v1alpha1",
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        ALL,
    )
    .categories(&["api-extensions"])
    .stored_as("admissionregistration.k8s.io", "v1"),
    cluster("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", ALL)
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .subresources(&[sub("status", "", "", "CustomResourceDefinition", GPU)]),
    cluster("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", ALL).short(&["pc"]),
    namespaced("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup", ALL)
        .subresources(&[sub("status", "", "", "PodGroup", GPU)]),
    namespaced("scheduling.k8s.io", "v1alpha2", "workloads", "Workload", ALL),
    namespaced("coordination.k8s.io", "v1", "leases", "Lease", ALL),
    namespaced("coordination.k8s.io", "v1beta1", "leasecandidates", "LeaseCandidate", ALL),
    namespaced("coordination.k8s.io", "v1alpha2", "leasecandidates", "LeaseCandidate", ALL)
        .stored_as("coordination.k8s.io", "v1beta1"),
    cluster("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", ALL),
    namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", ALL),
    cluster("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", ALL),
    namespaced("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", ALL).subresources(&[sub(
        "status",
        "",
        "",
        "ResourceClaim",
        GPU,
    )]),
    namespaced("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", ALL),
    cluster("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", ALL),
    cluster("resource.k8s.io", "v1beta2", "deviceclasses", "DeviceClass", ALL)
        .stored_as("resource.k8s.io", "v1"),
    cluster("resource.k8s.io", "v1beta2", "devicetaintrules", "DeviceTaintRule", ALL).subresources(&[sub(
        "status",
        "",
        "",
        "DeviceTaintRule",
        GPU,
    )]),
    namespaced("resource.k8s.io", "v1beta2", "resourceclaims", "ResourceClaim", ALL)
        .stored_as("resource.k8s.io", "v1")
        .subresources(&[sub("status", "", "", "ResourceClaim", GPU)]),
    namespaced("resource.k8s.io", "v1beta2", "resourceclaimtemplates", "ResourceClaimTemplate", ALL)
        .stored_as("resource.k8s.io", "v1"),
    cluster("resource.k8s.io", "v1beta2", "resourceslices", "ResourceSlice", ALL)
        .stored_as("resource.k8s.io", "v1"),
    cluster("resource.k8s.io", "v1beta1", "deviceclasses", "DeviceClass", ALL)
        .stored_as("resource.k8s.io", "v1"),
    namespaced("resource.k8s.io", "v1beta1", "resourceclaims", "ResourceClaim", ALL)
        .stored_as("resource.k8s.io", "v1")
        .subresources(&[sub("status", "", "", "ResourceClaim", GPU)]),
    namespaced("resource.k8s.io", "v1beta1", "resourceclaimtemplates", "ResourceClaimTemplate", ALL)
        .stored_as("resource.k8s.io", "v1"),
    cluster("resource.k8s.io", "v1beta1", "resourceslices", "ResourceSlice", ALL)
        .stored_as("resource.k8s.io", "v1"),
    cluster("resource.k8s.io", "v1alpha3", "devicetaintrules", "DeviceTaintRule", ALL)
        .stored_as("resource.k8s.io", "v1beta2")
        .subresources(&[sub("status", "", "", "DeviceTaintRule", GPU)]),
    cluster("resource.k8s.io", "v1alpha3", "resourcepoolstatusrequests", "ResourcePoolStatusRequest", ALL)
        .subresources(&[sub("status", "", "", "ResourcePoolStatusRequest", GPU)]),
    cluster("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema", ALL).subresources(&[sub(
        "status",
        "",
        "",
        "FlowSchema",
        GPU,
    )]),
    cluster(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "prioritylevelconfigurations",
        "PriorityLevelConfiguration",
        ALL,
    )
    .subresources(&[sub("status", "", "", "PriorityLevelConfiguration", GPU)]),
    cluster("internal.apiserver.k8s.io", "v1alpha1", "storageversions", "StorageVersion", ALL)
        .subresources(&[sub("status", "", "", "StorageVersion", GPU)]),
    cluster("storagemigration.k8s.io", "v1beta1", "storageversionmigrations", "StorageVersionMigration", ALL)
        .subresources(&[sub("status", "", "", "StorageVersionMigration", GPU)]),
];
