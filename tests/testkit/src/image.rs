//! OCI images from the programs of this machine.

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One image to be: files, links and the configuration a container starts with.
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    name: String,
    /// (path in the image, content, mode)
    files: Vec<(String, Vec<u8>, u32)>,
    links: Vec<(String, String)>,
    folders: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    user: String,
}

impl ImageBuilder {
    pub fn new(name: &str) -> Self {
        let folders =
            ["tmp", "proc", "sys", "dev", "etc", "run", "var", "var/log"].map(str::to_owned).to_vec();
        let env = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()];
        let image = Self { name: name.into(), folders, env, ..Self::default() };
        image
            .file(
                "etc/passwd",
                b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
                0o644,
            )
            .file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
    }

    /// busybox, with a link for every applet.
    pub fn busybox(name: &str) -> Result<Self> {
        let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
        let program = program.context("busybox is not installed (Debian: busybox-static)")?;
        let applets = Command::new(program).arg("--list").output().context("list busybox applets")?;
        let mut image = Self::new(name).program(program)?;
        let target = program.to_owned();
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
            image.links.push((format!("bin/{applet}"), target.clone()));
        }
        Ok(image.cmd(&["/bin/sh"]))
    }

    pub fn file(mut self, path: &str, content: &[u8], mode: u32) -> Self {
        self.files.push((path.trim_start_matches('/').into(), content.to_vec(), mode));
        self
    }

    pub fn folder(mut self, path: &str) -> Self {
        self.folders.push(path.trim_start_matches('/').into());
        self
    }

    /// A program of this machine with every library it loads, at the same paths.
    pub fn program(mut self, path: &str) -> Result<Self> {
        let mut wanted = BTreeSet::from([PathBuf::from(path)]);
        let listed = Command::new("ldd").arg(path).output().context("run ldd")?;
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            wanted.insert(PathBuf::from(word));
        }
        for file in wanted {
            let content = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            let mode = std::fs::metadata(&file)?.permissions().mode() & 0o7777;
            self.files.push((file.to_string_lossy().trim_start_matches('/').to_owned(), content, mode));
        }
        Ok(self)
    }

    /// A whole folder of this machine, at the same path.
    pub fn tree(mut self, path: &str) -> Result<Self> {
        for entry in std::fs::read_dir(path).with_context(|| format!("read {path}"))? {
            let entry = entry?.path();
            let name = entry.to_string_lossy().into_owned();
            if entry.is_dir() {
                self = self.tree(&name)?;
            } else if entry.is_file() {
                let mode = std::fs::metadata(&entry)?.permissions().mode() & 0o7777;
                self.files.push((name.trim_start_matches('/').into(), std::fs::read(&entry)?, mode));
            }
        }
        Ok(self)
    }

    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    pub fn cmd(mut self, words: &[&str]) -> Self {
        self.cmd = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    pub fn env(mut self, pair: &str) -> Self {
        self.env.push(pair.into());
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }

    /// Writes a docker-archive (`docker save`).
    pub fn docker_archive(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = self.config(&layer);
        let config_name = format!("{}.json", digest(&config));
        let layer_name = format!("{}/layer.tar", digest(&layer));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        let mut archive = tar::Builder::new(std::fs::File::create(path)?);
        append(&mut archive, &config_name, &config, 0o644)?;
        append(&mut archive, &layer_name, &layer, 0o644)?;
        append(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644)?;
        archive.finish().context("finish the archive")
    }

    /// Writes an OCI layout folder with a gzip layer, the form registries hold.
    pub fn oci_layout(&self, folder: &Path) -> Result<()> {
        let (blobs, index) = self.oci()?;
        std::fs::create_dir_all(folder.join("blobs/sha256"))?;
        for (name, content) in &blobs {
            std::fs::write(folder.join("blobs/sha256").join(name), content)?;
        }
        std::fs::write(folder.join("index.json"), index)?;
        std::fs::write(folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    /// Writes an OCI archive.
    pub fn oci_archive(&self, path: &Path) -> Result<()> {
        let (blobs, index) = self.oci()?;
        let mut archive = tar::Builder::new(std::fs::File::create(path)?);
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut archive, "index.json", &index, 0o644)?;
        for (name, content) in &blobs {
            append(&mut archive, &format!("blobs/sha256/{name}"), content, 0o644)?;
        }
        archive.finish().context("finish the archive")
    }

    fn oci(&self) -> Result<(Vec<(String, Vec<u8>)>, Vec<u8>)> {
        let layer = self.layer()?;
        let config = self.config(&layer);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&layer)?;
        let packed = gzip.finish()?;
        let descriptor = |kind: &str, bytes: &[u8]| {
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
                   "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": [descriptor("layer.v1.tar+gzip", &packed)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("manifest.v1+json", &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
        let blobs = [config, packed, manifest].map(|b| (digest(&b), b)).to_vec();
        Ok((blobs, index))
    }

    fn config(&self, layer: &[u8]) -> Vec<u8> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.cmd, "Env": self.env, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
            "history": [{"created": "2026-01-01T00:00:00Z"}],
        })
        .to_string()
        .into_bytes()
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders: BTreeSet<String> = self.folders.iter().cloned().collect();
        for path in self.files.iter().map(|f| &f.0).chain(self.links.iter().map(|l| &l.0)) {
            let parents = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
            folders.extend(parents.map(|p| p.to_string_lossy().into_owned()));
        }
        for folder in &folders {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
            header.set_size(0);
            archive.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        let mut seen = BTreeSet::new();
        for (path, content, mode) in self.files.iter().rev() {
            if seen.insert(path.clone()) {
                append(&mut archive, path, content, *mode)?;
            }
        }
        for (path, target) in &self.links {
            if seen.insert(path.clone()) {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, path, target)?;
            }
        }
        let bytes = archive.into_inner()?;
        if bytes.is_empty() {
            bail!("the image is empty");
        }
        Ok(bytes)
    }
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).with_context(|| format!("add {path}"))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
