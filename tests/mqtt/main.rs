//! The shipped binary behind a real broker: mosquitto with each kind of listener, its users and its access list.
//!
//! Each test starts its own broker and board. Boards that are not measured run beside each other, see
//! `tests/harness/board.rs`.

#[path = "../harness/board.rs"]
#[allow(dead_code, reason = "the end-to-end suite uses the rest")]
mod board;
#[path = "../harness/broker.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod broker;
#[path = "../harness/browser.rs"]
#[allow(dead_code, reason = "the end-to-end suite uses the rest")]
mod browser;
#[path = "../harness/document.rs"]
mod document;
#[path = "../harness/headless.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod headless;
#[path = "../harness/operator.rs"]
mod operator;
#[path = "../harness/page.rs"]
#[allow(dead_code, reason = "the end-to-end suite uses the rest")]
mod page;
#[path = "../harness/shipped.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod shipped;
#[path = "../harness/site.rs"]
mod site;
#[path = "../harness/starvation.rs"]
mod starvation;

mod certificates;
mod commands;
mod connection;
mod floods;
mod home;
mod hosted;
mod limits;
mod operating;
mod reach;
mod relay;
mod restart;
mod scripted;
mod signalling;
mod status;
mod viewer;
