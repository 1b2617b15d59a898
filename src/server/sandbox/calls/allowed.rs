//! Tables of system calls, and the filters made of them.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::process;

use libc::{
    SYS_accept, SYS_accept4, SYS_bind, SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep,
    SYS_close, SYS_close_range, SYS_connect, SYS_dup, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl,
    SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2,
    SYS_fadvise64, SYS_fcntl, SYS_fdatasync, SYS_flock, SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_futex_waitv, SYS_getcpu, SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid,
    SYS_getpeername, SYS_getpid, SYS_getppid, SYS_getrandom, SYS_getsockname, SYS_getsockopt, SYS_gettid,
    SYS_gettimeofday, SYS_getuid, SYS_inotify_add_watch, SYS_inotify_init1, SYS_inotify_rm_watch,
    SYS_ioprio_set, SYS_listen, SYS_lseek, SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_mincore,
    SYS_mkdirat, SYS_mremap, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_openat2, SYS_pipe2,
    SYS_ppoll, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_read, SYS_readlinkat, SYS_readv, SYS_recvfrom,
    SYS_recvmmsg, SYS_recvmsg, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield, SYS_sendfile, SYS_sendmmsg,
    SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_setpriority, SYS_setsockopt, SYS_shutdown,
    SYS_sigaltstack, SYS_socketpair, SYS_statx, SYS_uname, SYS_unlinkat, SYS_write, SYS_writev,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, apply_filter_all_threads,
};

use super::{Threads, Uses};

/// cachestat(2) of Linux 6.5, which `libc` lacks; the number is the same on every architecture.
const SYS_CACHESTAT: i64 = 451;

/// Calls that are allowed whatever their arguments.
const ANY: &[i64] = &[
    // Sockets and images.
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_sendfile,
    SYS_sendto,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_recvmmsg,
    SYS_CACHESTAT,
    SYS_mincore,
    SYS_preadv2,
    SYS_preadv,
    SYS_pread64,
    SYS_fadvise64,
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
    SYS_lseek,
    SYS_accept,
    SYS_accept4,
    SYS_bind,
    SYS_connect,
    SYS_listen,
    SYS_shutdown,
    SYS_socketpair,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    // Waiting.
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_pipe2,
    SYS_ppoll,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_gettimeofday,
    SYS_nanosleep,
    // Files and folders, which Landlock restricts further. Nothing changes a mode or an owner.
    SYS_openat,
    SYS_openat2,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_getcwd,
    SYS_getdents64,
    SYS_readlinkat,
    SYS_mkdirat,
    SYS_renameat2,
    SYS_unlinkat,
    SYS_flock,
    SYS_fsync,
    SYS_fdatasync,
    SYS_ftruncate,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    SYS_memfd_create,
    // Memory, threads and signals of this process.
    SYS_brk,
    SYS_madvise,
    SYS_mremap,
    SYS_munmap,
    SYS_membarrier,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_futex_waitv,
    SYS_getcpu,
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getrandom,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    // The verification of images steps back behind the connections.
    SYS_setpriority,
    SYS_ioprio_set,
    SYS_set_robust_list,
    SYS_sigaltstack,
    SYS_uname,
];

/// Calls that write the cache of images in object stores.
const CACHE: &[i64] = &[libc::SYS_fallocate, libc::SYS_pwrite64];

/// Older calls for the same, which C libraries still make on this architecture.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_inotify_init,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// renameat(2) and getrlimit(2), which `libc` lacks on this architecture.
#[cfg(target_arch = "aarch64")]
const OLDER: &[i64] = &[38, 163];

