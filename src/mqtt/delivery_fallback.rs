//! Finds the delivery that a broker accepts: a last will that is retained and acknowledged, or less.
//!
//! A broker of MQTT 5 reports what it does not accept. One of MQTT 3.1.1 closes the connection without a reason (MQTT
//! 5, section 3.2.2.3, lists what it cannot report), and so does one that is shutting down. To distinguish the two,
//! the board requests less, and then once more everything.

use super::wire::{Delivery, Kind};

/// The deliveries to try, in this order.
const STEPS: [Delivery; 4] = [
    Delivery::BEST,
    Delivery { is_acknowledged: false, is_retained: true },
    Delivery { is_acknowledged: true, is_retained: false },
    Delivery { is_acknowledged: false, is_retained: false },
];

/// What is known about one broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryFallback {
    /// Nothing indicates that it refuses the best.
    #[default]
    Best,
    /// It hung up on all steps before this one.
    Trying(usize),
    /// It accepted this step; the best is tried once more, to check whether it hangs up again.
    Confirming(usize),
    /// It accepts this step and nothing better.
    Known(usize),
}

impl DeliveryFallback {
    /// The delivery that the next attempt asks for, and that an accepted connection publishes with.
    pub fn delivery(self) -> Delivery {
        match self {
            Self::Best | Self::Confirming(_) => STEPS[0],
            Self::Trying(step) | Self::Known(step) => STEPS[step],
        }
    }

    /// The broker accepted the attempt. Returns whether the terms are settled; if not, another attempt follows at once.
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

    /// The attempt failed before the broker accepted it. Returns whether the next one uses other terms.
    pub fn failed(&mut self, kind: Kind) -> bool {
        let before = *self;
        *self = match (kind, before) {
            (Kind::Closed | Kind::Disallowed, Self::Best) => Self::Trying(1),
            (Kind::Closed | Kind::Disallowed, Self::Trying(step)) if step + 1 < STEPS.len() => Self::Trying(step + 1),
            (Kind::Closed | Kind::Disallowed, Self::Confirming(step)) => Self::Known(step),
            (Kind::Closed | Kind::Disallowed, Self::Trying(_) | Self::Known(_)) => Self::Best,
            // When the broker is back it may be a different one, or configured differently.
            (Kind::Unavailable, _) => Self::Best,
            (Kind::Refused | Kind::TooLarge | Kind::Clock | Kind::ClientIdConflict, _) => before,
        };
        *self != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deliveries requested from a broker that hangs up on those that it does not accept, until the terms are
    /// settled.
    fn course(takes: impl Fn(Delivery) -> bool) -> (Vec<Delivery>, Delivery) {
        let (mut delivery_fallback, mut asked) = (DeliveryFallback::default(), Vec::new());
        for _ in 0..12 {
            asked.push(delivery_fallback.delivery());
            if !takes(delivery_fallback.delivery()) {
                delivery_fallback.failed(Kind::Closed);
            } else if delivery_fallback.accepted() {
                return (asked, delivery_fallback.delivery());
            }
        }
        (asked, delivery_fallback.delivery())
    }

    #[test]
    fn less_is_requested_until_a_broker_without_retained_messages_or_acknowledgements_accepts() {
        assert_eq!(course(|_| true), (vec![STEPS[0]], STEPS[0]));
        let without_retain = [STEPS[0], STEPS[1], STEPS[2], STEPS[0], STEPS[2]];
        assert_eq!(course(|asked| !asked.is_retained), (without_retain.to_vec(), STEPS[2]));
        let without_acknowledgement = [STEPS[0], STEPS[1], STEPS[0], STEPS[1]];
        assert_eq!(course(|asked| !asked.is_acknowledged), (without_acknowledgement.to_vec(), STEPS[1]));
        assert_eq!(course(|asked| asked == STEPS[3]).1, STEPS[3]);
    }

    #[test]
    fn after_a_hang_up_for_another_reason_the_best_is_requested_again() {
        let mut delivery_fallback = DeliveryFallback::default();
        delivery_fallback.failed(Kind::Closed);
        assert!(!delivery_fallback.accepted(), "one guess proves nothing");
        assert_eq!(delivery_fallback.delivery(), STEPS[0]);
        assert!(delivery_fallback.accepted());
        assert_eq!(delivery_fallback, DeliveryFallback::Best);
        let mut known = DeliveryFallback::Known(2);
        known.failed(Kind::Unavailable);
        assert_eq!(known, DeliveryFallback::Best, "it may be set up in another way when it is back");
    }
}
