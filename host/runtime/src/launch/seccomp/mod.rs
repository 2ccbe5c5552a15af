//! Seccomp profiles to BPF. Runs in the agent, once per distinct profile; the launcher only installs bytes.
//!
//! A profile with several actions becomes several stacked filters: the kernel obeys the most severe verdict.

mod default;
mod table;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use serde::Deserialize;
use std::collections::BTreeMap;

pub use default::runtime_default;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    #[serde(default)]
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default)]
    pub args: Vec<Arg>,
    #[serde(default)]
    pub includes: Scope,
    #[serde(default)]
    pub excludes: Scope,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    pub index: u8,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

/// Docker's extension: a rule for some capabilities or machines only.
#[derive(Debug, Default, Deserialize)]
pub struct Scope {
    #[serde(default)]
    pub caps: Vec<String>,
    #[serde(default)]
    pub arches: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Allow,
    Errno(u32),
    Trap,
    KillThread,
    KillProcess,
    Log,
    Trace(u32),
}

impl From<Verdict> for SeccompAction {
    fn from(v: Verdict) -> Self {
        match v {
            Verdict::Allow => SeccompAction::Allow,
            Verdict::Errno(n) => SeccompAction::Errno(n),
            Verdict::Trap => SeccompAction::Trap,
            Verdict::KillThread => SeccompAction::KillThread,
            Verdict::KillProcess => SeccompAction::KillProcess,
            Verdict::Log => SeccompAction::Log,
            Verdict::Trace(n) => SeccompAction::Trace(n),
        }
    }
}

fn verdict(action: &str, errno: Option<u32>) -> Result<Verdict, String> {
    Ok(match action {
        "SCMP_ACT_ALLOW" => Verdict::Allow,
        "SCMP_ACT_ERRNO" => Verdict::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_TRAP" => Verdict::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Verdict::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Verdict::KillProcess,
        "SCMP_ACT_LOG" => Verdict::Log,
        "SCMP_ACT_TRACE" => Verdict::Trace(errno.unwrap_or(libc::EPERM as u32)),
        other => return Err(format!("unsupported seccomp action {other:?}")),
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn add(rules: &mut Rules, rule: &Rule) -> Result<(), String> {
    let conditions = || -> Result<Vec<SeccompCondition>, String> {
        rule.args
            .iter()
            .map(|arg| {
                let (op, value) = match arg.op.as_str() {
                    "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
                    "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
                    "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
                    "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
                    "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
                    "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
                    "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
                    other => return Err(format!("unsupported seccomp comparison {other:?}")),
                };
                SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, op, value)
                    .map_err(|e| e.to_string())
            })
            .collect()
    };
    for name in &rule.names {
        // Names of other machines or newer kernels do not exist here, as libseccomp treats them.
        let Some(number) = table::number(name) else { continue };
        match rules.get_mut(&number) {
            // No conditions: matches always, whatever else was said.
            Some(list) if list.is_empty() => {}
            Some(list) if rule.args.is_empty() => list.clear(),
            Some(list) => list.push(SeccompRule::new(conditions()?).map_err(|e| e.to_string())?),
            None if rule.args.is_empty() => {
                rules.insert(number, Vec::new());
            }
            None => {
                let rule = SeccompRule::new(conditions()?).map_err(|e| e.to_string())?;
                rules.insert(number, vec![rule]);
            }
        }
    }
    Ok(())
}

fn applies(rule: &Rule, caps: u64) -> bool {
    let has = |cap: &String| super::caps::has(caps, cap);
    let here = ["amd64", "x32", "x86"];
    (rule.includes.caps.is_empty() || rule.includes.caps.iter().all(has))
        && !rule.excludes.caps.iter().any(has)
        && (rule.includes.arches.is_empty()
            || rule.includes.arches.iter().any(|a| here.contains(&a.as_str())))
        && !rule.excludes.arches.iter().any(|a| here.contains(&a.as_str()))
}

/// The filters, in hex, to be installed in order.
pub fn compile(profile: &Profile, caps: u64) -> Result<Vec<String>, String> {
    let default = verdict(&profile.default_action, profile.default_errno_ret)?;
    let mut base = Rules::new();
    let mut others: BTreeMap<Verdict, Rules> = BTreeMap::new();
    for rule in profile.syscalls.iter().filter(|rule| applies(rule, caps)) {
        let what = verdict(&rule.action, rule.errno_ret)?;
        if what == default {
            continue;
        }
        add(&mut base, rule)?;
        if what != Verdict::Allow {
            add(others.entry(what).or_default(), rule)?;
        }
    }
    let mut programs = Vec::new();
    if default != Verdict::Allow {
        programs.push(program(base, default, Verdict::Allow)?);
    }
    for (what, rules) in others {
        programs.push(program(rules, Verdict::Allow, what)?);
    }
    Ok(programs)
}

fn program(rules: Rules, mismatch: Verdict, matched: Verdict) -> Result<String, String> {
    if rules.is_empty() && matched == Verdict::Allow {
        return Err("seccomp profile allows no system call at all".into());
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(|_| "no seccomp on this machine")?;
    let filter =
        SeccompFilter::new(rules, mismatch.into(), matched.into(), arch).map_err(|e| e.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())?;
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for op in &program {
        bytes.extend_from_slice(&op.code.to_ne_bytes());
        bytes.extend_from_slice(&[op.jt, op.jf]);
        bytes.extend_from_slice(&op.k.to_ne_bytes());
    }
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_compile() {
        assert_eq!(compile(&runtime_default(), 0).unwrap().len(), 2);
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
                        {"names":["chmod"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
        let profile: Profile = serde_json::from_str(json).unwrap();
        assert_eq!(compile(&profile, 0).unwrap().len(), 2);
        let bad = Profile { default_action: "SCMP_ACT_NOTIFY".into(), ..Profile::default() };
        assert!(compile(&bad, 0).is_err());
    }
}
