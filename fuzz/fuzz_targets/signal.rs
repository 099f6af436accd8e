//! Fuzzes signalling messages: each is parsed or refused, and a parsed message is the same after it is written and
//! parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::command;
use peercam::signalling;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    command::is_command(text);
    if let Ok(signal) = signalling::parse(text) {
        let written = serde_json::to_string(&signal).expect("every signal can be written as JSON");
        assert_eq!(signalling::parse(&written).as_ref(), Ok(&signal), "{written}");
    }
});
