//! What this process may not do. Where systemd starts it, its unit forbids the same and more. This part needs no
//! privilege, so that it holds however the process is started.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

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

/// Leaves no network: of all sockets only those within this machine can be made.
///
/// # Errors
///
/// When the kernel has no seccomp filters.
pub fn network() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// Families of sockets that stay within the machine: how libraries find their helpers and hear of devices.
const WITHIN: [i32; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let others =
        WITHIN.map(|family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family as u64));
    let others = SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?;
    // By io_uring a socket can be made without the call that is looked at. A rule of no conditions is for all calls.
    let refused = BTreeMap::from([(libc::SYS_socket, vec![others]), (libc::SYS_io_uring_setup, vec![])]);
    let refusal = SeccompAction::Errno(libc::EACCES as u32);
    SeccompFilter::new(refused, SeccompAction::Allow, refusal, std::env::consts::ARCH.try_into()?)?.try_into()
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
            apply_filter(&filter().unwrap()).unwrap();
            let refused = [
                TcpStream::connect(address).map(drop),
                TcpListener::bind("127.0.0.1:0").map(drop),
                UdpSocket::bind("[::1]:0").map(drop),
            ];
            for refused in refused {
                assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            UnixDatagram::unbound().unwrap();
        };
        // A filter holds for the thread that applies it, and no other test is to run with it.
        thread::spawn(confined).join().unwrap();
    }
}
