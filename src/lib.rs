//! Camera streaming firmware: a V4L2 camera and an ALSA microphone, encoded once, watched in browsers over WebRTC.
//!
//! # The rooms
//!
//! | room | what happens there |
//! |---|---|
//! | [`media`] | the vocabulary: frames, and the [`media::Feed`] they travel on |
//! | [`capture`] | what this process and those that hold the devices say to each other |
//! | [`camera`] | cameras and the microphone: starts the capture processes, and has their frames |
//! | [`board`] | figures of the board itself: temperature, throttling, processor, memory, disk, Wi-Fi |
//! | [`signalling`] | how a browser reaches us: WebSocket, WHEP and MQTT become [`signalling::Call`]s |
//! | [`ice`] | STUN and TURN servers, and the credentials that each side gets |
//! | [`sdp`] | session descriptions: what an offer asks for, and the answer to it |
//! | [`mdns`] | the board's name on its own networks; the only room that knows a Multicast DNS library |
//! | [`mqtt`] | the one connection to the broker; the only room that knows an MQTT client |
//! | [`viewer`] | one browser watching; the only room that knows a WebRTC stack |
//! | [`command`] | what operators want done, and what became of it: the words that every way in shares |
//! | [`control`] | management: what the board says of itself, and what it is told to do |
//! | [`web`] | the HTTP front: page, secret, and the paths that lead to the rooms above |
//! | [`notices`] | what an operator should know and cannot see in the picture |
//! | [`secret`] | text that must not reach a log by accident |
//! | [`systemd`] | ready, stopping and watchdog |
//! | [`upkeep`] | what survives a restart: settings, the applied configuration and its trial, restarts |
//! | [`durable`] | files that are old or new after a power cut |
//! | [`config`] | the TOML file: the sum of the rooms' configurations |
//! | [`provision`] | the first start: a file on the boot partition sets the board up |
//! | [`start`] | from what is configured and what was kept to what a process begins with |
//! | [`home`] | the board as a device in Home Assistant |
//! | [`doctor`] | what this board has and what would be used |
//! | [`app`] | opens the rooms, joins them, closes them in the reverse order |
//!
//! GStreamer, V4L2 and ALSA are in another program, `peercam-capture` (`src/devices`), so that this one does not load them.
//!
//! Who may know whom is held by `tests/architecture.rs`.

// .cargo/config.toml says it, but RUSTFLAGS and a build from another directory (Yocto's) pass that over. Without it
// SRTP's AES-CTR would be computed in software on processors that have instructions for it: slow, and nobody would know.
#[cfg(all(target_arch = "aarch64", not(aes_armv8)))]
compile_error!("on 64-bit Arm peercam wants AES instructions to be used: add `--cfg aes_armv8` to RUSTFLAGS");

pub mod app;
pub mod board;
pub mod camera;
pub mod capture;
pub mod command;
pub mod config;
pub mod control;
pub mod doctor;
pub mod durable;
pub mod home;
pub mod ice;
pub mod mdns;
pub mod media;
pub mod mqtt;
pub mod notices;
pub mod provision;
pub mod sdp;
pub mod secret;
pub mod signalling;
pub mod start;
pub mod systemd;
pub mod tasks;
pub mod upkeep;
pub mod viewer;
pub mod web;
