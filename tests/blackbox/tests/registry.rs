//! Images from a registry that wants to know who pulls: Debian's docker-registry, and pods with pull secrets.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use blackbox::{binary, skipped, without};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
    wait_for("the registry", LIMIT, || {
        Ok(Some(curl(netns, &["-f", "-u", "joe:secret"], &format!("http://{REGISTRY}/v2/"))?))
    })?;
    Ok(process)
}

fn curl(netns: &Netns, arguments: &[&str], url: &str) -> Result<String> {
    let mut curl = netns.command("curl");
    run({
        curl.args(["-sS", "--max-time", "10"]).args(arguments).arg(url);
        curl
    })
}

/// Pushes the image of an OCI layout to `base` as `repository:1`; `who` are curl's words for the credentials.
fn push(netns: &Netns, who: &[&str], layout: &Path, base: &str, repository: &str) -> Result<()> {
    let curl = |words: &[&str], url: &str| curl(netns, &[who, words].concat(), url);
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"].as_str().context("digest")?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(blob(digest))?)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    for part in layers.iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().context("digest")?;
        let begun = curl(&["-D", "-", "-X", "POST"], &format!("{base}/v2/{repository}/blobs/uploads/"))?;
        let place = begun.lines().find_map(|l| l.split_once("ocation: ")).context(begun.clone())?.1.trim();
        let data = format!("@{}", blob(digest).display());
        let put = ["-f", "-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &data];
        curl(&put, &format!("{place}&digest={digest}"))?;
    }
    let data = format!("@{}", blob(digest).display());
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    let put = ["-f", "-X", "PUT", "-H", kind, "--data-binary", &data];
    curl(&put, &format!("{base}/v2/{repository}/manifests/1")).map(drop)
}

/// openssl in `folder`, which Debian has everywhere.
fn openssl(folder: &Path, words: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(words.split(' ')).current_dir(folder);
    run(command)
}

/// A token as docker's token servers give it (distribution's "token authentication"), good for `repository`.
fn token(folder: &Path, repository: &str) -> Result<String> {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let der = openssl(folder, "x509 -in signer.pem -outform PEM")?;
    let chain: String = der.lines().filter(|l| !l.starts_with('-')).collect();
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [chain]}).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({"iss": "tests", "sub": "joe", "aud": "registry", "exp": now + 3600, "nbf": now - 60, "iat": now, "jti": "1",
        "access": [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]});
    let signed = format!("{}.{}", encode(head.as_bytes()), encode(claims.to_string().as_bytes()));
    std::fs::write(folder.join("signed"), &signed)?;
    openssl(folder, "dgst -sha256 -sign signer.key -out signature signed")?;
    Ok(format!("{signed}.{}", encode(&std::fs::read(folder.join("signature"))?)))
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
    push(&netns, &["-u", "joe:secret"], &layout, &format!("http://{REGISTRY}"), "team/private")?;
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

#[test]
fn a_token_servers_registry_with_tls_of_a_private_authority() -> Result<()> {
    let programs = ["docker-registry", "busybox", "curl", "openssl", "ip"].map(without);
    if skipped(&[&[missing()], &programs[..]].concat()) {
        return Ok(());
    }
    let (netns, folder) = (Netns::new()?, tempfile::tempdir()?);
    let at = folder.path();
    // Not on loopback, where plain HTTP would do.
    let mut address = netns.command("ip");
    address.args(["address", "add", "192.0.2.1/32", "dev", "lo"]);
    run(address)?;
    std::fs::write(at.join("san"), "subjectAltName=IP:192.0.2.1\n")?;
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=tests")?;
    openssl(at, "req -newkey rsa:2048 -nodes -keyout tls.key -out tls.csr -subj /CN=registry")?;
    openssl(at, "x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -out tls.pem -days 2 -extfile san")?;
    openssl(
        at,
        "req -x509 -newkey rsa:2048 -nodes -keyout signer.key -out signer.pem -days 2 -subj /CN=signer",
    )?;

    // The token server gives joe, and nobody else, a token for one repository.
    let token = token(at, "team/tokens")?;
    std::fs::create_dir(at.join("www"))?;
    std::fs::write(at.join("www/token"), json!({"token": token}).to_string())?;
    std::fs::write(at.join("httpd.conf"), "/:joe:secret\n")?;
    let mut httpd = netns.command("busybox");
    httpd
        .args(["httpd", "-f", "-p", "127.0.0.1:5001", "-h"])
        .arg(at.join("www"))
        .arg("-c")
        .arg(at.join("httpd.conf"));
    let _tokens = Process::spawn(httpd, &at.join("httpd.log"))?;
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\n\
         http: {{addr: '192.0.2.1:5000', tls: {{certificate: {0}/tls.pem, key: {0}/tls.key}}}}\n\
         auth: {{token: {{realm: 'http://127.0.0.1:5001/token', service: registry, issuer: tests, rootcertbundle: {0}/signer.pem}}}}\n",
        at.display()
    );
    std::fs::write(at.join("config.yml"), config)?;
    let mut command = netns.command("docker-registry");
    command.arg("serve").arg(at.join("config.yml"));
    let _registry = Process::spawn(command, &at.join("registry.log"))?;
    let ca = at.join("ca.pem").display().to_string();
    wait_for("the registry", LIMIT, || {
        Ok(Some(curl(&netns, &["--cacert", &ca], "https://192.0.2.1:5000/v2/")?))
    })?;
    let layout = at.join("layout");
    ImageBuilder::busybox("tokens:1")?.oci_layout(&layout)?;
    let bearer = format!("Authorization: Bearer {token}");
    push(&netns, &["--cacert", &ca, "-H", &bearer], &layout, "https://192.0.2.1:5000", "team/tokens")?;

    let image = "192.0.2.1:5000/team/tokens:1";
    let cluster =
        Cluster::up_with(netns.share(), &binary()?, &["--port", "6443"], &[("SSL_CERT_FILE", &ca)])?;
    let pull = |creds: &[&str]| run(cluster.ironclad(&[&["image", "pull", image], creds].concat()));
    for bad in [&[][..], &["--creds", "joe:guess"]] {
        let refused = format!("{:#}", pull(bad).unwrap_err());
        ensure!(refused.contains("pull access denied by 192.0.2.1:5000"), "{refused}");
    }
    pull(&["--creds", "joe:secret"])?;
    ensure!(run(cluster.ironclad(&["image", "list"]))?.contains("192.0.2.1:5000/team/tokens"));
    // Who does not know the authority is told so.
    drop(cluster);
    let cluster = Cluster::up_in(netns.share(), &binary()?, &["--port", "6443"])?;
    let refused = run(cluster.ironclad(&["image", "pull", image, "--creds", "joe:secret"])).unwrap_err();
    ensure!(format!("{refused:#}").contains("certificate"), "{refused:#}");
    Ok(())
}
