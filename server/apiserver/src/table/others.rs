//! The remaining groups.

use super::words::{age, int, items, map, name, or_none, selector, text};
use super::{AGE, NAME, Printer, column, number, wide};
use crate::registry::meta;
use serde_json::Value;

pub(super) fn printer(group: &str, kind: &str) -> Option<&'static Printer> {
    Some(match (group, kind) {
        ("discovery.k8s.io", "EndpointSlice") => &ENDPOINT_SLICE,
        ("networking.k8s.io", "Ingress") => &INGRESS,
        ("networking.k8s.io", "IngressClass") => &INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &NETWORK_POLICY,
        ("networking.k8s.io", "IPAddress") => &IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => &SERVICE_CIDR,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &ROLE_BINDING,
        ("storage.k8s.io", "StorageClass") => &STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => &VOLUME_ATTACHMENT,
        ("storage.k8s.io", "CSIDriver") => &CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => &CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => &CSI_CAPACITY,
        ("storage.k8s.io", "VolumeAttributesClass") => &VOLUME_ATTRIBUTES,
        ("scheduling.k8s.io", "PriorityClass") => &PRIORITY_CLASS,
        ("node.k8s.io", "RuntimeClass") => &RUNTIME_CLASS,
        ("coordination.k8s.io", "Lease") => &LEASE,
        ("certificates.k8s.io", "CertificateSigningRequest") => &CSR,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &CRD,
        ("apiregistration.k8s.io", "APIService") => &API_SERVICE,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => &WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => &POLICY,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => &POLICY_BINDING,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &PRIORITY_LEVEL,
        ("resource.k8s.io", "ResourceClaim") => &RESOURCE_CLAIM,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => &NAME_AND_AGE,
        ("resource.k8s.io", "ResourceSlice") => &RESOURCE_SLICE,
        _ => return None,
    })
}

const NAME_AND_AGE: Printer = Printer { columns: &[NAME, AGE], cells: |o| vec![name(o), age(o)] };

const ENDPOINT_SLICE: Printer = Printer {
    columns: &[NAME, column("AddressType"), column("Ports"), column("Endpoints"), AGE],
    cells: |o| {
        const SHOWN: usize = 3;
        let brief = |all: Vec<String>| {
            let more = all.len().saturating_sub(SHOWN);
            let shown = all.into_iter().take(SHOWN).collect::<Vec<_>>().join(",");
            if shown.is_empty() {
                "<unset>".to_owned()
            } else if more > 0 {
                format!("{shown} + {more} more...")
            } else {
                shown
            }
        };
        let ports = items(&o["ports"]).iter().map(|p| match p["port"].as_i64() {
            Some(port) => port.to_string(),
            None if text(&p["name"]).is_empty() => "*".to_owned(),
            None => text(&p["name"]).to_owned(),
        });
        let addresses =
            items(&o["endpoints"]).iter().flat_map(|e| items(&e["addresses"])).map(|a| text(a).to_owned());
        vec![
            name(o),
            o["addressType"].clone(),
            brief(ports.collect()).into(),
            brief(addresses.collect()).into(),
            age(o),
        ]
    },
};

const INGRESS: Printer = Printer {
    columns: &[NAME, column("Class"), column("Hosts"), column("Address"), column("Ports"), AGE],
    cells: |o| {
        let spec = &o["spec"];
        let mut hosts: Vec<&str> =
            items(&spec["rules"]).iter().map(|r| text(&r["host"])).filter(|h| !h.is_empty()).collect();
        let more = hosts.len().saturating_sub(3);
        hosts.truncate(3);
        let hosts = match (hosts.is_empty(), more) {
            (true, _) => "*".to_owned(),
            (false, 0) => hosts.join(","),
            (false, n) => format!("{} + {n} more...", hosts.join(",")),
        };
        let addresses: Vec<&str> = items(&o["status"]["loadBalancer"]["ingress"])
            .iter()
            .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
            .collect();
        let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            name(o),
            or_none(text(&spec["ingressClassName"])),
            hosts.into(),
            addresses.join(",").into(),
            ports.into(),
            age(o),
        ]
    },
};

