//! Shared parts of the test suites: the program under test, and the real programs around it.
//!
//! Each module starts one of them for a test and stops it when the test ends. Parts of a single suite are in that
//! suite. Assertions are in the tests.

pub mod agent;
pub mod avahi;
pub mod board;
pub mod broker;
pub mod browser;
pub mod capture_processes;
pub mod document;
pub mod headless;
pub mod namespaces;
pub mod operator;
pub mod package;
pub mod page;
pub mod page_viewer;
pub mod playback_gaps;
pub mod player;
pub mod shipped;
pub mod site;
pub mod starvation;
pub mod tap_network;

/// The root of the repository.
pub const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
