//! MQTT 3.1.1, for brokers without MQTT 5: no response topics, no reasons, no limits reported in advance.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, LastWill, MqttOptions, Outgoing, Packet, QoS, StateError,
    SubscribeFilter, SubscribeReasonCode,
};

use super::failure;
use super::{Accepted, ConnectOptions, Delivery, Event, Failure, MAX_IN_FLIGHT, Message, OFFLINE, QueueFull, WINDOW};
use crate::mqtt::MAX_BYTES;

pub fn options(settings: &ConnectOptions<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(settings.client_id, super::host(settings), settings.url.port());
    options.set_transport(super::transport(settings));
    if settings.address.is_some() {
        options.set_request_modifier(super::with_host_name(settings.url));
    }
    options.set_keep_alive(settings.config.keep_alive());
    options.set_inflight(MAX_IN_FLIGHT);
    options.set_max_packet_size(MAX_BYTES, MAX_BYTES);
    if let Some(user) = &settings.config.user {
        options.set_credentials(user, settings.credentials.password.as_ref().map_or("", |password| password.reveal()));
    }
    if let Some((topic, delivery)) = settings.will {
        options.set_last_will(LastWill::new(topic, OFFLINE, qos(delivery), delivery.is_retained));
    }
    options
}

pub fn publish(client: &AsyncClient, topic: &str, payload: &Bytes, delivery: Delivery) -> Result<(), QueueFull> {
    client.try_publish(topic, qos(delivery), delivery.is_retained, payload.to_vec()).map_err(|_| QueueFull)
}

fn qos(delivery: Delivery) -> QoS {
    if delivery.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

pub fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), QueueFull> {
    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| QueueFull)
}

/// `None` for unused events.
pub fn event(event: rumqttc::Event) -> Option<Event> {
    use rumqttc::Event::{Incoming, Outgoing as Sent};
    match event {
        Incoming(Packet::ConnAck(_)) => Some(Event::Accepted(Accepted {
            window: WINDOW.into(),
            most_bytes: None,
            best: Delivery::BEST,
            has_wildcards: true,
            client_id: None,
        })),
        Incoming(Packet::SubAck(answer)) => {
            let granted = |code: &SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => Ok(()),
                SubscribeReasonCode::Failure => Err("0x80".to_owned()),
            };
            Some(Event::Granted(answer.return_codes.iter().map(granted).collect()))
        }
        Incoming(Packet::PubAck(ack)) => Some(Event::Acknowledged { number: ack.pkid, refusal: None }),
        Incoming(Packet::Publish(publish)) => Some(Event::Received(Message {
            topic: publish.topic,
            payload: publish.payload,
            is_retained: publish.retain,
            reply: None,
        })),
        Incoming(_) => Some(Event::OtherPacket),
        Sent(Outgoing::Publish(number)) => Some(Event::Sent(number)),
        Sent(Outgoing::Disconnect) => Some(Event::DisconnectSent),
        Sent(_) => None,
    }
}

/// Why the connection ended. `has_own_id` is whether we sent a client id, `limit` how long we waited.
pub fn failure(error: ConnectionError, has_own_id: bool, limit: Duration) -> Failure {
    match error {
        ConnectionError::NetworkTimeout => Failure::unavailable(format!("no answer within {limit:?}")),
        ConnectionError::FlushTimeout => Failure::unavailable("the broker accepts no more data"),
        ConnectionError::ConnectionRefused(code) => refusal(code, has_own_id),
        ConnectionError::NotConnAck(_) => Failure::refused("the server there is not an MQTT broker"),
        ConnectionError::MqttState(state) => of_state(state),
        other => Failure::of_transport(&other),
    }
}

fn refusal(code: ConnectReturnCode, has_own_id: bool) -> Failure {
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            Failure::refused(failure::BAD_PASSWORD)
        }
        ConnectReturnCode::RefusedProtocolVersion => Failure::refused("the broker does not speak MQTT 3.1.1"),
        ConnectReturnCode::BadClientId if !has_own_id => Failure::refused(
            "the broker gives no client ids: set mqtt.client_id to at most 23 letters and digits, or to what the \
             broker expects; or a lower mqtt.keep_alive",
        ),
        ConnectReturnCode::BadClientId => {
            // Mosquitto reports the same if the keep-alive is above its `max_keepalive`.
            Failure::refused(format!("{}; or a lower mqtt.keep_alive", failure::BAD_CLIENT_ID))
        }
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => {
            Failure::unavailable("the broker is not ready")
        }
    }
}

fn of_state(error: StateError) -> Failure {
    match error {
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(bytes)) => {
            Failure::refused(format!("the broker sent a packet of {bytes} bytes; {MAX_BYTES} are allowed"))
        }
        StateError::Deserialization(rumqttc::Error::Io(error)) | StateError::Io(error) => Failure::of_transport(&error),
        StateError::AwaitPingResp => Failure::unavailable("the broker does not answer any more"),
        StateError::ConnectionAborted => Failure::closed(),
        other => Failure::unavailable(format!(
            "the server there sent no MQTT 3.1.1 ({other}): {}",
            failure::ANOTHER_PROTOCOL
        )),
    }
}