const INGRESS_CLASS: Printer = Printer {
    columns: &[NAME, column("Controller"), column("Parameters"), AGE],
    cells: |o| {
        let p = &o["spec"]["parameters"];
        let parameters = if p.is_object() {
            let kind = match text(&p["apiGroup"]) {
                "" => text(&p["kind"]).to_owned(),
                group => format!("{}.{group}", text(&p["kind"])),
            };
            format!("{kind}/{}", text(&p["name"]))
        } else {
            String::new()
        };
        vec![name(o), text(&o["spec"]["controller"]).into(), or_none(parameters), age(o)]
    },
};

const NETWORK_POLICY: Printer = Printer {
    columns: &[NAME, column("Pod-Selector"), AGE],
    cells: |o| vec![name(o), selector(&o["spec"]["podSelector"]), age(o)],
};

const IP_ADDRESS: Printer = Printer {
    columns: &[NAME, column("ParentRef"), AGE],
    cells: |o| {
        let p = &o["spec"]["parentRef"];
        let parts = [text(&p["resource"]), text(&p["group"])].map(str::to_owned);
        let resource = if parts[1].is_empty() { parts[0].clone() } else { parts.join(".") };
        let parent = format!("{resource}/{}/{}", text(&p["namespace"]), text(&p["name"]));
        vec![name(o), parent.into(), age(o)]
    },
};

const SERVICE_CIDR: Printer = Printer {
    columns: &[NAME, column("CIDRs"), AGE],
    cells: |o| {
        let cidrs: Vec<&str> = items(&o["spec"]["cidrs"]).iter().map(text).collect();
        vec![name(o), cidrs.join(",").into(), age(o)]
    },
};

const ROLE: Printer = Printer {
    columns: &[NAME, super::Column { name: "Created At", kind: "date", format: "", priority: 0 }],
    cells: |o| vec![name(o), o["metadata"]["creationTimestamp"].clone()],
};

