//! The dispatcher with a paused clock, and with commands that take as long as a test sets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::access::Grant;
use crate::command::{CommandQueue, Origin, Status};

/// A queue whose commands take `seconds` each, and the executed commands in order.
fn queue(seconds: u64) -> (CommandQueue, Arc<Mutex<Vec<String>>>, Group) {
    let (queue, requests) = CommandQueue::new(64);
    let done = Arc::new(Mutex::new(Vec::new()));
    let noted = done.clone();
    let execute = move |request: Request| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(format!("{} begins", request.id));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            noted.lock().unwrap().push(format!("{} ends", request.id));
            match request.command {
                Command::Restart(_) => Completion::AfterRestart,
                Command::Doctor {} => Completion::Now(Err("ill".into())),
                _ => Completion::Now(Ok(Some(json!(request.id)))),
            }
        }
    };
    let group = Group::new();
    let (mut dispatcher, mut requests, stop) =
        (Dispatcher::new(execute, RecentCommands::default()), requests, group.clone());
    group.spawn(async move { dispatcher.run(&mut requests, &stop).await });
    (queue, done, group)
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
async fn only_commands_that_take_time_are_reported_as_executing_first() {
    let (queue, _, _group) = queue(1);
    let quick =
        all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "get-status", json!({})))).await;
    assert_eq!(quick, [Outcome::answer("1", Some(json!("1")))]);
    let slow = all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("2", "doctor", json!({})))).await;
    assert_eq!(slow, [Outcome::executing("2"), Outcome::failed("2", "ill")]);
    let restart = queue.sender(Origin::Broker, Grant::broker_operator()).submit(text(
        "3",
        "restart",
        json!({ "what": "service" }),
    ));
    let mut restart = restart;
    assert_eq!(restart.recv().await, Some(Outcome::executing("3")));
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_command_is_not_executed_again() {
    let (queue, done, _group) = queue(1);
    let first = queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "snapshot", json!({})));
    // The same command in another notation.
    let again = Bytes::from(r#"{"args":{"camera":null},  "command":"snapshot","id":"1"}"#);
    let second = queue.sender(Origin::Broker, Grant::broker_operator()).submit(again.clone());
    let expected = [Outcome::executing("1"), Outcome::answer("1", Some(json!("1")))];
    assert_eq!(all(first).await, expected);
    assert_eq!(all(second).await, expected);
    assert_eq!(all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(again)).await, expected[1..]);
    assert_eq!(done.lock().unwrap().len(), 2, "{done:?}");

    let other =
        all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "key-frame", json!({})))).await;
    assert_eq!(other[0].status, Status::Failed);
    assert!(other[0].reason.as_ref().unwrap().contains("another command had `1`"));
    // A sender on another transport has ids of its own.
    let elsewhere =
        all(queue.sender(Origin::WebSocket, Grant::secret()).submit(text("1", "key-frame", json!({})))).await;
    assert_eq!(elsewhere[0].status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn commands_wait_only_for_earlier_commands_with_the_same_resource() {
    let (queue, done, _group) = queue(1);
    let first =
        queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "set-video", json!({ "fps": 10 })));
    let second = queue.sender(Origin::WebSocket, Grant::secret()).submit(text("2", "set-audio", json!({ "on": true })));
    let third =
        queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("3", "ptz", json!({ "move": "stop" })));
    for outcomes in [first, second, third] {
        assert_eq!(all(outcomes).await.last().unwrap().status, Status::Successful);
    }
    let done = done.lock().unwrap();
    let at = |what: &str| done.iter().position(|done| done == what).unwrap();
    assert!(at("1 ends") < at("2 begins"), "{done:?}");
    assert!(at("3 begins") < at("1 ends"), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_fails_at_its_deadline_and_the_next_one_is_executed() {
    let (queue, done, _group) = queue(14);
    let first =
        queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "set-video", json!({ "fps": 10 })));
    let second = queue.sender(Origin::Broker, Grant::broker_operator()).submit(text(
        "2",
        "set-control",
        json!({ "control": "focus", "value": 1 }),
    ));
    let began = Instant::now();
    let late = all(second).await;
    assert!(late[1].reason.as_ref().unwrap().contains("not done within 5 s"), "{late:?}");
    assert_eq!(began.elapsed().as_secs(), 5);
    let third =
        queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("3", "set-video", json!({ "fps": 10 })));
    assert_eq!(all(first).await[1].status, Status::Successful);
    assert_eq!(all(third).await[1].status, Status::Failed, "its 15 s have passed, of which it waited for 9");
    assert_eq!(done.lock().unwrap()[..3], ["1 begins", "1 ends", "3 begins"]);
}

#[tokio::test(start_paused = true)]
async fn each_of_a_thousand_commands_in_a_burst_is_executed_or_refused() {
    let (queue, done, _group) = queue(1);
    let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
    let mut waiting = Vec::new();
    for number in 0..1000 {
        waiting.push(sender.submit(text(&number.to_string(), "get-status", json!({}))));
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
    let after =
        all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("after", "get-status", json!({}))))
            .await;
    assert_eq!(after[0].status, Status::Successful);
}

#[tokio::test(start_paused = true)]
async fn a_command_in_progress_fails_when_the_board_shuts_down() {
    let (queue, _, group) = queue(5);
    let waiting = queue.sender(Origin::Broker, Grant::broker_operator()).submit(text("1", "doctor", json!({})));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(group.close(Duration::from_secs(1)).await);
    assert_eq!(all(waiting).await, [Outcome::executing("1"), Outcome::failed("1", STOPPING)]);
}

