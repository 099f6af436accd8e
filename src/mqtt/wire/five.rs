//! MQTT 5.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason, Publish,
    PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions, StateError};

use super::{Accepted, Delivery, Dial, Event, Failure, Kind, Message, NotTaken, OFFLINE, SLOTS, WINDOW};
use super::{failure, quoted};
use crate::mqtt::{MOST_BYTES, Reply};

/// MQTT 5, section 2.4.
const PACKET_TOO_LARGE: u8 = 0x95;

pub fn options(dial: &Dial<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(dial.client_id, super::host(dial), dial.url.port());
    options.set_transport(super::transport(dial));
    options.set_network_options(super::network(dial.limit));
    options.set_connection_timeout(dial.limit.as_secs());
    if dial.address.is_some() {
        options.set_request_modifier(super::named(dial.url));
    }
    options.set_keep_alive(dial.config.keep_alive());
    options.set_outgoing_inflight_upper_limit(SLOTS);
    options.set_connect_properties(ConnectProperties {
        max_packet_size: Some(MOST_BYTES as u32),
        receive_maximum: Some(SLOTS),
        ..ConnectProperties::new()
    });
    if let Some(user) = &dial.config.user {
        options.set_credentials(user, dial.credentials.password.as_ref().map_or("", |password| password.reveal()));
    }
    if let Some((topic, delivery)) = dial.will {
        options.set_last_will(LastWill::new(topic, OFFLINE, qos(delivery), delivery.is_retained, None));
    }
    options
}

pub fn publish(
    client: &AsyncClient,
    topic: &str,
    payload: &Bytes,
    delivery: Delivery,
    correlation: Option<&Bytes>,
) -> Result<(), NotTaken> {
    let properties = PublishProperties { correlation_data: correlation.cloned(), ..PublishProperties::default() };
    let (qos, is_retained) = (qos(delivery), delivery.is_retained);
    let taken = client.try_publish_with_properties(topic, qos, is_retained, payload.clone(), properties);
    taken.map_err(|_| NotTaken)
}

fn qos(delivery: Delivery) -> QoS {
    if delivery.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce }
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
            // What is not said is allowed (section 3.2.2.3).
            let allows = |value: Option<u8>| value != Some(0);
            let best = Delivery {
                is_acknowledged: allows(said.and_then(|said| said.max_qos)),
                is_retained: allows(said.and_then(|said| said.retain_available)),
            };
            let has_wildcards = allows(said.and_then(|said| said.wildcard_subscription_available));
            let client_id = said.and_then(|said| said.assigned_client_identifier.clone());
            Some(Event::Accepted(Accepted { window: window.into(), most_bytes, best, has_wildcards, client_id }))
        }
        Incoming(Packet::SubAck(answer)) => {
            let said = answer.properties.as_ref().and_then(|said| said.reason_string.as_deref());
            let granted = |code: &SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => Ok(()),
                code => Err(with_reason(format!("{code:?}"), said)),
            };
            Some(Event::Granted(answer.return_codes.iter().map(granted).collect()))
        }
        Incoming(Packet::PubAck(ack)) => {
            let is_fine = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
            let said = ack.properties.as_ref().and_then(|said| said.reason_string.as_deref());
            let refusal = (!is_fine).then(|| with_reason(format!("{:?}", ack.reason), said));
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

/// The server that a broker named when it closed the connection (section 4.13).
pub fn other_server<'e>(events: impl IntoIterator<Item = &'e rumqttc::v5::Event>) -> Option<String> {
    events.into_iter().find_map(|event| match event {
        rumqttc::v5::Event::Incoming(Packet::Disconnect(told)) => told.properties.as_ref()?.server_reference.clone(),
        _ => None,
    })
}

/// Why the connection ended. `elsewhere` is [`other_server`], `limit` how long we waited.
pub fn failure(error: ConnectionError, elsewhere: Option<&str>, limit: Duration) -> Failure {
    match error {
        // A refusal of MQTT 3.1.1 is half a packet of MQTT 5.
        ConnectionError::Timeout(_) => Failure::away(format!(
            "no answer within {limit:?}; a broker that speaks MQTT 3.1.1 only may give none (mqtt.version)"
        )),
        ConnectionError::ConnectionRefused(code) => refusal(code),
        ConnectionError::NotConnAck(_) => Failure::refused("what answers there is no broker"),
        ConnectionError::MqttState(state) => of_state(state, elsewhere),
        other => Failure::of_transport(&other),
    }
}

