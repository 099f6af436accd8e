//! MQTT 3.1.1, for brokers without MQTT 5: no response topics, no reasons, no limits said beforehand.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, LastWill, MqttOptions, Outgoing, Packet, QoS, StateError,
    SubscribeFilter, SubscribeReasonCode,
};

use super::failure;
use super::{Accepted, Delivery, Dial, Event, Failure, Message, NotTaken, OFFLINE, SLOTS, WINDOW};
use crate::mqtt::MOST_BYTES;

pub fn options(dial: &Dial<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(dial.client_id, super::host(dial), dial.url.port());
    options.set_transport(super::transport(dial));
    if dial.address.is_some() {
        options.set_request_modifier(super::named(dial.url));
    }
    options.set_keep_alive(dial.config.keep_alive());
    options.set_inflight(SLOTS);
    options.set_max_packet_size(MOST_BYTES, MOST_BYTES);
    if let Some(user) = &dial.config.user {
        options.set_credentials(user, dial.credentials.password.as_ref().map_or("", |password| password.reveal()));
    }
    if let Some((topic, delivery)) = dial.will {
        options.set_last_will(LastWill::new(topic, OFFLINE, qos(delivery), delivery.is_retained));
    }
    options
}

pub fn publish(client: &AsyncClient, topic: &str, payload: &Bytes, delivery: Delivery) -> Result<(), NotTaken> {
    client.try_publish(topic, qos(delivery), delivery.is_retained, payload.to_vec()).map_err(|_| NotTaken)
}

fn qos(delivery: Delivery) -> QoS {
    if delivery.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

pub fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), NotTaken> {
    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| NotTaken)
}

/// `None` for what concerns nobody.
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
        Incoming(Packet::Publish(publish)) => Some(Event::Came(Message {
            topic: publish.topic,
            payload: publish.payload,
            is_retained: publish.retain,
            reply: None,
        })),
        Incoming(_) => Some(Event::Alive),
        Sent(Outgoing::Publish(number)) => Some(Event::Sent(number)),
        Sent(Outgoing::Disconnect) => Some(Event::Ended),
        Sent(_) => None,
    }
}

/// Why the connection ended. `has_own_id` says whether we came with a client id, `limit` how long we waited.
pub fn failure(error: ConnectionError, has_own_id: bool, limit: Duration) -> Failure {
    match error {
        ConnectionError::NetworkTimeout => Failure::away(format!("no answer within {limit:?}")),
        ConnectionError::FlushTimeout => Failure::away("the broker takes nothing any more"),
        ConnectionError::ConnectionRefused(code) => refusal(code, has_own_id),
        ConnectionError::NotConnAck(_) => Failure::refused("what answers there is no broker"),
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
            // Mosquitto says the same where the keep-alive is above its `max_keepalive`.
            Failure::refused(format!("{}; or a lower mqtt.keep_alive", failure::BAD_CLIENT_ID))
        }
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => Failure::away("the broker is not ready"),
    }
}

fn of_state(error: StateError) -> Failure {
    match error {
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(bytes)) => {
            Failure::refused(format!("the broker sent a packet of {bytes} bytes; {MOST_BYTES} are allowed"))
        }
        StateError::Deserialization(rumqttc::Error::Io(error)) | StateError::Io(error) => Failure::of_transport(&error),
        StateError::AwaitPingResp => Failure::away("the broker does not answer any more"),
        StateError::ConnectionAborted => Failure::closed(),
        other => {
            Failure::away(format!("what answers there sent no MQTT 3.1.1 ({other}): {}", failure::ANOTHER_PROTOCOL))
        }
    }
}
