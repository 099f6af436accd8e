//! Bytes as a command: read or refused, and what is read is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peercam::command;

fuzz_target!(|text: &[u8]| match command::parse(text) {
    Ok(request) => {
        let written = request.to_json().to_string();
        assert_eq!(command::parse(written.as_bytes()).as_ref(), Ok(&request), "{written}");
        assert_eq!(command::id_of(text), request.id);
        assert!(command::names().contains(&request.command.name()));
    }
    Err(rejection) => {
        assert!(!rejection.reason.is_empty());
        // It goes back to the sender as it is.
        command::Outcome::failed(rejection.id, rejection.reason).message();
    }
});
