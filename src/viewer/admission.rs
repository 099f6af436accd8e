//! Decides which call is replaced when all places are taken. Only calls that are not connected yet are replaced;
//! watching viewers keep their place.

use std::time::Duration;

use crate::signalling::Transport;

/// A call younger than this keeps its place; most calls connect in a tenth of this time. Without this limit, calls that
/// arrive together would push each other out and none would connect.
const MIN_AGE: Duration = Duration::from_secs(2);

/// An occupied place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OccupiedPlace {
    /// The signalling transport of its viewer.
    pub transport: Transport,
    /// Age of the call while it is not connected; `None` once the viewer is watching.
    pub connecting_for: Option<Duration>,
}

/// The place that a new call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is a free place.
    Free,
    /// The place of the call at this index, which is replaced.
    Of(usize),
    /// No place.
    None,
}

/// Finds a place for a call that arrives by `transport`, when `most` places exist.
///
/// Each transport is entitled to a third of the places that watching viewers do not hold: one that holds more loses one
/// at once to one that holds fewer. Otherwise the oldest call is replaced, once it is older than `MIN_AGE`; calls of
/// the same transport are replaced first.
pub fn place(most: usize, occupied: &[OccupiedPlace], transport: Transport) -> Place {
    if occupied.len() < most {
        return Place::Free;
    }
    let connecting_for =
        || occupied.iter().enumerate().filter_map(|(at, one)| Some((at, one.transport, one.connecting_for?)));
    let held = |by: Transport| connecting_for().filter(|(_, transport, _)| *transport == by).count();
    let oldest =
        |by: Transport| connecting_for().filter(|(_, transport, _)| *transport == by).max_by_key(|(_, _, age)| *age);
    let share = (connecting_for().count() / Transport::ALL.len()).max(1);
    let largest = Transport::ALL.into_iter().max_by_key(|transport| held(*transport)).unwrap_or(transport);
    if held(largest) > share && held(largest) > held(transport) {
        return oldest(largest).map_or(Place::None, |(at, _, _)| Place::Of(at));
    }
    let one = oldest(transport).or_else(|| connecting_for().max_by_key(|(_, _, age)| *age));
    one.filter(|(_, _, age)| *age >= MIN_AGE).map_or(Place::None, |(at, _, _)| Place::Of(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(number: usize) -> Vec<OccupiedPlace> {
        vec![OccupiedPlace { transport: Transport::WebSocket, connecting_for: None }; number]
    }

    /// Unfinished calls of these ages in milliseconds.
    fn calls(transport: Transport, ages: &[u64]) -> Vec<OccupiedPlace> {
        ages.iter().map(|age| OccupiedPlace { transport, connecting_for: Some(Duration::from_millis(*age)) }).collect()
    }

    #[test]
    fn watching_viewers_keep_their_places() {
        assert_eq!(place(4, &watching(3), Transport::Mqtt), Place::Free);
        assert_eq!(place(4, &watching(4), Transport::WebSocket), Place::None);
    }

    #[test]
    fn a_flood_of_calls_by_one_transport_gives_way_to_the_others_at_once() {
        let flood = calls(Transport::Mqtt, &[30, 20, 40, 10]);
        for transport in [Transport::WebSocket, Transport::Whep] {
            assert_eq!(place(4, &flood, transport), Place::Of(2));
            assert_eq!(place(5, &[watching(1), flood.clone()].concat(), transport), Place::Of(3));
        }
        let shared = [flood, calls(Transport::WebSocket, &[10])].concat();
        assert_eq!(place(5, &shared, Transport::Mqtt), Place::None, "the flood does not take the other way's place");
        assert_eq!(place(5, &shared, Transport::Whep), Place::Of(2));
    }

    #[test]
    fn the_oldest_call_of_the_same_transport_gives_way_after_its_minimum_age() {
        let young = calls(Transport::WebSocket, &[1900, 100]);
        assert_eq!(place(2, &young, Transport::WebSocket), Place::None);
        let old = calls(Transport::WebSocket, &[2000, 2500, 100]);
        assert_eq!(place(3, &old, Transport::WebSocket), Place::Of(1));
    }

    #[test]
    fn a_new_call_keeps_the_last_place() {
        for (age, expected) in [(100, Place::None), (2000, Place::Of(3))] {
            let occupied = [watching(3), calls(Transport::Whep, &[age])].concat();
            assert_eq!(place(4, &occupied, Transport::Mqtt), expected);
            assert_eq!(place(4, &occupied, Transport::Whep), expected);
        }
    }
}
