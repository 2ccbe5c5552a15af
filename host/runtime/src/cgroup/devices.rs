//! Which device nodes a container may use: lines for v1, a BPF program for v2.
#![allow(unsafe_code)]

use crate::Device;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    block: bool,
    major: Option<u32>,
    minor: Option<u32>,
    access: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// Nodes may be made of anything; the standard ones and the container's own may be used.
pub(super) fn rules(own: &[Device]) -> Vec<Rule> {
    let rule = |block, major, minor, access: &str| Rule { block, major, minor, access: access.into() };
    let mut rules = vec![rule(false, None, None, "m"), rule(true, None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(false, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(false, Some(136), None, "rwm"));
    for device in own {
        let Ok(meta) = std::fs::metadata(&device.host_path) else { continue };
        let kind = meta.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
            let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
            rules.push(rule(kind.is_block_device(), Some(major), Some(minor), access));
        }
    }
    rules
}

/// One eBPF instruction.
fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let mut bytes = [code, dst | (src << 4), 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&off.to_ne_bytes());
    bytes[4..].copy_from_slice(&imm.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

const LDX_W: u8 = 0x61;
const MOV_X: u8 = 0xbf;
const MOV_K: u8 = 0xb7;
const AND_K: u8 = 0x57;
const RSH_K: u8 = 0x77;
const JNE_K: u8 = 0x55;
const EXIT: u8 = 0x95;

/// r2 = type, r3 = access, r4 = major, r5 = minor; each rule either accepts or falls through to the next.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        op(LDX_W, 2, 1, 0, 0),
        op(AND_K, 2, 0, 0, 0xffff),
        op(LDX_W, 3, 1, 0, 0),
        op(RSH_K, 3, 0, 0, 16),
        op(LDX_W, 4, 1, 4, 0),
        op(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules {
        // BPF_DEVCG: access mknod 1, read 2, write 4; device block 1, char 2.
        let access: i32 = rule.access.chars().fold(0, |a, c| {
            a | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        let tests = 2 + i16::from(rule.major.is_some()) + i16::from(rule.minor.is_some());
        // After a failed test: over the remaining tests, the two instructions of the access mask and the verdict.
        let mut left = tests + 2 + 2;
        let mut test = |register: u8, value: i32| {
            left -= 1;
            op(JNE_K, register, 0, left, value)
        };
        code.push(test(2, if rule.block { 1 } else { 2 }));
        if let Some(major) = rule.major {
            code.push(test(4, major as i32));
        }
        if let Some(minor) = rule.minor {
            code.push(test(5, minor as i32));
        }
        code.push(op(MOV_X, 0, 3, 0, 0));
        code.push(op(AND_K, 0, 0, 0, !access & 7));
        code.push(op(JNE_K, 0, 0, 2, 0));
        code.push(op(MOV_K, 0, 0, 0, 1));
        code.push(op(EXIT, 0, 0, 0, 0));
    }
    code.push(op(MOV_K, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

fn bpf(command: libc::c_int, attr: &[u64; 16]) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is larger than the union members in use and zero beyond them; its pointers outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), std::mem::size_of_val(attr)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn pair(low: u32, high: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&low.to_ne_bytes());
    bytes[4..].copy_from_slice(&high.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Loads and attaches the filter to a v2 group; it goes when the group goes.
pub(super) fn attach_program(dir: &Path, rules: &[Rule]) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    let code = program(rules);
    let license = c"Apache-2.0";
    let mut attr = [0u64; 16];
    attr[0] = pair(TYPE_CGROUP_DEVICE, code.len() as u32);
    attr[1] = code.as_ptr() as u64;
    attr[2] = license.as_ptr() as u64;
    let fd = bpf(PROG_LOAD, &attr)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let group = std::fs::File::open(dir)?;
    let mut attr = [0u64; 16];
    attr[0] = pair(group.as_raw_fd() as u32, program.as_raw_fd() as u32);
    attr[1] = pair(ATTACH_CGROUP_DEVICE, 0);
    bpf(PROG_ATTACH, &attr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_lines() {
        let own = Device { host_path: "/dev/null".into(), permissions: "r".into(), ..Device::default() };
        let lines: Vec<String> = rules(&[own]).iter().map(Rule::to_string).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines.last().unwrap(), "c 1:3 r");
    }

    /// On any machine with a v2 tree, even one without controllers.
    #[test]
    fn v2_program_bites() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
        let (Some(base), true) = (found, rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a cgroup v2 tree");
            return;
        };
        let dir = Path::new(base).join(format!("ironclad-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let own = Device { host_path: "/dev/kmsg".into(), permissions: "w".into(), ..Device::default() };
        let open = |rules: &[Rule], script: &str| {
            attach_program(&dir, rules).unwrap();
            let join = format!("echo 0 > {}/cgroup.procs; {script}", dir.display());
            std::process::Command::new("sh").args(["-c", &join]).status().unwrap().success()
        };
        let results = [
            open(&rules(&[]), ": < /dev/null && : > /dev/zero"),
            open(&rules(&[]), ": > /dev/kmsg"),
            open(&rules(std::slice::from_ref(&own)), ": > /dev/kmsg"),
            open(&rules(std::slice::from_ref(&own)), ": < /dev/kmsg"),
        ];
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(results, [true, false, true, false]);
    }
}
