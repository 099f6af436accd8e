//! Commands that come through the broker, and their outcomes on the way back.

use tokio::sync::mpsc;

use crate::command::{self, Crowd, Desk, Origin, Outcome};
use crate::mqtt::Broker;
use crate::mqtt::Message;
use crate::mqtt::Reply;
use crate::mqtt::Topics;
use crate::tasks::Group;

/// Takes what is published on the command topic to the desk, until `group` stops.
pub fn serve(broker: Broker, desk: Desk, group: &Group) {
    let messages = broker.subscribe(broker.topics().command());
    // The broker does not say who published. Those who want their answers at a topic of their own are told apart by it.
    let commands = Commands { broker, senders: desk.crowd(Origin::Broker), messages, group: group.clone() };
    group.keep("commands by the broker", commands, |commands| Box::pin(commands.run()));
}

struct Commands {
    broker: Broker,
    senders: Crowd,
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
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        // What the doctor tries the topic with. Who wants an answer is told that it is no command.
        if message.payload.is_empty() && message.reply.is_none() && !message.is_retained {
            return;
        }
        let sender = self.senders.sender(message.reply.as_ref().map(|reply| reply.topic.as_str()));
        match accepted(&message, self.broker.topics()) {
            Ok(()) => {
                let coming = sender.hand_in_for(message.payload, message.reply.clone());
                // Those that are refused at once, as most of a flood are, cost no task.
                pass_on(self.broker.clone(), message.reply, coming, &self.group);
            }
            Err(reason) if sender.may_be_told() => {
                tracing::info!(reason, "a command was refused");
                say(&self.broker, None, Outcome::failed(command::id_of(&message.payload), reason));
            }
            Err(_) => {}
        }
    }
}

/// Why a message is not taken for a command.
fn accepted(message: &Message, topics: &Topics) -> Result<(), String> {
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
    // Others take what stands there for the board's own word.
    if topics.is_own(topic) && *topic != topics.outcome() {
        return wrong("is one of the device's own");
    }
    Ok(())
}

fn pass_on(broker: Broker, reply: Option<Reply>, mut coming: mpsc::Receiver<Outcome>, group: &Group) {
    // Asked first: what was said before the end is still there.
    let is_over = coming.is_closed();
    while let Ok(outcome) = coming.try_recv() {
        say(&broker, reply.as_ref(), outcome);
    }
    if is_over {
        return;
    }
    // Ends when the desk has said its last word, of a shutdown too.
    group.spawn(async move {
        while let Some(outcome) = coming.recv().await {
            say(&broker, reply.as_ref(), outcome);
        }
    });
}

fn say(broker: &Broker, reply: Option<&Reply>, outcome: Outcome) {
    broker.answer(reply, broker.topics().outcome(), outcome.texts(broker.limits().known_bytes()));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_what_was_meant_now_and_can_be_answered_is_a_command() {
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
            match (accepted(&message, &topics), refused) {
                (Ok(()), None) => {}
                (Err(reason), Some(words)) => assert!(reason.contains(words), "{reason}"),
                (found, _) => panic!("{:?}: {found:?}", message.reply),
            }
        }
    }
}
