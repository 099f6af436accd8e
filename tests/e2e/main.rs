//! The shipped binary watched in Chromium: the whole path, with nothing replaced.
//!
//! Each test starts its own board and browser; one board runs at a time, see `tests/kit/src/board.rs`.

mod capture_processes;
mod lossy_link;
mod socket;
mod unsupported_browser;
mod whep_viewer;

mod bad_input;
mod board_availability;
mod commands;
mod configuration;
mod connections;
mod control_channel;
mod damaged_state;
mod floods;
mod ice_restart;
mod leaks;
mod loss;
mod missing_package;
mod notices;
mod playback;
mod renegotiation;
mod secret;
mod sound;
mod system;
mod whep;
