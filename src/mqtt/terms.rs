//! How a broker has to be asked so that it takes us: with a last will that is retained and acknowledged, or with less.
//!
//! A broker of MQTT 5 says what it does not take. One of MQTT 3.1.1 closes the connection without a word (section
//! 3.2.2.3 of MQTT 5 has what it cannot say), and so does one that is about to end. Which it is shows by asking for
//! less, and then once more for all.

use super::wire::{Delivery, Kind};

/// What is asked for, in this order.
const STEPS: [Delivery; 4] = [
    Delivery::BEST,
    Delivery { is_acknowledged: false, is_retained: true },
    Delivery { is_acknowledged: true, is_retained: false },
    Delivery { is_acknowledged: false, is_retained: false },
];

/// What is known of one broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Terms {
    /// Nothing speaks against the best.
    #[default]
    Best,
    /// It hung up on all steps before this one.
    Trying(usize),
    /// It took this step; whether it hangs up on the best has to be seen once more.
    Confirming(usize),
    /// It takes this step and nothing better.
    Known(usize),
}

impl Terms {
    /// What the next attempt asks for, and what an accepted one may publish with.
    pub fn delivery(self) -> Delivery {
        match self {
            Self::Best | Self::Confirming(_) => STEPS[0],
            Self::Trying(step) | Self::Known(step) => STEPS[step],
        }
    }

    /// The broker took the attempt. Whether that is all that had to be known; else there is to be another at once.
    pub fn accepted(&mut self) -> bool {
        match *self {
            Self::Trying(step) => {
                *self = Self::Confirming(step);
                return false;
            }
            // It hung up for another reason.
            Self::Confirming(_) => *self = Self::Best,
            Self::Best | Self::Known(_) => {}
        }
        true
    }

    /// The attempt failed before the broker took it. Whether the next one is another.
    pub fn failed(&mut self, kind: Kind) -> bool {
        let before = *self;
        *self = match (kind, before) {
            (Kind::Closed | Kind::Objected, Self::Best) => Self::Trying(1),
            (Kind::Closed | Kind::Objected, Self::Trying(step)) if step + 1 < STEPS.len() => Self::Trying(step + 1),
            (Kind::Closed | Kind::Objected, Self::Confirming(step)) => Self::Known(step),
            (Kind::Closed | Kind::Objected, Self::Trying(_) | Self::Known(_)) => Self::Best,
            // When it is back it may be another one, or set up in another way.
            (Kind::Away, _) => Self::Best,
            (Kind::Refused | Kind::TooLarge | Kind::Clock | Kind::Rival, _) => before,
        };
        *self != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliveries asked for of a broker that hangs up on those that it does not take, until it is settled.
    fn course(takes: impl Fn(Delivery) -> bool) -> (Vec<Delivery>, Delivery) {
        let (mut terms, mut asked) = (Terms::default(), Vec::new());
        for _ in 0..12 {
            asked.push(terms.delivery());
            if !takes(terms.delivery()) {
                terms.failed(Kind::Closed);
            } else if terms.accepted() {
                return (asked, terms.delivery());
            }
        }
        (asked, terms.delivery())
    }

    #[test]
    fn a_broker_without_retained_messages_or_acknowledgements_is_asked_for_less_until_it_takes_it() {
        assert_eq!(course(|_| true), (vec![STEPS[0]], STEPS[0]));
        let without_retain = [STEPS[0], STEPS[1], STEPS[2], STEPS[0], STEPS[2]];
        assert_eq!(course(|asked| !asked.is_retained), (without_retain.to_vec(), STEPS[2]));
        let without_acknowledgement = [STEPS[0], STEPS[1], STEPS[0], STEPS[1]];
        assert_eq!(course(|asked| !asked.is_acknowledged), (without_acknowledgement.to_vec(), STEPS[1]));
        assert_eq!(course(|asked| asked == STEPS[3]).1, STEPS[3]);
    }

    #[test]
    fn a_broker_that_hung_up_for_another_reason_is_asked_for_the_best_again() {
        let mut terms = Terms::default();
        terms.failed(Kind::Closed);
        assert!(!terms.accepted(), "one guess proves nothing");
        assert_eq!(terms.delivery(), STEPS[0]);
        assert!(terms.accepted());
        assert_eq!(terms, Terms::Best);
        let mut known = Terms::Known(2);
        known.failed(Kind::Away);
        assert_eq!(known, Terms::Best, "it may be set up in another way when it is back");
    }
}
