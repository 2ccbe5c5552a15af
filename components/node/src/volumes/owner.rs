//! Who owns what is in a volume.

use camino::{Utf8Path, Utf8PathBuf};
use k8s_openapi::api::core::v1::Pod;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};

pub fn fs_group(pod: &Pod) -> Option<u32> {
    u32::try_from(pod.spec.as_ref()?.security_context.as_ref()?.fs_group?).ok()
}

/// The user every container runs as, if they all say the same one.
pub fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let default = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(default));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// Gives the whole tree to the group, readable and writable, new files inheriting it.
pub fn give_to_group(path: &Utf8Path, gid: u32, only_if_needed: bool) -> io::Result<()> {
    if only_if_needed {
        let meta = fs::symlink_metadata(path)?;
        if meta.gid() == gid && meta.permissions().mode() & 0o2070 == 0o2070 {
            return Ok(());
        }
    }
    walk(path, gid)
}

fn walk(path: &Utf8Path, gid: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(gid))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() & 0o7777;
    let wanted = if meta.is_dir() { mode | 0o2770 } else { mode | 0o660 };
    if wanted != mode || meta.gid() != gid {
        fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            if let Ok(child) = Utf8PathBuf::from_path_buf(entry?.path()) {
                walk(&child, gid)?;
            }
        }
    }
    Ok(())
}