const ROLE_BINDING: Printer = Printer {
    columns: &[NAME, column("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |o| {
        let of = |kind: &str| {
            let all: Vec<String> = items(&o["subjects"])
                .iter()
                .filter(|s| s["kind"] == kind)
                .map(|s| {
                    if kind == "ServiceAccount" {
                        format!("{}/{}", text(&s["namespace"]), text(&s["name"]))
                    } else {
                        text(&s["name"]).to_owned()
                    }
                })
                .collect();
            Value::from(all.join(", "))
        };
        let role = format!("{}/{}", text(&o["roleRef"]["kind"]), text(&o["roleRef"]["name"]));
        vec![name(o), role.into(), age(o), of("User"), of("Group"), of("ServiceAccount")]
    },
};

const STORAGE_CLASS: Printer = Printer {
    columns: &[
        NAME,
        column("Provisioner"),
        column("ReclaimPolicy"),
        column("VolumeBindingMode"),
        column("AllowVolumeExpansion"),
        AGE,
    ],
    cells: |o| {
        let annotation = &o["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"];
        let mut shown = text(&o["metadata"]["name"]).to_owned();
        if annotation == "true" {
            shown.push_str(" (default)");
        }
        let or = |v: &Value, default: &str| if text(v).is_empty() { default.into() } else { v.clone() };
        vec![
            shown.into(),
            o["provisioner"].clone(),
            or(&o["reclaimPolicy"], "Delete"),
            or(&o["volumeBindingMode"], "Immediate"),
            (o["allowVolumeExpansion"] == Value::Bool(true)).into(),
            age(o),
        ]
    },
};

const VOLUME_ATTACHMENT: Printer = Printer {
    columns: &[NAME, column("Attacher"), column("PV"), column("Node"), column("Attached"), AGE],
    cells: |o| {
        let spec = &o["spec"];
        vec![
            name(o),
            spec["attacher"].clone(),
            text(&spec["source"]["persistentVolumeName"]).into(),
            spec["nodeName"].clone(),
            (o["status"]["attached"] == Value::Bool(true)).into(),
            age(o),
        ]
    },
};

const CSI_DRIVER: Printer = Printer {
    columns: &[
        NAME,
        column("AttachRequired"),
        column("PodInfoOnMount"),
        column("StorageCapacity"),
        column("TokenRequests"),
        column("RequiresRepublish"),
        column("Modes"),
        AGE,
    ],
    cells: |o| {
        let spec = &o["spec"];
        let flag = |f: &str, default: bool| Value::from(spec[f].as_bool().unwrap_or(default));
        let modes: Vec<&str> = items(&spec["volumeLifecycleModes"]).iter().map(text).collect();
        let tokens: Vec<&str> = items(&spec["tokenRequests"]).iter().map(|t| text(&t["audience"])).collect();
        vec![
            name(o),
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            if tokens.is_empty() { "<unset>".into() } else { tokens.join(",").into() },
            flag("requiresRepublish", false),
            or_none(modes.join(",")),
            age(o),
        ]
    },
};

const CSI_NODE: Printer = Printer {
    columns: &[NAME, number("Drivers"), AGE],
    cells: |o| vec![name(o), items(&o["spec"]["drivers"]).len().into(), age(o)],
};

const CSI_CAPACITY: Printer = Printer {
    columns: &[NAME, column("StorageClassName"), column("Capacity")],
    cells: |o| {
        let capacity = if text(&o["capacity"]).is_empty() { "<unset>".into() } else { o["capacity"].clone() };
        vec![name(o), o["storageClassName"].clone(), capacity]
    },
};

const VOLUME_ATTRIBUTES: Printer = Printer {
    columns: &[NAME, column("DriverName"), AGE],
    cells: |o| vec![name(o), o["driverName"].clone(), age(o)],
};

const PRIORITY_CLASS: Printer = Printer {
    columns: &[NAME, column("Value"), column("Global-Default"), AGE, column("PreemptionPolicy")],
    cells: |o| {
        let default = o["globalDefault"] == Value::Bool(true);
        let policy = o["preemptionPolicy"].clone();
        vec![name(o), int(&o["value"]).into(), default.into(), age(o), policy]
    },
};

const RUNTIME_CLASS: Printer = Printer {
    columns: &[NAME, column("Handler"), AGE],
    cells: |o| vec![name(o), o["handler"].clone(), age(o)],
};

const LEASE: Printer = Printer {
    columns: &[NAME, column("Holder"), AGE],
    cells: |o| vec![name(o), text(&o["spec"]["holderIdentity"]).into(), age(o)],
};

const CSR: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        column("SignerName"),
        column("Requestor"),
        column("RequestedDuration"),
        column("Condition"),
    ],
    cells: |o| {
        let spec = &o["spec"];
        let mut condition = "Pending".to_owned();
        let mut failed = false;
        for c in items(&o["status"]["conditions"]) {
            match text(&c["type"]) {
                "Approved" => condition = "Approved".into(),
                "Denied" => condition = "Denied".into(),
                "Failed" => failed = true,
                _ => {}
            }
        }
        if failed {
            condition.push_str(",Failed");
        }
        if !text(&o["status"]["certificate"]).is_empty() {
            condition.push_str(",Issued");
        }
        let duration = spec["expirationSeconds"].as_i64().map(super::human_duration).unwrap_or_default();
        vec![
            name(o),
            age(o),
            or_none(text(&spec["signerName"])),
            spec["username"].clone(),
            or_none(duration),
            condition.into(),
        ]
    },
};

const CRD: Printer = Printer {
    columns: &[NAME, super::Column { name: "Created At", kind: "date", format: "", priority: 0 }],
    cells: |o| vec![name(o), o["metadata"]["creationTimestamp"].clone()],
};

