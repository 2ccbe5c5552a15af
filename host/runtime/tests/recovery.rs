//! Deaths of the agent and of supervisors.

mod common;

use common::{Bed, agent_exe, can_run, log_text, options};
use runtime::builtin::Builtin;
use runtime::{ContainerEventKind, ContainerState, Runtime};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

fn supervisor_pid(state: &std::path::Path) -> i32 {
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let mut words = command.split('\0');
        if words.any(|w| w == "supervise") && words.next() == state.to_str() {
            return process.file_name().to_string_lossy().parse().expect("a pid");
        }
    }
    panic!("no supervisor for {state:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_a_killed_agent() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let _sweep = common::Sweep(options.clone());
    let mut agent = Command::new(agent_exe())
        .args([
            "run".as_ref(),
            options.root.as_os_str(),
            options.state.as_os_str(),
            options.cgroup_root.as_ref(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (sandbox, id) = line.trim().split_once(' ').expect("the agent tells its ids");
    let log = format!("{}/logs/c/0.log", options.root.display());
    agent.kill().unwrap();
    agent.wait().unwrap();
    let lines = || log_text(&log).0.lines().count();
    let before = lines();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(lines() > before, "logs go on without an agent");

    let runtime = Builtin::open(options.clone()).await.unwrap();
    let status = runtime.container_status(id).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    let pid = status.pid;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(runtime.list_pod_sandboxes().await.unwrap().iter().any(|s| s.id == sandbox && s.ready));
    let done = runtime
        .exec_sync(id, &["/bin/sh".into(), "-c".into(), "echo hi".into()], Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(done.stdout, b"hi\n");
    // Another agent: same process. And an end that no agent sees is remembered.
    drop(runtime);
    let runtime = Builtin::open(options.clone()).await.unwrap();
    assert_eq!(runtime.container_status(id).await.unwrap().pid, pid);
    drop(runtime);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let runtime = Builtin::open(options.clone()).await.unwrap();
    let status = runtime.container_status(id).await.unwrap();
    assert_eq!((status.state, status.exit_code, status.signal), (ContainerState::Exited, 137, 9));
    runtime.cleanup_all().await.unwrap();
    runtime.cleanup_all().await.unwrap();
    common::assert_nothing_left(dir.path(), &options.cgroup_root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_is_noticed() {
    let Some(bed) = Bed::new().await else { return };
    let (sandbox, id) = bed.start(bed.pod(), bed.sh("sleep 1000")).await;
    let mut events = bed.runtime.events();
    let pid = bed.runtime.container_status(&id).await.unwrap().pid;
    let kill = |pid| {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap()
    };
    kill(supervisor_pid(&bed.options.state.join(&sandbox)));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&ContainerEventKind::SandboxLost) {
        kinds.push(tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap().kind);
    }
    assert_eq!(kinds, [ContainerEventKind::Exited, ContainerEventKind::SandboxLost]);
    let status = bed.runtime.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state, status.exit_code, status.reason.as_str()),
        (ContainerState::Exited, 255, "Unknown")
    );
    // Gone, or a zombie until this machine's init looks.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or("x) Z".into());
    assert!(stat.contains(") Z"), "{stat}");
    let ready = |list: Vec<runtime::SandboxStatus>| list.iter().any(|s| s.id == sandbox && s.ready);
    assert!(!ready(bed.runtime.list_pod_sandboxes().await.unwrap()));

    // The same while no agent looks.
    let (lost, id) = bed.start(bed.pod(), bed.sh("sleep 1000")).await;
    let Bed { runtime, options, sweep, dir } = bed;
    drop(runtime);
    kill(supervisor_pid(&options.state.join(&lost)));
    let runtime = Builtin::open(options.clone()).await.unwrap();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 255));
    assert!(runtime.list_pod_sandboxes().await.unwrap().iter().all(|s| !s.ready));
    Bed { runtime, options, sweep, dir }.finish().await;
}
