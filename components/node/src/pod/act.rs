//! Making a pod's common ground: volumes, sandbox, network.

use super::labels;
use super::resources::{cgroup_parent, pod_resources, qos};
use crate::events::Kind;
use crate::files;
use crate::images::kit_chain;
use crate::network::{HostPort, PodNetRequest};
use crate::shared::Shared;
use crate::volumes::{self, PodVolumes};
use k8s_openapi::api::core::v1::Pod;
use runtime::{SandboxConfig, SandboxStatus};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub struct Ground {
    pub sandbox: SandboxStatus,
    pub ips: Vec<IpAddr>,
    pub volumes: volumes::Map,
    /// Present when they were made just now.
    pub fresh: Option<PodVolumes>,
}

/// What failed, told to the user as an event already.
#[derive(Debug)]
pub struct GroundError;

/// Volumes and sandbox are made side by side. A sandbox that is there is reused, and its network asked for again, which
/// answers the addresses it has.
pub async fn prepare(
    shared: &Shared,
    pod: &Pod,
    have: Option<SandboxStatus>,
    attempt: u32,
    volumes: Option<volumes::Map>,
) -> Result<Ground, GroundError> {
    let mount = async {
        match volumes {
            Some(map) => Ok((map, None)),
            None => {
                let mut fresh = PodVolumes::default();
                let facts = shared.facts(pod, &[]);
                match fresh.mount(&shared.volumes, pod, &facts).await {
                    Ok(map) => Ok((map, Some(fresh))),
                    Err(error) => {
                        shared.recorder.pod(pod, Kind::Warning, "FailedMount", error.to_string());
                        Err(GroundError)
                    }
                }
            }
        }
    };
    let sandbox = async {
        let outcome = match have.filter(|s| s.ready) {
            Some(s) => Ok(s),
            None => make_sandbox(shared, pod, attempt).await,
        };
        match outcome {
            Ok(s) => wire(shared, pod, &s).await.map(|ips| (s, ips)),
            Err(why) => Err(why),
        }
        .map_err(|why| {
            shared.recorder.pod(
                pod,
                Kind::Warning,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {why}"),
            );
            GroundError
        })
    };
    let (volumes, sandbox) = tokio::join!(mount, sandbox);
    let (sandbox, ips) = sandbox?;
    let (volumes, fresh) = volumes?;
    Ok(Ground { sandbox, ips, volumes, fresh })
}

async fn make_sandbox(shared: &Shared, pod: &Pod, attempt: u32) -> Result<SandboxStatus, String> {
    let config = sandbox_config(shared, pod, attempt)?;
    tokio::fs::create_dir_all(&config.log_directory)
        .await
        .map_err(|e| format!("{}: {e}", config.log_directory))?;
    shared.runtime.run_pod_sandbox(config).await.map_err(|e| kit_chain(&e))
}

async fn wire(shared: &Shared, pod: &Pod, sandbox: &SandboxStatus) -> Result<Vec<IpAddr>, String> {
    if sandbox.config.host_network {
        return Ok(shared.config.addresses.clone());
    }
    let (name, namespace, uid) = super::identity(pod);
    let request = PodNetRequest {
        uid: uid.into(),
        namespace: namespace.into(),
        name: name.into(),
        netns: sandbox.netns.clone(),
        host_ports: host_ports(pod),
    };
    match shared.network.attach(&request).await {
        Ok(ips) => Ok(ips.0),
        Err(error) => {
            // A sandbox without network is no use; the next attempt makes a new one.
            let _ = shared.runtime.stop_pod_sandbox(&sandbox.id).await;
            let _ = shared.runtime.remove_pod_sandbox(&sandbox.id).await;
            Err(format!("failed to setup network for sandbox {:?}: {error}", sandbox.id))
        }
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: u16::try_from(p.host_port.filter(|n| *n > 0)?).ok()?,
                container_port: u16::try_from(p.container_port).ok()?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}

pub fn sandbox_config(shared: &Shared, pod: &Pod, attempt: u32) -> Result<SandboxConfig, String> {
    let (name, namespace, uid) = super::identity(pod);
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let mut all = pod.metadata.labels.clone().unwrap_or_default();
    all.extend(identity_labels(pod));
    let sysctls: BTreeMap<String, String> = spec
        .security_context
        .iter()
        .flat_map(|s| s.sysctls.iter().flatten())
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    Ok(SandboxConfig {
        pod_name: name.into(),
        pod_namespace: namespace.into(),
        pod_uid: uid.into(),
        attempt,
        hostname: files::kernel_hostname(pod, &shared.config)?,
        labels: all,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        log_directory: shared.config.pod_logs_dir(namespace, name, uid).into_string(),
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        cgroup_parent: cgroup_parent(qos(pod), uid),
        resources: pod_resources(spec),
        sysctls,
    })
}

pub fn identity_labels(pod: &Pod) -> BTreeMap<String, String> {
    let (name, namespace, uid) = super::identity(pod);
    BTreeMap::from([
        (labels::POD_NAME.to_owned(), name.to_owned()),
        (labels::POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (labels::POD_UID.to_owned(), uid.to_owned()),
    ])
}
