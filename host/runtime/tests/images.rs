//! Images from archives, layouts and a registry.

mod common;

use camino::Utf8Path;
use common::Bed;
use runtime::builtin::Builtin;
use runtime::{RegistryAuth, Runtime};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

fn layer(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, body, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(*mode);
        tar.append_data(&mut header, path, *body).expect("appends");
    }
    tar.into_inner().expect("finishes")
}

/// Two layers: the second replaces one file, hides another and a folder's content.
fn layers() -> [Vec<u8>; 2] {
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    [
        layer(&[("bin/sh", &busybox, 0o755), ("a", b"old", 0o644), ("b", b"b", 0o644), ("d/x", b"x", 0o644)]),
        layer(&[
            ("a", b"new", 0o644),
            (".wh.b", b"", 0o644),
            ("d/.wh..wh..opq", b"", 0o644),
            ("d/y", b"y", 0o644),
        ]),
    ]
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = json!({ "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
        "config": { "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $(cat a) $FOO $(ls -d b) $(ls d)"],
                    "Env": ["FOO=bar"], "User": "1000", "StopSignal": "SIGQUIT", "Volumes": { "/data": {} } } });
    config.to_string().into_bytes()
}

fn oci_layout(dir: &Path, name: &str) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("folders");
    let put = |bytes: &[u8]| {
        std::fs::write(blobs.join(digest(bytes).trim_start_matches("sha256:")), bytes).expect("writes");
        json!({ "digest": digest(bytes), "size": bytes.len() })
    };
    let layers = layers();
    let packed: Vec<_> = layers.iter().map(|l| put(&gzip(l))).collect();
    let manifest =
        json!({ "schemaVersion": 2, "config": put(&config(&layers)), "layers": packed }).to_string();
    let mut entry = put(manifest.as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("writes");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("writes");
}

async fn check_runs(bed: &Bed, image: &str) {
    let mut config = bed.sh("");
    (config.image, config.command) = (image.into(), Vec::new());
    // No `cat` or `ls` in the image: the shell's own applets serve.
    let (status, out, err) = bed.run(config).await;
    assert_eq!((status.exit_code, out.as_str()), (0, "new bar y\n"), "{err}");
}

