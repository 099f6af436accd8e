//! Management: executes commands from all transports, and reports their outcomes.

mod dispatcher;
mod effects;
mod led;
mod mqtt_commands;
mod ptz;
mod recent;
mod report;

use std::sync::Arc;

use crate::announce::Announcements;
use crate::command::{CommandQueue, Requests};
use crate::status::Monitor;
use crate::tasks::Group;
use dispatcher::Dispatcher;
use effects::Effects;
use recent::RecentCommands;

pub use effects::{Examination, SetLogLevel, Tools, microphone_privacy};
pub use report::report_owed_outcomes;

/// Executes the `requests` that are submitted to `queue`, until `group` stops.
pub fn execute_commands(
    monitor: Monitor,
    announcements: Announcements,
    (queue, requests): (CommandQueue, Requests),
    tools: Tools,
    group: &Group,
) {
    let recent = RecentCommands::after_restart(tools.state.clone());
    if let Some(broker) = &monitor.parts().broker {
        mqtt_commands::serve(broker.clone(), queue, group);
    }
    let effects = Arc::new(Effects::new(monitor, announcements, tools, group));
    effects.report_losses();
    let dispatcher = Dispatcher::new(move |request| effects.clone().execute(request), recent);
    let stop = group.clone();
    group.keep("commands", (dispatcher, requests), move |(dispatcher, requests)| {
        let stop = stop.clone();
        Box::pin(async move { dispatcher.run(requests, &stop).await })
    });
}
