//! Sends to the parent. Each message arrives whole and in order, whichever thread sends it.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use peercam::capture::Report;
use peercam::capture::wire::{self, Header, MessageKind};

use crate::exit;

/// The sender. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Output(Arc<Mutex<UnixStream>>, Arc<AtomicUsize>);

impl Output {
    /// Sends on `socket`.
    pub fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)), Arc::default())
    }

    /// Whether a message is being sent, which lasts for as long as the parent does not read.
    pub fn is_busy(&self) -> bool {
        self.1.load(Ordering::Relaxed) > 0
    }

    /// Sends a report.
    pub fn report(&self, report: &Report) {
        match wire::message(MessageKind::Report, report) {
            Ok(bytes) => self.write(&bytes, &[]),
            // The parent waits for the missing report, and then ends this process.
            Err(error) => tracing::error!(reason = %error, "a report cannot be sent"),
        }
    }

    /// Sends `header` and its body.
    pub fn send(&self, header: &Header, body: &[u8]) {
        self.write(&header.bytes(), body);
    }

    /// Blocks while the parent does not read. Ends the process if the parent is gone.
    fn write(&self, head: &[u8], body: &[u8]) {
        self.1.fetch_add(1, Ordering::Relaxed);
        // If a thread panicked inside, it has cut a message short; the parent detects that and ends this process.
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if write_both(&mut *socket, head, body).is_err() {
            exit::immediately();
        }
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Writes both, mostly with one system call.
fn write_both(to: &mut impl Write, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(head), IoSlice::new(body)];
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match to.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that takes a few bytes at a time.
    struct Narrow(Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = &bytes[..bytes.len().min(3)];
            self.0.extend_from_slice(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn partial_writes_are_completed() {
        for (head, body) in [(&b"head of it"[..], &b"and the body"[..]), (b"head", b""), (b"", b"body"), (b"", b"")] {
            let mut narrow = Narrow(vec![]);
            write_both(&mut narrow, head, body).unwrap();
            assert_eq!(narrow.0, [head, body].concat());
        }
    }
}
