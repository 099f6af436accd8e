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

use super::{
    Accepted, ConnectOptions, Delivery, Event, Failure, Kind, MAX_IN_FLIGHT, Message, OFFLINE, QueueFull, WINDOW,
};
use super::{failure, quoted};
use crate::command::Reply;
use crate::mqtt::MAX_BYTES;

/// MQTT 5, section 2.4.
const PACKET_TOO_LARGE: u8 = 0x95;

pub fn options(settings: &ConnectOptions<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(settings.client_id, super::host(settings), settings.url.port());
    options.set_transport(super::transport(settings));
    options.set_network_options(super::network(settings.limit));
    options.set_connection_timeout(settings.limit.as_secs());
    if settings.address.is_some() {
        options.set_request_modifier(super::with_host_name(settings.url));
    }
    options.set_keep_alive(settings.config.keep_alive());
    options.set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT);
    options.set_connect_properties(ConnectProperties {
        max_packet_size: Some(MAX_BYTES as u32),
        receive_maximum: Some(MAX_IN_FLIGHT),
        ..ConnectProperties::new()
    });
    if let Some(user) = &settings.config.user {
        options.set_credentials(user, settings.credentials.password.as_ref().map_or("", |password| password.reveal()));
    }
    if let Some((topic, delivery)) = settings.will {
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
) -> Result<(), QueueFull> {
    let properties = PublishProperties { correlation_data: correlation.cloned(), ..PublishProperties::default() };
    let (qos, is_retained) = (qos(delivery), delivery.is_retained);
    let taken = client.try_publish_with_properties(topic, qos, is_retained, payload.clone(), properties);
    taken.map_err(|_| QueueFull)
}

fn qos(delivery: Delivery) -> QoS {
    if delivery.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

pub fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), QueueFull> {
    let filters = filters.iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| QueueFull)
}

/// `None` for unused events.
pub fn event(event: rumqttc::v5::Event) -> Option<Event> {
    use rumqttc::v5::Event::{Incoming, Outgoing as Sent};
    match event {
        Incoming(Packet::ConnAck(accepted)) => {
            let properties = accepted.properties.as_ref();
            let window = properties.and_then(|properties| properties.receive_max).unwrap_or(WINDOW).clamp(1, WINDOW);
            let most_bytes = properties.and_then(|properties| properties.max_packet_size).map(|bytes| bytes as usize);
            // A property that is absent is allowed (section 3.2.2.3).
            let allows = |value: Option<u8>| value != Some(0);
            let best = Delivery {
                is_acknowledged: allows(properties.and_then(|properties| properties.max_qos)),
                is_retained: allows(properties.and_then(|properties| properties.retain_available)),
            };
            let has_wildcards = allows(properties.and_then(|properties| properties.wildcard_subscription_available));
            let client_id = properties.and_then(|properties| properties.assigned_client_identifier.clone());
            Some(Event::Accepted(Accepted { window: window.into(), most_bytes, best, has_wildcards, client_id }))
        }
        Incoming(Packet::SubAck(answer)) => {
            let reason = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            let granted = |code: &SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => Ok(()),
                code => Err(with_reason(format!("{code:?}"), reason)),
            };
            Some(Event::Granted(answer.return_codes.iter().map(granted).collect()))
        }
        Incoming(Packet::PubAck(ack)) => {
            let is_fine = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
            let reason = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            let refusal = (!is_fine).then(|| with_reason(format!("{:?}", ack.reason), reason));
            Some(Event::Acknowledged { number: ack.pkid, refusal })
        }
        Incoming(Packet::Publish(publish)) => Some(message(publish).map_or(Event::OtherPacket, Event::Received)),
        Incoming(_) => Some(Event::OtherPacket),
        Sent(Outgoing::Publish(number)) => Some(Event::Sent(number)),
        Sent(Outgoing::Disconnect) => Some(Event::DisconnectSent),
        Sent(_) => None,
    }
}

/// A topic is UTF-8 (MQTT 5, section 3.3.2.1); a message with any other topic is ignored.
fn message(publish: Publish) -> Option<Message> {
    let topic = String::from_utf8(publish.topic.to_vec()).ok()?;
    let reply = publish.properties.and_then(|properties| {
        // One with wildcards is a protocol error (section 3.3.2.3.5): the answer goes to the usual topic.
        let topic = properties.response_topic.filter(|topic| !topic.is_empty() && !topic.contains(['+', '#', '\0']))?;
        Some(Reply { topic, correlation: properties.correlation_data })
    });
    Some(Message { topic, payload: publish.payload, is_retained: publish.retain, reply })
}

/// The server that a broker referred to when it closed the connection (section 4.13).
pub fn server_reference<'e>(events: impl IntoIterator<Item = &'e rumqttc::v5::Event>) -> Option<String> {
    events.into_iter().find_map(|event| match event {
        rumqttc::v5::Event::Incoming(Packet::Disconnect(disconnect)) => {
            disconnect.properties.as_ref()?.server_reference.clone()
        }
        _ => None,
    })
}

