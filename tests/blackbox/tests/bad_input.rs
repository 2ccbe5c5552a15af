//! Bad manifests, bad requests, bad credentials: upstream's status codes and wording with the field's path, and
//! nothing changed.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, done, skipped, without};
use std::time::Duration;
use testkit::api::{Answer, Api};
use testkit::cluster::missing;
use testkit::netns::Netns;
use testkit::process::{Process, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A control plane without a node: bad input never gets that far.
struct Server {
    netns: Netns,
    _process: Process,
    folder: tempfile::TempDir,
    api: Api,
}

impl Server {
    fn start() -> Result<Self> {
        let (netns, folder) = (Netns::new()?, tempfile::tempdir()?);
        let mut command = netns.command(&binary()?.to_string_lossy());
        command.args(["server", "--port", "6443", "--data-dir"]).arg(folder.path().join("data"));
        let process = Process::spawn(command, &folder.path().join("log"))?;
        let kubeconfig = folder.path().join("data/admin.kubeconfig");
        let api = wait_for("the API server", LIMIT, || {
            let api = Api::new(&netns, &kubeconfig)?;
            let found = api.get("/api/v1/namespaces/default/serviceaccounts/default")?.code == 200
                && api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")?.code == 200;
            Ok(found.then_some(api))
        })?;
        Ok(Self { netns, _process: process, folder, api })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<blackbox::Done> {
        let mut command = self.netns.command("kubectl");
        command.arg("--kubeconfig").arg(self.folder.path().join("data/admin.kubeconfig")).args(arguments);
        done(command)
    }

    fn apply(&self, flags: &[&str], manifest: &str) -> Result<blackbox::Done> {
        let file = self.folder.path().join("manifest.yaml");
        std::fs::write(&file, manifest)?;
        let name = file.to_string_lossy();
        self.kubectl(&[&["apply", "-f", &name], flags].concat())
    }

    /// Everything a bad request might have changed.
    fn state(&self) -> Result<String> {
        let mut kubectl = self.netns.command("kubectl");
        kubectl.arg("--kubeconfig").arg(self.folder.path().join("data/admin.kubeconfig"));
        kubectl.args([
            "get",
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}\n{end}",
        ]);
        kubectl.arg("namespaces,configmaps,secrets,deployments,services,pods,serviceaccounts,jobs");
        run(kubectl)
    }
}

fn expect(what: &str, answer: &Answer, code: u16, reason: &str, words: &[&str]) -> Result<()> {
    let status = answer.json().with_context(|| what.to_owned())?;
    ensure!(answer.code == code && status["code"] == code, "{what}: {answer:?}");
    ensure!(status["kind"] == "Status" && status["apiVersion"] == "v1", "{what}: {answer:?}");
    ensure!(status["status"] == "Failure" && status["reason"] == reason, "{what}: {answer:?}");
    let message = answer.message();
    for word in words {
        ensure!(message.contains(word), "{what}: {word:?} was due in {message:?}");
    }
    Ok(())
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

/// A config map as JSON with this after the name.
fn map(rest: &str) -> String {
    format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"b"{rest}}}"#)
}