/// Calls that end the process. Nothing in isowire or its libraries makes them: they start programs,
/// reach into other processes, or change the kernel or what is mounted.
const ATTACKS: &[i64] = &[
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Applies both filters.
pub(super) fn restrict(threads: Threads, uses: Uses) -> Result<(), Error> {
    // The other one refuses seccomp(2) itself.
    let attacks = ATTACKS.iter().map(|&call| (call, Vec::new())).collect();
    apply(threads, attacks, SeccompAction::Allow, SeccompAction::KillProcess)?;
    let refuse = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(threads, allowed(uses)?, refuse, SeccompAction::Allow)
}

fn apply(
    threads: Threads,
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), Error> {
    let architecture = TargetArch::try_from(ARCH)?;
    let program = BpfProgram::try_from(SeccompFilter::new(rules, otherwise, matched, architecture)?)?;
    match threads {
        Threads::All => apply_filter_all_threads(&program),
        Threads::Current => apply_filter(&program),
    }
}

/// Returns the calls that are allowed, each with its rules; one without rules is allowed always.
fn allowed(uses: Uses) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let cache = if uses == Uses::ObjectStores { CACHE } else { &[] };
    let always = ANY.iter().chain(OLDER).chain(cache);
    let mut calls: BTreeMap<_, _> = always.map(|&call| (call, Vec::new())).collect();
    // No memory that can be written becomes a program.
    let not_executable = without(2, libc::PROT_EXEC)?;
    calls.insert(libc::SYS_mmap, not_executable.clone());
    calls.insert(libc::SYS_mprotect, not_executable);
    // Threads, but no other processes. clone3(2) hides its flags from the filter, and C libraries do
    // without it.
    calls.insert(libc::SYS_clone, with(0, libc::CLONE_THREAD)?);
    // abort(3) ends this process.
    calls.insert(libc::SYS_tgkill, equal(0, &[process::id()])?);
    // Limits of this process are read by pthread_create(3).
    calls.insert(libc::SYS_prlimit64, equal(0, &[0])?);
    calls.insert(libc::SYS_prctl, equal(0, &[libc::PR_SET_NAME.cast_unsigned()])?);
    let mut requests = equal(1, &IOCTLS)?;
    if uses == Uses::ObjectStores {
        // The times of an open file, and not of one by its path: the cache notes when it was used.
        calls.insert(libc::SYS_utimensat, without_path(1)?);
        // The C library's resolver asks how long an answer is.
        requests.extend(equal(1, &[libc::FIONREAD as u32])?);
    }
    calls.insert(libc::SYS_ioctl, requests);
    calls.insert(libc::SYS_socket, sockets(uses)?);
    Ok(calls)
}

/// Requests of ioctl(2): non-blocking sockets, the number of an interface, and whether a file is a
/// terminal. `TIOCSTI`, which types on the terminal of an administrator, is not among them.
const IOCTLS: [u32; 5] = [
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::SIOCGIFINDEX as u32,
    libc::TCGETS as u32,
    libc::TCGETS2 as u32,
];

/// Returns the rules for new sockets: UDP and Unix sockets, and the routing part of netlink(7). An
/// object store may have an address of IPv6 only.
fn sockets(uses: Uses) -> Result<Vec<SeccompRule>, Error> {
    let mut rules = equal(0, &[libc::AF_INET, libc::AF_UNIX].map(libc::c_int::cast_unsigned))?;
    if uses == Uses::ObjectStores {
        rules.extend(equal(0, &[libc::AF_INET6.cast_unsigned()])?);
    }
    let netlink = condition(0, SeccompCmpOp::Eq, libc::AF_NETLINK.cast_unsigned())?;
    let route = condition(2, SeccompCmpOp::Eq, libc::NETLINK_ROUTE.cast_unsigned())?;
    rules.push(SeccompRule::new(vec![netlink, route])?);
    Ok(rules)
}

/// Returns a rule for each value of an argument.
fn equal(argument: u8, values: &[u32]) -> Result<Vec<SeccompRule>, Error> {
    let rule = |&value| Ok(SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, value)?])?);
    values.iter().map(rule).collect()
}

/// Returns the rule that there is no path in an argument.
fn without_path(argument: u8) -> Result<Vec<SeccompRule>, Error> {
    let is_null = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    Ok(vec![SeccompRule::new(vec![is_null])?])
}

/// Returns the rule that a flag of an argument is set.
fn with(argument: u8, flag: libc::c_int) -> Result<Vec<SeccompRule>, Error> {
    masked(argument, flag, flag)
}

/// Returns the rule that a flag of an argument is not set.
fn without(argument: u8, flag: libc::c_int) -> Result<Vec<SeccompRule>, Error> {
    masked(argument, flag, 0)
}

fn masked(argument: u8, mask: libc::c_int, value: libc::c_int) -> Result<Vec<SeccompRule>, Error> {
    let is_masked = SeccompCmpOp::MaskedEq(mask.cast_unsigned().into());
    Ok(vec![SeccompRule::new(vec![condition(argument, is_masked, value.cast_unsigned())?])?])
}

fn condition(argument: u8, is: SeccompCmpOp, value: u32) -> Result<SeccompCondition, Error> {
    // The kernel takes these arguments for 32 bits, whatever is above them.
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value.into())?)
}
