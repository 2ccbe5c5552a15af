//! The `RuntimeDefault` profile: an allow-list in the spirit of containerd's.

use super::{Arg, Profile, Rule, Scope};

const ALLOWED: &str = "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir \
chmod chown clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range \
creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate \
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork \
fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake \
futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid \
getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid \
getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr inotify_add_watch inotify_init \
inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents ioprio_get ioprio_set \
io_setup io_submit kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link \
linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier \
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect \
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd \
msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open \
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 \
prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom \
recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq \
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min \
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid \
setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list \
setsid setsockopt set_thread_area set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown \
sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range \
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime \
timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat \
utimes vfork vmsplice wait4 waitid write writev modify_ldt ptrace process_vm_readv process_vm_writev";

const BY_CAPABILITY: [(&str, &str); 12] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
         umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
];

const NAMESPACES: u64 = 0x7E02_0000;

fn rule(names: &str, args: Vec<Arg>) -> Rule {
    Rule {
        names: names.split_whitespace().map(String::from).collect(),
        action: "SCMP_ACT_ALLOW".into(),
        args,
        ..Rule::default()
    }
}

fn arg(value: u64, value_two: u64, op: &str) -> Arg {
    Arg { index: 0, value, value_two, op: op.into() }
}

pub fn runtime_default() -> Profile {
    let mut syscalls = vec![rule(ALLOWED, Vec::new())];
    for personality in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(rule("personality", vec![arg(personality, 0, "SCMP_CMP_EQ")]));
    }
    // AF_VSOCK reaches the hypervisor.
    syscalls.push(rule("socket", vec![arg(40, 0, "SCMP_CMP_NE")]));
    for (cap, names) in BY_CAPABILITY {
        let mut allowed = rule(names, Vec::new());
        allowed.includes = Scope { caps: vec![cap.into()], arches: Vec::new() };
        syscalls.push(allowed);
    }
    let without_admin = || Scope { caps: vec!["SYS_ADMIN".into()], arches: Vec::new() };
    let mut clone = rule("clone", vec![arg(NAMESPACES, 0, "SCMP_CMP_MASKED_EQ")]);
    clone.excludes = without_admin();
    syscalls.push(clone);
    // clone3 hides its flags in memory: with ENOSYS, C libraries fall back to clone.
    let mut clone3 = rule("clone3", Vec::new());
    clone3.action = "SCMP_ACT_ERRNO".into();
    clone3.errno_ret = Some(libc::ENOSYS as u32);
    clone3.excludes = without_admin();
    syscalls.push(clone3);
    Profile { default_action: "SCMP_ACT_ERRNO".into(), default_errno_ret: Some(libc::EPERM as u32), syscalls }
}
