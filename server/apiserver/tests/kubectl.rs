//! The server as a person with kubectl meets it. Skipped, with the reason printed, where there is no kubectl.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

fn kubectl(kubeconfig: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new("kubectl").args(["--kubeconfig", kubeconfig]).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.success(), text)
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_with_kubectl() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        println!("skipped: there is no kubectl on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = support::start(dir.path(), 0, |_| {}).await;
    let config = server.kubeconfig.clone();
    let manifest = dir.path().join("web.yaml");
    std::fs::write(&manifest, DEPLOYMENT).unwrap();
    let file = manifest.display().to_string();
    let cache = format!("--cache-dir={}", dir.path().join("cache").display());
    let work = move || {
        let run = |args: &[&str], expected: &str| {
            let mut all = vec![cache.as_str()];
            all.extend(args);
            let (ok, text) = kubectl(&config, &all);
            assert!(ok && text.contains(expected), "{args:?}: {text}");
        };
        let fails = |args: &[&str], expected: &str| {
            let mut all = vec![cache.as_str()];
            all.extend(args);
            let (ok, text) = kubectl(&config, &all);
            assert!(!ok && text.contains(expected), "{args:?}: {text}");
        };
        run(&["apply", "-f", &file], "deployment.apps/web created");
        run(&["apply", "-f", &file], "unchanged");
        run(&["apply", "--server-side", "-f", &file], "serverside-applied");
        run(&["get", "deploy", "web", "-o", "wide"], "app=web");
        run(&["get", "deploy", "web", "-o", "yaml"], "progressDeadlineSeconds: 600");
        run(&["describe", "deploy", "web"], "25% max unavailable, 25% max surge");
        run(&["label", "deploy", "web", "x=y"], "labeled");
        run(&["annotate", "deploy", "web", "a=b"], "annotated");
        run(&["scale", "deploy", "web", "--replicas=5"], "scaled");
        run(&["patch", "deploy", "web", "-p", r#"{"spec":{"paused":true}}"#], "patched");
        run(&["patch", "deploy", "web", "--type=merge", "-p", r#"{"spec":{"paused":false}}"#], "patched");
        let op = r#"[{"op":"replace","path":"/spec/replicas","value":4}]"#;
        run(&["patch", "deploy", "web", "--type=json", "-p", op], "patched");
        run(&["wait", "--for=jsonpath={.spec.replicas}=4", "deploy/web", "--timeout=10s"], "condition met");
        run(&["set", "image", "deploy/web", "c=busybox"], "image updated");
        run(&["rollout", "restart", "deploy/web"], "restarted");
        run(&["expose", "deploy", "web", "--port=80"], "exposed");
        run(&["autoscale", "deploy", "web", "--max=3"], "autoscaled");
        run(&["create", "configmap", "c", "--from-literal=a=b"], "created");
        run(&["explain", "deploy.spec.strategy"], "rollingUpdate");
        run(&["api-resources"], "horizontalpodautoscalers");
        run(&["auth", "can-i", "create", "pods"], "yes");
        run(&["get", "all"], "deployment.apps/web");
        run(&["delete", "deploy,svc,hpa", "web"], "deleted");
        fails(&["get", "deploy", "web"], "deployments.apps \"web\" not found");
        fails(&["create", "configmap", "c"], "configmaps \"c\" already exists");
        fails(&["create", "configmap", "Bad_Name"], "metadata.name: Invalid value: \"Bad_Name\"");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    server.shutdown.trigger();
    server.task.await.unwrap();
}
