//! Text as a signalling message: read or refused, and what is read is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::command;
use peercam::signalling;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    command::is_command(text);
    if let Ok(signal) = signalling::parse(text) {
        let written = serde_json::to_string(&signal).expect("a signal holds nothing that JSON cannot");
        assert_eq!(signalling::parse(&written).as_ref(), Ok(&signal), "{written}");
    }
});
