/** The statistics overlay: the delay in large type and as a curve of the last minute, everything else as a list. */

const HISTORY = 60;
/** The curve's scale reaches at least this far, so that a jitter of 2 ms does not look like a storm. */
const LEAST_SCALE_MS = 100;

/** The rows of the list, in this order. A row with empty text is left out. */
const ROWS = [
  ['Picture', ({ width, height, fps }) => (width ? `${width} × ${height}, ${whole(fps, 'fps')}` : '')],
  ['Codec', ({ codec, audioCodec }) => [codec, audioCodec].filter(Boolean).join(', ')],
  ['Bitrate', ({ kbps }) => whole(kbps, 'kbit/s')],
  ['Round trip', ({ rttMs }) => (rttMs === null ? '' : `${rttMs.toFixed(rttMs < 10 ? 1 : 0)} ms`)],
  ['Loss', ({ lossPercent }) => (lossPercent === null ? '' : `${lossPercent.toFixed(1)} %`)],
  ['Jitter buffer', ({ jitterBufferMs, jitterBufferTargetMs }) =>
    whole(jitterBufferMs, 'ms') + (jitterBufferTargetMs ? ` (asked for ${jitterBufferTargetMs})` : '')],
  ['Dropped', ({ framesDropped, framesDecoded }) => `${framesDropped} of ${framesDropped + framesDecoded}`],
  ['Freezes', ({ freezeCount, totalFreezesDuration }) =>
    freezeCount ? `${freezeCount} (${totalFreezesDuration.toFixed(1)} s)` : 'none'],
  ['Path', ({ path }) => path ?? ''],
  ['Watching', ({ viewers }) => (viewers === null ? '' : String(viewers))],
];

export class StatisticsPanel {
  #panel;
  #list;
  #line;
  #delay;
  #history = [];

  /** @param {HTMLElement} panel */
  constructor(panel) {
    this.#panel = panel;
    this.#list = panel.querySelector('dl');
    this.#line = panel.querySelector('polyline');
    this.#delay = panel.querySelector('b');
    for (const [name] of ROWS) {
      const [term, value] = [document.createElement('dt'), document.createElement('dd')];
      term.textContent = name;
      this.#list.append(term, value);
    }
  }

  /** @param {import('./statistics.js').Statistics} statistics  One reading per second. */
  show(statistics) {
    const { latencyMs, latencyGap } = statistics;
    this.#history.push(latencyMs);
    if (this.#history.length > HISTORY) this.#history.shift();
    if (this.#panel.hidden) return;
    this.#delay.classList.toggle('gap', latencyMs === null && latencyGap !== '');
    this.#delay.textContent = latencyMs === null ? latencyGap || '– ms' : `${Math.round(latencyMs)} ms`;
    this.#draw();
    ROWS.forEach(([, text], row) => {
      const [term, value] = [this.#list.children[2 * row], this.#list.children[2 * row + 1]];
      value.textContent = text(statistics);
      term.hidden = value.hidden = value.textContent === '';
    });
  }

  #draw() {
    const known = this.#history.filter((age) => age !== null);
    const scale = Math.max(LEAST_SCALE_MS, ...known);
    const points = this.#history
      .map((age, second) => (age === null ? '' : `${second + HISTORY - this.#history.length},${20 - (age / scale) * 19}`))
      .filter(Boolean);
    this.#line.setAttribute('points', points.join(' '));
  }
}

function whole(value, unit) {
  return value === null ? '' : `${Math.round(value)} ${unit}`;
}
