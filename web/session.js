/**
 * Watches one camera for as long as somebody wants to: connects, detects when no video comes, and connects again.
 *
 * The rule behind it: video that stands still while everything reports "connected" is the worst failure of all. So only
 * frames count, and whatever prevents them is shown as a state with a reason.
 */
import { BoardClock } from './clock.js';
import { FrameWatch } from './frames.js';
import { JitterTarget } from './jitter-target.js';
import { LipSync } from './lip-sync.js';
import { Peer } from './peer.js';
import { StatisticsReader } from './statistics.js';

/**
 * @typedef {'idle' | 'connecting' | 'live' | 'waiting' | 'stalled' | 'offline' | 'refused' | 'login' | 'paused'} State
 *   idle: nothing requested yet; waiting: the board's camera gives no picture; stalled: connected, but no frames;
 *   offline: the board cannot be reached, retried at `retryAt`; refused: the board does not accept this viewer now,
 *   retried at `retryAt` unless that is `null`;
 *   login: the board requires its secret; paused: stopped by the viewer, or because the page is hidden.
 *
 * @typedef {{state: State, reason: string, code: string, retryAt: number | null}} Situation
 *   `reason` is a sentence for people, perhaps empty; `code` is the board's code for it, if it has one;
 *   `retryAt` is on the scale of `performance.now()`, and `Infinity` if the board's return will be detected.
 */

/** A new frame has to come within this time, or the video counts as stalled. */
const STALL_MS = 1500;
/** If the board does not answer either for this time, the path is broken: an ICE restart looks for a new one. */
const RESTART_MS = 2500;
/** After this time the whole connection is made again, unless the board reports that its camera is the cause. */
const RECONNECT_MS = 4000;
/** Limit for the board's answer, and then for the connection: longer than either takes on a slow mobile path. */
const STEP_MS = 4000;
/** Limit for an ICE restart; on a path that works it takes a few round trips. */
const RESTART_LIMIT_MS = 2500;
/** Pause between attempts to reach an absent board; random, so that many viewers do not return at the same moment. */
const RETRY_MS = [600, 1900];
/** Pause between attempts after a refusal: the board is there, and refuses until something else changes. */
const REFUSED_RETRY_MS = [4000, 6000];
/** How often the frames are checked: a stall is detected at most this much late. */
const WATCH_MS = 250;
/** How often the counters are read: often enough for people and the jitter buffer; getStats is not cheap. */
const STATISTICS_MS = 1000;
/** Video that has just started may freeze once more; that is no sign of a bad path. */
const SETTLED_MS = 3000;
/** Number of pings right after the data channel opens, so that one round trip is a quick one: 5 in half a second. */
const FIRST_PINGS = 5;
const FIRST_PING_MS = 100;
const PING_MS = 2000;

/** Refusals that end with a login. */
const LOGIN = new Set(['secret-needed', 'wrong-secret']);
/** Refusals that last until somebody changes something in the browser or at the board. */
const FINAL = new Set(['no-common-codec', 'foreign-origin', 'unknown-host']);

/** Errors that concern one message and do not affect the session. */
const HARMLESS = new Set(['bad-candidate', 'bad-message']);

export class Session extends EventTarget {
  /** @type {Situation} */
  situation = { state: 'idle', reason: '', code: '', retryAt: null };
  /** @type {Peer | null} */
  peer = null;
  /** @type {import('./statistics.js').Statistics | null} */
  statistics = null;

  #video;
  #options;
  #signalling = null;
  #frames;
  #clock = new BoardClock();
  #jitter = new JitterTarget();
  #lipSync = new LipSync();
  #reader = null;
  #timers = [];
  /** The next attempt, if it waits for something other than a time. */
  #pending = null;
  /** When the current step has to be done; `Infinity` if there is none. */
  #deadline = Infinity;
  /** When the current ICE restart started; `null` if there is none. */
  #restartedAt = null;
  #connectedAt = null;
  /** When the board reported that its camera gives pictures again. */
  #cameraBackAt = -Infinity;
  #liveSince = Infinity;
  #lastPong = -Infinity;
  /** As the board reports it; `live` until the first report. */
  #camera = { state: 'live', reason: '' };
  #viewers = null;

