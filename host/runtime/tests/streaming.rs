//! Exec, attach, terminals, port-forward and logs.

mod common;

use common::Bed;
use runtime::{Runtime, RuntimeError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn cmd(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| p.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_sync_collects() {
    let Some(bed) = Bed::new().await else { return };
    let (_, id) = bed.start(bed.pod(), bed.sh("sleep 1000")).await;
    let run = async |script: &str, timeout: Duration| {
        bed.runtime.exec_sync(&id, &cmd(&["sh", "-c", script]), timeout).await.unwrap()
    };
    let done = run("echo o; echo e >&2; exit 7", Duration::from_secs(20)).await;
    assert_eq!((&done.stdout[..], &done.stderr[..], done.exit_code), (&b"o\n"[..], &b"e\n"[..], 7));
    let done = run("head -c 100000 /dev/zero; exit 0", Duration::ZERO).await;
    assert_eq!((done.stdout.len(), done.exit_code), (16 << 10, 0));
    let done = run("sleep 777", Duration::from_millis(200)).await;
    assert!(done.timed_out);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let done = run("ps | grep -c 'sleep 77[7]'", Duration::ZERO).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "0\n");
    // A child that keeps the pipe open does not keep the caller.
    let done = run("sleep 1000 & echo x", Duration::from_secs(20)).await;
    assert!(!done.timed_out);
    for (program, wording) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
    ] {
        let error = bed.runtime.exec_sync(&id, &cmd(&[program]), Duration::ZERO).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Start(why) if why.ends_with(wording)), "{error}");
    }
    bed.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    let error = bed.runtime.exec_sync(&id, &cmd(&["true"]), Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("CONTAINER_EXITED"), "{error}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_streams() {
    let Some(bed) = Bed::new().await else { return };
    let (_, id) = bed.start(bed.pod(), bed.sh("sleep 1000")).await;
    let mut session = bed.runtime.exec(&id, &cmd(&["cat"]), false, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = vec![b'q'; 300_000];
    let writer = tokio::spawn(async move {
        stdin.write_all(&big).await.unwrap();
        // Half close: dropping stdin lets cat see the end.
    });
    let mut out = Vec::new();
    session.stdout.take().unwrap().read_to_end(&mut out).await.unwrap();
    writer.await.unwrap();
    assert_eq!(out.len(), 300_000);
    drop(session.stderr.take());
    assert_eq!(session.exit.await.unwrap(), 0);

    let script = "stty size; tty; read x; stty size; echo got $x; exit 5";
    let mut session = bed.runtime.exec(&id, &cmd(&["sh", "-c", script]), true, true).await.unwrap();
    assert!(session.stderr.is_none());
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    session.resize.as_ref().unwrap().send((132, 43)).await.unwrap();
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.contains("/dev/pts/") {
        let n = stdout.read(&mut chunk).await.unwrap();
        assert!(n > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    stdin.write_all(b"hello\n").await.unwrap();
    stdout.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("43 132") && text.contains("got hello"), "{text:?}");
    assert_eq!(session.exit.await.unwrap(), 5);

    let session = bed.runtime.exec(&id, &cmd(&["sleep", "888"]), false, false).await.unwrap();
    drop(session);
    for _ in 0..300 {
        let ps = bed.runtime.exec_sync(&id, &cmd(&["ps"]), Duration::ZERO).await.unwrap();
        if !String::from_utf8_lossy(&ps.stdout).contains("sleep 888") {
            bed.finish().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a dropped exec goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_joins_the_main_process() {
    let Some(bed) = Bed::new().await else { return };
    let mut config = bed.sh("while read x; do echo got $x; done; echo end >&2; exit 4");
    (config.stdin, config.stdin_once) = (true, true);
    let (_, id) = bed.start(bed.pod(), config).await;
    let mut session = bed.runtime.attach(&id, false, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("got one\ngot two\n", "end\n"));
    assert_eq!(session.exit.await.unwrap(), 4);
    let log = bed.runtime.container_status(&id).await.unwrap().log_path;
    assert_eq!(common::log_text(&log), ("got one\ngot two\n".into(), "end\n".into()));

    let mut config = bed.sh("tty; read x; echo got $x; stty size");
    (config.stdin, config.tty, config.log_path) = (true, true, "t/0.log".into());
    let (_, id) = bed.start(bed.pod(), config).await;
    let mut session = bed.runtime.attach(&id, true, true).await.unwrap();
    session.resize.as_ref().unwrap().send((100, 30)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    session.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    let mut out = String::new();
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    assert!(out.contains("got word") && out.contains("30 100"), "{out:?}");
    assert_eq!(session.exit.await.unwrap(), 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_reached_inside() {
    let Some(bed) = Bed::new().await else { return };
    let (sandbox, id) =
        bed.start(bed.pod(), bed.sh("nc -l -p 80 -e sh -c 'read x; echo got $x'; sleep 1000")).await;
    let mut stream = None;
    for _ in 0..300 {
        if let Ok(open) = bed.runtime.port_forward(&sandbox, 80).await {
            stream = Some(open);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut stream = stream.expect("the port opens");
    stream.write_all(b"ping\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "got ping\n");
    let error = bed.runtime.port_forward(&sandbox, 81).await.err().unwrap().to_string();
    assert!(error.ends_with("localhost:81 inside namespace: connection refused"), "{error}");
    bed.runtime.remove_container(&id).await.unwrap();
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_rotate_without_loss() {
    let Some(bed) = Bed::new().await else { return };
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; head -c 40000 /dev/zero | tr '\\0' z; echo";
    let (_, id) = bed.start(bed.pod(), bed.sh(script)).await;
    let path = bed.runtime.container_status(&id).await.unwrap().log_path;
    std::fs::rename(&path, format!("{path}.1")).unwrap();
    bed.runtime.reopen_container_log(&id).await.unwrap();
    bed.exited(&id).await;
    let (first, _) = common::log_text(&format!("{path}.1"));
    let (second, _) = common::log_text(&path);
    let lines: Vec<String> = (first + &second).lines().map(String::from).collect();
    assert_eq!(lines.len(), 3001);
    assert!(lines[..3000].iter().enumerate().all(|(i, l)| *l == format!("line {i}")));
    assert_eq!(lines[3000].len(), 40000);
    bed.finish().await;
}
