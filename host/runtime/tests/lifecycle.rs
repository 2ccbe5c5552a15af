//! Sandboxes and containers from birth to removal.

mod common;

use common::Bed;
use runtime::{ContainerEventKind, ContainerState, Runtime, RuntimeError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_logs_and_ends() {
    let Some(bed) = Bed::new().await else { return };
    let mut events = bed.runtime.events();
    let mut config = bed.sh("echo out; echo err >&2; hostname; echo -n tail; exit 3");
    config.env = vec![("A".into(), "b".into())];
    let (status, out, err) = bed.run(config).await;
    assert_eq!((status.state, status.exit_code, status.signal), (ContainerState::Exited, 3, 0));
    assert_eq!((out.as_str(), err.as_str()), ("out\npod-host\ntail\n", "err\n"));
    assert_eq!(status.reason, "Error");
    assert!(status.started_at_ns > 0 && status.finished_at_ns >= status.started_at_ns);
    let kinds: Vec<_> = [events.recv().await, events.recv().await].map(|e| e.unwrap().kind).into();
    assert_eq!(kinds, [ContainerEventKind::Started, ContainerEventKind::Exited]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_is_graceful_then_not() {
    let Some(bed) = Bed::new().await else { return };
    let (_, id) =
        bed.start(bed.pod(), bed.sh("trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.runtime.stop_container(&id, Duration::from_secs(20)).await.unwrap();
    let status = bed.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert_eq!(common::log_text(&status.log_path).0, "bye\n");
    let (sandbox, id) = bed.start(bed.pod(), bed.sh("trap '' TERM; while :; do sleep 1; done")).await;
    bed.runtime.stop_container(&id, Duration::from_millis(300)).await.unwrap();
    let status = bed.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.signal), (137, 9));
    bed.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    bed.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    bed.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    bed.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    bed.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_errors_are_said() {
    let Some(bed) = Bed::new().await else { return };
    let sandbox = bed.runtime.run_pod_sandbox(bed.pod()).await.unwrap().id;
    for (command, wording) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/etc/notexec", "exec: \"/etc/notexec\": permission denied"),
        ("/etc/garbage", "exec /etc/garbage: exec format error"),
    ] {
        let mut config = bed.sh("");
        config.command = vec![command.into()];
        let id = bed.runtime.create_container(&sandbox, config).await.unwrap();
        let error = bed.runtime.start_container(&id).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Start(why) if why.ends_with(wording)), "{error}");
        let status = bed.runtime.container_status(&id).await.unwrap();
        assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 128));
        assert_eq!(status.reason, "StartError");
        assert!(status.message.ends_with(wording));
        bed.runtime.remove_container(&id).await.unwrap();
        bed.runtime.remove_container(&id).await.unwrap();
    }
    let mut config = bed.sh("true");
    config.security.run_as_username = "stranger".into();
    let id = bed.runtime.create_container(&sandbox, config).await.unwrap();
    let error = bed.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("unable to find user stranger: no matching entries in passwd file"), "{error}");
    bed.finish().await;
}