fn utf8(path: &Path) -> &Utf8Path {
    Utf8Path::from_path(path).expect("utf-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_every_kind() {
    let Some(bed) = Bed::new().await else { return };
    let layout = bed.dir.path().join("layout");
    oci_layout(&layout, "example.org/oci:1");
    let [image] = &bed.runtime.import_image(utf8(&layout), None).await.unwrap()[..] else {
        panic!("one image")
    };
    assert_eq!(image.repo_tags, ["example.org/oci:1"]);
    assert_eq!((image.uid, image.stop_signal.as_deref()), (Some(1000), Some("SIGQUIT")));
    assert_eq!(image.volumes, ["/data"]);
    check_runs(&bed, "example.org/oci:1").await;

    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", &layout).unwrap();
    let archive = tar.into_inner().unwrap();
    for (name, bytes) in [
        ("oci.tar", archive.clone()),
        ("oci.tar.gz", gzip(&archive)),
        ("oci.tar.zst", zstd::encode_all(&archive[..], 1).unwrap()),
    ] {
        let path = bed.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let named = format!("localhost/{name}");
        let images = bed.runtime.import_image(utf8(&path), Some(&named)).await.unwrap();
        assert!(images[0].repo_tags.contains(&format!("{named}:latest")), "{images:?}");
    }
    assert_eq!(bed.runtime.list_images().await.unwrap().len(), 2);

    let layers = layers();
    let config = config(&layers);
    let manifest =
        json!([{ "Config": "c.json", "RepoTags": ["busy:2"], "Layers": ["1/layer.tar", "2/layer.tar"] }]);
    let docker = layer(&[
        ("1/layer.tar", &layers[0], 0o644),
        ("2/layer.tar", &layers[1], 0o644),
        ("c.json", &config, 0o644),
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
    ]);
    let path = bed.dir.path().join("docker.tar");
    std::fs::write(&path, &docker).unwrap();
    bed.runtime.import_image(utf8(&path), None).await.unwrap();
    check_runs(&bed, "busy:2").await;
    let status = bed.runtime.image_status("docker.io/library/busy:2").await.unwrap().unwrap();
    assert_eq!(status.id, digest(&config));
    assert!(bed.runtime.image_status(&status.id).await.unwrap().is_some());

    // Broken ones say why, in one sentence, and leave nothing.
    let broken = |name: &str, bytes: &[u8]| {
        let path = bed.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, wording) in [
        (broken("cut.tar", &docker[..docker.len() / 3]), "archive"),
        (broken("noise.tar", &[7; 5000]), "not a usable image archive"),
        (broken("empty.tar", &layer(&[])), "neither manifest.json (docker-archive) nor index.json (OCI)"),
        (bed.dir.path().join("absent"), "no such file or folder"),
    ] {
        let error = bed.runtime.import_image(utf8(&path), None).await.unwrap_err().to_string();
        assert!(error.contains(wording) && !error.contains('\n'), "{error}");
    }
    let left = std::fs::read_dir(bed.options.root.join("images/tmp")).unwrap().count();
    assert_eq!(left, 0);

    // Removal, refused while in use; layers go with their last image.
    let (sandbox, _) =
        bed.start(bed.pod(), runtime::ContainerConfig { image: "busy:2".into(), ..bed.sh("") }).await;
    let error = bed.runtime.remove_image("busy:2").await.unwrap_err().to_string();
    assert!(error.contains("in use by container"), "{error}");
    bed.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    bed.runtime.remove_image("busy:2").await.unwrap();
    bed.runtime.remove_image("busy:2").await.unwrap();
    bed.runtime.remove_image(common::IMAGE).await.unwrap();
    assert!(bed.runtime.list_images().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bed.options.root.join("images/layers")).unwrap().count(), 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_of_a_crash_are_swept() {
    let Some(bed) = Bed::new().await else { return };
    let images = bed.options.root.join("images");
    std::fs::create_dir_all(images.join("tmp/layer-x/fs")).unwrap();
    std::fs::create_dir_all(images.join("layers/abc")).unwrap();
    std::fs::write(images.join("records/x.new"), "half").unwrap();
    std::fs::write(images.join("records/y.json"), "{").unwrap();
    let Bed { runtime, options, sweep, dir } = bed;
    drop(runtime);
    let runtime = Builtin::open(options.clone()).await.unwrap();
    for gone in ["tmp/layer-x", "layers/abc", "records/x.new", "records/y.json"] {
        assert!(!images.join(gone).exists(), "{gone}");
    }
    assert!(runtime.image_status(common::IMAGE).await.unwrap().is_some());
    Bed { runtime, options, sweep, dir }.finish().await;
}

struct Registry {
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Debian's docker-registry on a free loopback port; `None` when it is not installed.
async fn registry(dir: &Path, users: bool) -> Option<Registry> {
    let program = PathBuf::from("/usr/bin/docker-registry");
    if !program.exists() {
        eprintln!("skipped: needs docker-registry (apt-get install docker-registry)");
        return None;
    }
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let address = format!("127.0.0.1:{port}");
    let folder = dir.join(format!("registry-{port}"));
    std::fs::create_dir_all(&folder).expect("folder");
    // bcrypt of "secret".
    let hash = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
    std::fs::write(folder.join("users"), format!("joe:{hash}\n")).expect("writes");
    let auth = if users {
        format!("auth: {{htpasswd: {{realm: r, path: {}/users}}}}\n", folder.display())
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \
         '{address}'}}\n{auth}",
        folder.display()
    );
    std::fs::write(folder.join("config.yml"), config).expect("writes");
    let process = Command::new(program)
        .arg("serve")
        .arg(folder.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(Registry { process, address })
}

async fn push(name: &str, auth: &oci_client::secrets::RegistryAuth) {
    use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
    let client =
        oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let layers = layers();
    let packed: Vec<ImageLayer> = layers.iter().map(|l| ImageLayer::oci_v1_gzip(gzip(l), None)).collect();
    client
        .push(&name.parse().expect("reference"), &packed, Config::oci_v1(config(&layers), None), auth, None)
        .await
        .expect("pushes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls() {
    let Some(bed) = Bed::new().await else { return };
    let Some(open) = registry(bed.dir.path(), false).await else { return };
    let name = format!("{}/team/app:1", open.address);
    push(&name, &oci_client::secrets::RegistryAuth::Anonymous).await;
    let pull = |name: String| {
        let runtime = bed.runtime.clone();
        async move { runtime.pull_image(&name, None).await }
    };
    let (one, two) = tokio::join!(pull(name.clone()), pull(name.clone()));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, two.id);
    assert_eq!(one.repo_tags, std::slice::from_ref(&name));
    assert_eq!(one.repo_digests.len(), 1);
    check_runs(&bed, &name).await;
    let by_digest = one.repo_digests[0].clone();
    assert!(bed.runtime.image_status(&by_digest).await.unwrap().is_some());
    bed.runtime.remove_image(&name).await.unwrap();
    assert_eq!(bed.runtime.pull_image(&by_digest, None).await.unwrap().id, one.id);

    let error = pull(format!("{}/team/app:none", open.address)).await.unwrap_err().to_string();
    assert!(error.ends_with("/team/app:none: not found"), "{error}");
    let error = pull("127.0.0.1:1/x:1".into()).await.unwrap_err().to_string();
    assert!(error.contains("registry 127.0.0.1:1 cannot be reached") && error.contains("refused"), "{error}");
    let error = pull("Not A Name".into()).await.unwrap_err().to_string();
    assert!(error.contains("couldn't parse image reference"), "{error}");

    // A layer that is not what its digest says.
    bed.runtime.remove_image(&one.id).await.unwrap();
    let blobs = bed.dir.path().join(format!("registry-{}", open.address.split(':').nth(1).unwrap()));
    let top = digest(&gzip(&layers()[1]));
    let hex = top.trim_start_matches("sha256:");
    let data = blobs.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bytes = std::fs::read(&data).unwrap();
    bytes.truncate(bytes.len() - 9);
    std::fs::write(&data, bytes).unwrap();
    let error = pull(name.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&top), "{error}");
    assert!(bed.runtime.image_status(&name).await.unwrap().is_none());

    let Some(closed) = registry(bed.dir.path(), true).await else { return };
    let name = format!("{}/private/app:1", closed.address);
    push(&name, &oci_client::secrets::RegistryAuth::Basic("joe".into(), "secret".into())).await;
    let auth = |password: &str| {
        Some(RegistryAuth { username: "joe".into(), password: password.into(), ..RegistryAuth::default() })
    };
    for bad in [None, auth("wrong")] {
        let error = bed.runtime.pull_image(&name, bad).await.unwrap_err().to_string();
        assert!(error.contains("pull access denied by"), "{error}");
    }
    bed.runtime.pull_image(&name, auth("secret")).await.unwrap();
    check_runs(&bed, &name).await;
    bed.finish().await;
}
