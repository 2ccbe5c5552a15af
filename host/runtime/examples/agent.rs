//! A supervisor program and a small agent for the tests: `agent supervise <state>` becomes a supervisor;
//! `agent run <root> <state> <cgroup>` starts one pod with one container that writes a line every 50 ms,
//! prints its sandbox and container ids, and stays until it is killed. `agent time <root> <state> <cgroup>` measures
//! how long pods take to come and go, and how much memory a supervisor holds.

use runtime::builtin::{Builtin, BuiltinFile, FileContent, Options, Registries};
use runtime::{ContainerConfig, Runtime, SandboxConfig};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "supervise") {
        std::process::exit(runtime::supervise_main(&args[1..]));
    }
    let [mode, root, state, cgroup] = args.as_slice() else {
        eprintln!("usage: agent run|time <root> <state> <cgroup>");
        std::process::exit(2);
    };
    let options = Options {
        root: root.into(),
        state: state.into(),
        cgroup_root: cgroup.clone(),
        supervisor_exe: vec!["/proc/self/exe".into(), "supervise".into()],
        registries: Registries::default(),
        open_files: None,
    };
    let executor = tokio::runtime::Runtime::new().expect("tokio starts");
    executor.block_on(async {
        let runtime = Builtin::open(options).await.expect("opens");
        let busybox = BuiltinFile {
            path: "/bin/sh".into(),
            mode: 0o755,
            content: FileContent::CopyOf("/bin/busybox".into()),
        };
        runtime.import_builtin("test/busybox:1", &[busybox], &["/bin/sh".into()]).await.expect("imports");
        if mode == "time" {
            return time(&runtime).await;
        }
        let log_directory = format!("{root}/logs");
        let pod = SandboxConfig { hostname: "agent".into(), log_directory, ..Default::default() };
        let sandbox = runtime.run_pod_sandbox(pod).await.expect("sandbox");
        let script = "i=0; while :; do echo line $i; i=$((i+1)); /bin/sh -c 'exec busybox usleep 50000' \
                      2>/dev/null || read -t 0.05 x </dev/zero; done";
        let config = ContainerConfig {
            name: "c".into(),
            image: "test/busybox:1".into(),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            log_path: "c/0.log".into(),
            ..Default::default()
        };
        let id = runtime.create_container(&sandbox.id, config).await.expect("creates");
        runtime.start_container(&id).await.expect("starts");
        println!("{} {id}", sandbox.id);
        std::future::pending::<()>().await;
    });
}

async fn time(runtime: &Builtin) {
    const PODS: usize = 40;
    let mut steps: [Vec<f64>; 5] = Default::default();
    let mut ids = Vec::new();
    for _ in 0..PODS {
        let mut clock = std::time::Instant::now();
        let mut lap = |step: usize| {
            steps[step].push(clock.elapsed().as_secs_f64() * 1e3);
            clock = std::time::Instant::now();
        };
        let pod = SandboxConfig { hostname: "timed".into(), ..Default::default() };
        let sandbox = runtime.run_pod_sandbox(pod).await.expect("sandbox").id;
        lap(0);
        let config = ContainerConfig {
            image: "test/busybox:1".into(),
            command: vec!["/bin/sh".into(), "-c".into(), "read x < /dev/zero".into()],
            security: runtime::Security { seccomp: runtime::Seccomp::RuntimeDefault, ..Default::default() },
            ..Default::default()
        };
        let id = runtime.create_container(&sandbox, config).await.expect("creates");
        lap(1);
        runtime.start_container(&id).await.expect("starts");
        lap(2);
        runtime.stop_container(&id, std::time::Duration::ZERO).await.expect("stops");
        lap(3);
        ids.push(sandbox);
    }
    memory();
    for id in ids {
        let clock = std::time::Instant::now();
        runtime.remove_pod_sandbox(&id).await.expect("removes");
        steps[4].push(clock.elapsed().as_secs_f64() * 1e3);
    }
    for (name, times) in ["sandbox", "create", "start", "kill", "remove"].iter().zip(&mut steps) {
        times.sort_by(f64::total_cmp);
        println!("{name}: p50 {:.1} ms, p90 {:.1} ms", times[PODS / 2], times[PODS * 9 / 10]);
    }
    runtime.cleanup_all().await.expect("cleans up");
}

/// Of one supervisor, from the kernel's own account.
fn memory() {
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&command).contains("\0supervise\0") {
            continue;
        }
        let account = std::fs::read_to_string(process.path().join("smaps_rollup")).unwrap_or_default();
        for line in account
            .lines()
            .filter(|l| l.starts_with("Rss") || l.starts_with("Pss:") || l.starts_with("Private_D"))
        {
            println!("supervisor {line}");
        }
        return;
    }
}