#[test]
fn bad_requests_are_refused_in_upstreams_words_and_change_nothing() -> Result<()> {
    if skipped(&[missing(), without("curl")]) {
        return Ok(());
    }
    let server = Server::start()?;
    let api = &server.api;
    let before = server.state()?;

    let post = |body: &str| api.request("POST", MAPS, JSON, body);
    let big = |bytes: usize| map(&format!("}},\"data\":{{\"a\":\"{}\"}}", "x".repeat(bytes)));
    type Case<'a> = (&'a str, Answer, u16, &'a str, &'a [&'a str]);
    let unprocessable: &[Case] = &[
        (
            "malformed JSON",
            post("{\"a\":")?,
            400,
            "BadRequest",
            &["the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; \
               json parse error: unexpected end of JSON input ({\"a\":)"],
        ),
        (
            "no object",
            post("[]")?,
            400,
            "BadRequest",
            &["json: cannot unmarshal array into Go value"],
        ),
        (
            "a content type nobody knows",
            api.request("POST", MAPS, "text/plain", "{}")?,
            415,
            "UnsupportedMediaType",
            &["the body of the request was in an unknown format - accepted media types include: application/json, \
               application/yaml, application/vnd.kubernetes.protobuf"],
        ),
        (
            "a bad label key",
            post(&map(r#","labels":{"a b":"c"}}"#))?,
            422,
            "Invalid",
            &["ConfigMap \"b\" is invalid: metadata.labels: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            "a label too long",
            post(&map(&format!(r#","labels":{{"a":"{}"}}}}"#, "x".repeat(64))))?,
            422,
            "Invalid",
            &["metadata.labels: Invalid value: ", "must be no more than 63 bytes"],
        ),
        (
            "a name too long",
            post(&format!(
                r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{}"}}}}"#,
                "a".repeat(254)
            ))?,
            422,
            "Invalid",
            &["metadata.name: Invalid value: ", "must be no more than 253 "],
        ),
        (
            "no name",
            post(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{}}"#)?,
            422,
            "Invalid",
            &["metadata.name: Required value: name or generateName is required"],
        ),
        (
            "a wrong type",
            post(&map(r#"},"data":{"a":1}"#))?,
            400,
            "BadRequest",
            &["ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go \
               struct field ConfigMap.data of type string"],
        ),
        (
            "another kind",
            post(r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b"}}"#)?,
            400,
            "BadRequest",
            &["Pod in version \"v1\" cannot be handled as a ConfigMap"],
        ),
        (
            "another version",
            post(r#"{"kind":"ConfigMap","apiVersion":"v7","metadata":{"name":"b"}}"#)?,
            400,
            "BadRequest",
            &["no kind \"ConfigMap\" is registered for version \"v7\""],
        ),
        (
            "another namespace",
            post(&map(r#","namespace":"other"}"#))?,
            400,
            "BadRequest",
            &["the namespace of the provided object does not match the namespace sent on the request"],
        ),
        (
            "a namespace that is not there",
            api.request("POST", "/api/v1/namespaces/nosuch/configmaps", JSON, &map("}"))?,
            404,
            "NotFound",
            &["namespaces \"nosuch\" not found"],
        ),
        (
            "an unknown and a duplicate field, strictly",
            api.request(
                "POST",
                &format!("{MAPS}?fieldValidation=Strict"),
                JSON,
                &map(r#"},"dat":{},"data":{"a":"1","a":"2"}"#),
            )?,
            400,
            "BadRequest",
            &["strict decoding error: unknown field \"dat\", duplicate field \"data.a\""],
        ),
        (
            "a body over the limit",
            post(&big(4 << 20))?,
            413,
            "RequestEntityTooLarge",
            &["Request entity too large: limit is 3145728"],
        ),
        (
            "a config map over its limit",
            post(&big(2 << 20))?,
            422,
            "Invalid",
            &["ConfigMap \"b\" is invalid: []: Too long: may not be more than 1048576 bytes"],
        ),
        (
            "a resource that is not there",
            api.get("/api/v1/namespaces/default/nosuchs")?,
            404,
            "NotFound",
            &["the server could not find the requested resource"],
        ),
        (
            "an object that is not there",
            api.get(&format!("{MAPS}/nosuch"))?,
            404,
            "NotFound",
            &["configmaps \"nosuch\" not found"],
        ),
        (
            "a verb that is not there",
            api.request("PUT", MAPS, JSON, "{}")?,
            405,
            "MethodNotAllowed",
            &["the server does not allow this method on the requested resource"],
        ),
        (
            "a patch of no kind",
            api.request("PATCH", &format!("{MAPS}/kube-root-ca.crt"), JSON, "{}")?,
            415,
            "UnsupportedMediaType",
            &["415: Unsupported Media Type"],
        ),
        (
            "a JSON patch of what is not there",
            api.request(
                "PATCH",
                &format!("{MAPS}/kube-root-ca.crt"),
                "application/json-patch+json",
                r#"[{"op":"remove","path":"/nope"}]"#,
            )?,
            422,
            "Invalid",
            &[],
        ),
        (
            "a stale update",
            api.request(
                "PUT",
                &format!("{MAPS}/kube-root-ca.crt"),
                JSON,
                r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"kube-root-ca.crt","resourceVersion":"1"}}"#,
            )?,
            409,
            "Conflict",
            &["Operation cannot be fulfilled on configmaps \"kube-root-ca.crt\": the object has been modified; please \
               apply your changes to the latest version and try again"],
        ),
        (
            "the name again",
            api.request("POST", "/api/v1/namespaces", JSON, r#"{"metadata":{"name":"default"}}"#)?,
            409,
            "AlreadyExists",
            &["namespaces \"default\" already exists"],
        ),
        (
            "a bad label selector",
            api.get(&format!("{MAPS}?labelSelector=a%3D%3D%3Db"))?,
            400,
            "BadRequest",
            &["unable to parse requirement: found '=', expected: identifier"],
        ),
        (
            "a field nobody selects by",
            api.get("/api/v1/pods?fieldSelector=foo%3Dbar")?,
            400,
            "BadRequest",
            &["field label not supported: foo"],
        ),
        (
            "a bad number",
            api.get("/api/v1/pods?limit=foo")?,
            400,
            "BadRequest",
            &["strconv.ParseInt: parsing \"foo\": invalid syntax"],
        ),
    ];
    for (what, answer, code, reason, words) in unprocessable {
        expect(what, answer, *code, reason, words)?;
    }
    // What a program reads: the cause's field.
    let answer = post(&map(r#","labels":{"a b":"c"}}"#))?.json()?;
    ensure!(answer["details"]["causes"][0]["field"] == "metadata.labels", "{answer}");
    ensure!(answer["details"]["causes"][0]["reason"] == "FieldValueInvalid", "{answer}");
    ensure!(server.state()? == before, "state changed:\n{before}\n{}", server.state()?);

    // Warned of, and done.
    let path = format!("{MAPS}?fieldValidation=Warn&dryRun=All");
    let warned = api.request("POST", &path, JSON, &map(r#"},"dat":{},"data":{"a":"1","a":"2"}"#))?;
    ensure!(warned.code == 201, "{warned:?}");
    for warning in ["299 - \"unknown field \\\"dat\\\"\"", "299 - \"duplicate field \\\"data.a\\\"\""] {
        ensure!(warned.headers.contains(warning), "{warning} is missing: {}", warned.headers);
    }
    ensure!(server.state()? == before, "a dry run changed something");

    // Outside of every API, and without TLS.
    for path in ["/apis/nosuch.example.com/v1/things", "/nosuch"] {
        let answer = api.get(path)?;
        ensure!(answer.code == 404 && answer.body == "404 page not found\n", "{path}: {answer:?}");
    }
    let mut plain = server.netns.command("curl");
    plain.args(["-sS", "--max-time", "20", &api.server().replace("https:", "http:")]);
    let said = run(plain)?;
    ensure!(said == "Client sent an HTTP request to an HTTPS server.\n", "{said}");

    // Credentials.
    let unauthorized = |arguments: &[&str]| -> Result<()> {
        let mut curl = api.anonymous("/api/v1/pods");
        curl.args(arguments);
        expect("credentials", &Api::send(curl)?, 401, "Unauthorized", &["Unauthorized"])
    };
    unauthorized(&[])?;
    unauthorized(&["-H", "Authorization: Bearer nonsense"])?;
    unauthorized(&["-H", "Authorization: Basic nonsense"])?;
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.";
    unauthorized(&["-H", &format!("Authorization: Bearer {jwt}")])?;
    let health = Api::send(api.anonymous("/livez"))?;
    ensure!(health.code == 200 && health.body == "ok", "{health:?}");
    let mut curl = api.curl(MAPS);
    curl.args(["-H", "Impersonate-User: nobody", "-H", "Content-Type: application/json", "-d", &map("}")]);
    let words = "configmaps is forbidden: User \"nobody\" cannot create resource \"configmaps\" in API group \"\" in the \
                 namespace \"default\"";
    expect("a forbidden user", &Api::send(curl)?, 403, "Forbidden", &[words])?;
    ensure!(server.state()? == before, "state changed");

    // And it still works.
    ensure!(post(&map("}"))?.code == 201);
    Ok(())
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: bad}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: SELECTED}}
  template:
    metadata: {labels: {app: bad}}
    spec: {containers: [{name: c, image: x, EXTRA}]}
"#;

#[test]
fn bad_manifests_are_refused_as_kubectl_shows_them() -> Result<()> {
    if skipped(&[missing(), without("curl")]) {
        return Ok(());
    }
    let server = Server::start()?;
    let before = server.state()?;
    let deployment = |replicas: &str, selected: &str, extra: &str| {
        DEPLOYMENT.replace("REPLICAS", replicas).replace("SELECTED", selected).replace("EXTRA", extra)
    };
    let cases: &[(&str, &[&str], String, &str)] = &[
        (
            "an unknown field",
            &[],
            deployment("3", "bad", "foo: 1"),
            "strict decoding error: unknown field \"spec.template.spec.containers[0].foo\"",
        ),
        (
            "a wrong type",
            &["--validate=ignore"],
            deployment("\"three\"", "bad", ""),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "a selector that misses",
            &[],
            deployment("3", "other", ""),
            "The Deployment \"bad\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"bad\"}: \
             `selector` does not match template `labels`",
        ),
        (
            "a negative count",
            &[],
            deployment("-1", "bad", ""),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "a bad enumeration",
            &[],
            deployment("1", "bad", "imagePullPolicy: Sometimes"),
            "spec.template.spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \
             \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            "a port out of range",
            &[],
            deployment("1", "bad", "ports: [{containerPort: 70000}]"),
            "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and \
             65535, inclusive",
        ),
        (
            "a mount of nothing",
            &[],
            deployment("1", "bad", "volumeMounts: [{name: v, mountPath: /v}]"),
            "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "a bad quantity",
            &[],
            deployment("1", "bad", "resources: {limits: {cpu: lots}}"),
            "quantities must match the regular expression",
        ),
        (
            "a request above its limit",
            &[],
            deployment("1", "bad", "resources: {limits: {cpu: 1}, requests: {cpu: 2}}"),
            "spec.template.spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to \
             cpu limit of 1",
        ),
        (
            "no containers",
            &[],
            "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}\n".into(),
            "spec.containers: Required value",
        ),
        (
            "a bad service port",
            &[],
            "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}\n"
                .into(),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
             ports is 30000-32767",
        ),
        (
            "a name with capitals",
            &[],
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n".into(),
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "a kind nobody knows",
            &[],
            "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: bad}\n".into(),
            "no matches for kind \"Thing\" in version \"example.com/v1\"",
        ),
        (
            "a namespace too long",
            &[],
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", "a".repeat(64)),
            "must be no more than 63 characters",
        ),
    ];
    for (what, flags, manifest, words) in cases {
        let said = server.apply(flags, manifest)?;
        ensure!(said.code == Some(1) && said.err.contains(words), "{what}: {words:?} was due: {said:?}");
    }
    ensure!(server.state()? == before, "state changed:\n{before}\n{}", server.state()?);

    let forbidden = server.kubectl(&["get", "pods", "--as", "nobody"])?;
    ensure!(
        forbidden
            .err
            .contains("Error from server (Forbidden): pods is forbidden: User \"nobody\" cannot list")
    );

    // With a warning it goes in, without the field.
    let warned = server.apply(&["--validate=warn"], &deployment("0", "bad", "foo: 1"))?;
    ensure!(warned.code == Some(0) && warned.err.contains("Warning: unknown field"), "{warned:?}");
    let kept = server.kubectl(&["get", "deployment", "bad", "-o", "yaml"])?;
    ensure!(!kept.out.contains("foo: 1"), "{kept:?}");

    // Immutable and gone wrong later.
    let selector = server.kubectl(&[
        "patch", "deployment", "bad", "--type=json", "-p",
        r#"[{"op":"replace","path":"/spec/selector/matchLabels/app","value":"x"},{"op":"replace","path":"/spec/template/metadata/labels/app","value":"x"}]"#,
    ])?;
    ensure!(
        selector.err.contains("spec.selector: Invalid value: ")
            && selector.err.contains("field is immutable"),
        "{selector:?}"
    );
    Ok(())
}
