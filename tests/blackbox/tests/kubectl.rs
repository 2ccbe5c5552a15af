//! Every kubectl command a person uses, with the newest kubectl on the machine and with Debian's 1.20.

use anyhow::{Context, Result, ensure};
use blackbox::{Done, binary, busybox, done, skipped, without};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: sh
        image: "busybox:1"
        imagePullPolicy: Never
        command: [sh, -c, "echo hello; mkdir -p /tmp/w; echo page > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
        ports: [{containerPort: 8080}]
"#;

/// Debian 12's kubernetes-client, unpacked: `KUBECTL_1_20` names it.
fn old_kubectl() -> PathBuf {
    std::env::var_os("KUBECTL_1_20").map_or_else(|| "/opt/kubectl-1.20/usr/bin/kubectl".into(), PathBuf::from)
}

/// One kubectl on one cluster.
struct Kubectl<'a> {
    program: String,
    cluster: &'a Cluster,
    folder: &'a Path,
}

impl Kubectl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.netns.command(&self.program);
        command.env("KUBECONFIG", self.cluster.data_dir().join("admin.kubeconfig"));
        // No discovery cache from another cluster or another kubectl.
        command.env("HOME", self.folder).args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Result<Done> {
        done(self.command(arguments))
    }

    /// It succeeds and says this.
    fn says(&self, arguments: &[&str], words: &str) -> Result<String> {
        let said = self.ask(arguments)?;
        ensure!(said.code == Some(0), "kubectl {arguments:?}: {said:?}");
        ensure!(said.out.contains(words), "kubectl {arguments:?}: {words:?} was due: {said:?}");
        Ok(said.out)
    }

    fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn rolled_out(&self) -> Result<String> {
        self.says(&["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out")
    }

    fn jsonpath(&self, what: &[&str], path: &str) -> Result<String> {
        let output = format!("jsonpath={path}");
        self.says(&[&["get"], what, &["-o", &output]].concat(), "")
    }

    /// The one pod that is not on its way out.
    fn pod(&self) -> Result<String> {
        wait_for("one pod", LIMIT, || {
            let names = self.jsonpath(&["pods", "-l", "app=web"], "{.items[*].metadata.name}")?;
            let mut names = names.split_whitespace();
            Ok(names.next().filter(|_| names.next().is_none()).map(str::to_owned))
        })
    }

    fn objects(&self) -> Result<()> {
        let web = self.file("web.yaml", WEB)?;
        self.says(&["apply", "-f", &web], "deployment.apps/web created")?;
        self.rolled_out()?;
        self.says(&["apply", "-f", &web], "deployment.apps/web unchanged")?;
        let again = self.ask(&["create", "-f", &web])?;
        ensure!(
            again.code == Some(1) && again.err.contains("deployments.apps \"web\" already exists"),
            "{again:?}"
        );
        self.says(&["create", "configmap", "settings", "--from-literal=a=b"], "configmap/settings created")?;
        self.says(&["create", "secret", "generic", "key", "--from-literal=a=b"], "secret/key created")?;
        let wide = self.says(&["get", "deployments,pods", "-o", "wide"], "busybox:1")?;
        ensure!(
            wide.contains("UP-TO-DATE") && wide.contains("NOMINATED NODE") && wide.contains("10.244.0."),
            "{wide}"
        );
        self.says(&["get", "deployment", "web", "-o", "yaml"], "  replicas: 1\n")?;
        ensure!(self.jsonpath(&["deployment", "web"], "{.spec.replicas}")? == "1");
        self.says(&["get", "nodes", "-o", "wide"], "ironclad://")?;
        let described = self.says(&["describe", "deployment", "web"], "ScalingReplicaSet")?;
        ensure!(described.contains("1 desired | 1 updated | 1 total | 1 available"), "{described}");
        let described =
            self.says(&["describe", "pod", &self.pod()?], "Successfully assigned default/web-")?;
        ensure!(described.contains("Started"), "{described}");
        self.says(&["describe", "nodes"], "Allocated resources")?;
        self.says(&["describe", "configmap", "settings"], "a:")?;

        let mut edit = self.command(&["edit", "deployment", "web"]);
        let said = done({
            edit.env("KUBE_EDITOR", "sed -i s/progressDeadlineSeconds:.600/progressDeadlineSeconds:\\ 500/");
            edit
        })?;
        ensure!(said.out.contains("deployment.apps/web edited"), "{said:?}");
        ensure!(self.jsonpath(&["deployment", "web"], "{.spec.progressDeadlineSeconds}")? == "500");

        let patch = |kind: &str, body: &str| {
            self.says(
                &["patch", "deployment", "web", "--type", kind, "-p", body],
                "deployment.apps/web patched",
            )
        };
        patch(
            "strategic",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"sh","env":[{"name":"A","value":"1"}]}]}}}}"#,
        )?;
        patch("merge", r#"{"metadata":{"annotations":{"a":"b"}}}"#)?;
        patch("json", r#"[{"op":"add","path":"/metadata/annotations/c","value":"d"}]"#)?;
        let path = "{.spec.template.spec.containers[0].env[0].name}{.spec.template.spec.containers[0].image}\
                    {.metadata.annotations.a}{.metadata.annotations.c}";
        ensure!(self.jsonpath(&["deployment", "web"], path)? == "Abusybox:1bd");
        self.says(&["label", "deployment", "web", "x=y"], "deployment.apps/web labeled")?;
        self.says(&["get", "deployments", "-l", "x=y", "-o", "name"], "deployment.apps/web")?;
        self.says(&["annotate", "deployment", "web", "n=m"], "deployment.apps/web annotated")?;
        self.rolled_out().map(drop)
    }

    fn rollouts(&self) -> Result<()> {
        self.says(&["scale", "deployment", "web", "--replicas=2"], "deployment.apps/web scaled")?;
        self.rolled_out()?;
        self.says(
            &["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"],
            "condition met",
        )?;
        ensure!(self.jsonpath(&["deployment", "web"], "{.status.readyReplicas}")? == "2");
        let autoscale = ["autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu-percent=80"];
        self.says(&autoscale, "horizontalpodautoscaler.autoscaling/web autoscaled")?;
        self.says(&["get", "hpa"], "Deployment/web")?;
        self.says(&["delete", "hpa", "web"], "deleted")?;
        self.says(
            &["expose", "deployment", "web", "--port=80", "--target-port=8080"],
            "service/web exposed",
        )?;
        self.says(&["set", "image", "deployment/web", "sh=docker.io/library/busybox:1"], "image updated")?;
        self.rolled_out()?;
        let image = "{.spec.template.spec.containers[0].image}";
        ensure!(self.jsonpath(&["deployment", "web"], image)? == "docker.io/library/busybox:1");
        self.says(&["rollout", "history", "deployment/web"], "REVISION")?;
        self.says(&["rollout", "undo", "deployment/web"], "deployment.apps/web rolled back")?;
        self.rolled_out()?;
        ensure!(self.jsonpath(&["deployment", "web"], image)? == "busybox:1");
        self.says(&["rollout", "restart", "deployment/web"], "deployment.apps/web restarted")?;
        self.rolled_out()?;
        self.says(&["scale", "deployment", "web", "--replicas=1"], "scaled")?;
        self.rolled_out().map(drop)
    }

    fn streams(&self) -> Result<()> {
        let pod = self.pod()?;
        ensure!(self.says(&["logs", &pod], "")? == "hello\n");
        {
            let log = self.folder.join("follow.log");
            let _follow = Process::spawn(self.command(&["logs", "-f", &pod]), &log)?;
            self.says(&["exec", &pod, "--", "sh", "-c", "echo later > /proc/1/fd/1"], "")?;
            wait_for("the followed log", LIMIT, || {
                Ok((std::fs::read_to_string(&log)? == "hello\nlater\n").then_some(()))
            })?;
            std::fs::remove_file(&log)?;
        }
        ensure!(self.says(&["exec", &pod, "--", "cat", "/tmp/w/index.html"], "")? == "page\n");
        let failed = self.ask(&["exec", &pod, "--", "sh", "-c", "exit 7"])?;
        ensure!(failed.code == Some(7), "{failed:?}");
        let terminal = format!("{} exec -it {pod} -- sh -c 'tty; stty size'", self.program);
        let mut script = self.cluster.netns.command("script");
        script.args(["-qec", &terminal, "/dev/null"]).env("HOME", self.folder);
        script.env("KUBECONFIG", self.cluster.data_dir().join("admin.kubeconfig"));
        let said = done(script)?;
        ensure!(said.code == Some(0) && said.out.contains("/dev/pts/"), "{said:?}");

        let note = self.file("note", "copied\n")?;
        self.says(&["cp", &note, &format!("{pod}:/tmp/note")], "")?;
        let back = self.folder.join("back");
        self.says(&["cp", &format!("{pod}:/tmp/note"), &back.to_string_lossy()], "")?;
        ensure!(std::fs::read_to_string(&back)? == "copied\n");

        for (target, port) in [(format!("pod/{pod}"), "18080:8080"), ("service/web".into(), "18080:80")] {
            let log = self.folder.join("forward.log");
            let _forward = Process::spawn(self.command(&["port-forward", &target, port]), &log)?;
            let page = wait_for("the forwarded port", LIMIT, || {
                let mut curl = self.cluster.netns.command("curl");
                curl.args(["-sS", "--max-time", "5", "http://127.0.0.1:18080/"]);
                Ok(Some(run(curl)?))
            });
            let page = page.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
            ensure!(page == "page\n", "{page:?}");
        }
        Ok(())
    }

    fn questions(&self) -> Result<()> {
        for what in ["nodes", "pods"] {
            let top = self.ask(&["top", what])?;
            ensure!(top.code == Some(1) && top.err.contains("Metrics API not available"), "{top:?}");
        }
        let explained = self.says(&["explain", "deployment.spec.replicas"], "Number of desired pods")?;
        ensure!(explained.contains("integer"), "{explained}");
        self.says(&["explain", "pods", "--recursive"], "terminationGracePeriodSeconds")?;
        let kinds = self.says(&["api-resources", "-o", "wide"], "deployments")?;
        for kind in
            ["configmaps", "validatingadmissionpolicies", "customresourcedefinitions", "leases", "cronjobs"]
        {
            ensure!(kinds.contains(kind), "{kind} is not in {kinds}");
        }
        self.says(&["api-versions"], "apps/v1\n")?;
        self.says(&["auth", "can-i", "create", "pods"], "yes")?;
        let nobody = self.ask(&["auth", "can-i", "create", "pods", "--as", "nobody"])?;
        ensure!(nobody.code == Some(1) && nobody.out.contains("no"), "{nobody:?}");
        self.says(&["auth", "can-i", "--list"], "*.*")?;
        self.says(&["cluster-info"], "is running at")?;
        self.says(&["version"], "36")?;

        let changed = self.file("changed.yaml", &WEB.replace("echo hello", "echo hullo"))?;
        let diff = self.ask(&["diff", "-f", &changed])?;
        ensure!(diff.code == Some(1) && diff.out.contains("+        - echo hullo"), "{diff:?}");
        // Fields that `kubectl patch` owns are left alone; those another applier owns are a conflict.
        let applied = ["apply", "--server-side", "--force-conflicts", "-f", &changed];
        self.says(&applied, "deployment.apps/web serverside-applied")?;
        self.rolled_out()?;
        let other = self.file("other.yaml", &WEB.replace("echo hello", "echo other"))?;
        let conflict = self.ask(&["apply", "--server-side", "--field-manager=other", "-f", &other])?;
        ensure!(
            conflict.code == Some(1)
                && conflict.err.contains("Apply failed with 1 conflict")
                && conflict.err.contains(".spec.template.spec.containers[name=\"sh\"].command"),
            "{conflict:?}"
        );
        Ok(())
    }

    fn node(&self) -> Result<()> {
        let node = self.jsonpath(&["nodes"], "{.items[0].metadata.name}")?;
        let pod = self.pod()?;
        self.says(&["create", "job", "once", "--image=nosuch:1"], "job.batch/once created")?;
        let drain = ["drain", &node, "--ignore-daemonsets", "--force", "--timeout=60s"];
        let drained = self.says(&drain, &format!("node/{node} "))?;
        ensure!(drained.contains(&format!("pod/{pod} evicted")), "{drained}");
        self.says(&["get", "nodes"], "Ready,SchedulingDisabled")?;
        self.says(&["uncordon", &node], "uncordoned")?;
        self.rolled_out()?;
        let all = ["delete", "deployment/web", "service/web", "configmap/settings", "secret/key", "job/once"];
        self.says(&[&all[..], &["--timeout=60s"]].concat(), "deployment.apps \"web\" deleted")?;
        // The job's pods too, which its controller had tracked.
        wait_for("no pods", LIMIT, || {
            Ok(self.says(&["get", "pods", "-o", "name"], "")?.is_empty().then_some(()))
        })
    }
}

fn every_command(program: &str) -> Result<()> {
    let cluster = Cluster::up(&binary()?, &["--port", "6443"])?;
    let folder = tempfile::tempdir()?;
    run(cluster.ironclad(&["image", "import", &busybox(folder.path())?.to_string_lossy()]))?;
    let kubectl = Kubectl { program: program.into(), cluster: &cluster, folder: folder.path() };
    kubectl.objects().context("objects")?;
    kubectl.rollouts().context("rollouts")?;
    kubectl.streams().context("streams")?;
    kubectl.questions().context("questions")?;
    kubectl.node().context("node")
}

#[test]
fn every_command_of_the_new_kubectl() -> Result<()> {
    if skipped(&[missing(), without("busybox"), without("script"), without("curl")]) {
        return Ok(());
    }
    every_command("kubectl")
}

#[test]
fn every_command_of_kubectl_1_20() -> Result<()> {
    let old = old_kubectl();
    let absent = (!old.exists()).then(|| {
        format!("{} is not there (unpack Debian 12's kubernetes-client, or set KUBECTL_1_20)", old.display())
    });
    if skipped(&[absent, missing(), without("busybox"), without("script"), without("curl")]) {
        return Ok(());
    }
    every_command(&old.to_string_lossy())
}