#[tokio::test(start_paused = true)]
async fn privacy_waits_neither_for_devices_nor_for_other_commands() {
    let (queue, done, _group) = queue(4);
    let mut senders = [Origin::WebSocket; 10].map(|origin| queue.sender(origin, Grant::secret()));
    let mut waiting = Vec::new();
    for (number, sender) in senders.iter_mut().enumerate() {
        for command in 0..10 {
            let id = format!("{number}-{command}");
            waiting.push(sender.submit(text(&id, "set-video", json!({ "fps": 10 }))));
            tokio::task::yield_now().await;
        }
    }
    let began = Instant::now();
    let hidden = all(senders[0].submit(text("privacy", "privacy", json!({ "on": true })))).await;
    assert_eq!(hidden.last().unwrap().status, Status::Successful);
    assert_eq!(began.elapsed().as_secs(), 4, "it takes its own time only");
    let refused = waiting.iter_mut().filter_map(|outcomes| outcomes.try_recv().ok());
    let refused = refused.filter(|outcome| outcome.status == Status::Failed).count();
    // The last two senders find all places taken, but each still gets one.
    assert_eq!(refused, 100 - MOST_OF_ALL - 2);
    assert!(done.lock().unwrap().contains(&"privacy ends".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn privacy_is_switched_on_before_all_waiting_commands_that_switch_it_off() {
    let (queue, done, _group) = queue(2);
    let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
    let mut shown = Vec::new();
    for number in 0..8 {
        shown.push(sender.submit(text(&format!("s{number}"), "privacy", json!({ "on": false }))));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let hidden = all(sender.submit(text("h", "privacy", json!({ "on": true })))).await;
    assert_eq!(hidden.last().unwrap().status, Status::Successful);
    assert_eq!(began.elapsed().as_secs(), 3, "one second of the command in progress, and its own two");
    for (number, outcomes) in shown.into_iter().enumerate() {
        let last = all(outcomes).await.pop().unwrap();
        assert_eq!(
            (number, last.status),
            (number, Status::Successful),
            "they are joined to the first, which is in progress"
        );
    }
    assert_eq!(*done.lock().unwrap(), ["s0 begins", "s0 ends", "h begins", "h ends"]);
    let again = all(sender.submit(text("s9", "privacy", json!({ "on": false })))).await;
    assert_eq!(again.last().unwrap().status, Status::Successful);
}

/// As through a broker: senders that cannot be told apart, each with one command.
#[tokio::test(start_paused = true)]
async fn privacy_and_dismissals_are_executed_within_a_second_during_a_flood_of_the_same() {
    let commands = [
        ("privacy", json!({ "on": false })),
        ("privacy", json!({ "on": true })),
        ("dismiss-viewer", json!({ "viewer": "3f2a90c1" })),
    ];
    for (name, arguments) in commands {
        let (queue, done, _group) = queue(0);
        let mut flood = Vec::new();
        for round in 0..40 {
            for number in 0..125 {
                let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
                let viewer = if number % 2 == 0 { "3f2a90c1".into() } else { format!("made-up-{number}") };
                let arguments = if name == "privacy" { arguments.clone() } else { json!({ "viewer": viewer }) };
                flood.push(sender.submit(text(&format!("f{round}-{number}"), name, arguments)));
            }
            let asked = Instant::now();
            let owner = all(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text(
                &format!("o{round}"),
                name,
                arguments.clone(),
            )));
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
            // In a second, and the last ones after it.
            let carried_out = done.lock().unwrap().len() / 2;
            assert!((2..=45).contains(&carried_out), "{carried_out}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_command_of_a_privacy_flood_has_its_outcome_and_few_are_executed() {
    let (queue, done, _group) = queue(0);
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for number in 0..4000 {
        let arguments = json!({ "on": number % 2 == 1 });
        waiting.push(queue.sender(Origin::Broker, Grant::broker_operator()).submit(text(
            &number.to_string(),
            "privacy",
            arguments,
        )));
        if number % 4 == 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (number, outcomes) in waiting.into_iter().enumerate() {
        let last = all(outcomes).await.pop().unwrap();
        let is_hidden = number % 2 == 0 && last.reason.as_deref() == Some(SUPERSEDED);
        assert!(is_hidden || last.status == Status::Successful, "{number}: {last:?}");
    }
    let most = 2 * (2 + begun.elapsed().as_millis() / BETWEEN_SWITCHES.as_millis());
    let carried_out = done.lock().unwrap().len() / 2;
    assert!(carried_out as u128 <= most, "{carried_out} of {most}");
    let last = done.lock().unwrap().last().unwrap().replace(" ends", "").parse::<u32>().unwrap();
    assert_eq!(last % 2, 1, "it is on in the end, as the last command requires");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_panics_fails_and_later_commands_are_executed() {
    let (queue, requests) = CommandQueue::new(64);
    let execute = |request: Request| async move {
        assert_ne!(request.id, "13", "of all ids");
        Completion::Now(Ok(None))
    };
    let group = Group::new();
    let (mut dispatcher, mut requests, stop) =
        (Dispatcher::new(execute, RecentCommands::default()), requests, group.clone());
    group.spawn(async move { dispatcher.run(&mut requests, &stop).await });
    let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
    let failed = all(sender.submit(text("13", "set-video", json!({ "fps": 10 })))).await;
    assert!(failed.last().unwrap().reason.as_ref().unwrap().contains("the board itself failed"), "{failed:?}");
    let next = all(sender.submit(text("14", "set-video", json!({ "fps": 10 })))).await;
    assert_eq!(next.last().unwrap().status, Status::Successful);
}
