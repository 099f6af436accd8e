//! Receives commands over MQTT, and sends their outcomes back.

use tokio::sync::mpsc;

use crate::access::Grant;
use crate::command::{self, CommandQueue, Origin, Outcome, Reply, SenderGroup};
use crate::mqtt::Broker;
use crate::mqtt::Message;
use crate::mqtt::Topics;
use crate::tasks::Group;

/// Submits messages on the command topic to `queue`, until `group` stops.
pub fn serve(broker: Broker, queue: CommandQueue, group: &Group) {
    let messages = broker.subscribe(broker.topics().command());
    // The broker does not name the publisher. Senders with an answer topic of their own are told apart by it.
    let commands = Commands {
        broker,
        senders: queue.sender_group(Origin::Broker, Grant::broker_operator()),
        messages,
        group: group.clone(),
    };
    group.keep("commands by the broker", commands, |commands| Box::pin(commands.run()));
}

struct Commands {
    broker: Broker,
    senders: SenderGroup,
    messages: mpsc::Receiver<Message>,
    group: Group,
}

impl Commands {
    async fn run(&mut self) {
        loop {
            let message = tokio::select! {
                biased;
                () = self.group.stopped() => break,
                message = self.messages.recv() => message,
            };
            let Some(message) = message else { break };
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message) {
        // The doctor's probe of the topic. A sender that wants an answer gets a failure.
        if message.payload.is_empty() && message.reply.is_none() && !message.is_retained {
            return;
        }
        let sender = self.senders.sender(message.reply.as_ref().map(|reply| reply.topic.as_str()));
        match check(&message, self.broker.topics()) {
            Ok(()) => {
                let outcomes = sender.submit_with_reply(message.payload, message.reply.clone());
                // Commands that are refused at once, as most of a flood are, need no task.
                forward(self.broker.clone(), message.reply, outcomes, &self.group);
            }
            Err(reason) if sender.may_report_error() => {
                tracing::info!(reason, "a command was refused");
                send(&self.broker, None, Outcome::failed(command::id_of(&message.payload), reason));
            }
            Err(_) => {}
        }
    }
}

/// Why a message is not accepted as a command.
fn check(message: &Message, topics: &Topics) -> Result<(), String> {
    if message.is_retained {
        return Err("a retained command is not carried out: it would be at each connection; publish it without".into());
    }
    let Some(Reply { topic, correlation: _ }) = &message.reply else { return Ok(()) };
    let wrong = |what: &str| Err(format!("the response topic {what}; name one that outcomes may be published to"));
    if topic.is_empty() {
        return wrong("is empty");
    }
    if topic.contains(['+', '#', '\0']) {
        return wrong("has a wildcard");
    }
    if topic.starts_with('$') {
        return wrong("begins with `$`, which is the broker's own");
    }
    // Other clients mistake messages there for the board's own.
    if topics.is_own(topic) && *topic != topics.outcome() {
        return wrong("is one of the device's own");
    }
    Ok(())
}

fn forward(broker: Broker, reply: Option<Reply>, mut outcomes: mpsc::Receiver<Outcome>, group: &Group) {
    // Read first: outcomes that were sent before the end are still in the channel.
    let is_over = outcomes.is_closed();
    while let Ok(outcome) = outcomes.try_recv() {
        send(&broker, reply.as_ref(), outcome);
    }
    if is_over {
        return;
    }
    // Ends after the last outcome, which a shutdown sends too.
    group.spawn(async move {
        while let Some(outcome) = outcomes.recv().await {
            send(&broker, reply.as_ref(), outcome);
        }
    });
}

fn send(broker: &Broker, reply: Option<&Reply>, outcome: Outcome) {
    broker.answer(reply, broker.topics().outcome(), outcome.texts(broker.limits().known_bytes()));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn retained_commands_and_unusable_response_topics_are_refused() {
        let topics = Topics::new("peercam", "front-door");
        let message = |is_retained: bool, response: Option<&str>| Message {
            topic: topics.command(),
            payload: Bytes::new(),
            is_retained,
            reply: response.map(|topic| Reply { topic: topic.into(), correlation: None }),
        };
        let cases = [
            (message(false, None), None),
            (message(false, Some("operator/1/answers")), None),
            (message(false, Some("peercam/front-door/outcome")), None),
            (message(false, Some("peercam/front-doors/x")), None),
            (message(true, None), Some("a retained command")),
            (message(false, Some("")), Some("is empty")),
            (message(false, Some("a/+/b")), Some("wildcard")),
            (message(false, Some("#")), Some("wildcard")),
            (message(false, Some("$SYS/x")), Some("`$`")),
            (message(false, Some("peercam/front-door/command")), Some("device's own")),
            (message(false, Some("peercam/front-door/status")), Some("device's own")),
        ];
        for (message, refused) in cases {
            match (check(&message, &topics), refused) {
                (Ok(()), None) => {}
                (Err(reason), Some(words)) => assert!(reason.contains(words), "{reason}"),
                (found, _) => panic!("{:?}: {found:?}", message.reply),
            }
        }
    }
}