fn refusal(code: ConnectReturnCode) -> Failure {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized => Failure::refused(failure::BAD_PASSWORD),
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
            Failure::refused("the broker does not speak MQTT 5: set mqtt.version = \"3.1.1\"")
        }
        Code::BadClientId | Code::ClientIdentifierNotValid => Failure::refused(failure::BAD_CLIENT_ID),
        Code::ServiceUnavailable | Code::ServerUnavailable | Code::ServerBusy => {
            Failure::away("the broker is not ready")
        }
        Code::RetainNotSupported => Failure::objected("the broker keeps no retained messages"),
        Code::QoSNotSupported => Failure::objected("the broker takes QoS 0 only"),
        Code::UseAnotherServer | Code::ServerMoved => Failure::refused(moved(None)),
        // So does mosquitto where it is to give a client id and gives none.
        Code::UnspecifiedError => Failure::refused(
            "the broker refuses without a reason; where mqtt.client_id is \"\" it may give none: choose one then",
        ),
        Code::TopicNameInvalid => {
            Failure::refused("the broker does not take the topic of the last will: see mqtt.prefix and device.id")
        }
        Code::Banned => Failure::refused(
            "the broker has banned this board, by its user, client id or address, for a while or until somebody lifts it",
        ),
        Code::QuotaExceeded => Failure::refused("the broker's quota is used up: of connections, or of this user"),
        Code::ConnectionRateExceeded => Failure::away("the broker has too many connections at the moment"),
        Code::PacketTooLarge => {
            Failure::refused("the broker does not take a CONNECT of this size: shorten mqtt.client_id or the password")
        }
        Code::BadAuthenticationMethod => Failure::refused(
            "the broker wants another way to log in than user and password; set up one of those for this board",
        ),
        other => Failure::refused(format!("the broker refuses: {other:?}")),
    }
}

fn of_state(error: StateError, elsewhere: Option<&str>) -> Failure {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let said = with_reason(format!("{reason_code:?}"), reason_string.as_deref());
            of_disconnect(reason_code, &format!("the broker has closed the connection: {said}"), elsewhere)
        }
        StateError::Deserialization(Error::Io(error)) => Failure::of_transport(&error),
        StateError::Deserialization(Error::PayloadSizeLimitExceeded { pkt_size, max }) => {
            Failure::refused(format!("the broker sent a packet of {pkt_size} bytes; {max} are allowed"))
        }
        // A PUBACK of mosquitto where `message_size_limit` is exceeded. Section 3.4.2.1 has no such code for it, and
        // `rumqttc` does not read it.
        StateError::Deserialization(Error::InvalidConnectReturnCode(PACKET_TOO_LARGE)) => Failure::too_large(),
        StateError::Io(error) => Failure::of_transport(&error),
        StateError::AwaitPingResp => Failure::away("the broker does not answer any more"),
        StateError::ConnectionAborted => Failure::closed(),
        other => Failure::away(format!("what answers there sent no MQTT 5 ({other}): {}", failure::ANOTHER_PROTOCOL)),
    }
}

fn of_disconnect(code: DisconnectReasonCode, said: &str, elsewhere: Option<&str>) -> Failure {
    use DisconnectReasonCode as Code;
    match code {
        Code::SessionTakenOver => Failure { kind: Kind::Rival, reason: said.into() },
        Code::ServerShuttingDown | Code::ServerBusy | Code::KeepAliveTimeout | Code::MaximumConnectTime => {
            Failure::away("the broker has closed the connection")
        }
        Code::UseAnotherServer | Code::ServerMoved => Failure::refused(moved(elsewhere)),
        Code::PacketTooLarge => Failure::too_large(),
        Code::NotAuthorized
        | Code::TopicFilterInvalid
        | Code::TopicNameInvalid
        | Code::QuotaExceeded
        | Code::PayloadFormatInvalid
        | Code::RetainNotSupported
        | Code::QoSNotSupported
        | Code::WildcardSubscriptionsNotSupported => Failure::objected(said),
        _ => Failure::refused(said),
    }
}

fn moved(elsewhere: Option<&str>) -> String {
    match elsewhere {
        Some(server) => format!("the broker sends its clients to {}: set mqtt.url to that server", quoted(server)),
        None => "the broker sends its clients to another server and does not say to which: ask who runs it, and set \
                 mqtt.url to that server"
            .into(),
    }
}

fn with_reason(code: String, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{code}, {}", quoted(said)),
        None => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_reasons_say_what_to_do() {
        let disconnect = |reason_code| StateError::ServerDisconnect { reason_code, reason_string: None };
        let failure = |error| failure(error, None, Duration::from_secs(5));
        let taken_over = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::SessionTakenOver)));
        assert_eq!(taken_over.kind, Kind::Rival);
        let leaving = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::ServerShuttingDown)));
        assert_eq!(leaving.kind, Kind::Away);
        let too_large = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::PacketTooLarge)));
        assert_eq!(too_large.kind, Kind::TooLarge);
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
