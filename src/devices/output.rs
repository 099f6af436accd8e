//! The way to the parent. What is sent arrives whole and in order, whichever thread sends it.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use peercam::capture::Report;
use peercam::capture::wire::{self, Header, Kind};

use crate::end;

/// The sending end. A clone is the same.
#[derive(Clone, Debug)]
pub struct Output(Arc<Mutex<UnixStream>>, Arc<AtomicUsize>);

impl Output {
    /// Sends by `socket`.
    pub fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)), Arc::default())
    }

    /// Whether something is being sent. For as long as the parent does not read, that is so.
    pub fn is_busy(&self) -> bool {
        self.1.load(Ordering::Relaxed) > 0
    }

    /// Sends a report.
    pub fn report(&self, report: &Report) {
        match wire::message(Kind::Report, report) {
            Ok(bytes) => self.write(&bytes, &[]),
            // What is not said is waited for by the parent, which then ends this process.
            Err(error) => tracing::error!(reason = %error, "a report cannot be sent"),
        }
    }

    /// Sends what `header` announces.
    pub fn send(&self, header: &Header, body: &[u8]) {
        self.write(&header.bytes(), body);
    }

    /// Blocks while the parent does not read. Without a parent there is nothing left to do.
    fn write(&self, head: &[u8], body: &[u8]) {
        self.1.fetch_add(1, Ordering::Relaxed);
        // A thread that panicked within has cut a message in two; the parent sees that, and ends this process.
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if write_both(&mut *socket, head, body).is_err() {
            end::at_once();
        }
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both with one system call, mostly.
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

    /// Takes a few bytes at a time.
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
    fn what_goes_out_in_pieces_arrives_whole() {
        for (head, body) in [(&b"head of it"[..], &b"and the body"[..]), (b"head", b""), (b"", b"body"), (b"", b"")] {
            let mut narrow = Narrow(vec![]);
            write_both(&mut narrow, head, body).unwrap();
            assert_eq!(narrow.0, [head, body].concat());
        }
    }
}