  /**
   * @param {HTMLVideoElement} video  Gets the stream.
   * @param {object} options
   * @param {() => import('./signalling-socket.js').Signalling} options.connect  Opens a new signalling connection.
   * @param {() => Promise<{code: string, reason: string} | null>} options.whyRefused  Called when signalling could not
   *   be opened; returns the board's reason if it has refused.
   * @param {() => RTCConfiguration} options.configuration
   */
  constructor(video, options) {
    super();
    this.#video = video;
    this.#options = options;
    this.#frames = new FrameWatch(video);
    this.#frames.onfirst = () => {
      this.#settled();
      this.#tell('live', '');
    };
  }

  /** Starts, or tries again at once. Fires `state`, `statistics`, `stream` and `identify`. */
  start() {
    this.#end('starting again');
    this.#tell('connecting', '');
    this.#connect();
  }

  /**
   * Stops watching and informs the board.
   * @param {string} reason  For the board's log and for the page.
   * @param {State} [state]
   */
  stop(reason, state = 'paused') {
    this.#end(reason || 'the viewer stopped');
    this.#tell(state, state === 'paused' ? reason : '');
  }

  #connect() {
    this.#clock = new BoardClock();
    this.#jitter = new JitterTarget();
    this.#lipSync = new LipSync();
    this.#camera = { state: 'live', reason: '' };
    this.#cameraBackAt = -Infinity;
    this.#viewers = null;
    this.#lastPong = -Infinity;
    this.#restartedAt = null;

    const signalling = (this.#signalling = this.#options.connect());
    signalling.onmessage = (message) => this.#receive(message);
    signalling.onclose = (end) => this.#signallingEnded(end);

    const peer = (this.peer = new Peer(signalling, this.#options.configuration()));
    peer.onstate = (state) => this.#connectionChanged(state);
    peer.oncontrolopen = () => this.#firstPings();
    peer.oncontrol = (message) => this.#hear(message);
    peer.onfailure = (error) => this.#retry('offline', `The connection could not be set up: ${error.message}`);
    peer.offer();

    this.#reader = new StatisticsReader(peer.connection);
    this.#frames.start(this.#clock);
    this.#deadline = performance.now() + STEP_MS;
    this.#every(WATCH_MS, () => this.#watch());
    this.#every(STATISTICS_MS, () => this.#count());
    const show = () => this.#show(peer);
    if (document.readyState === 'complete') show();
    else window.addEventListener('load', show, { once: true });
  }

  /**
   * Gives the stream to the video element, once the page is loaded or, if that is sooner, connected: until its first
   * frame a media element delays the load event (HTML, 4.8.11.5), and a camera that does not work has no frame to give.
   */
  #show(peer) {
    if (this.peer !== peer || this.#video.srcObject === peer.stream) return;
    this.#video.srcObject = peer.stream;
    this.dispatchEvent(new Event('stream'));
  }

  /** Frees everything of the current connection. */
  #end(reason) {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    this.#frames.stop();
    if (this.#signalling) {
      this.#signalling.onmessage = this.#signalling.onclose = () => {};
      this.#signalling.send({ type: 'bye', reason });
      this.#signalling.close();
    }
    this.peer?.close();
    this.#signalling = this.peer = this.#reader = this.#pending = null;
    this.#connectedAt = null;
    this.#deadline = Infinity;
  }

  /**
   * Ends the connection and makes another: after a while, or when `again` settles.
   * @param {{code?: string, again?: Promise<void>}} [how]
   */
  #retry(state, reason, { code = '', again } = {}) {
    this.#end(reason);
    const attempt = () => {
      // The state stays until the attempt has a result: a page that changes every second is hard to read.
      this.#tell(state, reason, { code });
      this.#connect();
    };
    if (again) {
      this.#pending = attempt;
      this.#tell(state, reason, { code, retryAt: Infinity });
      // Unless it was stopped or retried by hand meanwhile.
      again.then(() => this.#pending === attempt && attempt());
      return;
    }
    const [least, most] = state === 'refused' ? REFUSED_RETRY_MS : RETRY_MS;
    const wait = least + Math.random() * (most - least);
    this.#tell(state, reason, { code, retryAt: performance.now() + wait });
    this.#timers.push(setTimeout(attempt, wait));
  }

  // Messages from the board.

  #receive(message) {
    if (message.type === 'answer' || message.type === 'candidate') {
      const taken = this.peer.receive(message);
      if (message.type !== 'answer') return;
      if (this.#connectedAt === null) this.#deadline = performance.now() + STEP_MS;
      // A further answer may add sound, for which the page has a control.
      else taken.then(() => this.dispatchEvent(new Event('state')));
    } else if (message.type === 'ice-servers') {
      this.peer.useServers(message.servers);
    } else if (message.type === 'error') {
      this.#refused(message);
    } else if (message.type === 'bye') {
      this.#parted(message);
    }
  }

  /** The board ended the session. A viewer that an operator has dismissed does not come back by itself. */
  #parted({ code, reason }) {
    if (code === 'dismissed') {
      this.#end(code);
      this.#tell('paused', reason, { code });
    } else {
      this.#retry('offline', reason || 'The board ended the connection.');
    }
  }

  #refused({ code, reason }) {
    const restarting = this.#restartedAt !== null;
    if (HARMLESS.has(code) && this.peer.isAnswered && !restarting) {
      console.warn(`peercam: the board reports ${code}: ${reason}`);
    } else if (code === 'no-picture') {
      this.#retry('waiting', reason, { code });
    } else if (FINAL.has(code)) {
      this.#giveUp({ code, reason });
    } else if (restarting || code === 'internal') {
      this.#retry('offline', reason);
    } else {
      this.#retry('refused', reason, { code });
    }
  }

  async #signallingEnded({ opened, reason, again }) {
    // The socket shows that a board was restarted or has lost power seconds before ICE would give up, and
    // without signalling no new path can be found. The board itself keeps sending until the old connection is closed.
    const cause = reason || (opened ? 'The connection to the board was lost.' : 'The board does not answer.');
    this.#retry('offline', cause, { again });
    if (opened) return;
    const { state } = this.situation;
    const refusal = await this.#options.whyRefused();
    // Meanwhile it may have been stopped, or the next attempt may have succeeded.
    if (!refusal || this.situation.state !== state) return;
    if (LOGIN.has(refusal.code)) this.stop('', 'login');
    else if (FINAL.has(refusal.code)) this.#giveUp(refusal);
    else this.#retry('refused', refusal.reason, { code: refusal.code });
  }

  /** Stops without another attempt: its result would be the same until somebody changes something. */
  #giveUp({ code, reason }) {
    this.#end(code);
    this.#tell('refused', reason, { code });
  }

  #hear(message) {
    const now = performance.now();
    if (message.type === 'pong') {
      this.#lastPong = now;
      this.#clock.add(message, now);
    } else if (message.type === 'event' && message.event === 'camera') {
      this.#camera = { state: message.state, reason: message.reason ?? '' };
      if (message.state === 'live') this.#cameraBackAt = now;
      this.#watch();
    } else if (message.type === 'event' && message.event === 'sound') {
      this.#soundChanged(message.on);
    } else if (message.type === 'event' && message.event === 'viewers') {
      this.#viewers = message.viewers;
    } else if (message.type === 'event' && message.event === 'identify') {
      this.dispatchEvent(new CustomEvent('identify', { detail: message.seconds }));
    } else if (message.type === 'bye') {
      this.#parted(message);
    } else if (message.type === 'error') {
      console.warn(`peercam: the board did not understand: ${message.reason}`);
    }
  }

  /** If the board did not have sound when it answered, another offer is needed to get it. */
  #soundChanged(on) {
    const canAsk = this.#signalling?.isOpen && this.peer.isAnswered && this.#restartedAt === null;
    if (on && canAsk && !this.peer.hasAudio) this.peer.renegotiate();
  }

  // The connection and its frames.

  #connectionChanged(state) {
    if (state === 'connected') {
      this.#connectedAt = performance.now();
      this.#show(this.peer);
      this.#settled();
    } else if (state === 'failed') {
      this.#restart('The path to the board was lost.');
    } else if (state === 'closed') {
      this.#retry('offline', 'The board ended the connection.');
    }
    // `disconnected` often heals by itself, and the check of frames and answers decides more quickly.
  }

  #settled() {
    this.#deadline = Infinity;
    this.#restartedAt = null;
  }

  /** Decides on the state by the time of the last frame. */
  #watch() {
    const now = performance.now();
    if (now > this.#deadline) {
      this.#retry('offline', this.peer.isAnswered ? 'No connection came about.' : 'The board does not answer.');
      return;
    }
    // The connection's state need not change when a new path is found, but frames arrive.
    if (this.#restartedAt !== null && this.#frames.lastFrame > this.#restartedAt) this.#settled();
    if (this.#connectedAt === null || this.#restartedAt !== null) return;
    const without = now - Math.max(this.#frames.lastFrame, this.#connectedAt, this.#cameraBackAt);
    const cameraIsAway = this.#camera.state !== 'live';
    const boardIsSilent = now - this.#lastPong > RESTART_MS;
    if (without < STALL_MS) {
      if (now - this.#frames.lastFrame < STALL_MS) this.#tell('live', '');
      else if (cameraIsAway) this.#tellOfCamera();
      return;
    }
    // Pings at once, so that the answer has arrived when the decision is due.
    if (this.situation.state === 'live') this.#ping();
    // If the camera is away, the board gets longer to answer: a small one may be slow while it starts a camera.
    if (cameraIsAway && now - this.#lastPong < RECONNECT_MS) this.#tellOfCamera();
    else if (without > RECONNECT_MS) this.#retry('stalled', 'Connected, but no picture came.');
    else if (without > RESTART_MS && boardIsSilent) this.#restart('The path to the board was lost.');
    else this.#tell('stalled', 'Connected, but no picture comes.');
  }

  #tellOfCamera() {
    const { state, reason } = this.#camera;
    if (state === 'private') {
      this.#tell('waiting', 'It shows nothing until somebody switches privacy off.', { code: 'private' });
      return;
    }
    this.#tell('waiting', reason || (state === 'starting' ? 'The camera is starting.' : 'The camera gives no picture.'));
  }

  /** Looks for a new path for the same connection, which keeps decoder and stream; this needs signalling. */
  #restart(reason) {
    if (this.#restartedAt !== null || !this.#signalling?.isOpen) {
      this.#retry('offline', reason);
      return;
    }
    this.#restartedAt = performance.now();
    this.#deadline = this.#restartedAt + RESTART_LIMIT_MS;
    this.#tell('connecting', reason);
    this.peer.offer();
  }

  // The data channel's clock, and statistics.

  #firstPings() {
    let left = FIRST_PINGS - 1;
    const burst = this.#every(FIRST_PING_MS, () => {
      this.#ping();
      if (--left > 0) return;
      clearInterval(burst);
      this.#every(PING_MS, () => this.#ping());
    });
    this.#ping();
  }

  #ping() {
    this.peer?.control({ type: 'ping', sent: performance.now() });
  }

  async #count() {
    const peer = this.peer;
    const { figures, since } = await this.#reader.read();
    // The connection may have ended while the browser was counting.
    if (peer !== this.peer) return;
    this.#frames.decoded(figures.framesDecoded);
    // A standstill is counted as a freeze when it ends. A long one was caused by the camera or a broken path, and no
    // jitter buffer would have helped.
    const freezes = figures.at - this.#liveSince > SETTLED_MS ? since.freezes : 0;
    const audio = this.#jitter.update({ ...since, freezes }, figures.at);
    const video = Math.max(audio, this.#lipSync.update(this.#video.muted ? null : since.soundHeldMs));
    peer.setJitterBufferTargets({ video, audio });
    this.statistics = {
      ...figures,
      rttMs: figures.rttMs ?? this.#clock.roundTripMs,
      jitterBufferTargetMs: video,
      latencyMs: this.#frames.latencyMs,
      latencyGap: this.#frames.latencyGap,
      viewers: this.#viewers,
    };
    this.dispatchEvent(new Event('statistics'));
  }

  #every(milliseconds, task) {
    const timer = setInterval(task, milliseconds);
    this.#timers.push(timer);
    return timer;
  }

  #tell(state, reason, { code = '', retryAt = null } = {}) {
    const before = this.situation;
    if (before.state === state && before.reason === reason && before.retryAt === retryAt) return;
    if (before.state !== state) this.#liveSince = state === 'live' ? performance.now() : Infinity;
    this.situation = { state, reason, code, retryAt };
    this.dispatchEvent(new Event('state'));
  }
}
