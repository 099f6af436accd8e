//! A configuration with mistakes is refused by the binary, with the place of each.

use std::fs;
use std::process::{Command, Output};

use anyhow::Result;

/// sysexits.h's EX_CONFIG, on which the unit does not restart.
const BAD_CONFIGURATION: i32 = 78;

fn peercam(arguments: &[&str], config: &str) -> Result<Output> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("peercam.toml");
    fs::write(&file, config)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_peercam"));
    Ok(command.args(arguments).arg(&file).env("STATE_DIRECTORY", directory.path()).output()?)
}

#[test]
fn mistakes_in_the_configuration_are_named_with_line_and_key_and_the_exit_status_is_78() -> Result<()> {
    let cases: [(&str, &[&str]); 6] = [
        ("[web]\nlisten = \"127.0.0.1:0\"\nlissten = 1\n", &["lissten", "listen", "3"]),
        ("[[camera]]\nname = \"main\"\nwidth = \"wide\"\n", &["width", "3"]),
        ("[[camera]]\nname = \"main\"\nfps = 0\n", &["fps"]),
        ("[viewers]\nmax = -1\n", &["max", "2"]),
        ("[web\n", &["1"]),
        ("[[camera]]\nname = \"a\"\n[[camera]]\nname = \"a\"\n", &["name"]),
    ];
    for (config, words) in cases {
        for arguments in [["run", "--config"], ["config", "--check"]] {
            let output = peercam(&arguments, config)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{arguments:?} {config:?}: {said}");
            assert!(words.iter().all(|word| said.contains(word)), "{arguments:?} {config:?}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
    Ok(())
}

#[test]
fn a_file_that_does_not_exist_is_named() -> Result<()> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_peercam")).args(["run", "--config", "/nowhere/peercam.toml"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{said}");
    assert!(said.contains("/nowhere/peercam.toml"), "{said}");
    Ok(())
}

#[test]
fn the_default_that_is_printed_has_no_mistakes() -> Result<()> {
    let default = Command::new(env!("CARGO_BIN_EXE_peercam")).args(["config", "--default"]).output()?;
    assert!(default.status.success());
    let output = peercam(&["config", "--check"], &String::from_utf8(default.stdout)?)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
