//! Images from a registry that wants to know who pulls: Debian's docker-registry, and pods with pull secrets.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, skipped, without};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::image::ImageBuilder;
use testkit::netns::Netns;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const REGISTRY: &str = "127.0.0.1:5000";

/// docker-registry that lets joe in, whose password is "secret".
fn registry(netns: &Netns, folder: &Path) -> Result<Process> {
    let hash = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
    std::fs::write(folder.join("users"), format!("joe:{hash}\n"))?;
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\n\
         http: {{addr: '{REGISTRY}'}}\nauth: {{htpasswd: {{realm: r, path: {0}/users}}}}\n",
        folder.display()
    );
    std::fs::write(folder.join("config.yml"), config)?;
    let mut command = netns.command("docker-registry");
    command.arg("serve").arg(folder.join("config.yml"));
    let process = Process::spawn(command, &folder.join("registry.log"))?;
    wait_for("the registry", LIMIT, || Ok(Some(curl(netns, &["-f"], "/v2/")?)))?;
    Ok(process)
}

fn curl(netns: &Netns, arguments: &[&str], path: &str) -> Result<String> {
    let mut curl = netns.command("curl");
    curl.args(["-sS", "--max-time", "10", "-u", "joe:secret"]).args(arguments);
    curl.arg(if path.starts_with("http") { path.to_owned() } else { format!("http://{REGISTRY}{path}") });
    run(curl)
}

/// Pushes the image of an OCI layout as `repository:1`.
fn push(netns: &Netns, layout: &Path, repository: &str) -> Result<()> {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"].as_str().context("digest")?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(blob(digest))?)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    for part in layers.iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().context("digest")?;
        let begun = curl(netns, &["-D", "-", "-X", "POST"], &format!("/v2/{repository}/blobs/uploads/"))?;
        let place = begun.lines().find_map(|l| l.split_once("ocation: ")).context("no Location")?.1.trim();
        let data = format!("@{}", blob(digest).display());
        curl(
            netns,
            &["-f", "-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &data],
            &format!("{place}&digest={digest}"),
        )?;
    }
    let data = format!("@{}", blob(digest).display());
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    curl(
        netns,
        &["-f", "-X", "PUT", "-H", kind, "--data-binary", &data],
        &format!("/v2/{repository}/manifests/1"),
    )?;
    Ok(())
}

#[test]
fn pull_secrets_open_a_private_registry() -> Result<()> {
    if skipped(&[missing(), without("docker-registry"), without("busybox"), without("curl")]) {
        return Ok(());
    }
    let (netns, folder) = (Netns::new()?, tempfile::tempdir()?);
    let _registry = registry(&netns, folder.path())?;
    let layout = folder.path().join("layout");
    ImageBuilder::busybox("private:1")?.oci_layout(&layout)?;
    push(&netns, &layout, "team/private")?;
    let image = format!("{REGISTRY}/team/private:1");

    let cluster = Cluster::up_in(netns.share(), &binary()?, &["--port", "6443"])?;
    let pod = |name: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{rest}  \
             containers: [{{name: main, image: \"{image}\", command: [sleep, \"1000\"]}}]\n---\n"
        )
    };
    let secret = |name: &str, password: &str| {
        let login = [
            "--docker-username=joe",
            &format!("--docker-password={password}"),
            &format!("--docker-server={REGISTRY}"),
        ]
        .map(str::to_owned);
        let mut words = vec!["create", "secret", "docker-registry", name];
        words.extend(login.iter().map(String::as_str));
        cluster.k(&words)
    };
    secret("right", "secret")?;
    secret("wrong", "guess")?;
    let named = |name: &str| format!("  imagePullSecrets: [{{name: {name}}}]\n");
    cluster.apply(&[pod("without", ""), pod("mistaken", &named("wrong"))].concat())?;
    let message = |pod: &str| {
        cluster.k(&["get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].state.waiting.message}"])
    };
    for refused in ["without", "mistaken"] {
        let said = wait_for(refused, LIMIT, || {
            Ok(Some(message(refused)?)
                .filter(|m| m.starts_with("ErrImagePull ") || m.starts_with("ImagePullBackOff ")))
        })?;
        ensure!(said.contains(&image), "{said}");
        let events = cluster.k(&[
            "get",
            "events",
            "--field-selector",
            &format!("involvedObject.name={refused}"),
            "-o",
            "jsonpath={range .items[*]}{.message}\n{end}",
        ])?;
        ensure!(
            events.contains(&format!("Failed to pull image \"{image}\"")) && events.contains("denied"),
            "{events}"
        );
    }
    // With the right one it runs; another of the wrong ones does no harm, and the service account's count, too.
    cluster.apply(&pod("with", "  imagePullSecrets: [{name: wrong}, {name: right}]\n"))?;
    cluster.k(&["wait", "--for=condition=Ready", "pod/with", "--timeout=60s"])?;
    cluster.k(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"right"}]}"#])?;
    cluster.apply(&pod("account", ""))?;
    cluster.k(&["wait", "--for=condition=Ready", "pod/account", "--timeout=60s"])?;
    // The image is there now, but not for one who may not pull it.
    cluster.apply(&pod("sneak", &named("wrong")).replace("command:", "imagePullPolicy: Always, command:"))?;
    wait_for("the refusal", LIMIT, || Ok(message("sneak")?.starts_with("ErrImagePull ").then_some(())))?;
    // `ironclad image pull` as the person at the machine.
    let refused = run(cluster.ironclad(&["image", "pull", &image])).unwrap_err();
    ensure!(format!("{refused:#}").contains("denied"), "{refused:#}");
    Ok(())
}
