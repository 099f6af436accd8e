//! Fuzzes messages of a capture process: each is parsed or refused, and a parsed message is the same after it is
//! written and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::capture::wire::{self, Header, MessageKind};
use peercam::capture::{Order, Report};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((header, body))) = wire::read(&mut rest) {
        assert_eq!(Header::parse(&header.bytes()), Ok(header));
        assert_eq!(body.len(), header.length as usize);
        // Invalid times from a capture process must not panic in the service.
        _ = wire::instant(header.captured);
        match header.kind {
            MessageKind::Report => {
                if let Ok(report) = serde_json::from_slice::<Report>(&body) {
                    let written = serde_json::to_string(&report).expect("what was read can be written");
                    assert_eq!(serde_json::from_str::<Report>(&written).ok(), Some(report), "{written}");
                }
            }
            MessageKind::Order => {
                if let Ok(order) = serde_json::from_slice::<Order>(&body) {
                    let written = serde_json::to_string(&order).expect("what was read can be written");
                    assert_eq!(serde_json::from_str::<Order>(&written).ok(), Some(order), "{written}");
                }
            }
            MessageKind::Frame | MessageKind::Picture => {}
        }
    }
});
