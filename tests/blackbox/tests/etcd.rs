//! The application's thin path with its state in etcd, and etcd's failures.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, busybox, done, skipped, without};
use std::path::Path;
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::netns::Netns;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
const URL: &str = "http://127.0.0.1:2379";

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "kept in etcd\n"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: "busybox:1"
        imagePullPolicy: Never
        command: [httpd, -f, -p, "80", -h, /srv]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        volumeMounts: [{name: page, mountPath: /srv}]
      volumes: [{name: page, configMap: {name: page}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

fn etcd(netns: &Netns, folder: &Path) -> Result<Process> {
    let mut command = netns.command("/usr/bin/etcd");
    command.arg("--data-dir").arg(folder.join("etcd")).args(["--listen-client-urls", URL]);
    command.args(["--advertise-client-urls", URL, "--listen-peer-urls", "http://127.0.0.1:2380"]);
    let process = Process::spawn(command, &folder.join("etcd.log"))?;
    wait_for("etcd", LIMIT, || {
        let mut curl = netns.command("curl");
        curl.args(["-sS", "--max-time", "5", &format!("{URL}/health")]);
        Ok(run(curl)?.contains("true").then_some(()))
    })?;
    Ok(process)
}

#[test]
fn an_application_lives_on_etcd() -> Result<()> {
    if skipped(&[missing(), without("/usr/bin/etcd"), without("busybox"), without("curl")]) {
        return Ok(());
    }
    let netns = Netns::new()?;
    let folder = tempfile::tempdir()?;

    // Nobody there: one sentence.
    let mut up = netns.command(&binary()?.to_string_lossy());
    up.args(["server", "--port", "6443", "--store", &format!("etcd={URL}"), "--data-dir"])
        .arg(folder.path().join("data"));
    let said = done(up)?;
    said.refuses(&["etcd", URL])?;

    let mut server = etcd(&netns, folder.path())?;
    let mut cluster =
        Cluster::up_in(netns.share(), &binary()?, &["--port", "6443", "--store", &format!("etcd={URL}")])?;
    run(cluster.ironclad(&["image", "import", &busybox(folder.path())?.to_string_lossy()]))?;
    cluster.apply(WEB)?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let ip = cluster.k(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let answers = || {
        wait_for("the service", LIMIT, || {
            let mut curl = netns.command("curl");
            curl.args(["-sS", "--max-time", "5", &format!("http://{ip}/")]);
            Ok((run(curl)? == "kept in etcd\n").then_some(()))
        })
    };
    answers()?;
    let first = cluster.k(&["get", "pods", "-o", "name"])?;
    let pod = first.lines().next().unwrap_or_default();
    ensure!(
        cluster.k(&["exec", pod, "--", "wget", "-qO-", "http://web.default.svc.cluster.local/"])?
            == "kept in etcd\n"
    );
    ensure!(cluster.k(&["auth", "can-i", "create", "pods"])? == "yes\n");
    // Its state is in etcd, and nowhere else.
    ensure!(!cluster.data_dir().join("store").exists(), "an embedded store was made beside etcd");
    let prefix = r#"{"key":"L3JlZ2lzdHJ5L2FwcHMvZGVwbG95bWVudHMv","range_end":"L3JlZ2lzdHJ5L2FwcHMvZGVwbG95bWVudHMw"}"#;
    let mut curl = netns.command("curl");
    curl.args(["-sS", "-d", prefix, &format!("{URL}/v3/kv/range")]);
    let range = run(curl)?;
    ensure!(range.contains("\"count\":\"1\""), "{range}");

    cluster.k(&["rollout", "restart", "deployment/web"])?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    answers()?;

    // kill -9 of the cluster: same pods.
    let two = || {
        wait_for("two pods", LIMIT, || {
            let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} \
                        {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
            let pods = cluster.k(&["get", "pods", "-o", path])?;
            Ok((pods.lines().count() == 2).then_some(pods))
        })
    };
    let before = two()?;
    cluster.kill();
    answers()?;
    cluster.start()?;
    let two = |cluster: &Cluster| {
        cluster.k(&[
            "get",
            "pods",
            "-o",
            "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} \
             {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}",
        ])
    };
    ensure!(two(&cluster)? == before, "pods changed:\n{before}\n{}", two(&cluster)?);

    // etcd gone: pods serve on, requests fail, and when it is back all goes on by itself.
    cluster.k(&["create", "configmap", "before"])?;
    let slices = cluster.k(&["get", "endpointslices", "-o", "yaml"])?;
    server.kill();
    answers().with_context(|| format!("{}\n{slices}", cluster.printed()))?;
    ensure!(
        cluster.k(&["create", "configmap", "lost", "--request-timeout=20s"]).is_err(),
        "written to nothing"
    );
    let mut server = etcd(&netns, folder.path())?;
    wait_for("writes", LIMIT, || {
        Ok(Some(cluster.k(&["create", "configmap", "after", "--request-timeout=10s"])?))
    })?;
    cluster.k(&["get", "configmap", "before"])?;
    ensure!(
        cluster.pid().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()),
        "{}",
        cluster.printed()
    );
    cluster.k(&["scale", "deployment", "web", "--replicas=3"])?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=80s"])?;
    answers()?;
    cluster.stop()?;
    run(cluster.ironclad(&["down", "--purge"]))?;
    ensure!(netns.links()?.is_empty() && netns.routes()?.is_empty());
    drop(cluster);
    server.kill();
    Ok(())
}
