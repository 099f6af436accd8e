//! Notices for operators: written by other programs, shown by the board and its page.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use testkit::board::Board;
use testkit::browser::Browser;
use testkit::page::Page;

/// The board looks every 5 s.
const NOTICED: Duration = Duration::from_secs(10);

/// What the page shows of notices.
const SHOWN: &str = "[...document.querySelectorAll('.notice-line p')].map((line) => line.textContent)";

fn leave(root: &Path, about: &str, text: &[u8]) -> Result<()> {
    let directory = root.join("run/peercam-notices");
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join(about), text)?)
}

async fn wait_for_notices(board: &Board, expected: Value) -> Result<()> {
    let deadline = Instant::now() + NOTICED;
    while board.status().await?.get("notices").cloned().unwrap_or_else(|| json!([])) != expected {
        ensure!(Instant::now() < deadline, "not {expected} but {:#}", board.status().await?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_notice_is_shown_until_it_is_read_or_withdrawn() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mistake = "peercam.toml on the boot partition, line 3: <b>no</b> such time zone.\nNothing was changed.";
    leave(root.path(), "provisioning", mistake.as_bytes())?;
    let board = Board::start_below(root.path(), "").await?;
    wait_for_notices(&board, json!([{ "about": "provisioning", "text": mistake }])).await?;
    leave(root.path(), "data-partition", b"It is full.")?;
    let second = json!({ "about": "data-partition", "text": "It is full." });
    wait_for_notices(&board, json!([second, { "about": "provisioning", "text": mistake }])).await?;

    let browser = Browser::start().await?;
    let page = Page::watch(&browser, &board.url).await?;
    page.wait_until("both notices", &format!("{SHOWN}.length === 2")).await?;
    let shown: Vec<String> = page.ask(&format!("return {SHOWN}")).await?;
    ensure!(shown == ["data partition: It is full.".to_owned(), format!("provisioning: {mistake}")], "{shown:?}");
    // Beside the picture: nobody has to put anything away to see what is filmed.
    let gap: f64 = page
        .ask(
            "const bar = document.querySelector('.notices').getBoundingClientRect();
             const view = viewer.getBoundingClientRect();
             if (Math.abs(view.bottom - innerHeight) > 1 || bar.top !== 0) throw new Error('the page is not filled');
             return view.top - bar.bottom",
        )
        .await?;
    ensure!(gap.abs() < 1.0, "{gap} px between the notices and the picture");

    // By keyboard: each button is named, and the focus goes on to the next one and then to the picture.
    let names: Vec<String> = page
        .ask("return [...document.querySelectorAll('.notice-line button')].map((button) => button.ariaLabel)")
        .await?;
    ensure!(names == ["Dismiss the notice about data-partition", "Dismiss the notice about provisioning"], "{names:?}");
    let left: Vec<String> = page
        .ask(&format!(
            "document.querySelector('.notice-line button').focus(); document.activeElement.click(); return {SHOWN}"
        ))
        .await?;
    ensure!(left.len() == 1 && left[0].starts_with("provisioning"), "{left:?}");
    page.ask::<Value>("document.activeElement.click()").await?;
    page.wait_until("the focus on the picture", "document.activeElement === viewer").await?;

    // Read for this visit; what is new is shown.
    leave(root.path(), "data-partition", b"It is still full.")?;
    let second = json!({ "about": "data-partition", "text": "It is still full." });
    wait_for_notices(&board, json!([second, { "about": "provisioning", "text": mistake }])).await?;
    let page = Page::watch(&browser, &board.url).await?;
    page.wait_until("the new one alone", &format!("{SHOWN}.join() === 'data partition: It is still full.'")).await?;
    // The page asks every 30 s, and mostly hears the same.
    let stays: bool = page
        .ask(
            "const { Notices } = await import('/notices.js');
             const notices = new Notices();
             document.body.append(notices.element);
             const told = [{ about: 'one', text: 'First.' }, { about: 'two', text: 'Second.' }];
             notices.show(told);
             const [first, second] = [...notices.element.querySelectorAll('button')];
             first.focus();
             first.click();
             notices.show(told);
             const stays = document.activeElement === second;
             notices.element.remove();
             return stays",
        )
        .await?;
    ensure!(stays, "with the next status the focus fell out of the page");

    fs::remove_dir_all(root.path().join("run"))?;
    wait_for_notices(&board, json!([])).await?;
    let log = board.log()?;
    ensure!(log.matches("WARN").count() == 3, "not one warning for each:\n{log}");
    ensure!(log.matches("no longer applies").count() == 2, "{log}");
    Ok(())
}

#[tokio::test]
async fn the_doctor_reports_notices() -> Result<()> {
    let root = tempfile::tempdir()?;
    leave(root.path(), "data-partition", b"It is full.\xff\x1b[2J")?;
    let output = Command::new(env!("CARGO_BIN_EXE_peercam")).arg("doctor").env("PEERCAM_ROOT", root.path()).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(said.contains("warning  data-partition It is full.\u{fffd}[2J"), "{said}");
    ensure!(said.contains("ok       name         not announced: the page is for this machine only"), "{said}");
    Ok(())
}
