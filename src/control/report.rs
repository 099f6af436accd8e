//! After a restart: shows that the board can be reached with the configuration on trial, and tells the outcomes that
//! are owed since before.

use std::time::Instant;

use tokio::sync::watch;

use crate::command::Origin;
use crate::mqtt::{Broker, State};
use crate::tasks::Group;
use crate::upkeep::{Due, OnTrial, Upkeep};

/// Begins once the page is served; `broker` is there if one is configured.
pub fn report_back(upkeep: &Upkeep, broker: Option<Broker>, group: &Group) {
    let stop = group.clone();
    group.keep("outcomes after a restart", (upkeep.clone(), broker), move |(upkeep, broker)| {
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                () = stop.stopped() => {}
                () = report(upkeep, broker.as_ref()) => {}
            }
        })
    });
}

async fn report(upkeep: &Upkeep, broker: Option<&Broker>) {
    if let Some(trial) = upkeep.on_trial() {
        match reached(trial, broker).await {
            Ok(()) => upkeep.confirm_trial().await,
            Err(reason) => return upkeep.give_trial_up(reason).await,
        }
    }
    let mut dues = upkeep.dues();
    loop {
        let due = dues.borrow_and_update().clone();
        if !due.is_empty() {
            if let Some(broker) = broker.filter(|_| due.iter().any(through_broker)) {
                online(&mut broker.state()).await;
                due.iter().for_each(|due| tell(broker, due));
            }
            due.iter().for_each(log);
            upkeep.told(due).await;
        }
        if dues.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the board was reached on the trial's way in time, or why not.
async fn reached(trial: OnTrial, broker: Option<&Broker>) -> Result<(), String> {
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
    // Without its sender the connection is closing, and so are we.
    if state.wait_for(|state| *state == State::Online).await.is_err() {
        std::future::pending().await
    }
}

fn through_broker(due: &Due) -> bool {
    matches!(due.pending.origin, Origin::Broker | Origin::HomeAutomation)
}

/// Those who commanded locally have gone with their connection; they see what became of it.
fn tell(broker: &Broker, due: &Due) {
    if !through_broker(due) {
        return;
    }
    let texts = due.outcome.clone().texts(broker.limits().known_bytes());
    broker.answer(due.pending.reply.as_ref(), broker.topics().outcome(), texts);
}

fn log(due: &Due) {
    let Due { pending, outcome } = due;
    let (command, id) = (&pending.command, &pending.id);
    tracing::info!(command, id, status = ?outcome.status, reason = outcome.reason, "a command ended with the restart");
}
