//! Camera streaming firmware: a V4L2 camera and an ALSA microphone, encoded once, watched in browsers over WebRTC.
//!
//! # The rooms
//!
//! | room | what happens there |
//! |---|---|
//! | [`media`] | the vocabulary: frames, and the [`media::Feed`] they travel on |
//! | [`camera`] | devices become encoded frames; the only room that knows GStreamer, V4L2 and ALSA |
//! | [`signalling`] | how a browser reaches us: WebSocket, WHEP and MQTT become [`signalling::Call`]s |
//! | [`ice`] | STUN and TURN servers, and the credentials that each side gets |
//! | [`viewer`] | one browser watching; the only room that knows a WebRTC stack |
//! | [`control`] | what the board says of itself: status, metrics, health, snapshot |
//! | [`web`] | the HTTP front: page, secret, and the paths that lead to the rooms above |
//! | [`secret`] | text that must not reach a log by accident |
//! | [`systemd`] | ready, stopping and watchdog |
//! | [`config`] | the TOML file: the sum of the rooms' configurations |
//! | [`doctor`] | what this board has and what would be used |
//! | [`app`] | opens the rooms, joins them, closes them in the reverse order |
//!
//! Who may know whom is held by `tests/architecture.rs`.

pub mod app;
pub mod camera;
pub mod command;
pub mod config;
pub mod control;
pub mod doctor;
pub mod ice;
pub mod media;
pub mod mqtt;
pub mod secret;
pub mod signalling;
pub mod systemd;
pub mod tasks;
pub mod viewer;
pub mod web;
