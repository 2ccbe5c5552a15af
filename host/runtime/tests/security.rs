//! What a container may and may not do.

mod common;

use common::Bed;
use runtime::{Device, Mount, Resources, Runtime, Seccomp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_groups() {
    let Some(bed) = Bed::new().await else { return };
    let mut config = bed.sh("id -u; id -g; id -G; echo $HOME; ls -ld /w | cut -c1-10");
    config.security.run_as_user = Some(33);
    config.security.supplemental_groups = vec![77];
    config.working_dir = "/w".into();
    let (status, out, err) = bed.run(config.clone()).await;
    assert_eq!(status.exit_code, 0, "{err}");
    assert_eq!(out, "33\n34\n34 50 77\n/srv\ndrwxr-xr-x\n");
    config.security.strict_groups = true;
    config.security.run_as_group = Some(5);
    let (_, out, _) = bed.run(config).await;
    assert_eq!(out.lines().take(3).collect::<Vec<_>>(), ["33", "5", "5 77"]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_and_privilege() {
    let Some(bed) = Bed::new().await else { return };
    let show = "grep -E 'CapBnd|CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\t\\n' ' '";
    let (_, out, _) = bed.run(bed.sh(show)).await;
    assert_eq!(out.trim(), "CapEff: 00000000a80425fb CapBnd: 00000000a80425fb NoNewPrivs: 0 Seccomp: 0");
    let mut config = bed.sh(show);
    config.security.drop_capabilities = vec!["ALL".into()];
    config.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    config.security.no_new_privileges = true;
    config.security.seccomp = Seccomp::RuntimeDefault;
    let (_, out, err) = bed.run(config.clone()).await;
    assert_eq!(
        out.trim(),
        "CapEff: 0000000000000400 CapBnd: 0000000000000400 NoNewPrivs: 1 Seccomp: 2",
        "{err}"
    );
    config.security.run_as_user = Some(1000);
    let (_, out, _) = bed.run(config).await;
    assert!(out.starts_with("CapEff: 0000000000000000 CapBnd: 0000000000000400"), "{out}");
    let mut config =
        bed.sh("mount -t tmpfs x /tmp && echo mounted; ls /dev | grep -c .; cat /sys/firmware >/dev/null");
    config.security.privileged = true;
    let (_, out, err) = bed.run(config).await;
    assert!(out.starts_with("mounted\n"), "{out} {err}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seccomp_bites() {
    let Some(bed) = Bed::new().await else { return };
    // unshare(2) needs no capability for a user namespace, so that only the filter can refuse it.
    let script = "unshare -U true && echo free || echo refused; mkdir /tmp/x && echo made || echo unmade";
    let (_, out, _) = bed.run(bed.sh(script)).await;
    assert_eq!(out, "free\nmade\n");
    let mut config = bed.sh(script);
    config.security.seccomp = Seccomp::RuntimeDefault;
    let (_, out, err) = bed.run(config.clone()).await;
    assert_eq!(out, "refused\nmade\n", "{err}");
    let profile = bed.dir.path().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(&profile, text).unwrap();
    config.security.seccomp = Seccomp::Localhost(profile.to_string_lossy().into());
    let (_, out, err) = bed.run(config.clone()).await;
    assert_eq!(out, "free\nunmade\n");
    assert!(err.contains("No space left on device"), "{err}");
    // An exec is under the same filter.
    config.command = vec!["sleep".into(), "1000".into()];
    let (_, id) = bed.start(bed.pod(), config.clone()).await;
    let cmd = ["mkdir", "/tmp/y"].map(String::from);
    let done = bed.runtime.exec_sync(&id, &cmd, std::time::Duration::ZERO).await.unwrap();
    assert_ne!(done.exit_code, 0);
    config.security.seccomp = Seccomp::Localhost("/no/such.json".into());
    let sandbox = bed.runtime.run_pod_sandbox(bed.pod()).await.unwrap().id;
    let error = bed.runtime.create_container(&sandbox, config).await.unwrap_err().to_string();
    assert!(error.contains("cannot load seccomp profile"), "{error}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_systems() {
    let Some(bed) = Bed::new().await else { return };
    let volume = bed.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(bed.dir.path().join("hosts"), "1.2.3.4 pod\n").unwrap();
    let mount = |host: std::path::PathBuf, container: &str, readonly| Mount {
        host_path: host.to_string_lossy().into(),
        container_path: container.into(),
        readonly,
        ..Mount::default()
    };
    let script = "cat /etc/hosts; echo v > /data/f || echo no-data; echo r > /ro/f || echo ro-mount; \
         echo x > /file || echo ro-root; echo 1 > /proc/sys/kernel/hostname || echo ro-proc; \
         cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; echo shm > /dev/shm/s && cat /dev/shm/s; \
         ls /dev | tr '\\n' ' '; grep -c overlay /proc/mounts; touch /sys/x || echo ro-sys; \
         touch /sys/fs/cgroup/memory/x || echo ro-cgroup; cat /proc/self/cgroup | grep memory";
    let mut config = bed.sh(script);
    config.security.readonly_rootfs = true;
    config.mounts = vec![
        mount(bed.dir.path().join("hosts"), "/etc/hosts", false),
        mount(volume.clone(), "/data", false),
        mount(volume.clone(), "/ro", true),
        mount(bed.dir.path().join("made-on-demand"), "/data/inner", false),
    ];
    let (status, out, err) = bed.run(config).await;
    assert_eq!(
        out,
        "1.2.3.4 pod\nro-mount\nro-root\nro-proc\n0\n0\nshm\ncore fd full mqueue null ptmx pts random shm \
         stderr stdin stdout tty urandom zero 1\nro-sys\nro-cgroup\n4:memory:/\n",
        "{status:?} {err}"
    );
    assert_eq!(std::fs::read_to_string(volume.join("f")).unwrap(), "v\n");
    assert!(bed.dir.path().join("made-on-demand").is_dir());
    // Devices: only what was given, and only as allowed.
    let mut config =
        bed.sh("head -c1 /dev/mine | wc -c; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg || echo denied");
    config.devices = vec![Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/mine".into(),
        ..Device::default()
    }];
    let (_, out, _) = bed.run(config).await;
    assert_eq!(out, "1\ndenied\n");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits() {
    let Some(bed) = Bed::new().await else { return };
    let mut config = bed.sh("x=x; while :; do x=$x$x$x$x; done");
    config.resources = Resources {
        memory_limit_bytes: 32 << 20,
        pids_limit: 50,
        cpu_shares: 512,
        cpu_period_us: 100_000,
        cpu_quota_us: 90_000,
        ..Resources::default()
    };
    let (status, _, _) = bed.run(config.clone()).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    config.command = vec!["sleep".into(), "1000".into()];
    let (_, id) = bed.start(bed.pod(), config.clone()).await;
    let stats = bed.runtime.container_stats(&id).await.unwrap();
    assert_eq!(stats.pids, 1);
    assert!(stats.memory_usage_bytes > 0 && stats.memory_usage_bytes < 32 << 20 && stats.cpu_usage_ns > 0);
    let bigger = Resources { memory_limit_bytes: 64 << 20, ..Resources::default() };
    bed.runtime.update_container_resources(&id, bigger).await.unwrap();
    let read = ["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(String::from);
    let out = bed.runtime.exec_sync(&id, &read, std::time::Duration::ZERO).await.unwrap();
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{}\n", 64 << 20));
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pid_namespaces_and_sysctls() {
    let Some(bed) = Bed::new().await else { return };
    let (_, out, _) = bed.run(bed.sh("echo $$")).await;
    assert_eq!(out, "1\n");
    let mut pod = bed.pod();
    pod.share_pid = true;
    pod.sysctls = [("net.ipv4.tcp_syncookies".to_string(), "0".to_string())].into();
    let (sandbox, first) = bed.start(pod, bed.sh("sleep 1000 & sleep 2000")).await;
    let mut second =
        bed.sh("ps | grep -c 'sleep [0-9]'; echo $$; cat /proc/sys/net/ipv4/tcp_syncookies; ps | grep pause");
    second.name = "d".into();
    second.log_path = "d/0.log".into();
    let id = bed.runtime.create_container(&sandbox, second).await.unwrap();
    bed.runtime.start_container(&id).await.unwrap();
    let status = bed.exited(&id).await;
    let (out, _) = common::log_text(&status.log_path);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() >= 2, "{out}");
    assert_ne!(lines[1], "1");
    assert_eq!(lines[2], "0");
    assert!(lines[3].trim_start().starts_with('1'), "{out}");
    bed.runtime.stop_container(&first, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(bed.runtime.container_status(&first).await.unwrap().exit_code, 137);
    // Host namespaces.
    let mut pod = bed.pod();
    (pod.host_pid, pod.host_network, pod.host_ipc) = (true, true, true);
    let (_, id) = bed
        .start(
            pod,
            bed.sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; echo $$; sleep 1000 & wait"),
        )
        .await;
    let status = bed.runtime.container_status(&id).await.unwrap();
    for _ in 0..200 {
        if common::log_text(&status.log_path).0.lines().count() >= 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (out, _) = common::log_text(&status.log_path);
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
    };
    assert_eq!(out, format!("{}\n{}\n{}\n", own("net"), own("ipc"), status.pid));
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_propagate_as_asked() {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    let Some(bed) = Bed::new().await else { return };
    let volume = bed.dir.path().join("shared");
    std::fs::create_dir(&volume).unwrap();
    mount("v", &volume, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(&volume, MountPropagationFlags::SHARED).unwrap();
    for name in ["in", "out", "sub"] {
        std::fs::create_dir(volume.join(name)).unwrap();
    }
    mount("s", volume.join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
    let at = |container: &str, propagation: &str| Mount {
        host_path: volume.to_string_lossy().into(),
        container_path: container.into(),
        propagation: propagation.into(),
        ..Mount::default()
    };
    let script = "mount -t tmpfs x /both/out && echo mounted; echo 1 > /ro/sub/f && echo sub-written; \
         echo 1 > /rro/sub/f || echo sub-refused; while [ ! -e /slave/in/now ]; do sleep 0.05; done; echo seen; \
         [ -e /private/in/now ] || echo unseen; sleep 1000";
    let mut config = bed.sh(script);
    config.security.add_capabilities = vec!["SYS_ADMIN".into()];
    config.mounts = vec![
        at("/both", "rshared"),
        at("/slave", "rslave"),
        at("/private", "private"),
        Mount { readonly: true, ..at("/ro", "private") },
        Mount { readonly: true, recursive_readonly: true, ..at("/rro", "private") },
    ];
    let (_, id) = bed.start(bed.pod(), config).await;
    let path = bed.runtime.container_status(&id).await.unwrap().log_path;
    let wait = async |wanted: &str| {
        for _ in 0..1000 {
            if common::log_text(&path).0.contains(wanted) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no {wanted:?}: {:?}", common::log_text(&path));
    };
    wait("sub-refused").await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let out = volume.join("out").to_string_lossy().into_owned();
    assert!(
        mounts.lines().any(|l| l.split(' ').nth(4) == Some(&out)),
        "the container's mount is seen outside"
    );
    mount("i", volume.join("in"), "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(volume.join("in/now"), "").unwrap();
    wait("unseen").await;
    assert_eq!(common::log_text(&path).0, "mounted\nsub-written\nsub-refused\nseen\nunseen\n");
    bed.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    for name in ["in", "out", "sub", ""] {
        unmount(volume.join(name), UnmountFlags::DETACH).unwrap();
    }
    bed.finish().await;
}
