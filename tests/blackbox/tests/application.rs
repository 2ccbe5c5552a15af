//! A real application on a real cluster, driven as a person would: the issue's end-to-end story.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::image::ImageBuilder;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// nginx of this machine with a page that names its version.
fn nginx(version: &str, folder: &Path) -> Result<std::path::PathBuf> {
    let config = "daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/stderr;\n\
                  events { worker_connections 256; }\n\
                  http { access_log /dev/stdout; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b;\n\
                  fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;\n\
                  server { listen 80; location = /version { return 200 \"VERSION\\n\"; }\n\
                  location / { root /srv; } } }\n";
    let image = ImageBuilder::new(&format!("nginx:{version}"))
        .program("/usr/sbin/nginx")?
        .file("etc/nginx/nginx.conf", config.replace("VERSION", version).as_bytes(), 0o644)
        .folder("var/lib/nginx")
        .folder("var/log/nginx")
        .folder("srv")
        .entrypoint(&["/usr/sbin/nginx"]);
    let path = folder.join(format!("nginx-{version}.tar"));
    match version {
        "1" => image.docker_archive(&path)?,
        _ => image.oci_archive(&path)?,
    }
    Ok(path)
}

const APPLICATION: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "served from a config map\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: "s3cret"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: nginx
        image: nginx:1
        imagePullPolicy: Never
        ports: [{name: http, containerPort: 80}]
        env:
        - name: PASSWORD
          valueFrom: {secretKeyRef: {name: key, key: password}}
        readinessProbe: {httpGet: {path: /version, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
        volumeMounts:
        - {name: page, mountPath: /srv}
        - {name: key, mountPath: /key}
      volumes:
      - {name: page, configMap: {name: page}}
      - {name: key, secret: {secretName: key}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: shell, image: "busybox:1", imagePullPolicy: Never, command: [sleep, "100000"]}
"#;

#[test]
fn an_application_lives_its_whole_life() -> Result<()> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(());
    }
    if !Path::new("/usr/sbin/nginx").exists() {
        println!("skipped: nginx is not installed (Debian: nginx-light)");
        return Ok(());
    }
    let images = tempfile::tempdir()?;
    let mut cluster = Cluster::up(&blackbox::binary()?, &["--port", "6443"])?;

    // Import, in three forms.
    for path in [nginx("1", images.path())?, nginx("2", images.path())?] {
        run(cluster.ironclad(&["image", "import", path.to_str().context("path")?]))?;
    }
    let layout = images.path().join("busybox");
    // curl brings the C library that name look-ups need; busybox alone is static.
    ImageBuilder::busybox("busybox:1")?.program("/usr/bin/curl")?.oci_layout(&layout)?;
    run(cluster.ironclad(&["image", "import", layout.to_str().context("path")?]))?;
    let listed = run(cluster.ironclad(&["image", "list"]))?;
    ensure!(listed.contains("nginx:1") && listed.contains("busybox:1"), "images: {listed}");

    // Deploy.
    cluster.apply(APPLICATION)?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    cluster.k(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;

    // Reach it from another pod: by name, by address, and by node port from the machine.
    let ip = cluster.k(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let node = cluster.k(&["get", "node", "-o", "jsonpath={.items[0].status.addresses[0].address}"])?;
    for url in [
        "http://web/".to_owned(),
        "http://web.default.svc.cluster.local/".to_owned(),
        format!("http://{ip}/"),
        format!("http://{node}:30080/"),
    ] {
        let page = wait_for(&url, LIMIT, || {
            Ok(Some(cluster.k(&["exec", "client", "--", "curl", "-sS", "--max-time", "5", &url])?))
        })?;
        ensure!(page == "served from a config map\n", "{url}: {page:?}");
    }
    let mut curl = cluster.netns.command("curl");
    curl.args(["-sS", "--max-time", "5", &format!("http://{node}:30080/version")]);
    ensure!(run(curl)? == "1\n");
    let api = cluster.k(&["exec", "client", "--", "nslookup", "kubernetes.default.svc.cluster.local"])?;
    ensure!(api.contains("10.96.0.1"), "{api}");

    // Logs, exec, copy, port-forward.
    let logs = cluster.k(&["logs", "deployment/web"])?;
    ensure!(logs.contains("GET /version"), "{logs}");
    let env = cluster.k(&["exec", "deploy/web", "--", "/usr/sbin/nginx", "-v"]);
    ensure!(env.is_ok(), "{env:?}");
    let secret = cluster.k(&["get", "secret", "key", "-o", "jsonpath={.data.password}"])?;
    ensure!(secret == "czNjcmV0", "{secret}");
    let failed = cluster.k(&["exec", "client", "--", "sh", "-c", "exit 7"]).unwrap_err();
    ensure!(format!("{failed:#}").contains("exit code 7"), "{failed:#}");
    let file = images.path().join("note");
    std::fs::write(&file, "copied\n")?;
    cluster.k(&["cp", file.to_str().context("path")?, "client:/tmp/note"])?;
    ensure!(cluster.k(&["exec", "client", "--", "cat", "/tmp/note"])? == "copied\n");
    {
        let forward = cluster.kubectl(&["port-forward", "service/web", "18080:80"]);
        let _forward = Process::spawn(forward, &images.path().join("forward.log"))?;
        let page = wait_for("the forwarded port", LIMIT, || {
            let mut curl = cluster.netns.command("curl");
            curl.args(["-sS", "--max-time", "5", "http://127.0.0.1:18080/version"]);
            Ok(Some(run(curl)?))
        })?;
        ensure!(page == "1\n", "{page:?}");
    }

    // Roll out and back under load: no request fails.
    let stop = Arc::new(AtomicBool::new(false));
    let (answered, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, answered, refused) = (stop.clone(), answered.clone(), refused.clone());
        let name = cluster.netns.name().to_owned();
        let url = format!("http://{ip}/version");
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut curl = std::process::Command::new("nsenter");
                curl.args([&format!("--net=/run/netns/{name}"), "curl", "-sS", "--max-time", "5", &url]);
                let counter = if run(curl).is_ok() { &answered } else { &refused };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    cluster.k(&["set", "image", "deployment/web", "nginx=nginx:2"])?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let version = |expected: &str| {
        wait_for("the version", LIMIT, || {
            let mut curl = cluster.netns.command("curl");
            curl.args(["-sS", "--max-time", "5", &format!("http://{ip}/version")]);
            Ok((run(curl)?.trim() == expected).then_some(()))
        })
    };
    version("2")?;
    cluster.k(&["rollout", "undo", "deployment/web"])?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    version("1")?;
    stop.store(true, Ordering::Relaxed);
    load.join().ok().context("load generator")?;
    let (answered, refused) = (answered.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    println!("under two rollouts: {answered} answered, {refused} failed");
    ensure!(answered > 0 && refused == 0, "{refused} of {} requests failed", answered + refused);

    // kill -9 and restart: same containers, no restart counted, service answers throughout.
    let identity = |c: &Cluster| {
        c.k(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} \
              {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}"])
    };
    wait_for("old pods to be gone", LIMIT, || {
        Ok((cluster.k(&["get", "pods", "--no-headers"])?.lines().count() == 3).then_some(()))
    })?;
    let before = identity(&cluster)?;
    for _ in 0..3 {
        cluster.kill();
        let mut curl = cluster.netns.command("curl");
        curl.args(["-sS", "--max-time", "5", &format!("http://{ip}/version")]);
        ensure!(run(curl)? == "1\n", "the service answers while the agent is dead");
        cluster.start()?;
    }
    ensure!(identity(&cluster)? == before, "pods changed over kill -9:\n{before}\n{}", identity(&cluster)?);
    ensure!(cluster.k(&["exec", "client", "--", "cat", "/tmp/note"])? == "copied\n");

    // SIGTERM leaves pods running too.
    cluster.stop()?;
    cluster.start()?;
    ensure!(identity(&cluster)? == before);

    // Tear down: nothing is left.
    cluster.k(&["delete", "deployment/web", "service/web", "pod/client", "--timeout=60s"])?;
    wait_for("pods to be gone", LIMIT, || {
        Ok(cluster.k(&["get", "pods", "--no-headers"])?.is_empty().then_some(()))
    })?;
    cluster.stop()?;
    run(cluster.ironclad(&["down"]))?;
    let (links, routes) = (cluster.netns.links()?, cluster.netns.routes()?);
    ensure!(links.is_empty() && routes.is_empty(), "left behind: {links:?} {routes:?}");
    let data = cluster.data_dir().to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&data), "mounts left behind under {data}");
    run(cluster.ironclad(&["down", "--purge"]))?;
    ensure!(!cluster.data_dir().exists(), "the data directory is still there");
    Ok(())
}
