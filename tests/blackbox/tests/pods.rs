//! What a pod's spec promises, seen with kubectl: probes, hooks, restarts, volumes, limits, ports, identity, logs.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, skipped, without};
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::image::ImageBuilder;
use testkit::process::{run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster with `busybox:1`, which holds curl, too. `None`: this machine cannot.
fn cluster(flags: &[&str]) -> Result<Option<Cluster>> {
    if skipped(&[missing(), without("busybox"), without("curl")]) {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::up(&binary()?, flags)?;
    let path = folder.path().join("busybox.tar");
    ImageBuilder::busybox("busybox:1")?.program("/usr/bin/curl")?.docker_archive(&path)?;
    run(cluster.ironclad(&["image", "import", path.to_str().context("path")?]))?;
    Ok(Some(cluster))
}

/// A pod with one container; `rest` is added to the container, `spec` to the pod's spec.
fn pod(name: &str, script: &str, rest: &str, spec: &str) -> String {
    let script = script.replace('\n', "; ");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n{spec}  containers:\n  - name: main\n    image: busybox:1\n    \
         imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n{rest}---\n"
    )
}

fn field(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    cluster.k(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

fn becomes(cluster: &Cluster, pod: &str, path: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{pod} {path} to be {wanted}"), LIMIT, || {
        let is = field(cluster, pod, path)?;
        ensure!(is == wanted, "it is {is:?}");
        Ok(Some(()))
    })
    .with_context(|| cluster.k(&["describe", "pod", pod]).unwrap_or_default())
}

fn reasons(cluster: &Cluster, pod: &str) -> Result<String> {
    let selector = format!("involvedObject.name={pod}");
    cluster.k(&[
        "get",
        "events",
        "--field-selector",
        &selector,
        "-o",
        "jsonpath={range .items[*]}{.reason}: {.message}\n{end}",
    ])
}

#[test]
fn probes_decide_readiness_and_restarts() -> Result<()> {
    let Some(cluster) = cluster(&[])? else { return Ok(()) };
    let wait = "while :; do sleep 0.2; done";
    let serve = "mkdir -p /srv; echo ok > /srv/up; exec httpd -f -p 8080 -h /srv";
    let http = |kind: &str, path: &str| {
        format!(
            "    {kind}: {{httpGet: {{path: {path}, port: 8080}}, periodSeconds: 1, failureThreshold: 2}}\n"
        )
    };
    let tcp = |port: u16| format!("    readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}\n");
    let exec = "    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}\n";
    let startup = "    startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 60}\n    \
                   livenessProbe: {exec: {command: [\"false\"]}, periodSeconds: 1, failureThreshold: 1}\n";
    cluster.apply(
        &[
            pod("http", serve, &[http("readinessProbe", "/up"), http("livenessProbe", "/up")].concat(), ""),
            pod("tcp", serve, &tcp(8080), ""),
            pod("shut", wait, &tcp(8081), ""),
            pod("command", wait, exec, ""),
            pod("slow", wait, startup, ""),
        ]
        .concat(),
    )?;
    for ready in ["http", "tcp"] {
        becomes(&cluster, ready, ".status.conditions[?(@.type==\"Ready\")].status", "True")?;
    }
    // The content goes: not ready, then killed and started anew, by which the content is back.
    cluster.k(&["exec", "http", "--", "rm", "/srv/up"])?;
    becomes(&cluster, "http", ".status.containerStatuses[0].restartCount", "1")?;
    becomes(&cluster, "http", ".status.containerStatuses[0].ready", "true")?;
    let said = reasons(&cluster, "http")?;
    for words in [
        "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 404",
        "Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404",
        "Killing: Container main failed liveness probe, will be restarted",
    ] {
        ensure!(said.contains(words), "{words:?} is missing in\n{said}");
    }
    ensure!(field(&cluster, "shut", ".status.containerStatuses[0].ready")? == "false");
    ensure!(
        reasons(&cluster, "shut")?.contains("Readiness probe failed: dial tcp"),
        "{}",
        reasons(&cluster, "shut")?
    );
    ensure!(field(&cluster, "command", ".status.containerStatuses[0].ready")? == "false");
    cluster.k(&["exec", "command", "--", "touch", "/tmp/ready"])?;
    becomes(&cluster, "command", ".status.containerStatuses[0].ready", "true")?;
    // Liveness waits for the start-up probe.
    ensure!(field(&cluster, "slow", ".status.containerStatuses[0].started")? == "false");
    ensure!(field(&cluster, "slow", ".status.containerStatuses[0].restartCount")? == "0");
    cluster.k(&["exec", "slow", "--", "touch", "/tmp/started"])?;
    becomes(&cluster, "slow", ".status.containerStatuses[0].restartCount", "1")
}

#[test]
fn containers_start_in_order_restart_as_told_and_end_with_grace() -> Result<()> {
    let Some(cluster) = cluster(&[])? else { return Ok(()) };
    let init = "  initContainers:\n  - {name: one, image: \"busybox:1\", imagePullPolicy: Never, command: [sh, -c, \"echo one > /v/log\"], volumeMounts: [{name: v, mountPath: /v}]}\n  \
                - {name: two, image: \"busybox:1\", imagePullPolicy: Never, command: [sh, -c, \"echo two >> /v/log\"], volumeMounts: [{name: v, mountPath: /v}]}\n  \
                volumes: [{name: v, emptyDir: {}}]\n";
    let mount = "    volumeMounts: [{name: v, mountPath: /v}]\n";
    let hooks = "    volumeMounts: [{name: h, mountPath: /h}]\n    lifecycle:\n      postStart: {exec: {command: [sh, -c, \"echo started >> /h/log\"]}}\n      \
                 preStop: {exec: {command: [sh, -c, \"echo stopping >> /h/log\"]}}\n";
    let folder = tempfile::tempdir()?;
    let host = format!("  volumes: [{{name: h, hostPath: {{path: {}}}}}]\n", folder.path().display());
    let term = "trap 'echo terminated >> /h/log; exit 0' TERM\nwhile :; do sleep 0.1; done";
    cluster.apply(
        &[
            pod("ordered", "cat /v/log; sleep 1000", mount, init),
            pod("never", "exit 3", "", "  restartPolicy: Never\n"),
            pod(
                "onfailure",
                "test -e /v/again || { touch /v/again; exit 1; }",
                mount,
                "  restartPolicy: OnFailure\n  volumes: [{name: v, emptyDir: {}}]\n",
            ),
            pod("crash", "echo boom; exit 1", "", ""),
            pod("hooks", term, hooks, &host),
            pod("deadline", "sleep 1000", "", "  activeDeadlineSeconds: 2\n"),
            pod("missing", "true", "", "  volumes: [{name: v, configMap: {name: absent}}]\n"),
        ]
        .concat(),
    )?;
    becomes(&cluster, "ordered", ".status.containerStatuses[0].ready", "true")?;
    ensure!(cluster.k(&["logs", "ordered"])? == "one\ntwo\n");
    becomes(&cluster, "never", ".status.phase", "Failed")?;
    ensure!(field(&cluster, "never", ".status.containerStatuses[0].state.terminated.exitCode")? == "3");
    becomes(&cluster, "onfailure", ".status.phase", "Succeeded")?;
    ensure!(field(&cluster, "onfailure", ".status.containerStatuses[0].restartCount")? == "1");
    becomes(&cluster, "crash", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")?;
    ensure!(cluster.k(&["logs", "crash", "--previous"])? == "boom\n");
    becomes(&cluster, "deadline", ".status.reason", "DeadlineExceeded")?;
    becomes(&cluster, "hooks", ".status.containerStatuses[0].ready", "true")?;
    cluster.k(&["delete", "pod", "hooks", "--grace-period=20"])?;
    let log = std::fs::read_to_string(folder.path().join("log"))?;
    ensure!(log == "started\nstopping\nterminated\n", "{log:?}");
    let said = reasons(&cluster, "missing")?;
    ensure!(
        said.contains(
            "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"absent\" not found"
        ),
        "{said}"
    );
    ensure!(field(&cluster, "missing", ".status.phase")? == "Pending");
    // What was missing comes, and the pod goes on.
    cluster.k(&["create", "configmap", "absent", "--from-literal=a=b"])?;
    becomes(&cluster, "missing", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")
}

#[test]
fn volumes_and_environment_show_what_the_api_holds() -> Result<()> {
    let Some(cluster) = cluster(&[])? else { return Ok(()) };
    cluster.k(&["create", "configmap", "cm", "--from-literal=key=first"])?;
    cluster.k(&["create", "secret", "generic", "sec", "--from-literal=password=hidden"])?;
    let volumes = "  volumes:\n  - {name: cm, configMap: {name: cm}}\n  - {name: sec, secret: {secretName: sec, defaultMode: 256}}\n  \
                   - {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}\n  \
                   - name: all\n    projected:\n      sources:\n      - {configMap: {name: cm, items: [{key: key, path: deep/key}]}}\n      \
                   - {serviceAccountToken: {path: token, audience: vault}}\n      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}\n";
    let rest = "    env:\n    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    \
                - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}\n    \
                - {name: PASSWORD, valueFrom: {secretKeyRef: {name: sec, key: password}}}\n    - {name: JOINED, value: \"$(NODE)-$(PASSWORD)\"}\n    \
                envFrom: [{prefix: CM_, configMapRef: {name: cm}}]\n    resources: {limits: {memory: 64Mi, cpu: 200m}}\n    \
                volumeMounts: [{name: cm, mountPath: /cm}, {name: sec, mountPath: /sec}, {name: mem, mountPath: /mem}, {name: all, mountPath: /all}]\n";
    cluster.apply(&pod("volumes", "sleep 1000", rest, volumes))?;
    becomes(&cluster, "volumes", ".status.containerStatuses[0].ready", "true")?;
    let sh = |script: &str| cluster.k(&["exec", "volumes", "--", "sh", "-c", script]);
    let node = field(&cluster, "volumes", ".spec.nodeName")?;
    let env = sh("echo $NODE $LIMIT $PASSWORD $JOINED $CM_key")?;
    ensure!(env == format!("{node} 64 hidden {node}-hidden first\n"), "{env}");
    ensure!(
        sh("cat /cm/key /sec/password /all/deep/key /all/labels")? == "firsthiddenfirstapp=\"volumes\"",
        "{}",
        sh("cat /cm/key /sec/password /all/deep/key /all/labels")?
    );
    ensure!(sh("stat -L -c %a /sec/password")? == "400\n");
    ensure!(sh("grep -c '/mem tmpfs' /proc/mounts")? == "1\n");
    ensure!(
        sh("dd if=/dev/zero of=/mem/big bs=1M count=4 2>&1").is_err(),
        "a memory volume outgrew its limit"
    );
    // The API's change arrives, in one step.
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {key: second}\n")?;
    wait_for("the new content", LIMIT, || {
        Ok((sh("cat /cm/key /all/deep/key")? == "secondsecond").then_some(()))
    })?;

    // The token is for the audience asked for, and tells the pod it is bound to.
    let token = sh("cat /all/token")?;
    let review = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{token}","audiences":["vault"]}}}}"#
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), review)?;
    let path = file.path().to_str().context("path")?;
    let said = cluster.k(&["create", "-f", path, "-o", "jsonpath={.status.authenticated} {.status.user.username} {.status.user.extra.authentication\\.kubernetes\\.io/pod-name}"])?;
    ensure!(said == "true system:serviceaccount:default:default [\"volumes\"]", "{said}");

    // A pod reaches the API by name, as its service account and no more.
    let api = "T=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token); curl -sS --max-time 5 --cacert \
               /var/run/secrets/kubernetes.io/serviceaccount/ca.crt -H \"Authorization: Bearer $T\" https://kubernetes.default";
    ensure!(sh(&format!("{api}/version"))?.contains("gitVersion"));
    let refused = sh(&format!("{api}/api/v1/namespaces/default/pods"))?;
    ensure!(
        refused.contains("User \\\"system:serviceaccount:default:default\\\" cannot list resource"),
        "{refused}"
    );
    cluster.k(&["create", "rolebinding", "see", "--clusterrole=view", "--serviceaccount=default:default"])?;
    wait_for("the right", LIMIT, || {
        Ok(sh(&format!("{api}/api/v1/namespaces/default/pods"))?.contains("PodList").then_some(()))
    })
}

#[test]
fn limits_ports_security_and_log_rotation_hold() -> Result<()> {
    let Some(cluster) = cluster(&[])? else { return Ok(()) };
    let limited = "    resources: {limits: {memory: 16Mi, cpu: 100m}}\n";
    let secured = "    securityContext: {runAsUser: 65534, runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, \
                   capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}\n";
    let port = "    ports: [{containerPort: 8080, hostPort: 18088}]\n    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n";
    let lines = "i=0; while [ $i -lt 260000 ]; do echo \"line $i ................................................................\"; i=$((i+1)); done; sleep 1000";
    cluster.apply(
        &[
            pod(
                "greedy",
                "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60",
                limited,
                "  restartPolicy: Never\n",
            ),
            pod(
                "plain",
                "id -u; touch /x; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; echo files $(ulimit -n); sleep 1000",
                secured,
                "",
            ),
            pod("root", "true", "    securityContext: {runAsNonRoot: true}\n", ""),
            pod(
                "port",
                "mkdir /srv; echo by host port > /srv/index.html; exec httpd -f -p 8080 -h /srv",
                port,
                "",
            ),
            pod("chatty", lines, "", ""),
        ]
        .concat(),
    )?;
    becomes(&cluster, "greedy", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled")?;
    becomes(&cluster, "plain", ".status.containerStatuses[0].ready", "true")?;
    let said = wait_for("the output", LIMIT, || {
        Ok(Some(cluster.k(&["logs", "plain"])?).filter(|l| l.contains("files ")))
    })?;
    for words in
        ["65534\n", "Read-only file system", "CapEff:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1"]
    {
        ensure!(said.contains(words), "{words:?} is missing in\n{said}");
    }
    // The server takes all the open files it may have; a container gets what the server was started with.
    let (mine, most) = open_files(std::process::id())?;
    let server = open_files(cluster.pid().context("no server")?)?;
    ensure!(said.contains(&format!("files {mine}\n")) && server == (most, most), "{server:?} {said}");
    becomes(
        &cluster,
        "root",
        ".status.containerStatuses[0].state.waiting.reason",
        "CreateContainerConfigError",
    )?;
    let message = field(&cluster, "root", ".status.containerStatuses[0].state.waiting.message")?;
    ensure!(message.contains("container has runAsNonRoot and image will run as root"), "{message}");
    becomes(&cluster, "port", ".status.containerStatuses[0].ready", "true")?;
    let node = cluster.k(&["get", "node", "-o", "jsonpath={.items[0].status.addresses[0].address}"])?;
    let url = format!("http://{node}:18088/");
    wait_for(&url, LIMIT, || {
        let mut curl = cluster.netns.command("curl");
        curl.args(["-sS", "--max-time", "5", &url]);
        let page = run(curl)?;
        ensure!(page == "by host port\n", "{page:?}");
        Ok(Some(()))
    })?;
    // About 20 MiB were written; files of 10 MiB are turned over, and the newest lines are there.
    let last = wait_for("the last line", LIMIT, || {
        Ok(Some(cluster.k(&["logs", "chatty", "--tail=1"])?).filter(|l| l.starts_with("line 259999 ")))
    })?;
    ensure!(last.lines().count() == 1);
    let uid = field(&cluster, "chatty", ".metadata.uid")?;
    let folder = cluster.data_dir().join(format!("node/logs/default_chatty_{uid}/main"));
    let files = wait_for("the turned-over file", LIMIT, || {
        let names: Vec<String> = std::fs::read_dir(&folder)?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        Ok(Some(names).filter(|n| n.len() > 1))
    })?;
    ensure!(files.iter().any(|n| n == "0.log"), "{files:?}");
    Ok(())
}

/// The soft and hard limit of a process's open files.
fn open_files(pid: u32) -> Result<(u64, u64)> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|l| l.starts_with("Max open files")).context("no limit")?;
    let mut numbers = line.split_whitespace().filter_map(|w| w.parse().ok());
    Ok((numbers.next().context("soft")?, numbers.next().context("hard")?))
}
