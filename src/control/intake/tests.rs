//! Orders with a clock that only moves when everything waits, and with work that takes as long as a test says.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::command::{Desk, Status};

/// A desk whose commands take `seconds` each, and what was carried out, in order.
fn desk(seconds: u64) -> (Desk, Arc<Mutex<Vec<String>>>, Group) {
    let (desk, orders) = Desk::new(64);
    let done = Arc::new(Mutex::new(Vec::new()));
    let noted = done.clone();
    let carry_out = move |task: Task| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(format!("{} begins", task.id));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            noted.lock().unwrap().push(format!("{} ends", task.id));
            match task.command {
                Command::Restart(_) => Ended::AfterRestart,
                Command::Doctor {} => Ended::Now(Err("ill".into())),
                _ => Ended::Now(Ok(Some(json!(task.id)))),
            }
        }
    };
    let group = Group::new();
    let (mut intake, mut orders, stop) = (Intake::new(carry_out, Memory::default()), orders, group.clone());
    group.spawn(async move { intake.run(&mut orders, &stop).await });
    (desk, done, group)
}

fn text(id: &str, command: &str, arguments: Value) -> Bytes {
    json!({ "id": id, "command": command, "args": arguments }).to_string().into()
}

async fn all(mut outcomes: mpsc::Receiver<Outcome>) -> Vec<Outcome> {
    let mut all = Vec::new();
    while let Some(outcome) = outcomes.recv().await {
        let is_last = outcome.status != Status::Executing;
        all.push(outcome);
        if is_last {
            break;
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_takes_time_says_so_and_what_does_not_has_one_outcome() {
    let (desk, _, _group) = desk(1);
    let quick = all(desk.sender(Origin::Broker).hand_in(text("1", "get-status", json!({})))).await;
    assert_eq!(quick, [Outcome::answer("1", Some(json!("1")))]);
    let slow = all(desk.sender(Origin::Broker).hand_in(text("2", "doctor", json!({})))).await;
    assert_eq!(slow, [Outcome::executing("2"), Outcome::failed("2", "ill")]);
    let restart = desk.sender(Origin::Broker).hand_in(text("3", "restart", json!({ "what": "service" })));
    let mut restart = restart;
    assert_eq!(restart.recv().await, Some(Outcome::executing("3")));
}

#[tokio::test(start_paused = true)]
async fn a_command_delivered_again_is_not_carried_out_again() {
    let (desk, done, _group) = desk(1);
    let first = desk.sender(Origin::Broker).hand_in(text("1", "snapshot", json!({})));
    // Written in another way, it is the same.
    let again = Bytes::from(r#"{"args":{"camera":null},  "command":"snapshot","id":"1"}"#);
    let second = desk.sender(Origin::Broker).hand_in(again.clone());
    let expected = [Outcome::executing("1"), Outcome::answer("1", Some(json!("1")))];
    assert_eq!(all(first).await, expected);
    assert_eq!(all(second).await, expected);
    assert_eq!(all(desk.sender(Origin::Broker).hand_in(again)).await, expected[1..]);
    assert_eq!(done.lock().unwrap().len(), 2, "{done:?}");

    let other = all(desk.sender(Origin::Broker).hand_in(text("1", "key-frame", json!({})))).await;
    assert_eq!(other[0].status, Status::Failed);
    assert!(other[0].reason.as_ref().unwrap().contains("another command had `1`"));
    // Who came another way has ids of its own.
    let elsewhere = all(desk.sender(Origin::WebSocket).hand_in(text("1", "key-frame", json!({})))).await;
    assert_eq!(elsewhere[0].status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn what_changes_the_same_is_done_in_turn_and_what_does_not_waits_for_nobody() {
    let (desk, done, _group) = desk(1);
    let first = desk.sender(Origin::Broker).hand_in(text("1", "set-video", json!({ "fps": 10 })));
    let second = desk.sender(Origin::WebSocket).hand_in(text("2", "set-audio", json!({ "on": true })));
    let third = desk.sender(Origin::Broker).hand_in(text("3", "ptz", json!({ "move": "stop" })));
    for outcomes in [first, second, third] {
        assert_eq!(all(outcomes).await.last().unwrap().status, Status::Successful);
    }
    let done = done.lock().unwrap();
    let at = |what: &str| done.iter().position(|done| done == what).unwrap();
    assert!(at("1 ends") < at("2 begins"), "{done:?}");
    assert!(at("3 begins") < at("1 ends"), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn each_command_has_its_deadline_and_the_next_has_its_turn_after_it() {
    let (desk, done, _group) = desk(14);
    let first = desk.sender(Origin::Broker).hand_in(text("1", "set-video", json!({ "fps": 10 })));
    let second =
        desk.sender(Origin::Broker).hand_in(text("2", "set-control", json!({ "control": "focus", "value": 1 })));
    let began = Instant::now();
    let late = all(second).await;
    assert!(late[1].reason.as_ref().unwrap().contains("not done within 5 s"), "{late:?}");
    assert_eq!(began.elapsed().as_secs(), 5);
    let third = desk.sender(Origin::Broker).hand_in(text("3", "set-video", json!({ "fps": 10 })));
    assert_eq!(all(first).await[1].status, Status::Successful);
    assert_eq!(all(third).await[1].status, Status::Failed, "its 15 s have passed, of which it waited for 9");
    assert_eq!(done.lock().unwrap()[..3], ["1 begins", "1 ends", "3 begins"]);
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_in_a_burst_each_is_carried_out_or_refused() {
    let (desk, done, _group) = desk(1);
    let mut sender = desk.sender(Origin::Broker);
    let mut waiting = Vec::new();
    for number in 0..1000 {
        waiting.push(sender.hand_in(text(&number.to_string(), "get-status", json!({}))));
        tokio::task::yield_now().await;
    }
    let mut refused = 0;
    for (number, outcomes) in waiting.into_iter().enumerate() {
        let outcome = all(outcomes).await.pop().unwrap();
        assert_eq!(outcome.id, number.to_string());
        match outcome.status {
            Status::Failed => {
                assert_eq!(outcome.reason.as_deref(), Some(TOO_MANY));
                refused += 1;
            }
            _ => assert_eq!(outcome.status, Status::Successful),
        }
    }
    assert_eq!(done.lock().unwrap().len() / 2, MOST_OF_ONE);
    assert_eq!(refused, 1000 - MOST_OF_ONE);
    // Two seconds later there is room again.
    tokio::time::advance(Duration::from_secs(2)).await;
    let after = all(desk.sender(Origin::Broker).hand_in(text("after", "get-status", json!({})))).await;
    assert_eq!(after[0].status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_the_board_shuts_down() {
    let (desk, _, group) = desk(5);
    let waiting = desk.sender(Origin::Broker).hand_in(text("1", "doctor", json!({})));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(group.close(Duration::from_secs(1)).await);
    assert_eq!(all(waiting).await, [Outcome::executing("1"), Outcome::failed("1", STOPPING)]);
}

#[tokio::test(start_paused = true)]
async fn privacy_waits_neither_for_devices_nor_for_places_that_others_hold() {
    let (desk, done, _group) = desk(4);
    let mut senders = [Origin::WebSocket; 10].map(|origin| desk.sender(origin));
    let mut waiting = Vec::new();
    for (number, sender) in senders.iter_mut().enumerate() {
        for command in 0..10 {
            let id = format!("{number}-{command}");
            waiting.push(sender.hand_in(text(&id, "set-video", json!({ "fps": 10 }))));
            tokio::task::yield_now().await;
        }
    }
    let began = Instant::now();
    let hidden = all(senders[0].hand_in(text("privacy", "privacy", json!({ "on": true })))).await;
    assert_eq!(hidden.last().unwrap().status, Status::Successful);
    assert_eq!(began.elapsed().as_secs(), 4, "it takes its own time only");
    let refused = waiting.iter_mut().filter_map(|outcomes| outcomes.try_recv().ok());
    let refused = refused.filter(|outcome| outcome.status == Status::Failed).count();
    // The last two senders find all places taken, and have one each all the same.
    assert_eq!(refused, 100 - MOST_OF_ALL - 2);
    assert!(done.lock().unwrap().contains(&"privacy ends".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn privacy_is_switched_on_after_the_one_under_way_and_before_all_that_switch_it_off() {
    let (desk, done, _group) = desk(2);
    let mut sender = desk.sender(Origin::Broker);
    let mut shown = Vec::new();
    for number in 0..8 {
        shown.push(sender.hand_in(text(&format!("s{number}"), "privacy", json!({ "on": false }))));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let hidden = all(sender.hand_in(text("h", "privacy", json!({ "on": true })))).await;
    assert_eq!(hidden.last().unwrap().status, Status::Successful);
    assert_eq!(began.elapsed().as_secs(), 3, "one second of the one under way, and its own two");
    for (number, outcomes) in shown.into_iter().enumerate() {
        let last = all(outcomes).await.pop().unwrap();
        assert_eq!((number, last.status), (number, Status::Successful), "they are one, which had begun");
    }
    assert_eq!(*done.lock().unwrap(), ["s0 begins", "s0 ends", "h begins", "h ends"]);
    let again = all(sender.hand_in(text("s9", "privacy", json!({ "on": false })))).await;
    assert_eq!(again.last().unwrap().status, Status::Successful);
}

/// As by a broker: senders that cannot be told apart, each with one command.
#[tokio::test(start_paused = true)]
async fn privacy_and_dismissals_are_carried_out_within_a_second_beside_a_flood_of_the_same() {
    let commands = [
        ("privacy", json!({ "on": false })),
        ("privacy", json!({ "on": true })),
        ("dismiss-viewer", json!({ "viewer": "3f2a90c1" })),
    ];
    for (name, arguments) in commands {
        let (desk, done, _group) = desk(0);
        let mut flood = Vec::new();
        for round in 0..40 {
            for number in 0..125 {
                let mut sender = desk.sender(Origin::Broker);
                let viewer = if number % 2 == 0 { "3f2a90c1".into() } else { format!("made-up-{number}") };
                let arguments = if name == "privacy" { arguments.clone() } else { json!({ "viewer": viewer }) };
                flood.push(sender.hand_in(text(&format!("f{round}-{number}"), name, arguments)));
            }
            let asked = Instant::now();
            let owner = all(desk.sender(Origin::Broker).hand_in(text(&format!("o{round}"), name, arguments.clone())));
            let last = owner.await.pop().unwrap();
            assert_eq!((last.id, last.status), (format!("o{round}"), Status::Successful), "{name} {arguments}");
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            tokio::time::advance(Duration::from_millis(25)).await;
        }
        let refused = flood.into_iter().filter_map(|mut outcomes| {
            std::iter::from_fn(move || outcomes.try_recv().ok()).find(|outcome| outcome.status == Status::Failed)
        });
        assert_eq!(refused.count(), 0);
        if name == "privacy" {
            // In a second and what the last ones took.
            let carried_out = done.lock().unwrap().len() / 2;
            assert!((2..=45).contains(&carried_out), "{carried_out}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_floods_that_switch_privacy_on_and_off_each_has_its_outcome_and_few_are_carried_out() {
    let (desk, done, _group) = desk(0);
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for number in 0..4000 {
        let arguments = json!({ "on": number % 2 == 1 });
        waiting.push(desk.sender(Origin::Broker).hand_in(text(&number.to_string(), "privacy", arguments)));
        if number % 4 == 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (number, outcomes) in waiting.into_iter().enumerate() {
        let last = all(outcomes).await.pop().unwrap();
        let is_hidden = number % 2 == 0 && last.reason.as_deref() == Some(HIDDEN);
        assert!(is_hidden || last.status == Status::Successful, "{number}: {last:?}");
    }
    let most = 2 * (2 + begun.elapsed().as_millis() / BETWEEN_SWITCHES.as_millis());
    let carried_out = done.lock().unwrap().len() / 2;
    assert!(carried_out as u128 <= most, "{carried_out} of {most}");
    let last = done.lock().unwrap().last().unwrap().replace(" ends", "").parse::<u32>().unwrap();
    assert_eq!(last % 2, 1, "it is on in the end, as the last one wanted");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_panics_has_failed_and_those_after_it_are_carried_out() {
    let (desk, orders) = Desk::new(64);
    let carry_out = |task: Task| async move {
        assert_ne!(task.id, "13", "of all ids");
        Ended::Now(Ok(None))
    };
    let group = Group::new();
    let (mut intake, mut orders, stop) = (Intake::new(carry_out, Memory::default()), orders, group.clone());
    group.spawn(async move { intake.run(&mut orders, &stop).await });
    let mut sender = desk.sender(Origin::Broker);
    let failed = all(sender.hand_in(text("13", "set-video", json!({ "fps": 10 })))).await;
    assert!(failed.last().unwrap().reason.as_ref().unwrap().contains("the board itself failed"), "{failed:?}");
    let next = all(sender.hand_in(text("14", "set-video", json!({ "fps": 10 })))).await;
    assert_eq!(next.last().unwrap().status, Status::Successful);
}
