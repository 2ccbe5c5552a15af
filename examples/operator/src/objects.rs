//! The objects a site stands for, as pure functions of it.

use crate::Site;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

fn metadata(site: &Site, name: &str) -> Value {
    json!({"name": name, "labels": {"web.example.com/site": site.name_any()}, "ownerReferences": [site.controller_owner_ref(&())]})
}

/// The page, in a config map of its own.
pub fn page(site: &Site) -> ConfigMap {
    let object = json!({"metadata": metadata(site, &format!("{}-page", site.name_any())),
                        "data": {"index.html": site.spec.page}});
    serde_json::from_value(object).unwrap_or_default()
}

/// Who serves it. Returned as a value: an applied object owns only what it says.
pub fn deployment(site: &Site) -> Value {
    let labels = json!({"web.example.com/site": site.name_any()});
    let name = site.name_any();
    json!({
        "apiVersion": Deployment::api_version(&()), "kind": Deployment::kind(&()),
        "metadata": metadata(site, &name),
        "spec": {
            "replicas": site.spec.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [{"name": "server", "image": "busybox:1", "command": ["httpd", "-f", "-p", "8080", "-h", "/srv"],
                                "volumeMounts": [{"name": "page", "mountPath": "/srv"}]}],
                "volumes": [{"name": "page", "configMap": {"name": format!("{name}-page")}}]}}
        }
    })
}

/// The site's line in the index, or the absence of one.
pub fn index(name: &str, title: Option<&str>) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": crate::INDEX}});
    if let Some(title) = title {
        object["data"] = json!({name: title});
    }
    object
}
