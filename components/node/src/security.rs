//! Security contexts: the pod's and the container's, merged into what the runtime is told.

use camino::Utf8Path;
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use runtime::{ImageStatus, Seccomp, Security};

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The merged context; the error is the message of `CreateContainerConfigError`.
pub fn merge(
    pod: &Pod,
    c: &Container,
    image: &ImageStatus,
    seccomp_root: &Utf8Path,
) -> Result<Security, String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let run_as_user = own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user));
    let run_as_group = own.and_then(|s| s.run_as_group).or_else(|| of_pod.and_then(|s| s.run_as_group));
    let non_root = own.and_then(|s| s.run_as_non_root).or_else(|| of_pod.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) {
        verify_non_root(pod, c, run_as_user, image)?;
    }
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    let mut groups: Vec<i64> = of_pod.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(of_pod.and_then(|s| s.fs_group));
    let capabilities = own.and_then(|s| s.capabilities.clone()).unwrap_or_default();
    let profile = own
        .and_then(|s| s.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| {
        if privileged || unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    Ok(Security {
        privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        run_as_user: run_as_user.or(if run_as_group.is_some() { image.uid } else { None }),
        run_as_group,
        run_as_username: if run_as_user.is_none() { image.username.clone() } else { String::new() },
        supplemental_groups: groups,
        strict_groups: of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict"),
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, seccomp_root)? },
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        unmasked_paths: unmasked,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, root: &Utf8Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => match profile.localhost_profile.as_deref().filter(|p| !p.is_empty()) {
            Some(file) => Ok(Seccomp::Localhost(root.join(file).into_string())),
            None => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        },
        _ => Ok(Seccomp::Unconfined),
    }
}

fn verify_non_root(pod: &Pod, c: &Container, user: Option<i64>, image: &ImageStatus) -> Result<(), String> {
    let meta = &pod.metadata;
    let about = format!(
        "(pod: \"{}_{}({})\", container: {})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
        c.name
    );
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {about}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {about}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, PodSpec, SecurityContext};

    fn setup(of_pod: PodSecurityContext, own: SecurityContext) -> (Pod, Container) {
        let c = Container { name: "c".into(), security_context: Some(own), ..Default::default() };
        let spec =
            PodSpec { containers: vec![c.clone()], security_context: Some(of_pod), ..Default::default() };
        (Pod { spec: Some(spec), ..Default::default() }, c)
    }

    #[test]
    fn the_container_wins() {
        let (pod, c) = setup(
            PodSecurityContext {
                run_as_user: Some(1),
                run_as_group: Some(2),
                fs_group: Some(9),
                ..Default::default()
            },
            SecurityContext {
                run_as_user: Some(7),
                capabilities: Some(Capabilities {
                    add: Some(vec!["NET_ADMIN".into()]),
                    drop: Some(vec!["ALL".into()]),
                }),
                allow_privilege_escalation: Some(false),
                ..Default::default()
            },
        );
        let s = merge(&pod, &c, &ImageStatus::default(), Utf8Path::new("/x")).expect("merged");
        assert_eq!((s.run_as_user, s.run_as_group), (Some(7), Some(2)));
        assert_eq!(s.supplemental_groups, [9]);
        assert!(s.no_new_privileges && !s.masked_paths.is_empty());
    }

    #[test]
    fn root_is_refused() {
        let (pod, c) = setup(
            PodSecurityContext { run_as_non_root: Some(true), ..Default::default() },
            SecurityContext::default(),
        );
        let root = ImageStatus { uid: Some(0), ..Default::default() };
        let error = merge(&pod, &c, &root, Utf8Path::new("/x")).expect_err("root");
        assert!(error.starts_with("container has runAsNonRoot and image will run as root"));
        let named = ImageStatus { username: "www".into(), ..Default::default() };
        assert!(
            merge(&pod, &c, &named, Utf8Path::new("/x"))
                .expect_err("named")
                .contains("non-numeric user (www)")
        );
        let good = ImageStatus { uid: Some(33), ..Default::default() };
        assert!(merge(&pod, &c, &good, Utf8Path::new("/x")).is_ok());
    }
}
