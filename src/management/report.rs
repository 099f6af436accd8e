//! After a restart: confirms that the board can be reached with the configuration on trial, and reports owed outcomes.

use std::time::Instant;

use tokio::sync::watch;

use crate::command::Origin;
use crate::mqtt::{Broker, State};
use crate::state::{ActiveTrial, OwedOutcome, SavedState};
use crate::tasks::Group;

/// Call it once the page is served; `broker` is set if one is configured.
pub fn report_owed_outcomes(state: &SavedState, broker: Option<Broker>, group: &Group) {
    let stop = group.clone();
    group.keep("outcomes after a restart", (state.clone(), broker), move |(state, broker)| {
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                () = stop.stopped() => {}
                () = report(state, broker.as_ref()) => {}
            }
        })
    });
}

async fn report(state: &SavedState, broker: Option<&Broker>) {
    if let Some(trial) = state.active_trial() {
        match reached(trial, broker).await {
            Ok(()) => state.confirm_trial().await,
            Err(reason) => return state.abort_trial(reason).await,
        }
    }
    let mut owed_outcomes = state.owed_outcomes();
    loop {
        let owed = owed_outcomes.borrow_and_update().clone();
        if !owed.is_empty() {
            if let Some(broker) = broker.filter(|_| owed.iter().any(is_sent_by_broker)) {
                online(&mut broker.state()).await;
                owed.iter().for_each(|owed| send(broker, owed));
            }
            owed.iter().for_each(log);
            state.remove_reported(owed).await;
        }
        if owed_outcomes.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the board was reached in time on the transport of the trial, or why not.
async fn reached(trial: ActiveTrial, broker: Option<&Broker>) -> Result<(), String> {
    if !trial.needs_broker() {
        return Ok(());
    }
    let Some(broker) = broker else { return Err("it has no broker".into()) };
    let mut state = broker.state();
    let left = trial.deadline.saturating_duration_since(Instant::now());
    let in_time = tokio::time::timeout(left, online(&mut state)).await.is_ok();
    if in_time {
        return Ok(());
    }
    Err(match &*state.borrow() {
        State::Offline { reason } => format!("the board did not come back to the broker in time: {reason}"),
        State::Connecting | State::Online => "the board did not come back to the broker in time".into(),
    })
}

async fn online(state: &mut watch::Receiver<State>) {
    // Its sender is dropped when the connection closes, and then the service closes too.
    if state.wait_for(|state| *state == State::Online).await.is_err() {
        std::future::pending().await
    }
}

fn is_sent_by_broker(owed: &OwedOutcome) -> bool {
    matches!(owed.pending.origin, Origin::Broker | Origin::HomeAutomation)
}

/// Local senders lost their connection in the restart; they see the result themselves.
fn send(broker: &Broker, owed: &OwedOutcome) {
    if !is_sent_by_broker(owed) {
        return;
    }
    let texts = owed.outcome.clone().texts(broker.limits().known_bytes());
    broker.answer(owed.pending.reply.as_ref(), broker.topics().outcome(), texts);
}

fn log(owed: &OwedOutcome) {
    let OwedOutcome { pending, outcome } = owed;
    let (command, id) = (&pending.command, &pending.id);
    tracing::info!(command, id, status = ?outcome.status, reason = outcome.reason, "a command ended with the restart");
}
