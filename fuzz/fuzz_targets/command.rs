//! Fuzzes commands: each is parsed or refused, and a parsed command is the same after it is written and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::command;

fuzz_target!(|text: &[u8]| match command::parse(text) {
    Ok(parsed) => {
        let written = parsed.to_json().to_string();
        assert_eq!(command::parse(written.as_bytes()).as_ref(), Ok(&parsed), "{written}");
        assert_eq!(command::id_of(text), parsed.id);
        assert!(command::names().contains(&parsed.command.name()));
    }
    Err(rejection) => {
        assert!(!rejection.reason.is_empty());
        // The reason goes back to the sender unchanged.
        command::Outcome::failed(rejection.id, rejection.reason).message();
    }
});
