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
//! | [`access`] | access control: grants, and all operations with the right that each needs |
//! | [`ice`] | STUN and TURN servers, and the credentials that each side gets |
//! | [`sdp`] | session descriptions: what an offer asks for, and the answer to it |
//! | [`mdns`] | the board's name on its own networks; the only room that knows a Multicast DNS library |
//! | [`mqtt`] | the one connection to the broker; the only room that knows an MQTT client |
//! | [`viewer`] | one browser watching; the only room that knows a WebRTC stack |
//! | [`command`] | commands of operators and their outcomes, the same on every transport |
//! | [`status`] | the board's status: gathered, judged (health), and as metrics |
//! | [`announce`] | publishes status and events at the broker |
//! | [`management`] | executes commands and reports their outcomes |
//! | [`web`] | the HTTP server: page, secret, and the routes to other rooms |
//! | [`notices`] | what an operator should know and cannot see in the picture |
//! | [`rate_limit`] | how often something may happen |
//! | [`names`] | names in configuration and commands, and suggestions for misspelled ones |
//! | [`settings`] | the settings of picture and sound, defined once with their limits |
//! | [`secret`] | text that must not reach a log by accident |
//! | [`heap`] | gives memory back when the last viewer has gone |
//! | [`systemd`] | ready, stopping and watchdog |
//! | [`state`] | state that survives a restart: settings, the applied configuration and its trial, owed outcomes |
//! | [`durable`] | files that hold the old or the new content after a power cut |
//! | [`config`] | the TOML file: the sum of the rooms' configurations |
//! | [`provision`] | the first start: a file on the boot partition sets the board up |
//! | [`start`] | the configuration of a starting process, from the file and the saved state |
//! | [`home`] | the board as a device in Home Assistant |
//! | [`doctor`] | what this board has and what would be used |
//! | [`app`] | opens the rooms, joins them, closes them in the reverse order |
//!
//! ```text
//!                                   main, app
//!        doctor   start   config   web   home   management   announce   status
//!        provision  state        signalling   viewer   camera   mqtt   mdns
//!        command   ice   sdp   capture   notices   durable   systemd   heap
//!        access   settings   media   board   names   secret   rate_limit   tasks
//! ```
//!
//! A room names rooms below it, and some beside it; `tests/architecture.rs` has the table of who may name which, and
//! fails when a room names another one.
//!
//! GStreamer, V4L2 and ALSA are in another program, `peercam-capture` (`src/devices`), so that this one does not load
//! them.
//!
//! # Three walks
//!
//! **A frame.** `devices/source` builds a graph; GStreamer captures and encodes. `devices/graph/publisher.rs` takes
//! each access unit and `devices/output.rs` writes it to the socket (format: [`capture::wire`]). `camera/process.rs`
//! reads it and publishes it to the camera's [`media::Feed`]; `media/ring.rs` keeps the last 0.6 s. Each session wakes
//! (`viewer/session/mod.rs`), takes its next frame from its [`media::Subscription`] and hands it to its peer
//! (`viewer/session/media.rs`). `viewer/peer/webrtc_rs/payloads.rs` has it cut into RTP payloads once for all viewers,
//! `rtp.rs` stamps packets for this one, `interceptor.rs` counts packets and limits NACK, and `socket.rs` sends the
//! frame's packets with one system call.
//!
//! **An offer.** It comes as a [`signalling::Signal`] over a WebSocket (`signalling/websocket.rs`), by WHEP
//! (`signalling/whep/mod.rs`) or over MQTT (`signalling/mqtt/mod.rs`). Each opens a [`signalling::Call`] with the
//! [`access::Grant`] of its entry point. `viewer/mod.rs` admits the call and runs a session, which passes the offer to
//! its peer (`viewer/peer/mod.rs`). [`sdp::Offer`] decides on each section, and the stack makes its part of the answer.
//! The answer goes back through the call. When ICE and DTLS are done, the session begins to send.
//!
//! **A command.** It comes as JSON on the command topic (`management/mqtt_commands.rs`), a WebSocket, a data channel
//! (`viewer/control_channel.rs`) or from Home Assistant (`home`). All submit it to the [`command::CommandQueue`], which
//! applies the sender's rate limit, parses the command, checks it against the sender's grant, and queues the
//! [`command::Request`]. `management/dispatcher` refuses repeats and gives it a deadline; `management/effects.rs`
//! executes it with the camera, the microphone or [`state`], which saves the new setting on disk. The
//! [`command::Outcome`] goes back on the same transport.
//!
//! # Tasks
//!
//! Every task belongs to a [`tasks::Group`], which stops and awaits it (`tokio::spawn` is forbidden by a lint). `keep`
//! restarts a task that panics; `spawn` does not.
//!
//! | task | started by | ends |
//! |---|---|---|
//! | a camera; the microphone | `camera/mod.rs`, kept | with the group of cameras, last of all |
//! | a capture process: reader, writer, watcher | `camera/process.rs` | with the process, or some seconds after the last reader has gone |
//! | admission of viewers | `viewer/mod.rs`, kept | at shutdown |
//! | a session | `viewer/mod.rs`, for each admitted call | with the conversation |
//! | a peer connection's driver and sockets | `viewer/peer/webrtc_rs/runtime.rs` | when the peer is dropped |
//! | the HTTP thread: listener, connections | `web/listener.rs` | at shutdown, first of all |
//! | a WebSocket's conversation | `web/api.rs` | with the socket |
//! | a WHEP resource; an MQTT viewer's channel | `signalling/whep`, `signalling/mqtt` | with the call |
//! | viewers by the broker | `app/mod.rs`, kept | at shutdown |
//! | the connection to the broker | `mqtt/mod.rs`, kept | at shutdown, after what waits was published |
//! | health | `status/mod.rs`, kept | at shutdown |
//! | status and events | `announce/mod.rs`, kept | at shutdown |
//! | commands; commands over MQTT; outcomes after a restart | `management`, kept | at shutdown |
//! | a command in progress | `management/dispatcher/mod.rs` | at its deadline at the latest |
//! | Home Assistant | `home/mod.rs`, kept | at shutdown |
//! | mDNS | `mdns/mod.rs`, kept | at shutdown |
//! | notices; heap; the watchdog | `notices.rs`, `heap.rs`, `app/mod.rs`, kept | at shutdown |
//!
//! # Where the next features go
//!
//! | feature | place | builds on |
//! |---|---|---|
//! | a second, smaller encoding | `devices/graph`: one more branch | a [`media::Subscription`] with a wanted rendition; [`media::Demand`] |
//! | a bitrate that follows the network | a pure function over all viewers beside `media/demand.rs` | the estimate among the events of a peer (`viewer/peer/mod.rs`), the wanted bitrate of a subscription |
//! | talkback | `devices`: a speaker, the counterpart of the microphone | inbound media among the events of a peer, the right to talk in [`access`] |
//! | rights per viewer, signed links | `access.rs`: one more function that makes a [`access::Grant`] | every operation asks a grant already |
//! | recording | a room of its own: a reader of a feed | a lossless subscription, the window of a [`media::Feed`] |
//! | RTSP | a room of its own: a reader of a feed | the format of a feed; a packetiser with its own cache, as `webrtc_rs/payloads.rs` |
//! | a second WebRTC stack | `viewer/peer`: a folder beside `webrtc_rs` | the contract in `viewer/peer/mod.rs` and its tests with `test_peer.rs` |
//! | TLS | a room below [`web`] and [`mqtt`] that loads and reloads certificates | `app/page_address.rs` and `provision/effects.rs` write the board's URL |
//!
//! # What always holds
//!
//! - Publishing a frame never waits for a reader, and a reader that is behind skips to a key frame.
//! - One encoder serves all viewers of a rendition, and runs only while somebody reads.
//! - A device can end its capture process and nothing else.
//! - What a stranger or one viewer can make grow has a bound, and the bound is per sender where senders can be told apart.
//! - Nothing is allowed without a [`access::Grant`]; what cannot be read fails closed.
//! - State on disk is replaced in one step ([`durable`]).

// .cargo/config.toml says it, but RUSTFLAGS and a build from another directory (Yocto's) pass that over. Without it
// SRTP's AES-CTR would be computed in software on processors that have instructions for it: slow, and nobody would
// know.
#[cfg(all(target_arch = "aarch64", not(aes_armv8)))]
compile_error!("on 64-bit Arm peercam wants AES instructions to be used: add `--cfg aes_armv8` to RUSTFLAGS");

pub mod access;
pub mod announce;
pub mod app;
pub mod board;
pub mod camera;
pub mod capture;
pub mod command;
pub mod config;
pub mod doctor;
pub mod durable;
pub mod heap;
pub mod home;
pub mod ice;
pub mod management;
pub mod mdns;
pub mod media;
pub mod mqtt;
pub mod names;
pub mod notices;
pub mod provision;
pub mod rate_limit;
pub mod sdp;
pub mod secret;
pub mod settings;
pub mod signalling;
pub mod start;
pub mod state;
pub mod status;
pub mod systemd;
pub mod tasks;
pub mod viewer;
pub mod web;
