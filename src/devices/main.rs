//! `peercam-capture`: the process that holds the devices of one camera, or the microphone. Devices become encoded
//! frames here; it is the only program that loads GStreamer, V4L2 and ALSA. The service starts it; see
//! [`peercam::capture`] for what the two say to each other.
//!
//! | room | what happens there |
//! |---|---|
//! | [`serve`] | what the parent orders is carried out |
//! | [`attempt`] | one device is opened, watched over and closed |
//! | [`source`] | from a camera's settings to a graph; which device, which of its modes |
//! | [`microphone`] | from the settings of sound to a graph |
//! | [`drift`] | sound kept in step with the clock |
//! | [`test_source`] | the picture and the tone where there is no device |
//! | [`look`] | what devices there are, what they offer, how they are adjusted and moved |
//! | [`encoder`] | which encoders there are, how each is told, and which of them works |
//! | [`graph`] | a GStreamer pipeline at work |
//! | [`output`] | the way to the parent |
//! | [`confine`] | what this process may not do |

mod attempt;
mod confine;
mod decoder;
mod drift;
mod encoder;
mod end;
mod graph;
mod guide;
mod log;
mod look;
mod microphone;
mod opener;
mod output;
mod serve;
mod source;
mod test_source;
#[cfg(test)]
mod tests;
mod trials;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::net::{AddressFamily, getsockname};
use serve::Left;

fn main() -> ExitCode {
    let served = parent().and_then(|socket| {
        confine::process()?;
        serve::serve(socket, |begin| {
            log::start(&begin.log);
            if let Err(error) = confine::network() {
                tracing::warn!(reason = %error, "the capture process keeps access to the network");
            }
        })
    });
    match served {
        Ok(Left::Capturing) => end::at_once(),
        Ok(Left::AtRest) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peercam-capture: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The connection that the service hands over as standard input.
fn parent() -> io::Result<UnixStream> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    match getsockname(&input) {
        Ok(address) if address.address_family() == AddressFamily::UNIX => Ok(input.into()),
        _ => Err(io::Error::other("it is started by the service, which hands a socket over; use `peercam run`")),
    }
}
