//! Bytes as what a capture process sends: read or refused, and what is read is the same when it is written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::capture::wire::{self, Header, Kind};
use peercam::capture::{Order, Report};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((header, body))) = wire::read(&mut rest) {
        assert_eq!(Header::parse(&header.bytes()), Ok(header));
        assert_eq!(body.len(), header.length as usize);
        // Whatever a capture process says of time must not end its parent.
        _ = wire::moment(header.captured);
        match header.kind {
            Kind::Report => {
                if let Ok(report) = serde_json::from_slice::<Report>(&body) {
                    let written = serde_json::to_string(&report).expect("what was read can be written");
                    assert_eq!(serde_json::from_str::<Report>(&written).ok(), Some(report), "{written}");
                }
            }
            Kind::Order => {
                if let Ok(order) = serde_json::from_slice::<Order>(&body) {
                    let written = serde_json::to_string(&order).expect("what was read can be written");
                    assert_eq!(serde_json::from_str::<Order>(&written).ok(), Some(order), "{written}");
                }
            }
            Kind::Frame | Kind::Picture => {}
        }
    }
});
