//! Restricts what this process may do. If systemd starts it, its unit forbids the same and more. This module needs
//! no privilege, so it works however the process is started.

use std::io;

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use seccompiler::{BpfProgram, apply_filter_all_threads, sock_filter};

/// Makes the process end with its parent, and its memory unreadable for others: pictures are private, also from
/// processes of the same user.
///
/// # Errors
///
/// Errors of the system calls, which exist since Linux 2.4.
pub fn protect_process() -> io::Result<()> {
    // The end of the connection ends the process too; this is for a process that is stopped at that moment.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Denies the network: only sockets within this machine can be made. It also denies access to other processes,
/// whose sockets and memory would serve as well, because the service may run as the same user.
///
/// # Errors
///
/// When the kernel has no seccomp filters.
pub fn deny_network() -> io::Result<()> {
    apply_filter_all_threads(&filter()).map_err(io::Error::other)
}

/// Socket families that stay within the machine: libraries need them to reach their helpers and to receive device
/// events.
const LOCAL_FAMILIES: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

/// System calls that are refused with any arguments. io_uring could make a socket without the system call that is
/// checked.
const DENIED_CALLS: [libc::c_long; 5] = [
    libc::SYS_io_uring_setup,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
];

/// The kernel's number of the architecture (AUDIT_ARCH_* in linux/audit.h): system call numbers differ between
/// architectures.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else if cfg!(target_arch = "riscv64") {
    0xc000_00f3
} else if cfg!(target_arch = "arm") {
    0x4000_0028
} else {
    panic!("there is no system call filter for this architecture")
};

/// Offsets of a call's number, its architecture and the lower half of its first argument in the filter's data
/// (struct seccomp_data in linux/seccomp.h; all our architectures are little-endian).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_AT: u32 = 16;

/// On amd64 calls have a second range of numbers (x32) that starts here.
const X32: u32 = 0x4000_0000;

/// The filter as a BPF program (Linux, networking/filter.rst). Written by hand, because the crate's compiler does
/// not support 32-bit ARM.
fn filter() -> BpfProgram {
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let ret = |action: u32| statement(libc::BPF_RET, action);
    // Each jump that is taken skips the return instruction that comes next.
    let unless = |comparison: u32, number: u32| jump(comparison, number, 1, 0);
    let when = |comparison: u32, number: u32| jump(comparison, number, 0, 1);
    let deny = ret(libc::SECCOMP_RET_ERRNO | libc::EACCES as u32);
    let allow = ret(libc::SECCOMP_RET_ALLOW);

    let mut program = vec![load(ARCHITECTURE_AT), unless(libc::BPF_JEQ, ARCHITECTURE), deny.clone()];
    program.push(load(NUMBER_AT));
    if cfg!(target_arch = "x86_64") {
        program.extend([when(libc::BPF_JGE, X32), deny.clone()]);
    }
    for refused in DENIED_CALLS {
        program.extend([when(libc::BPF_JEQ, refused as u32), deny.clone()]);
    }
    program.extend([unless(libc::BPF_JEQ, libc::SYS_socket as u32), allow.clone(), load(FIRST_AT)]);
    for family in LOCAL_FAMILIES {
        program.extend([when(libc::BPF_JEQ, family as u32), allow.clone()]);
    }
    program.push(deny);
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips `then` instructions if the comparison with `k` is true, else `otherwise`.
fn jump(comparison: u32, k: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: then, jf: otherwise, k }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;
    use std::thread;

    use seccompiler::apply_filter;

    use super::*;

    #[test]
    fn only_local_sockets_can_be_made() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sandboxed = move || {
            drop(TcpStream::connect(address).unwrap());
            apply_filter(&filter()).unwrap();
            let refused = [
                TcpStream::connect(address).map(drop),
                TcpListener::bind("127.0.0.1:0").map(drop),
                UdpSocket::bind("[::1]:0").map(drop),
            ];
            for refused in refused {
                assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            // Without the filter, a child of ours could be accessed.
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            let held = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            let taken = rustix::process::pidfd_getfd(&held, 0, rustix::process::PidfdGetfdFlags::empty());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(taken.unwrap_err(), rustix::io::Errno::ACCESS);
            UnixDatagram::unbound().unwrap();
        };
        // A filter applies to the thread that installs it, and no other test should run under it.
        thread::spawn(sandboxed).join().unwrap();
    }
}
