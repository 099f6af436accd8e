//! `peercam-capture`: the process that holds the devices of one camera, or the microphone, and encodes what they
//! deliver. It is the only program that loads GStreamer, V4L2 and ALSA. The service starts it; [`peercam::capture`]
//! has the protocol between the two.
//!
//! | module | purpose |
//! |---|---|
//! | [`serve`] | carries out the parent's orders |
//! | [`attempt`] | opens one device, watches it and closes it |
//! | [`source`] | turns a camera's settings into a graph: which device, in which mode |
//! | [`microphone`] | turns the audio settings into a graph |
//! | [`drift`] | keeps sound in step with the clock |
//! | [`test_source`] | test picture and test tone, for a board without devices |
//! | [`inventory`] | finds devices, their formats and controls; sets controls and moves cameras |
//! | [`encoder`] | knows the H.264 encoders and their properties, and which of them works |
//! | [`graph`] | runs a GStreamer pipeline |
//! | [`output`] | sends reports and frames to the parent |
//! | [`sandbox`] | restricts what this process may do |

mod attempt;
mod codec_trials;
mod decoder;
mod drift;
mod encoder;
mod exit;
mod graph;
mod graph_builder;
mod inventory;
mod log;
mod microphone;
mod output;
mod sandbox;
mod serve;
mod source;
mod step_reporter;
mod test_source;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::net::{AddressFamily, getsockname};
use serve::EndState;

fn main() -> ExitCode {
    let served = parent().and_then(|socket| {
        sandbox::protect_process()?;
        serve::serve(socket, |begin| {
            log::start(&begin.log);
            if let Err(error) = sandbox::deny_network() {
                tracing::warn!(reason = %error, "the capture process keeps access to the network");
            }
        })
    });
    match served {
        Ok(EndState::Capturing) => exit::immediately(),
        Ok(EndState::AtRest) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peercam-capture: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The connection to the service, which is standard input.
fn parent() -> io::Result<UnixStream> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    match getsockname(&input) {
        Ok(address) if address.address_family() == AddressFamily::UNIX => Ok(input.into()),
        _ => Err(io::Error::other("only the service starts this program, with a socket; use `peercam run`")),
    }
}
