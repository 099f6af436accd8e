//! Measures gaps in the video of the board's page, and whether the peer connection is still the same.

use anyhow::Result;
use serde::Deserialize;

use crate::browser::Browser;
use crate::page::Page;

/// Remembers the connection, and records when frames are presented from now on.
const WATCH: &str = "
    window.remembered = viewer.peerConnection;
    window.presented = [performance.now()];
    const look = () => {
        window.presented.push(performance.now());
        viewer.video.requestVideoFrameCallback(look);
    };
    viewer.video.requestVideoFrameCallback(look);
";

/// All gaps since the last call, and whether the connection is the same and live.
const JUDGE: &str = "
    const times = window.presented.splice(0);
    const [now, last] = [performance.now(), times.at(-1)];
    window.presented.push(last);
    const gaps = times.slice(1).map((time, at) => [performance.timeOrigin + times[at], time - times[at]]);
    return {
        gaps: [...gaps, [performance.timeOrigin + last, now - last]],
        is_same: window.remembered === viewer.peerConnection,
        is_live: viewer.state === 'live',
    };
";

/// Measurements since the last call.
#[derive(Debug, Deserialize)]
pub struct Judged {
    /// From each frame to the next, the last one to now: when it began (milliseconds since 1970), and milliseconds.
    pub gaps: Vec<(f64, f64)>,
    /// Whether the peer connection is the one of [`watch`].
    pub is_same: bool,
    /// Whether the page shows a live picture.
    pub is_live: bool,
}

impl Judged {
    /// The longest time without a frame, in milliseconds.
    pub fn longest(&self) -> f64 {
        self.gaps.iter().map(|(_, gap)| *gap).fold(0.0, f64::max)
    }

    /// How many frames were presented.
    pub fn frames(&self) -> usize {
        self.gaps.len() - 1
    }
}

/// Opens the page at `url`, waits for the picture and watches it.
pub async fn watch(browser: &Browser, url: &str) -> Result<()> {
    Page::watch(browser, url).await?;
    watch_on(browser).await
}

/// Watches the page that is open.
pub async fn watch_on(browser: &Browser) -> Result<()> {
    Page::of(browser).ask(WATCH).await
}

/// Measurements since the last call, or since [`watch`].
pub async fn judge(browser: &Browser) -> Result<Judged> {
    Page::of(browser).ask(JUDGE).await
}

/// The median and the 95th percentile.
pub fn median_and_95th(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[(values.len() * 95).div_ceil(100) - 1])
}
