//! A supervisor program and a small agent for the tests: `agent supervise <state>` becomes a supervisor;
//! `agent run <root> <state> <cgroup>` starts one pod with one container that writes a line every 50 ms,
//! prints its sandbox and container ids, and stays until it is killed.

use runtime::builtin::{Builtin, BuiltinFile, FileContent, Options, Registries};
use runtime::{ContainerConfig, Runtime, SandboxConfig};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "supervise") {
        std::process::exit(runtime::supervise_main(&args[1..]));
    }
    let [_, root, state, cgroup] = args.as_slice() else {
        eprintln!("usage: agent run <root> <state> <cgroup>");
        std::process::exit(2);
    };
    let options = Options {
        root: root.into(),
        state: state.into(),
        cgroup_root: cgroup.clone(),
        supervisor_exe: vec!["/proc/self/exe".into(), "supervise".into()],
        registries: Registries::default(),
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
