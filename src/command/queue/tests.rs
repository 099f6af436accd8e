//! Fairness between senders, rate limits, and permissions.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::command::SUPERSEDED;

fn text(id: usize, rest: &str) -> Bytes {
    format!(r#"{{"id":"{id}",{rest}}}"#).into()
}

fn status(id: usize) -> Bytes {
    text(id, r#""command":"get-status""#)
}

fn privacy(id: usize) -> Bytes {
    text(id, r#""command":"privacy","args":{"on":true}"#)
}

/// How many of `number` commands are accepted, while `requests` are read as they come.
fn accepted(sender: &mut Sender, requests: &mut Requests, number: usize, command: fn(usize) -> Bytes) -> usize {
    let mut accepted = 0;
    for id in 0..number {
        sender.submit(command(id));
        while requests.ordinary.next().now_or_never().flatten().is_some()
            || requests.urgent.next().now_or_never().flatten().is_some()
        {
            accepted += 1;
        }
    }
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_flood_from_one_sender_leaves_the_allowance_of_another() {
    let (queue, mut requests) = CommandQueue::new(8);
    let [mut flood, mut owner] = [Origin::WebSocket; 2].map(|origin| queue.sender(origin, Grant::secret()));
    assert_eq!(accepted(&mut flood, &mut requests, 5000, status), 20);
    assert_eq!(accepted(&mut owner, &mut requests, 20, status), 20);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(accepted(&mut flood, &mut requests, 5000, status), 10);
}

#[tokio::test(start_paused = true)]
async fn a_sender_gets_a_place_and_its_turn_when_the_flood_of_another_fills_the_queue() {
    let (queue, mut requests) = CommandQueue::new(8);
    let [mut flood, mut owner] = [Origin::WebSocket; 2].map(|origin| queue.sender(origin, Grant::secret()));
    let mut flooded: Vec<_> = (0..8).map(|id| flood.submit(status(id))).collect();
    let mut asked = owner.submit(status(100));
    assert_eq!(flooded[7].try_recv().unwrap(), Outcome::failed("7".to_owned(), TOO_MANY));
    assert!(flooded[6].try_recv().is_err() && asked.try_recv().is_err());
    let mut refused = flood.submit(status(8));
    assert_eq!(refused.try_recv().unwrap(), Outcome::failed("8".to_owned(), TOO_MANY));
    for expected in ["0", "100", "1", "2"] {
        assert_eq!(requests.next().await.unwrap().0.id, expected);
    }
    // A sender that has no more waiting commands than the new one keeps its place.
    let (queue, _requests) = CommandQueue::new(2);
    let waiting: Vec<_> =
        (0..2).map(|id| queue.sender(Origin::WebSocket, Grant::secret()).submit(status(id))).collect();
    assert!(queue.sender(Origin::WebSocket, Grant::secret()).submit(status(3)).try_recv().is_ok());
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn privacy_overtakes_waiting_commands_and_the_flood_of_its_own_sender() {
    let (queue, mut requests) = CommandQueue::new(8);
    let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
    for id in 0..5000 {
        sender.submit(status(id));
    }
    sender.submit(text(5000, r#""command":"dismiss-viewer","args":{"viewer":"3f2a90c1"}"#));
    sender.submit(privacy(5001));
    for expected in ["5000", "5001", "0", "1"] {
        assert_eq!(requests.next().await.unwrap().0.id, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn privacy_has_an_allowance_of_its_own_that_other_commands_with_the_word_cannot_use() {
    let (queue, mut requests) = CommandQueue::new(8);
    let mut sender = queue.sender(Origin::DataChannel, Grant::secret());
    assert_eq!(accepted(&mut sender, &mut requests, 5000, privacy), 20);
    let named_so = |id| text(id, r#""command":"set-log-level","args":{"level":"privacy"}"#);
    assert_eq!(accepted(&mut sender, &mut requests, 5000, named_so), 20);
    let mut owner = queue.sender(Origin::Broker, Grant::broker_operator());
    assert_eq!(accepted(&mut owner, &mut requests, 1, privacy), 1);
}

#[tokio::test(start_paused = true)]
async fn privacy_is_switched_on_during_a_flood_of_made_up_senders_that_switch_it_off() {
    let (queue, mut requests) = CommandQueue::new(8);
    let mut group = queue.sender_group(Origin::Broker, Grant::broker_operator());
    let shown = |id: usize| text(id, r#""command":"privacy","args":{"on":false}"#);
    for round in 0..50 {
        for name in 0..200 {
            group.sender(Some(&format!("replies/{name}"))).submit(shown(name));
        }
        let mut owner = group.sender(Some("replies/owner")).submit(privacy(1000 + round));
        assert!(owner.try_recv().is_err(), "round {round}: it is not refused");
        let next = requests.next().await.unwrap();
        assert_eq!(next.0.id, (1000 + round).to_string(), "it overtakes those that wait");
        assert!(requests.next().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(50)).await;
    }
}

/// Senders with made-up response topics, and the one sender for all commands without a response topic.
#[tokio::test(start_paused = true)]
async fn urgent_commands_from_a_broker_are_never_refused_during_a_flood_of_the_same() {
    let shown = |id| text(id, r#""command":"privacy","args":{"on":false}"#);
    let dismiss = |id| text(id, r#""command":"dismiss-viewer","args":{"viewer":"3f2a90c1"}"#);
    for command in [shown, dismiss, privacy as fn(usize) -> Bytes] {
        let (queue, mut requests) = CommandQueue::new(8);
        let mut group = queue.sender_group(Origin::Broker, Grant::broker_operator());
        for id in 0..5000 {
            let made_up = format!("replies/{id}");
            let name = (id % 2 == 0).then_some(made_up.as_str());
            assert_eq!(accepted(group.sender(name), &mut requests, 1, command), 1, "{id}");
            tokio::task::yield_now().await;
        }
        assert_eq!(
            accepted(&mut queue.sender(Origin::HomeAutomation, Grant::home_automation()), &mut requests, 100, command),
            100
        );
        tokio::task::yield_now().await;
        assert_eq!(accepted(&mut queue.sender(Origin::DataChannel, Grant::secret()), &mut requests, 5000, command), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_to_made_up_senders_are_answered_at_a_limited_rate() {
    let (queue, _requests) = CommandQueue::new(64);
    let mut group = queue.sender_group(Origin::Broker, Grant::broker_operator());
    let mut answered = 0;
    for id in 0..10_000 {
        answered += usize::from(group.sender(Some(&id.to_string())).submit(status(id)).try_recv().is_ok());
    }
    // Commands within the group's allowance that find no place in the queue are refused with an answer too.
    assert!((4000..4100).contains(&answered), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn a_superseded_command_fails_with_the_reason() {
    let (queue, _requests) = CommandQueue::new(8);
    let mut sender = queue.sender(Origin::Broker, Grant::broker_operator());
    let mut passed = sender.submit(text(1, r#""command":"privacy","args":{"on":false}"#));
    let mut hides = sender.submit(privacy(2));
    assert_eq!(passed.try_recv().unwrap(), Outcome::failed("1", SUPERSEDED));
    assert!(hides.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn senders_behind_one_topic_are_told_apart_by_name_and_limited_together() {
    let (queue, mut requests) = CommandQueue::new(8);
    let mut group = queue.sender_group(Origin::Broker, Grant::broker_operator());
    assert_eq!(accepted(group.sender(None), &mut requests, 5000, status), 20);
    assert_eq!(accepted(group.sender(Some("replies/owner")), &mut requests, 8, status), 8);
    assert_eq!(accepted(group.sender(None), &mut requests, 10, status), 0, "it is known again");
    let by_many: usize =
        (0..5000).map(|name| accepted(group.sender(Some(&name.to_string())), &mut requests, 1, status)).sum();
    assert_eq!(by_many, 80 - 28);
    assert_eq!(accepted(group.sender(Some("another")), &mut requests, 1, privacy), 1);
    assert_eq!(group.known.len(), MOST_KNOWN);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_detected_and_answered_at_a_limited_rate_until_it_ends() {
    let (queue, _requests) = CommandQueue::new(64);
    let mut sender = queue.sender(Origin::WebSocket, Grant::secret());
    let answered = |sender: &mut Sender, number: usize| -> usize {
        (0..number).filter(|id| sender.submit(status(*id)).try_recv().is_ok()).count()
    };
    assert_eq!(answered(&mut sender, 20 + 99), 99);
    assert!(!sender.is_flooding());
    assert_eq!(answered(&mut sender, 10_000), 901);
    assert!(sender.is_flooding());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(answered(&mut sender, 1), 0, "it is accepted");
    assert!(!sender.is_flooding());
}

#[test]
fn a_command_that_the_grant_does_not_allow_fails_with_the_reason_and_is_not_enqueued() {
    let (queue, mut requests) = CommandQueue::new(8);
    let camera = |id, camera: &str| text(id, &format!(r#""command":"key-frame","args":{{"camera":"{camera}"}}"#));
    let cases = [
        (Grant::broker_viewer(), status(1), Some("send commands to the command topic")),
        (Grant::broker_viewer(), "[[".into(), Some("send commands to the command topic")),
        (Grant::secret().of_camera("door"), camera(2, "yard"), Some("for the camera `door` only")),
        (Grant::secret().of_camera("door"), status(3), Some("for the camera `door` only")),
        (Grant::secret().until(Instant::now()), status(4), Some("has ended")),
        (Grant::secret().of_camera("door"), camera(5, "door"), None),
    ];
    for (grant, text, refused) in cases {
        let mut coming = queue.sender(Origin::DataChannel, grant).submit(text);
        match (coming.try_recv(), refused) {
            (Ok(outcome), Some(words)) => {
                assert!(outcome.reason.as_deref().unwrap().contains(words), "{outcome:?}")
            }
            (Err(_), None) => {}
            (found, _) => panic!("{found:?}"),
        }
    }
    let nameless = text(6, r#""command":"key-frame""#);
    queue.sender(Origin::DataChannel, Grant::secret().of_camera("door")).submit(nameless);
    for _ in 0..2 {
        let (request, _) = requests.next().now_or_never().flatten().expect("two commands were allowed");
        assert_eq!(serde_json::to_value(request.command).unwrap()["key-frame"]["camera"], "door");
    }
    assert!(requests.next().now_or_never().is_none());
}
