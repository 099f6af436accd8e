//! A configuration with mistakes is refused by the binary, with the place of each.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use testkit::board::Board;

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
fn mistakes_in_the_configuration_are_reported_with_line_and_key_and_exit_status_78() -> Result<()> {
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
fn a_missing_file_is_reported() -> Result<()> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_peercam")).args(["run", "--config", "/nowhere/peercam.toml"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{said}");
    assert!(said.contains("/nowhere/peercam.toml"), "{said}");
    Ok(())
}

#[test]
fn the_printed_default_configuration_is_valid() -> Result<()> {
    let default = Command::new(env!("CARGO_BIN_EXE_peercam")).args(["config", "--default"]).output()?;
    assert!(default.status.success());
    let output = peercam(&["config", "--check"], &String::from_utf8(default.stdout)?)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What is optional: a relay's secret, and the broker's password and authority.
const WITHOUT_FILES: &str = "\
[[ice.servers]]
urls = \"turn:relay.example\"
secret_file = \"/nowhere/turn\"

[mqtt]
url = \"mqtts://127.0.0.1:1\"
user = \"door\"
password_file = \"/nowhere/password\"
ca_file = \"/nowhere/ca.pem\"
";

#[test]
fn missing_files_in_the_configuration_are_mistakes() -> Result<()> {
    let secret = "[web]\nsecret_file = \"/nowhere/secret\"\n";
    let output = peercam(&["config", "--check"], &format!("{secret}{WITHOUT_FILES}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(BAD_CONFIGURATION), "{said}");
    let named = [
        ("`web.secret_file`", "/nowhere/secret"),
        ("`secret_file` of server 1 in `ice.servers`", "/nowhere/turn"),
        ("`mqtt.password_file`", "/nowhere/password"),
        ("`mqtt.ca_file`", "/nowhere/ca.pem"),
    ];
    for (key, file) in named {
        let line = said.lines().find(|line| line.contains(key)).with_context(|| format!("{key} is not in: {said}"))?;
        ensure!(line.contains(file) && line.contains("cannot be read: No such file"), "{line}");
    }
    // Without the secret that somebody chose the camera would be open, or closed to those who know it.
    let refused = peercam(&["run", "--config"], secret)?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(BAD_CONFIGURATION) && said.contains("`web.secret_file` /nowhere"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_of_a_relay_or_the_broker_does_not_prevent_serving() -> Result<()> {
    let board = Board::start(WITHOUT_FILES).await?;
    let status = board.status().await?;
    let notices = status["notices"].as_array().context("no notices")?;
    let relays = notices.iter().find(|notice| notice["about"] == "relays").and_then(|notice| notice["text"].as_str());
    ensure!(relays.is_some_and(|text| text.contains("/nowhere/turn")), "{notices:?}");
    let is_told =
        |status: &Value| status["broker"]["reason"].as_str().is_some_and(|reason| reason.contains("/nowhere/"));
    let log = board.log()?;
    ensure!(is_told(&status) || log.contains("no connection to the broker"), "{status}\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_cannot_be_saved_is_valid_until_the_next_start_and_the_board_is_never_open() -> Result<()> {
    // Also root cannot make a directory there.
    let nowhere = vec![("STATE_DIRECTORY", "/proc/peercam".into())];
    let mut board = Board::start_at("0.0.0.0", "", nowhere, "").await?;
    let shown = |board: &Board| -> Result<Vec<String>> {
        let said = board.said()?;
        let lines = said.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
        Ok(lines.filter(|line| line.len() == 19 && !line.contains(' ')).map(str::to_owned).collect())
    };
    let first = shown(&board)?.first().cloned().context("no secret is shown")?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/api/status", board.url);
    ensure!(client.get(&url).send().await?.status() == 401, "it is open");
    let status: Value = client.get(&url).bearer_auth(&first).send().await?.json().await?;
    ensure!(status["notices"].to_string().contains("web.secret"), "{status}");
    board.kill()?;
    board.start_again().await?;
    let second = shown(&board)?.last().cloned().context("no secret is shown")?;
    ensure!(second != first && client.get(&url).bearer_auth(&second).send().await?.status() == 200, "{second}");
    Ok(())
}
