//! What goes wrong on a person's machine: each fault is one clear sentence with what to do and a sensible exit code,
//! and leaves nothing half-done.

use anyhow::{Context, Result, ensure};
use blackbox::{Done, binary, busybox, done, skipped, without};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::netns::Netns;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The binary in a network namespace of its own, with a scratch folder.
struct Machine {
    netns: Netns,
    binary: PathBuf,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Result<Self> {
        Ok(Self { netns: Netns::new()?, binary: binary()?, folder: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str], data: &Path) -> Command {
        let mut command = self.netns.command(&self.binary.to_string_lossy());
        command.args(arguments).arg("--data-dir").arg(data);
        command
    }

    fn ironclad(&self, arguments: &[&str], data: &Path) -> Result<Done> {
        done(self.command(arguments, data))
    }

    /// No link, no route, and no mount below the scratch folder.
    fn is_untouched(&self) -> Result<()> {
        let (links, routes) = (self.netns.links()?, self.netns.routes()?);
        ensure!(links.is_empty() && routes.is_empty(), "left behind: {links:?} {routes:?}");
        let ours = self.folder.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&ours), "mounts are left below {ours}");
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_wrong_command_line_is_usage_and_exit_code_2() -> Result<()> {
    let binary = binary()?;
    let cases: &[(&[&str], &str)] = &[
        (&["upp"], "similar subcommand exists: 'up'"),
        (&["up", "--prot", "1"], "similar argument exists: '--port'"),
        (&["up", "--port", "99999"], "99999 is not in 0..=65535"),
        (&["up", "--pod-cidr", "10.0.0"], "is not an IPv4 block such as"),
        (&["up", "--service-cidr", "10.0.0.0/99"], "is not an IPv4 block such as"),
        (&["up", "--store", "etcd=foo:1"], "is not a URL such as http://127.0.0.1:2379"),
        (&["up", "--store", "sqlite"], "use \"embedded\" or"),
        (&["up", "--etcd-certfile", "x"], "--etcd-keyfile"),
        (&["agent"], "--kubeconfig"),
        (&["image", "rm"], "required"),
        (&["image", "pul", "x"], "similar subcommand exists: 'pull'"),
        (&["down", "--output", "xml"], "possible values: text, json"),
    ];
    for (arguments, words) in cases {
        let mut command = Command::new(&binary);
        command.args(*arguments).env("IRONCLAD_DATA_DIR", "/nonexistent/never/made");
        let said = done(command)?;
        ensure!(said.code == Some(2) && said.err.contains(words), "{arguments:?}: {said:?}");
    }
    ensure!(!Path::new("/nonexistent").exists());
    for arguments in [vec!["--help"], vec!["up", "--help"], vec!["image", "pull", "--help"], vec!["version"]]
    {
        let mut command = Command::new(&binary);
        command.args(&arguments);
        let said = done(command)?;
        ensure!(
            said.code == Some(0) && said.err.is_empty() && !said.out.is_empty(),
            "{arguments:?}: {said:?}"
        );
    }
    Ok(())
}

#[test]
fn what_cannot_start_makes_nothing() -> Result<()> {
    if skipped(&[missing(), without("setpriv")]) {
        return Ok(());
    }
    let machine = Machine::new()?;
    let data = machine.path("data");

    // Address blocks that cannot be.
    let overlapping = machine.ironclad(&["up", "--pod-cidr", "10.96.0.0/16"], &data)?;
    overlapping.refuses(&["--pod-cidr 10.96.0.0/16 and --service-cidr 10.96.0.0/12 overlap"])?;
    machine.ironclad(&["up", "--pod-cidr", "10.1.0.0/28"], &data)?.refuses(&["too small", "/24"])?;
    machine.ironclad(&["up", "--service-cidr", "10.1.0.0/30"], &data)?.refuses(&["too small", "tenth"])?;
    run({
        let mut ip = Command::new("ip");
        ip.args([
            "-n",
            machine.netns.name(),
            "link",
            "add",
            "mine0",
            "type",
            "veth",
            "peer",
            "name",
            "mine1",
        ]);
        ip
    })?;
    for words in [
        vec!["address", "add", "10.244.0.9/24", "dev", "mine0"],
        vec!["link", "set", "mine0", "up"],
        vec!["link", "set", "mine1", "up"],
    ] {
        let mut ip = Command::new("ip");
        ip.args(["-n", machine.netns.name()]).args(words);
        run(ip)?;
    }
    let taken = machine.ironclad(&["up"], &data)?;
    taken.refuses(&["pass another --pod-cidr", "10.244.0.0/24", "already routed on this machine"])?;
    run({
        let mut ip = Command::new("ip");
        ip.args(["-n", machine.netns.name(), "link", "del", "mine0"]);
        ip
    })?;
    ensure!(!data.exists(), "a data directory was made");

    // Not root.
    for command in [vec!["up"], vec!["down"], vec!["agent", "--kubeconfig", "/x"], vec!["image", "list"]] {
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let mut setpriv = machine.netns.command("setpriv");
        // A copy that nobody can reach, wherever the build folder is.
        let program = Path::new("/tmp").join(format!("ironclad-{}", std::process::id()));
        if !program.exists() {
            fs::copy(&machine.binary, &program)?;
        }
        setpriv.args(nobody).arg(&program).args(&command).arg("--data-dir").arg(&data);
        let said = done(setpriv);
        if command == ["image", "list"] || said.is_err() {
            fs::remove_file(&program)?;
        }
        said?.refuses(&["must run as root", "sudo", command[0]])?;
    }
    ensure!(!data.exists(), "a data directory was made");

    // The agent's kubeconfig.
    let agent = |kubeconfig: &str| machine.ironclad(&["agent", "--kubeconfig", kubeconfig], &data);
    agent("/nonexistent")?.refuses(&["cannot read kubeconfig /nonexistent", "No such file"])?;
    let bad = machine.path("bad");
    fs::write(&bad, "foo\n")?;
    agent(&bad.to_string_lossy())?.refuses(&["cannot use kubeconfig", "failed to parse"])?;
    fs::write(
        &bad,
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n\
         users: [{name: a, user: {token: x}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n",
    )?;
    agent(&bad.to_string_lossy())?.refuses(&[
        "cannot be reached",
        "is its control plane running?",
        "refused",
    ])?;
    ensure!(!data.exists(), "a data directory was made");

    // Looking at what is not there.
    let listed = machine.ironclad(&["image", "list"], &data)?;
    ensure!(listed.code == Some(0) && listed.out.lines().count() == 1, "{listed:?}");
    machine.ironclad(&["image", "rm", "nginx:1"], &data)?.refuses(&["there is no image nginx:1"])?;
    machine.ironclad(&["demo"], &data)?.refuses(&["no cluster in", "start one with `ironclad up`"])?;
    let down = machine.ironclad(&["down"], &data)?;
    ensure!(down.code == Some(0) && down.out.contains("no cluster in"), "{down:?}");
    ensure!(!data.exists(), "a data directory was made");
    machine.is_untouched()
}

#[test]
fn a_data_directory_that_is_not_this_clusters_is_left_as_it_was() -> Result<()> {
    if skipped(&[missing()]) {
        return Ok(());
    }
    let machine = Machine::new()?;

    let newer = machine.path("newer");
    fs::create_dir(&newer)?;
    fs::write(newer.join("layout"), "7\n")?;
    let damaged = machine.path("damaged");
    fs::create_dir(&damaged)?;
    fs::write(damaged.join("layout"), "garbage\n")?;
    let foreign = machine.path("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("photo.jpg"), "smile")?;
    let file = machine.path("file");
    fs::write(&file, "a file")?;
    for command in ["up", "server"] {
        machine.ironclad(&[command], &newer)?.refuses(&["newer ironclad", "layout 7", "use that version"])?;
        machine.ironclad(&[command], &damaged)?.refuses(&["is damaged", "no layout version"])?;
        machine
            .ironclad(&[command], &foreign)?
            .refuses(&["other files (photo.jpg)", "empty or new folder"])?;
        machine.ironclad(&[command], &file)?.refuses(&["is a file", "give --data-dir a folder"])?;
    }
    machine
        .ironclad(&["down", "--purge"], &foreign)?
        .refuses(&["not a data directory", "nothing was touched"])?;
    machine.ironclad(&["down", "--purge"], &newer)?.refuses(&["newer ironclad"])?;
    ensure!(names(&newer)? == ["layout"] && names(&damaged)? == ["layout"]);
    ensure!(names(&foreign)? == ["photo.jpg"] && fs::read_to_string(&file)? == "a file");

    // A read-only place.
    let disk = Disk::new(machine.path("disk"), 100)?;
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro"]).arg(&disk.0);
    run(remount)?;
    let said = machine.ironclad(&["server", "--port", "0"], &disk.0.join("data"))?;
    said.refuses(&["make the data directory", "pass --data-dir for another place", "Read-only file system"])?;
    drop(disk);

    // Another process's, and its port.
    let data = machine.path("data");
    let log = machine.path("log");
    let mut server = Process::spawn(machine.command(&["server", "--port", "6443"], &data), &log)?;
    wait_for("the server", LIMIT, || Ok(server.printed().contains("The cluster is ready").then_some(())))?;
    let before = names(&data)?;
    let held = format!("in use by process {}", server.pid());
    for command in ["up", "server"] {
        let said = machine.ironclad(&[command, "--port", "6444"], &data)?;
        said.refuses(&[&held, "stop it first, or pass another --data-dir"])?;
        let said = machine.ironclad(&[command, "--port", "6443"], &machine.path("second"))?;
        said.refuses(&["port 6443 is in use", "pass --port with another number"])?;
    }
    ensure!(!machine.path("second").exists() && names(&data)? == before);
    server.signal("TERM")?;
    ensure!(server.wait(LIMIT)?.success(), "{}", server.printed());
    machine.is_untouched()
}

#[test]
fn a_broken_image_or_an_unreachable_registry_is_named_and_not_kept() -> Result<()> {
    if skipped(&[missing(), without("busybox")]) {
        return Ok(());
    }
    let machine = Machine::new()?;
    let data = machine.path("data");
    let good = fs::read(busybox(machine.folder.path())?)?;
    let mut corrupt = good.clone();
    // The middle of the layer, which is nearly all of the archive.
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 8].copy_from_slice(b"garbage!");
    let noise: Vec<u8> =
        (0u32..100_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
    let archives: [(&str, &[u8], &str); 5] = [
        ("corrupt.tar", &corrupt, "not a usable image archive: unpacked layer has digest sha256:"),
        ("cut.tar", &good[..good.len() / 3], "not a usable image archive"),
        ("noise.tar", &noise, "not a usable image archive: it is no tar file"),
        ("empty.tar", b"", "neither manifest.json (docker-archive) nor index.json (OCI)"),
        ("text.tar", b"hello\n", "not a usable image archive"),
    ];
    for (name, bytes, words) in archives {
        let path = machine.path(name);
        fs::write(&path, bytes)?;
        let said = machine.ironclad(&["image", "import", &path.to_string_lossy()], &data)?;
        said.refuses(&[words, name]).context(name)?;
    }
    let folder = machine.path("folder");
    fs::create_dir(&folder)?;
    machine
        .ironclad(&["image", "import", &folder.to_string_lossy()], &data)?
        .refuses(&["neither manifest.json (docker-archive) nor index.json (OCI)"])?;
    machine
        .ironclad(&["image", "import", "/nonexistent"], &data)?
        .refuses(&["no file or folder /nonexistent"])?;

    let pull = |image: &str| machine.ironclad(&["image", "pull", image], &data);
    pull("127.0.0.1:5999/x:1")?.refuses(&[
        "127.0.0.1:5999/x:1",
        "cannot be reached",
        "Connection refused",
    ])?;
    pull("registry.invalid/x:1")?.refuses(&["registry.invalid cannot be reached", "name"])?;
    pull("UPPER/x::1")?.refuses(&["invalid reference format"])?;
    machine
        .ironclad(&["image", "pull", "x", "--creds", "me"], &data)?
        .refuses(&["--creds takes USER:PASSWORD"])?;
    machine.ironclad(&["image", "rm", "nosuch:1"], &data)?.refuses(&["there is no image nosuch:1"])?;

    // Nothing of all this was kept, and a good one still goes in.
    let listed = machine.ironclad(&["image", "list"], &data)?;
    ensure!(listed.out.lines().count() == 1, "{listed:?}");
    let kept = machine.ironclad(&["image", "list", "-o", "json"], &data)?;
    ensure!(kept.out.trim() == r#"{"images":[]}"#, "{kept:?}");
    let size = |folder: &Path| -> Result<u64> {
        let mut du = Command::new("du");
        du.arg("-sk").arg(folder);
        Ok(run(du)?.split_whitespace().next().context("du")?.parse()?)
    };
    ensure!(size(&data)? < 300, "{} KiB are kept of images that were refused", size(&data)?);
    run(machine.command(&["image", "import", &machine.path("busybox.tar").to_string_lossy()], &data))?;
    let listed = machine.ironclad(&["image", "list"], &data)?;
    ensure!(listed.out.contains("busybox:1"), "{listed:?}");
    run(machine.command(&["down", "--purge"], &data))?;
    ensure!(!data.exists());
    machine.is_untouched()
}

/// A small disk of its own, unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn new(path: PathBuf, megabytes: u32) -> Result<Self> {
        fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&path);
        run(mount)?;
        Ok(Self(path))
    }

    /// Takes all the room there is.
    fn fill(&self) -> Result<()> {
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", self.0.join("fill").display()));
        let said = done(dd)?;
        ensure!(said.err.contains("No space left"), "{said:?}");
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("fill"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_got_over() -> Result<()> {
    if skipped(&[missing(), without("busybox")]) {
        return Ok(());
    }
    let machine = Machine::new()?;

    // Too small to start on.
    let small = Disk::new(machine.path("small"), 4)?;
    for command in ["up", "server"] {
        let said = machine.ironclad(&[command], &small.0.join("data"))?;
        said.refuses(&["is full", "64 needed", "make room"])?;
    }
    ensure!(names(&small.0)?.is_empty(), "{:?}", names(&small.0)?);
    drop(small);

    // Full while it runs: writes are refused with the reason, reads go on, nothing acknowledged is lost.
    let disk = Disk::new(machine.path("disk"), 100)?;
    let data = disk.0.join("data");
    let log = machine.path("log");
    let start = || -> Result<Process> {
        let server = Process::spawn(machine.command(&["server", "--port", "6443"], &data), &log)?;
        wait_for("the server", LIMIT, || {
            let mut kubectl = machine.netns.command("kubectl");
            kubectl.arg("--kubeconfig").arg(data.join("admin.kubeconfig")).args(["get", "--raw", "/readyz"]);
            Ok((run(kubectl)? == "ok").then_some(()))
        })?;
        Ok(server)
    };
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = machine.netns.command("kubectl");
        kubectl.arg("--kubeconfig").arg(data.join("admin.kubeconfig")).args(arguments);
        done(kubectl)
    };
    let mut server = start()?;
    let page = machine.path("page");
    fs::write(&page, "x".repeat(600_000))?;
    let page = format!("--from-file={}", page.display());
    ensure!(kubectl(&["create", "configmap", "before", &page])?.code == Some(0));
    disk.fill()?;
    let mut acknowledged = vec!["before".to_owned()];
    // What room was set aside for writing may take a few.
    let refused = wait_for("a refusal", LIMIT, || {
        let name = format!("while-{}", acknowledged.len());
        let said = kubectl(&["create", "configmap", &name, &page])?;
        if said.code == Some(0) {
            acknowledged.push(name);
            return Ok(None);
        }
        Ok(Some(said))
    })?;
    ensure!(refused.err.contains("no space left on the store's disk"), "{refused:?}");
    let archive = busybox(machine.folder.path())?;
    let present = |name: &str| Ok::<_, anyhow::Error>(kubectl(&["get", "configmap", name])?.code == Some(0));
    ensure!(present("before")?, "reads go on");
    let ready = kubectl(&["get", "--raw", "/readyz"])?;
    ensure!(ready.code == Some(1) && ready.err.contains("[-]etcd failed"), "{ready:?}");

    // Room again: it goes on by itself, and what it acknowledged survives a kill -9.
    disk.clear()?;
    wait_for("writes", LIMIT, || {
        Ok((kubectl(&["create", "configmap", "after", &page])?.code == Some(0)).then_some(()))
    })?;
    acknowledged.push("after".into());
    disk.fill()?;
    server.kill();
    drop(server);
    disk.clear()?;
    let mut server = start()?;
    for name in &acknowledged {
        ensure!(present(name)?, "{name} was acknowledged and is lost");
    }
    server.signal("TERM")?;
    ensure!(server.wait(LIMIT)?.success(), "{}", server.printed());

    // An image that does not fit leaves nothing of itself.
    let before = names(&data)?;
    disk.fill()?;
    let said = machine.ironclad(&["image", "import", &archive.to_string_lossy()], &data)?;
    said.refuses(&["is full", "make room"])?;
    ensure!(names(&data)? == before);
    disk.clear()
}

#[test]
fn a_pod_whose_image_cannot_be_had_says_why() -> Result<()> {
    if skipped(&[missing(), without("busybox")]) {
        return Ok(());
    }
    let cluster = Cluster::up(&binary()?, &["--port", "6443"])?;
    let images = tempfile::tempdir()?;
    run(cluster.ironclad(&["image", "import", &busybox(images.path())?.to_string_lossy()]))?;
    for (name, image, policy) in
        [("unreachable", "127.0.0.1:5999/x:1", "Always"), ("unknown", "nosuch:1", "Never")]
    {
        cluster.k(&["run", name, &format!("--image={image}"), &format!("--image-pull-policy={policy}")])?;
    }
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: malformed}\nspec: {containers: [{name: c, image: 'UPPER::1'}]}\n",
    )?;
    cluster.k(&[
        "run",
        "nocommand",
        "--image=busybox:1",
        "--image-pull-policy=Never",
        "--command",
        "--",
        "/no/such",
    ])?;
    for (name, reasons) in [
        ("unreachable", vec!["ErrImagePull", "ImagePullBackOff"]),
        ("unknown", vec!["ErrImageNeverPull"]),
        ("malformed", vec!["InvalidImageName"]),
        ("nocommand", vec!["CreateContainerError", "RunContainerError", "CrashLoopBackOff"]),
    ] {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        wait_for(name, LIMIT, || {
            let reason = cluster.k(&["get", "pod", name, "-o", path])?;
            ensure!(
                reason.is_empty() || reason == "ContainerCreating" || reasons.contains(&&*reason),
                "{reason}"
            );
            Ok(reasons.contains(&&*reason).then_some(()))
        })?;
    }
    let events = |name: &str, words: &str| {
        wait_for(words, LIMIT, || {
            let field = format!("--field-selector=involvedObject.name={name}");
            let said = cluster.k(&["get", "events", &field])?;
            ensure!(said.contains(words), "{said}");
            Ok(Some(()))
        })
    };
    events("unreachable", "Failed to pull image \"127.0.0.1:5999/x:1\"")?;
    events("unknown", "Container image \"nosuch:1\" is not present with pull policy of Never")?;
    events("malformed", "Failed to apply default image tag \"UPPER::1\"")?;
    events("nocommand", "no such file or directory")?;

    // A pod that fits nowhere says why, too.
    let huge = r#"{"spec":{"containers":[{"name":"huge","image":"busybox:1","resources":{"requests":{"memory":"900Ti"}}}]}}"#;
    cluster.k(&["run", "huge", "--image=busybox:1", "--overrides", huge])?;
    events("huge", "0/1 nodes are available: 1 Insufficient memory.")?;
    for name in ["unreachable", "unknown", "malformed", "nocommand", "huge"] {
        cluster.k(&["delete", "pod", name, "--timeout=60s"])?;
    }
    Ok(())
}
