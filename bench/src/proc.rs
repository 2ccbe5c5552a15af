//! What the kernel tells about processes: who belongs together, memory, CPU.

use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Clock ticks a second in `/proc/*/stat`: part of the kernel's interface, whatever its own clock is.
const USER_HZ: u64 = 100;

/// Memory of one process, in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    pub pid: u32,
    pub name: String,
    /// Shared pages divided by those who share them: sums over processes are meaningful.
    pub pss: u64,
    pub rss: u64,
}

/// The fields of `/proc/PID/stat` that matter here.
struct Stat {
    name: String,
    parent: u32,
    /// Own CPU time and that of children which ended and were waited for.
    ticks: u64,
}

/// `root`, every process with one of `marks` in its command line, and all their descendants; never this process or an
/// ancestor of it. Supervisors of pods detach themselves from the server, but name a folder of its cluster.
pub fn family(root: u32, marks: &[String]) -> BTreeSet<u32> {
    let all: Vec<(u32, Stat)> = pids().into_iter().filter_map(|p| Some((p, stat(p)?))).collect();
    let mut own = BTreeSet::new();
    let mut next = Some(std::process::id());
    while let Some(pid) = next.filter(|p| own.insert(*p)) {
        next = all.iter().find(|(p, _)| *p == pid).map(|(_, s)| s.parent);
    }
    let marked = |pid: u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .is_ok_and(|line| marks.iter().any(|mark| line.contains(mark)))
    };
    let mut members: BTreeSet<u32> =
        all.iter().map(|(p, _)| *p).filter(|p| *p == root || !own.contains(p) && marked(*p)).collect();
    loop {
        let children: Vec<u32> = all
            .iter()
            .filter(|(p, s)| members.contains(&s.parent) && !members.contains(p) && !own.contains(p))
            .map(|(p, _)| *p)
            .collect();
        if children.is_empty() {
            return members;
        }
        members.extend(children);
    }
}

/// Memory of those of `pids` that still live.
pub fn memory(pids: impl IntoIterator<Item = u32>) -> Vec<Memory> {
    pids.into_iter().filter_map(memory_of).collect()
}

fn memory_of(pid: u32) -> Option<Memory> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let bytes = |field: &str| kib(&rollup, field).map(|kib| kib * 1024);
    // A process without memory of its own (a zombie) has neither.
    Some(Memory { pid, name: stat(pid)?.name, pss: bytes("Pss:")?, rss: bytes("Rss:")? })
}

/// CPU time used so far, told in two ways: one coarse and complete, one fine that forgets threads which ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    coarse: Duration,
    fine: Duration,
}

impl Cpu {
    /// Of `pids`, with that of children they waited for.
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        pids.into_iter().fold(Self::default(), |sum, pid| {
            let ticks = stat(pid).map_or(0, |s| s.ticks);
            Self {
                coarse: sum.coarse + Duration::from_millis(ticks * 1000 / USER_HZ),
                fine: sum.fine + scheduled(pid),
            }
        })
    }

    /// What was used between two looks. Both ways can only miss something, so the larger is the better.
    pub fn since(self, before: Self) -> Duration {
        self.coarse.saturating_sub(before.coarse).max(self.fine.saturating_sub(before.fine))
    }
}

/// Nanoseconds that the living threads of a process have run.
fn scheduled(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ran = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(ran.sum())
}

/// An error if a process is not there or may not be looked at.
pub fn check(pid: u32) -> Result<()> {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map(drop).with_context(|| {
        format!("cannot look at process {pid} (needs its user or root, on the same machine)")
    })
}

pub fn machine_memory() -> Option<u64> {
    kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:").map(|kib| kib * 1024)
}

pub fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kib(text: &str, field: &str) -> Option<u64> {
    text.lines().find(|l| l.starts_with(field))?.split_whitespace().nth(1)?.parse().ok()
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name is in parentheses and may itself contain any of them.
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    // utime, stime, cutime, cstime: fields 14 to 17 of the line, whose third is the first here.
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Stat { name, parent, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let line = "12 (a) (b c) S 7 12 12 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 5 6 7";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent, stat.ticks), ("a) (b c", 7, 124));
    }

    #[test]
    fn a_family_is_a_process_and_its_children_but_not_us() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let members = loop {
            let members = family(shell.id(), &[]);
            if members.len() == 2 {
                break members;
            }
        };
        let seen = memory(members.clone());
        for child in members.iter().filter(|p| **p != shell.id()) {
            let _ = Command::new("kill").arg(child.to_string()).status();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(members.contains(&shell.id()) && !members.contains(&std::process::id()));
        assert!(seen.iter().all(|m| m.rss > 0), "{seen:?}");
    }

    #[test]
    fn used_cpu_is_counted() {
        let own = || Cpu::of([std::process::id()]);
        let (before, end) = (own(), std::time::Instant::now() + Duration::from_secs(20));
        while own().since(before).is_zero() {
            assert!(std::time::Instant::now() < end, "nothing was counted");
        }
    }
}
