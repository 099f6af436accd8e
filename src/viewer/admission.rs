//! Who gets a place where all are taken: calls that are not connected yet give way, people who watch never do.

use std::time::Duration;

use crate::signalling::Way;

/// Within this time a call is left to finish, as most do in a tenth of it: else calls that come together would push
/// each other out, and none of them would ever watch.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// A place that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How who has it reached us.
    pub way: Way,
    /// How long the call lasts, while it is not connected; `None` for who watches.
    pub unfinished: Option<Duration>,
}

/// Where a call that comes can have its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One is free.
    Free,
    /// That of the call at this index, which gives way.
    Of(usize),
    /// Nowhere.
    None,
}

/// Where a call by `way` can have its place, of `most` that there are.
///
/// Each way has a third of the places that nobody watches from: a way that holds more gives one to a way that holds
/// fewer, at once. Otherwise the oldest call gives way, once it had its time, and one of the same way before others.
pub fn place(most: usize, taken: &[Taken], way: Way) -> Place {
    if taken.len() < most {
        return Place::Free;
    }
    let unfinished = || taken.iter().enumerate().filter_map(|(at, one)| Some((at, one.way, one.unfinished?)));
    let held = |by: Way| unfinished().filter(|(_, way, _)| *way == by).count();
    let oldest = |by: Way| unfinished().filter(|(_, way, _)| *way == by).max_by_key(|(_, _, age)| *age);
    let share = (unfinished().count() / Way::ALL.len()).max(1);
    let greediest = Way::ALL.into_iter().max_by_key(|way| held(*way)).unwrap_or(way);
    if held(greediest) > share && held(greediest) > held(way) {
        return oldest(greediest).map_or(Place::None, |(at, _, _)| Place::Of(at));
    }
    let one = oldest(way).or_else(|| unfinished().max_by_key(|(_, _, age)| *age));
    one.filter(|(_, _, age)| *age >= LEFT_ALONE).map_or(Place::None, |(at, _, _)| Place::Of(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(number: usize) -> Vec<Taken> {
        vec![Taken { way: Way::WebSocket, unfinished: None }; number]
    }

    /// Unfinished calls of these ages in milliseconds.
    fn calls(way: Way, ages: &[u64]) -> Vec<Taken> {
        ages.iter().map(|age| Taken { way, unfinished: Some(Duration::from_millis(*age)) }).collect()
    }

    #[test]
    fn people_who_watch_keep_their_places() {
        assert_eq!(place(4, &watching(3), Way::Mqtt), Place::Free);
        assert_eq!(place(4, &watching(4), Way::WebSocket), Place::None);
    }

    #[test]
    fn a_flood_of_calls_by_one_way_makes_room_for_those_of_the_others_at_once() {
        let flood = calls(Way::Mqtt, &[30, 20, 40, 10]);
        for way in [Way::WebSocket, Way::Whep] {
            assert_eq!(place(4, &flood, way), Place::Of(2));
            assert_eq!(place(5, &[watching(1), flood.clone()].concat(), way), Place::Of(3));
        }
        let shared = [flood, calls(Way::WebSocket, &[10])].concat();
        assert_eq!(place(5, &shared, Way::Mqtt), Place::None, "the flood does not take the other way's place");
        assert_eq!(place(5, &shared, Way::Whep), Place::Of(2));
    }

    #[test]
    fn of_calls_by_the_same_way_the_oldest_gives_way_once_it_had_its_time() {
        let young = calls(Way::WebSocket, &[1900, 100]);
        assert_eq!(place(2, &young, Way::WebSocket), Place::None);
        let old = calls(Way::WebSocket, &[2000, 2500, 100]);
        assert_eq!(place(3, &old, Way::WebSocket), Place::Of(1));
    }

    #[test]
    fn the_last_place_is_not_taken_from_a_call_that_has_just_come() {
        for (age, expected) in [(100, Place::None), (2000, Place::Of(3))] {
            let taken = [watching(3), calls(Way::Whep, &[age])].concat();
            assert_eq!(place(4, &taken, Way::Mqtt), expected);
            assert_eq!(place(4, &taken, Way::Whep), expected);
        }
    }
}
