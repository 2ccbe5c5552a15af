//! A runtime of its own for each test, with a busybox image.
#![allow(dead_code)]

use runtime::builtin::{Builtin, BuiltinFile, FileContent, Options, Registries};
use runtime::{ContainerConfig, ContainerState, ContainerStatus, Runtime, SandboxConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const IMAGE: &str = "test.local/busybox:1";

pub struct Bed {
    pub runtime: Arc<Builtin>,
    pub options: Options,
    pub sweep: Sweep,
    pub dir: tempfile::TempDir,
}

/// A test that fails leaves nothing behind either.
pub struct Sweep(pub Options);

impl Drop for Sweep {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let options = self.0.clone();
        let sweeper = std::thread::spawn(move || {
            let executor = tokio::runtime::Runtime::new().expect("tokio starts");
            executor.block_on(async {
                if let Ok(runtime) = Builtin::open(options).await {
                    let _ = runtime.cleanup_all().await;
                }
            });
        });
        let _ = sweeper.join();
    }
}

/// Beside the test binary: `target/<triple>/debug/examples/agent`. nextest and cargo test build it first.
pub fn agent_exe() -> PathBuf {
    let exe = std::env::current_exe().expect("this test has a path");
    let debug = exe.parent().and_then(Path::parent).expect("target folder");
    debug.join("examples/agent")
}

pub fn can_run() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new("/bin/busybox").exists() {
        "/bin/busybox (apt-get install busybox-static)"
    } else if !agent_exe().exists() {
        "examples/agent (cargo build -p runtime --examples)"
    } else {
        return true;
    };
    eprintln!("skipped: needs {missing}");
    false
}

pub fn options(dir: &Path) -> Options {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or("x").replace('.', "");
    Options {
        root: dir.join("root"),
        state: dir.join("run"),
        cgroup_root: format!("ironclad-test-{name}"),
        supervisor_exe: vec![agent_exe().to_string_lossy().into_owned(), "supervise".into()],
        registries: Registries::default(),
        open_files: None,
    }
}

pub fn busybox_files() -> Vec<BuiltinFile> {
    let file = |path: &str, content: FileContent, mode| BuiltinFile { path: path.into(), mode, content };
    let mut files = vec![file("/bin/busybox", FileContent::CopyOf("/bin/busybox".into()), 0o755)];
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
        files.push(file(&format!("/bin/{applet}"), FileContent::Symlink("busybox".into()), 0o777));
    }
    files.push(file("/tmp", FileContent::Folder, 0o1777));
    files.push(file("/root", FileContent::Folder, 0o700));
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n";
    files.push(file("/etc/passwd", FileContent::Bytes(passwd.into()), 0o644));
    files.push(file(
        "/etc/group",
        FileContent::Bytes("root:x:0:\nwww:x:34:\nextra:x:50:web\n".into()),
        0o644,
    ));
    files.push(file("/etc/notexec", FileContent::Bytes("hello".into()), 0o644));
    files.push(file("/etc/garbage", FileContent::Bytes("hello".into()), 0o755));
    files
}

impl Bed {
    pub async fn new() -> Option<Bed> {
        if !can_run() {
            return None;
        }
        let dir = tempfile::tempdir().expect("temp folder");
        let options = options(dir.path());
        let runtime = Builtin::open(options.clone()).await.expect("opens");
        runtime.import_builtin(IMAGE, &busybox_files(), &["/bin/sh".into()]).await.expect("imports");
        let sweep = Sweep(options.clone());
        Some(Bed { runtime, options, sweep, dir })
    }

    pub fn pod(&self) -> SandboxConfig {
        SandboxConfig {
            pod_name: "p".into(),
            pod_uid: "uid-1".into(),
            hostname: "pod-host".into(),
            log_directory: self.dir.path().join("logs").to_string_lossy().into_owned(),
            ..SandboxConfig::default()
        }
    }

    pub fn sh(&self, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: "c".into(),
            image: IMAGE.into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: "c/0.log".into(),
            ..ContainerConfig::default()
        }
    }

    pub async fn start(&self, pod: SandboxConfig, container: ContainerConfig) -> (String, String) {
        let sandbox = self.runtime.run_pod_sandbox(pod).await.expect("sandbox runs");
        let id = self.runtime.create_container(&sandbox.id, container).await.expect("container is created");
        self.runtime.start_container(&id).await.expect("container starts");
        (sandbox.id, id)
    }

    /// Runs to the end in a pod of its own; gives the status and the log's text per stream.
    pub async fn run(&self, container: ContainerConfig) -> (ContainerStatus, String, String) {
        let mut pod = self.pod();
        pod.log_directory =
            self.dir.path().join(format!("logs-{}", rand::random::<u32>())).to_string_lossy().into();
        let (sandbox, id) = self.start(pod, container).await;
        let status = self.exited(&id).await;
        let (out, err) = log_text(&status.log_path);
        self.runtime.remove_pod_sandbox(&sandbox).await.expect("removes");
        (status, out, err)
    }

    pub async fn exited(&self, id: &str) -> ContainerStatus {
        let mut status = self.runtime.container_status(id).await.expect("known");
        for _ in 0..2000 {
            if status.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            status = self.runtime.container_status(id).await.expect("known");
        }
        panic!("container does not exit: {status:?}");
    }

    /// Cleans up and looks for anything left.
    pub async fn finish(self) {
        self.runtime.cleanup_all().await.expect("cleans up");
        assert_nothing_left(self.dir.path(), &self.options.cgroup_root);
    }
}

pub fn log_text(path: &str) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let to = if parts[1] == "stdout" { &mut out } else { &mut err };
        to.push_str(parts[3]);
        if parts[2] == "F" {
            to.push('\n');
        }
    }
    (out, err)
}

pub fn assert_nothing_left(dir: &Path, cgroup: &str) {
    let dir = dir.to_string_lossy();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&*dir)).collect();
    assert!(left.is_empty(), "mounts left: {left:?}");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        assert!(!hierarchy.path().join(cgroup).exists(), "cgroup left in {:?}", hierarchy.path());
    }
    let mut left = Vec::new();
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(" supervise ") && command.contains(&*dir) {
            left.push(command);
        }
    }
    assert!(left.is_empty(), "processes left: {left:?}");
}
