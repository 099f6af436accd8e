//! MQTT 5.

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason, Publish,
    PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions, StateError};

use super::{Dial, Event, Failure, Fate, Message, NotTaken, OFFLINE, SLOTS, WINDOW};
use crate::mqtt::{MOST_BYTES, Reply};

pub fn options(dial: &Dial<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(dial.client_id, super::host(dial.url), dial.url.port());
    options.set_transport(super::transport(dial));
    options.set_network_options(super::network());
    options.set_connection_timeout(super::DIAL_LIMIT.as_secs());
    options.set_keep_alive(dial.config.keep_alive());
    options.set_outgoing_inflight_upper_limit(SLOTS);
    options.set_connect_properties(ConnectProperties {
        max_packet_size: Some(MOST_BYTES as u32),
        receive_maximum: Some(SLOTS),
        ..ConnectProperties::new()
    });
    if let Some(user) = &dial.config.user {
        options.set_credentials(user, dial.config.password.as_ref().map_or("", |password| password.reveal()));
    }
    if let Some(topic) = dial.will {
        options.set_last_will(LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true, None));
    }
    options
}

pub fn publish(
    client: &AsyncClient,
    topic: &str,
    payload: &Bytes,
    fate: Fate,
    correlation: Option<&Bytes>,
) -> Result<(), NotTaken> {
    let properties = PublishProperties { correlation_data: correlation.cloned(), ..PublishProperties::default() };
    let is_kept = fate == Fate::Kept;
    let taken = client.try_publish_with_properties(topic, QoS::AtLeastOnce, is_kept, payload.clone(), properties);
    taken.map_err(|_| NotTaken)
}

pub fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), NotTaken> {
    let filters = filters.iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| NotTaken)
}

/// `None` for what concerns nobody.
pub fn event(event: rumqttc::v5::Event) -> Option<Event> {
    use rumqttc::v5::Event::{Incoming, Outgoing as Sent};
    match event {
        Incoming(Packet::ConnAck(accepted)) => {
            let said = accepted.properties.as_ref();
            let window = said.and_then(|said| said.receive_max).unwrap_or(WINDOW).clamp(1, WINDOW);
            let most_bytes = said.and_then(|said| said.max_packet_size).map(|bytes| bytes as usize);
            Some(Event::Accepted { window: window.into(), most_bytes })
        }
        Incoming(Packet::SubAck(answer)) => {
            let is_granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(Event::Granted(answer.return_codes.iter().map(is_granted).collect()))
        }
        Incoming(Packet::PubAck(ack)) => {
            let is_fine = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
            let refusal = (!is_fine).then(|| format!("{:?}", ack.reason));
            Some(Event::Acknowledged { number: ack.pkid, refusal })
        }
        Incoming(Packet::Publish(publish)) => Some(message(publish).map_or(Event::Alive, Event::Came)),
        Incoming(_) => Some(Event::Alive),
        Sent(Outgoing::Publish(number)) => Some(Event::Sent(number)),
        Sent(Outgoing::Disconnect) => Some(Event::Ended),
        Sent(_) => None,
    }
}

/// A topic is UTF-8 (MQTT 5, section 3.3.2.1); a message with another one is nobody's.
fn message(publish: Publish) -> Option<Message> {
    let topic = String::from_utf8(publish.topic.to_vec()).ok()?;
    let reply = publish.properties.and_then(|properties| {
        // One with wildcards is a protocol error (section 3.3.2.3.5): answered at the usual topic.
        let topic = properties.response_topic.filter(|topic| !topic.is_empty() && !topic.contains(['+', '#', '\0']))?;
        Some(Reply { topic, correlation: properties.correlation_data })
    });
    Some(Message { topic, payload: publish.payload, is_retained: publish.retain, reply })
}

pub fn failure(error: ConnectionError) -> Failure {
    match error {
        ConnectionError::Timeout(_) => Failure::away(format!("no answer within {:?}", super::DIAL_LIMIT)),
        ConnectionError::ConnectionRefused(code) => refusal(code),
        ConnectionError::NotConnAck(_) => Failure::refused("what answers there is no broker"),
        ConnectionError::MqttState(state) => of_state(state),
        other => Failure::of_transport(&other),
    }
}

fn refusal(code: ConnectReturnCode) -> Failure {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized => {
            Failure::refused("the broker does not accept this user and password: see mqtt.user and mqtt.password_file")
        }
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
            Failure::refused("the broker does not speak MQTT 5: set mqtt.version = \"3.1.1\"")
        }
        Code::BadClientId | Code::ClientIdentifierNotValid => {
            Failure::refused("the broker does not accept this client's name: set a shorter or simpler device.id")
        }
        Code::ServiceUnavailable | Code::ServerUnavailable => Failure::away("the broker is not ready"),
        other => Failure::refused(format!("the broker refuses: {other:?}")),
    }
}

fn of_state(error: StateError) -> Failure {
    match error {
        StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
            Failure::refused("another client came with the name of this one: each device needs a device.id of its own")
        }
        StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::ServerShuttingDown | DisconnectReasonCode::KeepAliveTimeout,
            ..
        } => Failure::away("the broker has closed the connection"),
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let said = reason_string.map(|said| format!(", {said:?}")).unwrap_or_default();
            Failure::refused(format!("the broker has closed the connection: {reason_code:?}{said}"))
        }
        StateError::Deserialization(Error::Io(error)) => Failure::of_transport(&error),
        StateError::Deserialization(Error::PayloadSizeLimitExceeded { pkt_size, max }) => {
            Failure::refused(format!("the broker sent a packet of {pkt_size} bytes; {max} are allowed"))
        }
        StateError::Io(error) => Failure::of_transport(&error),
        StateError::AwaitPingResp => Failure::away("the broker does not answer any more"),
        StateError::ConnectionAborted => Failure::away("the connection was closed"),
        other => Failure::away(format!("the broker sent what is no MQTT 5: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    #[test]
    fn the_brokers_reasons_say_what_to_do() {
        let disconnect = |reason_code| StateError::ServerDisconnect { reason_code, reason_string: None };
        let taken_over = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::SessionTakenOver)));
        assert!(taken_over.kind == Kind::Refused && taken_over.reason.contains("device.id"), "{taken_over:?}");
        let leaving = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::ServerShuttingDown)));
        assert_eq!(leaving.kind, Kind::Away);
        let version = failure(ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion));
        assert!(version.kind == Kind::Refused && version.reason.contains("3.1.1"), "{version:?}");
    }

    #[test]
    fn a_reply_goes_where_it_is_wanted_and_a_topic_that_is_none_is_passed_over() {
        let came = |response: &str| {
            let properties = PublishProperties {
                response_topic: Some(response.into()),
                correlation_data: Some("7".into()),
                ..PublishProperties::default()
            };
            message(Publish::new("command", QoS::AtLeastOnce, "{}", Some(properties))).unwrap().reply
        };
        assert_eq!(came("a/b"), Some(Reply { topic: "a/b".into(), correlation: Some("7".into()) }));
        for wrong in ["", "a/#", "+", "a\0b"] {
            assert_eq!(came(wrong), None, "{wrong:?}");
        }
        let mut odd = Publish::new("command", QoS::AtLeastOnce, "{}", None);
        odd.topic = Bytes::from_static(b"\xff");
        assert_eq!(message(odd), None);
    }
}