const API_SERVICE: Printer = Printer {
    columns: &[NAME, column("Service"), column("Available"), AGE],
    cells: |o| {
        let s = &o["spec"]["service"];
        let service = if s.is_object() {
            format!("{}/{}", text(&s["namespace"]), text(&s["name"]))
        } else {
            "Local".to_owned()
        };
        let available = items(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Available");
        let available = match available {
            Some(c) if c["status"] == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", text(&c["status"]), text(&c["reason"])),
            None => "Unknown".to_owned(),
        };
        vec![name(o), service.into(), available.into(), age(o)]
    },
};

const WEBHOOKS: Printer = Printer {
    columns: &[NAME, number("Webhooks"), AGE],
    cells: |o| vec![name(o), items(&o["webhooks"]).len().into(), age(o)],
};

const POLICY: Printer = Printer {
    columns: &[NAME, number("Validations"), column("ParamKind"), AGE],
    cells: |o| {
        let kind = &o["spec"]["paramKind"];
        let shown = if kind.is_object() {
            format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"]))
        } else {
            "<unset>".into()
        };
        vec![name(o), items(&o["spec"]["validations"]).len().into(), shown.into(), age(o)]
    },
};

const POLICY_BINDING: Printer = Printer {
    columns: &[NAME, column("PolicyName"), column("ParamRef"), AGE],
    cells: |o| {
        let p = &o["spec"]["paramRef"];
        let shown = if p.is_object() {
            let name = if text(&p["name"]).is_empty() { "*" } else { text(&p["name"]) };
            match text(&p["namespace"]) {
                "" => name.to_owned(),
                ns => format!("{ns}/{name}"),
            }
        } else {
            "<unset>".into()
        };
        vec![name(o), o["spec"]["policyName"].clone(), shown.into(), age(o)]
    },
};

const FLOW_SCHEMA: Printer = Printer {
    columns: &[
        NAME,
        column("PriorityLevel"),
        number("MatchingPrecedence"),
        column("DistinguisherMethod"),
        AGE,
        column("MissingPL"),
    ],
    cells: |o| {
        let dangling = items(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Dangling");
        vec![
            name(o),
            o["spec"]["priorityLevelConfiguration"]["name"].clone(),
            int(&o["spec"]["matchingPrecedence"]).into(),
            or_none(text(&o["spec"]["distinguisherMethod"]["type"])),
            age(o),
            dangling.map_or("?".into(), |c| c["status"].clone()),
        ]
    },
};

const PRIORITY_LEVEL: Printer = Printer {
    columns: &[
        NAME,
        column("Type"),
        column("NominalConcurrencyShares"),
        column("Queues"),
        column("HandSize"),
        column("QueueLengthLimit"),
        AGE,
    ],
    cells: |o| {
        let spec = &o["spec"];
        let queuing = &spec["limited"]["limitResponse"]["queuing"];
        let show = |v: &Value| v.as_i64().map_or("<none>".into(), |n| Value::from(n.to_string()));
        let shares = if spec["type"] == "Exempt" {
            &spec["exempt"]["nominalConcurrencyShares"]
        } else {
            &spec["limited"]["nominalConcurrencyShares"]
        };
        vec![
            name(o),
            spec["type"].clone(),
            show(shares),
            show(&queuing["queues"]),
            show(&queuing["handSize"]),
            show(&queuing["queueLengthLimit"]),
            age(o),
        ]
    },
};

const RESOURCE_CLAIM: Printer = Printer {
    columns: &[NAME, column("State"), AGE],
    cells: |o| {
        let mut states = Vec::new();
        if meta::deleting(o) {
            states.push("deleted");
        }
        if o["status"]["allocation"].is_object() {
            states.push("allocated");
        }
        if !items(&o["status"]["reservedFor"]).is_empty() {
            states.push("reserved");
        }
        if states.is_empty() {
            states.push("pending");
        }
        vec![name(o), states.join(",").into(), age(o)]
    },
};

const RESOURCE_SLICE: Printer = Printer {
    columns: &[NAME, column("Node"), column("Driver"), column("Pool"), AGE],
    cells: |o| {
        let spec = &o["spec"];
        let node = match (text(&spec["nodeName"]), spec["allNodes"] == Value::Bool(true)) {
            ("", true) => "<all>".to_owned(),
            ("", false) => map(&spec["nodeSelector"]),
            (node, _) => node.to_owned(),
        };
        vec![name(o), or_none(node), spec["driver"].clone(), spec["pool"]["name"].clone(), age(o)]
    },
};