/// Why the connection ended. `new_server` is [`server_reference`], `limit` how long we waited.
pub fn failure(error: ConnectionError, new_server: Option<&str>, limit: Duration) -> Failure {
    match error {
        // A refusal in MQTT 3.1.1 is an incomplete packet in MQTT 5.
        ConnectionError::Timeout(_) => Failure::unavailable(format!(
            "no answer within {limit:?}; a broker that speaks MQTT 3.1.1 only may give none (mqtt.version)"
        )),
        ConnectionError::ConnectionRefused(code) => refusal(code),
        ConnectionError::NotConnAck(_) => Failure::refused("the server there is not an MQTT broker"),
        ConnectionError::MqttState(state) => of_state(state, new_server),
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
            Failure::unavailable("the broker is not ready")
        }
        Code::RetainNotSupported => Failure::disallowed("the broker keeps no retained messages"),
        Code::QoSNotSupported => Failure::disallowed("the broker takes QoS 0 only"),
        Code::UseAnotherServer | Code::ServerMoved => Failure::refused(moved(None)),
        // mosquitto does so too if it should assign a client id and does not.
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
        Code::ConnectionRateExceeded => Failure::unavailable("the broker has too many connections at the moment"),
        Code::PacketTooLarge => {
            Failure::refused("the broker does not take a CONNECT of this size: shorten mqtt.client_id or the password")
        }
        Code::BadAuthenticationMethod => Failure::refused(
            "the broker wants another way to log in than user and password; set up one of those for this board",
        ),
        other => Failure::refused(format!("the broker refuses: {other:?}")),
    }
}

fn of_state(error: StateError, new_server: Option<&str>) -> Failure {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let reason = with_reason(format!("{reason_code:?}"), reason_string.as_deref());
            of_disconnect(reason_code, &format!("the broker has closed the connection: {reason}"), new_server)
        }
        StateError::Deserialization(Error::Io(error)) => Failure::of_transport(&error),
        StateError::Deserialization(Error::PayloadSizeLimitExceeded { pkt_size, max }) => {
            Failure::refused(format!("the broker sent a packet of {pkt_size} bytes; {max} are allowed"))
        }
        // A PUBACK of mosquitto if `message_size_limit` is exceeded. Section 3.4.2.1 has no such code, and `rumqttc`
        // cannot read it.
        StateError::Deserialization(Error::InvalidConnectReturnCode(PACKET_TOO_LARGE)) => Failure::too_large(),
        StateError::Io(error) => Failure::of_transport(&error),
        StateError::AwaitPingResp => Failure::unavailable("the broker does not answer any more"),
        StateError::ConnectionAborted => Failure::closed(),
        other => {
            Failure::unavailable(format!("the server there sent no MQTT 5 ({other}): {}", failure::ANOTHER_PROTOCOL))
        }
    }
}

fn of_disconnect(code: DisconnectReasonCode, reason: &str, new_server: Option<&str>) -> Failure {
    use DisconnectReasonCode as Code;
    match code {
        Code::SessionTakenOver => Failure { kind: Kind::ClientIdConflict, reason: reason.into() },
        Code::ServerShuttingDown | Code::ServerBusy | Code::KeepAliveTimeout | Code::MaximumConnectTime => {
            Failure::unavailable("the broker has closed the connection")
        }
        Code::UseAnotherServer | Code::ServerMoved => Failure::refused(moved(new_server)),
        Code::PacketTooLarge => Failure::too_large(),
        Code::NotAuthorized
        | Code::TopicFilterInvalid
        | Code::TopicNameInvalid
        | Code::QuotaExceeded
        | Code::PayloadFormatInvalid
        | Code::RetainNotSupported
        | Code::QoSNotSupported
        | Code::WildcardSubscriptionsNotSupported => Failure::disallowed(reason),
        _ => Failure::refused(reason),
    }
}

fn moved(new_server: Option<&str>) -> String {
    match new_server {
        Some(server) => format!("the broker sends its clients to {}: set mqtt.url to that server", quoted(server)),
        None => "the broker sends its clients to another server and does not say to which: ask who runs it, and set \
                 mqtt.url to that server"
            .into(),
    }
}

fn with_reason(code: String, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{code}, {}", quoted(reason)),
        None => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_s_reason_codes_become_instructions() {
        let disconnect = |reason_code| StateError::ServerDisconnect { reason_code, reason_string: None };
        let failure = |error| failure(error, None, Duration::from_secs(5));
        let taken_over = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::SessionTakenOver)));
        assert_eq!(taken_over.kind, Kind::ClientIdConflict);
        let leaving = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::ServerShuttingDown)));
        assert_eq!(leaving.kind, Kind::Unavailable);
        let too_large = failure(ConnectionError::MqttState(disconnect(DisconnectReasonCode::PacketTooLarge)));
        assert_eq!(too_large.kind, Kind::TooLarge);
        let version = failure(ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion));
        assert!(version.kind == Kind::Refused && version.reason.contains("3.1.1"), "{version:?}");
    }

    #[test]
    fn a_reply_goes_to_a_valid_response_topic_and_an_invalid_topic_is_ignored() {
        let reply_to = |response: &str| {
            let properties = PublishProperties {
                response_topic: Some(response.into()),
                correlation_data: Some("7".into()),
                ..PublishProperties::default()
            };
            message(Publish::new("command", QoS::AtLeastOnce, "{}", Some(properties))).unwrap().reply
        };
        assert_eq!(reply_to("a/b"), Some(Reply { topic: "a/b".into(), correlation: Some("7".into()) }));
        for wrong in ["", "a/#", "+", "a\0b"] {
            assert_eq!(reply_to(wrong), None, "{wrong:?}");
        }
        let mut odd = Publish::new("command", QoS::AtLeastOnce, "{}", None);
        odd.topic = Bytes::from_static(b"\xff");
        assert_eq!(message(odd), None);
    }
}
