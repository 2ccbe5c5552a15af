//! Capability names and sets.

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// `CAP_` prefix or not, any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|i| 1 << i)
}

pub fn has(caps: u64, name: &str) -> bool {
    bit(name).is_some_and(|b| caps & b != 0)
}

fn set(names: &[&str]) -> u64 {
    names.iter().filter_map(|n| bit(n)).fold(0, |a, b| a | b)
}

/// The container's set, before intersection with what this process has. An unknown name is the error.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, String> {
    let all = (1 << NAMES.len()) - 1;
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let mut caps = if privileged || add.iter().any(is_all) { all } else { set(&DEFAULT) };
    if drop.iter().any(is_all) && !privileged {
        caps = if add.iter().any(is_all) { all } else { 0 };
    }
    let known = |name: &String| bit(name).ok_or_else(|| format!("unknown capability {name:?}"));
    if !privileged {
        for name in add.iter().filter(|n| !is_all(n)) {
            caps |= known(name)?;
        }
        for name in drop.iter().filter(|n| !is_all(n)) {
            caps &= !known(name)?;
        }
    }
    Ok(caps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn add_and_drop() {
        assert_eq!(resolve(false, &[], &[]), Ok(0xa804_25fb));
        assert_eq!(resolve(false, &[], &names(&["ALL"])), Ok(0));
        let one = resolve(false, &names(&["net_bind_service"]), &names(&["all"])).unwrap();
        assert_eq!(one, 1 << 10);
        assert_eq!(resolve(true, &[], &names(&["ALL"])), Ok((1 << 41) - 1));
        assert!(!has(resolve(false, &[], &names(&["CAP_NET_RAW"])).unwrap(), "NET_RAW"));
        assert!(resolve(false, &names(&["FLY"]), &[]).is_err());
    }
}
