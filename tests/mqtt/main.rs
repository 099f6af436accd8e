//! The shipped binary behind a real broker: mosquitto with each kind of listener, its users and its access list.
//!
//! Each test starts its own broker and board. Boards that are not measured run beside each other, see
//! `tests/kit/src/board.rs`.

mod certificates;
mod commands;
mod connection;
mod floods;
mod home;
mod hosted;
mod limits;
mod operating;
mod reach;
mod restart;
mod scripted;
mod signalling;
mod status;
mod tcp_proxy;
mod viewer;
