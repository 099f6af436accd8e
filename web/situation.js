/**
 * Shows a situation to people: a word in the pill, and a text in place of the video.
 */
import { icon } from './icons.js';

/** @type {Record<import('./session.js').State, {tone: string, word: string, title: string, sign: string, action: string}>} */
const WORDS = {
  idle: { tone: 'quiet', word: 'Ready', title: 'Ready to play', sign: 'camera', action: 'Play' },
  connecting: { tone: 'busy', word: 'Connecting', title: 'Connecting to the camera', sign: '', action: '' },
  live: { tone: 'good', word: 'Live', title: '', sign: '', action: '' },
  waiting: { tone: 'busy', word: 'No picture', title: 'Waiting for the camera', sign: 'camera-off', action: '' },
  stalled: { tone: 'busy', word: 'No picture', title: 'The picture stopped', sign: 'camera-off', action: '' },
  offline: { tone: 'bad', word: 'Offline', title: 'The camera cannot be reached', sign: 'away', action: 'Try now' },
  refused: { tone: 'bad', word: 'Refused', title: 'The camera said no', sign: 'camera-off', action: 'Try now' },
  login: { tone: 'bad', word: 'Locked', title: 'This camera needs its secret', sign: 'key', action: 'Log in' },
  paused: { tone: 'quiet', word: 'Paused', title: 'Paused', sign: 'pause', action: 'Play' },
};

/**
 * Texts for some reasons that are better than those of the state, and what to do if the page knows that better than the
 * board. Situations with `stays` are not retried until a person asks for it.
 */
const REASONS = {
  'too-many-viewers': { word: 'Full', title: 'Too many are watching' },
  'unknown-camera': { word: 'No camera', title: 'There is no such camera' },
  dismissed: { word: 'Ended', title: 'An operator ended this' },
  'no-common-codec': {
    word: 'Not playable',
    title: 'This browser cannot play the camera',
    reason: withoutCodec(),
    stays: true,
  },
  'foreign-origin': { word: 'Not allowed', title: 'The camera does not know this page', stays: true },
  'unknown-host': { word: 'Not allowed', title: 'The camera does not know this address', stays: true },
  'no-websocket': { word: 'No signalling', title: 'WebSockets do not reach the camera' },
  private: { tone: 'quiet', word: 'Private', title: 'Privacy is on' },
  'not-authorised': { word: 'Not allowed', title: 'This user may not watch' },
};

/** Advice for a browser that cannot play H.264. */
function withoutCodec() {
  if (!navigator.userAgent.includes('Firefox/')) {
    return 'The camera sends H.264, which this browser lacks. Use another one, such as Chrome, Edge or Safari.';
  }
  return (
    'Firefox plays H.264 with its OpenH264 plugin, which it fetches about a minute after its first start: see ' +
    'about:addons, Plugins. Debian switches it off: set media.gmp-gmpopenh264.enabled to true in about:config. ' +
    'Or use another browser.'
  );
}

/** States without a connection, in which the video shows nothing. */
const BLANK = new Set(['idle', 'offline', 'refused', 'login', 'paused']);

/** Shows the situation in the pill and the veil of a view. */
export class SituationView {
  #view;
  #countdown = 0;

  /** @param {ReturnType<typeof import('./view.js').build>} view */
  constructor(view) {
    this.#view = view;
  }

  /** @param {import('./session.js').Situation} situation */
  show({ state, reason, code, retryAt }) {
    const words = { reason, ...WORDS[state], ...REASONS[code] };
    const { tone, word, title, sign, action } = words;
    const { pill, veil, stage, announcement } = this.#view;
    clearInterval(this.#countdown);
    pill.dataset.tone = tone;
    pill.firstChild.data = word;
    const isTrying = (state === 'offline' || state === 'refused') && retryAt === null && !words.stays;
    this.#beside(isTrying ? 'trying now' : '');
    // There is no countdown if the board's return will be detected.
    if (Number.isFinite(retryAt)) {
      const count = () => this.#beside(`retrying in ${Math.max(1, Math.ceil((retryAt - performance.now()) / 1000))} s`);
      this.#countdown = setInterval(count, 250);
      count();
    }
    veil.hidden = state === 'live';
    const blank = BLANK.has(state) || retryAt !== null;
    this.#keepTrace(state, blank);
    stage.dataset.state = state;
    stage.classList.toggle('stale', state !== 'live');
    // The video from before privacy was switched on is hidden too, until there is new video.
    if (code === 'private') stage.classList.add('private');
    else if (state === 'live') stage.classList.remove('private');
    stage.classList.toggle('blank', blank);
    veil.querySelector('.sign').innerHTML = sign ? icon(sign) : '';
    veil.querySelector('.sign').hidden = !sign;
    veil.querySelector('.spinner').hidden = Boolean(sign);
    veil.querySelector('h2').textContent = title;
    veil.querySelector('p').textContent = words.reason;
    veil.querySelector('.action').textContent = action;
    veil.querySelector('.action').hidden = !action;
    // Written only when it has changed, since a screen reader reads it out each time.
    const news = [title || word, words.reason].filter(Boolean).join('. ');
    if (announcement.textContent !== news) announcement.textContent = news;
  }

  /** While live, shows the delay beside the word: it states how live the video is. */
  showLatency(latencyMs) {
    this.#beside(latencyMs === null ? '' : `${Math.round(latencyMs)} ms`);
  }

  /** Keeps a small copy of the last picture, so that the player does not turn black when the connection ends. */
  #keepTrace(state, blank) {
    const { stage, video, last } = this.#view;
    if (blank && !stage.classList.contains('blank') && video.videoWidth > 0) {
      last.height = Math.round((last.width * video.videoHeight) / video.videoWidth);
      last.getContext('2d').drawImage(video, 0, 0, last.width, last.height);
      last.hidden = false;
    } else if (state === 'live') {
      last.hidden = true;
    }
  }

  #beside(text) {
    this.#view.pill.querySelector('span').textContent = text;
  }
}
