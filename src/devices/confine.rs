//! What this process may not do. Where systemd starts it, its unit forbids the same and more. This part needs no
//! privilege, so that it holds however the process is started.

use std::io;

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use seccompiler::{BpfProgram, apply_filter_all_threads, sock_filter};

/// Ends with its parent, and keeps its memory to itself: a picture is nobody else's, also of the same user.
///
/// # Errors
///
/// The system's, which has both since Linux 2.4.
pub fn process() -> io::Result<()> {
    // The end of the connection ends it too; this is for a process that is stopped at that moment.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Leaves no network: of all sockets only those within this machine can be made. Nor can other processes be looked into,
/// whose sockets and memory would do as well: the service may run as the same user.
///
/// # Errors
///
/// When the kernel has no seccomp filters.
pub fn network() -> io::Result<()> {
    apply_filter_all_threads(&filter()).map_err(io::Error::other)
}

/// Families of sockets that stay within the machine: how libraries find their helpers and hear of devices.
const WITHIN: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

/// What is refused whatever its arguments are. By io_uring a socket can be made without the call that is looked at.
const REFUSED: [libc::c_long; 5] = [
    libc::SYS_io_uring_setup,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
];

/// How the kernel calls the architecture of a call (AUDIT_ARCH_* in linux/audit.h): the numbers of calls are its own.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else if cfg!(target_arch = "riscv64") {
    0xc000_00f3
} else if cfg!(target_arch = "arm") {
    0x4000_0028
} else {
    panic!("no filter of system calls is written for this architecture")
};

/// Where the filter's data has a call's number, its architecture and the lower half of its first argument (struct
/// seccomp_data in linux/seccomp.h; all of ours are little-endian).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_AT: u32 = 16;

/// On amd64 calls have a second set of numbers, from this one on.
const X32: u32 = 0x4000_0000;

/// A filter in the language of the kernel (Linux, networking/filter.rst). By hand, since the crate's own compiler knows no
/// 32-bit ARM.
fn filter() -> BpfProgram {
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let give = |action: u32| statement(libc::BPF_RET, action);
    // Each jump that is taken skips the refusal or the leave that comes next.
    let unless = |comparison: u32, number: u32| jump(comparison, number, 1, 0);
    let when = |comparison: u32, number: u32| jump(comparison, number, 0, 1);
    let refusal = give(libc::SECCOMP_RET_ERRNO | libc::EACCES as u32);
    let leave = give(libc::SECCOMP_RET_ALLOW);

    let mut program = vec![load(ARCHITECTURE_AT), unless(libc::BPF_JEQ, ARCHITECTURE), refusal.clone()];
    program.push(load(NUMBER_AT));
    if cfg!(target_arch = "x86_64") {
        program.extend([when(libc::BPF_JGE, X32), refusal.clone()]);
    }
    for refused in REFUSED {
        program.extend([when(libc::BPF_JEQ, refused as u32), refusal.clone()]);
    }
    program.extend([unless(libc::BPF_JEQ, libc::SYS_socket as u32), leave.clone(), load(FIRST_AT)]);
    for family in WITHIN {
        program.extend([when(libc::BPF_JEQ, family as u32), leave.clone()]);
    }
    program.push(refusal);
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on `then` instructions further where the comparison with `k` holds, else `otherwise`.
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
    fn of_all_sockets_only_those_within_the_machine_can_be_made() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let confined = move || {
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
            // A child of ours could be looked into otherwise.
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            let held = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            let taken = rustix::process::pidfd_getfd(&held, 0, rustix::process::PidfdGetfdFlags::empty());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(taken.unwrap_err(), rustix::io::Errno::ACCESS);
            UnixDatagram::unbound().unwrap();
        };
        // A filter holds for the thread that applies it, and no other test is to run with it.
        thread::spawn(confined).join().unwrap();
    }
}
