//! Where a cluster keeps what does not survive a reboot, and what it is called in the kernel.

use crate::{data_dir, preflight};
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::os::unix::fs::DirBuilderExt;

/// Names derived from the data directory alone, so that every command finds them again.
#[derive(Clone, Debug)]
pub struct Place {
    pub data: Utf8PathBuf,
    /// Four hexadecimal digits in the names of links, tables and cgroups.
    pub tag: String,
    /// `/run/ironclad/<tag>`: sockets and namespace pins. Short, since socket paths end at 107 bytes.
    pub run: Utf8PathBuf,
}

impl Place {
    pub fn of(data: &Utf8Path) -> Self {
        let data = data.canonicalize_utf8().unwrap_or_else(|_| data.to_owned());
        let tag = data_dir::tag(&data);
        let run = Utf8Path::new("/run/ironclad").join(&tag);
        Self { data, tag, run }
    }

    /// Makes the run folder; refuses one that another data directory's cluster uses.
    pub fn claim(&self) -> Result<()> {
        let owner = self.run.join("data-dir");
        match std::fs::read_to_string(&owner) {
            Ok(other) if other.trim() != self.data => {
                bail!(
                    "{} and {} share the short name {}; rename one of them",
                    self.data,
                    other.trim(),
                    self.tag
                );
            }
            Ok(_) => return Ok(()),
            Err(_) => {}
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.run)
            .with_context(|| format!("make {}", self.run))?;
        data_dir::write_atomically(&owner, self.data.as_str().as_bytes(), 0o600)
    }

    pub fn control_socket(&self) -> Utf8PathBuf {
        self.run.join("control")
    }

    pub fn cgroup_root(&self) -> String {
        format!("ironclad-{}", self.tag)
    }

    pub fn runtime_options(&self, insecure_registries: &[String]) -> runtime::builtin::Options {
        runtime::builtin::Options {
            root: self.data.join("runtime").into(),
            state: self.run.join("sandboxes").into(),
            cgroup_root: self.cgroup_root(),
            supervisor_exe: vec!["/proc/self/exe".into(), "supervise".into()],
            registries: runtime::builtin::Registries { insecure: insecure_registries.to_vec() },
            open_files: preflight::open_files_at_start(),
        }
    }
}
