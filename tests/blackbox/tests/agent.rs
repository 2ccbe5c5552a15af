//! Control plane and node as two processes: the agent gets its certificate by CSR, runs a pod, and leaves nothing.

use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use testkit::cluster::missing;
use testkit::image::ImageBuilder;
use testkit::netns::Netns;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_node_joins_a_control_plane() -> Result<()> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(());
    }
    let binary = blackbox::binary()?;
    let folder = tempfile::Builder::new().prefix("ironclad-test-").tempdir()?;
    let netns = Netns::new()?;
    // A machine with an address of its own, as others would reach it at.
    for arguments in [
        ["link", "add", "up0", "type", "veth", "peer", "name", "up1"].as_slice(),
        &["addr", "add", "192.168.77.2/24", "dev", "up0"],
        &["link", "set", "up0", "up"],
        &["link", "set", "up1", "up"],
    ] {
        let mut ip = Command::new("ip");
        ip.args(["-n", netns.name()]).args(arguments);
        run(ip)?;
    }
    let (control, worker) = (folder.path().join("control"), folder.path().join("worker"));
    let ironclad = |arguments: &[&str], data: &std::path::Path| {
        let mut command = netns.command(&binary.to_string_lossy());
        command.args(arguments).arg("--data-dir").arg(data);
        command
    };
    let config = control.join("admin.kubeconfig");
    let kubectl = |arguments: &[&str]| {
        let mut command = netns.command("kubectl");
        command.arg("--kubeconfig").arg(&config).args(arguments);
        run(command)
    };

    let _server = Process::spawn(ironclad(&["server"], &control), &folder.path().join("server.log"))?;
    wait_for("the API server", LIMIT, || Ok(Some(kubectl(&["get", "--raw", "/readyz"])?)))?;
    ensure!(kubectl(&["get", "nodes", "--no-headers"])?.is_empty(), "a control plane alone has no node");

    let mut agent = ironclad(&["agent", "--node-name", "worker"], &worker);
    agent.arg("--kubeconfig").arg(&config);
    let mut agent = Process::spawn(agent, &folder.path().join("agent.log"))?;
    wait_for("the node", LIMIT, || {
        if agent.has_ended().is_some() {
            anyhow::bail!("the agent ended: {}", agent.printed());
        }
        Ok(kubectl(&["get", "nodes", "--no-headers"])?.split_whitespace().any(|w| w == "Ready").then_some(()))
    })?;
    let requests = kubectl(&["get", "csr", "--no-headers"])?;
    ensure!(
        requests.contains("kubernetes.io/kubelet-serving") && requests.contains("Approved,Issued"),
        "{requests}"
    );

    let image = folder.path().join("busybox.tar");
    ImageBuilder::busybox("busybox:1")?.docker_archive(&image)?;
    run(ironclad(&["image", "import", image.to_str().context("path")?], &worker))?;
    kubectl(&["run", "p", "--image=busybox:1", "--restart=Never", "--", "sleep", "1000"])?;
    kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"])?;
    ensure!(kubectl(&["exec", "p", "--", "echo", "over the wire"])? == "over the wire\n");

    agent.signal("TERM")?;
    ensure!(agent.wait(LIMIT)?.success());
    run(ironclad(&["down", "--purge"], &worker))?;
    let links = netns.links()?;
    ensure!(links.iter().all(|l| l.starts_with("up")), "links left behind: {links:?}");
    Ok(())
}
