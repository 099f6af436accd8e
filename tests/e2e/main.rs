//! The shipped binary watched in Chromium: the whole path, with nothing replaced.
//!
//! Each test starts its own board and browser; one board runs at a time, see `tests/harness/board.rs`.

#[path = "../harness/board.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod board;
#[path = "../harness/breaks.rs"]
mod breaks;
#[path = "../harness/browser.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod browser;
mod caller;
mod capture_processes;
#[path = "../harness/captures.rs"]
mod captures;
#[path = "../harness/headless.rs"]
mod headless;
#[path = "../harness/page.rs"]
mod page;
mod refusals;
mod relay;
#[path = "../harness/shipped.rs"]
#[allow(dead_code, reason = "the suite of mDNS uses the rest")]
mod shipped;
mod socket;

mod bad_input;
mod coming_and_going;
mod commands;
mod configuration;
mod connections;
mod control_channel;
mod floods;
mod further_offers;
mod kept;
mod leaks;
mod loss;
mod missing_package;
mod notices;
mod restart;
mod secret;
mod sound;
mod system;
mod watching;
mod whep;
