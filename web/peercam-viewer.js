/**
 * `<peercam-viewer>`: the element that shows a live camera in a page. See docs/viewer.md for its use in other pages.
 */
import { Controls } from './controls.js';
import { Session } from './session.js';
import { SocketSignalling } from './signalling-socket.js';
import { SituationView } from './situation.js';
import { StatisticsPanel } from './statistics-panel.js';
import { build } from './view.js';

/** A page hidden only briefly should not have to connect again; one that is left hidden should cost nothing. */
const HIDDEN_MS = 30_000;
const HIDDEN_REASON = 'Nobody was looking, so the camera was let go.';
/** Limit for the board's value: the mark over the video must not stay forever. */
const MOST_IDENTIFYING_S = 600;

/**
 * @fires state  `detail` is the new {@link import('./session.js').Situation}.
 * @fires statistics  Once a second; `detail` is the new {@link import('./statistics.js').Statistics}.
 * @fires login  A person wants to log in. Without `preventDefault()` the board's login page is opened.
 */
export class PeercamViewer extends HTMLElement {
  static observedAttributes = ['src', 'camera', 'token', 'controls', 'muted'];

  /**
   * Opens another kind of signalling than a WebSocket, for pages that bring their own.
   * @type {((viewer: PeercamViewer) => import('./signalling-socket.js').Signalling) | null}
   */
  transport = null;
  /** For the next connection. Its `iceServers` replace those that the board names. @type {RTCConfiguration} */
  configuration = {};

  #view = build(this.attachShadow({ mode: 'open' }));
  #internals = this.attachInternals();
  #situation = new SituationView(this.#view);
  #panel = new StatisticsPanel(this.#view.statistics);
  #controls = new Controls(this, this.#view);
  #session;
  #wanted = false;
  #hiding = 0;
  #identifying = 0;
  #listening = null;
  /** Whether the browser has forbidden sound before a click or key. */
  #soundBlocked = false;

  constructor() {
    super();
    this.#session = new Session(this.#view.video, {
      connect: () => this.transport?.(this) ?? new SocketSignalling(this.src, { camera: this.camera, token: this.token }),
      whyRefused: () => this.#whyRefused(),
      configuration: () => this.configuration,
    });
    this.#session.addEventListener('state', () => this.#situationChanged());
    this.#session.addEventListener('statistics', () => this.#counted());
    this.#session.addEventListener('stream', () => this.#playVideo());
    this.#session.addEventListener('identify', ({ detail }) => this.#identify(detail));
    this.#followVideo();
    this.#internals.role = 'group';
    this.#internals.ariaLabel = 'Camera';
    this.#situation.show(this.#session.situation);
    this.#controls.showSituation(this.#session.situation);
  }

  /** The board's signalling address; without the attribute, that of the board that served this module. */
  get src() {
    const given = this.getAttribute('src');
    const address = given === null ? new URL('api/signal', import.meta.url) : new URL(given, document.baseURI);
    address.protocol = address.protocol.replace('http', 'ws');
    return address.href;
  }
  set src(value) {
    this.setAttribute('src', value);
  }

  /** The name of one of the board's cameras; empty for the first. */
  get camera() {
    return this.getAttribute('camera') ?? '';
  }
  set camera(value) {
    this.setAttribute('camera', value);
  }

  get token() {
    return this.getAttribute('token');
  }
  set token(value) {
    if (value === null) this.removeAttribute('token');
    else this.setAttribute('token', value);
  }

  /** @returns {import('./session.js').State} */
  get state() {
    return this.#session.situation.state;
  }

  /** The state with its reason. */
  get situation() {
    return this.#session.situation;
  }

  /** The latest figures; `null` before the first. */
  get statistics() {
    return this.#session.statistics;
  }

  /** The current connection, for measurements; `null` between connections. */
  get peerConnection() {
    return this.#session.peer?.connection ?? null;
  }

  /** The video element, for access to frames, volume and so on. */
  get video() {
    return this.#view.video;
  }

  /** Whether the viewer is to play, whether or not there is video at the moment. */
  get isPlaying() {
    return this.#wanted;
  }

  /** Starts watching, or tries again at once. */
  play() {
    this.#wanted = true;
    this.#session.start();
  }

  /** Stops watching and informs the board. */
  stop() {
    this.#wanted = false;
    this.#session.stop('');
  }

  /**
   * The current picture, in its original size.
   * @param {{type?: string, quality?: number}} [options]  As for `HTMLCanvasElement.toBlob`; default PNG.
   * @returns {Promise<Blob>}
   * @throws {Error}  There is no picture.
   */
  async snapshot({ type = 'image/png', quality } = {}) {
    const { video } = this;
    if (!video.videoWidth) throw new Error('there is no picture yet');
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext('2d').drawImage(video, 0, 0);
    return canvas.convertToBlob({ type, quality });
  }

  /** The action of the button that is shown while there is no video. */
  act() {
    if (this.state !== 'login') this.play();
    else if (this.dispatchEvent(new Event('login', { cancelable: true }))) location.assign(new URL('..', this.#http()));
  }

  /** Handles a key pressed elsewhere on the page, as if the component had the focus. */
  handleKey(event) {
    this.#controls.key(event);
  }

  connectedCallback() {
    // Focusable, so that its keys work after a click; a page may have set a tabindex of its own.
    if (!this.hasAttribute('tabindex')) this.tabIndex = 0;
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    document.addEventListener('visibilitychange', () => this.#visibilityChanged(), { signal });
    addEventListener('pagehide', () => this.#session.stop('the page was left'), { signal });
    // Only for a page restored from the browser's back-forward cache: on the first load nothing was stopped.
    addEventListener('pageshow', ({ persisted }) => persisted && this.#wanted && this.play(), { signal });
    addEventListener('online', () => this.state === 'offline' && this.play(), { signal });
    if (this.hasAttribute('autoplay')) this.play();
    // A page opened in the background is hidden, too.
    this.#visibilityChanged();
  }

  disconnectedCallback() {
    this.#listening.abort();
    clearTimeout(this.#hiding);
    this.#wanted = false;
    this.#session.stop('the page was left', 'idle');
  }

  attributeChangedCallback(name, before, now) {
    if (name === 'controls') this.#view.bar.hidden = now === null;
    else if (name === 'muted') this.video.muted = now !== null;
    else if (before !== now && this.#wanted) this.play();
  }

  #situationChanged() {
    const { situation } = this.#session;
    if (situation.code === 'dismissed') this.#wanted = false;
    this.#situation.show(situation);
    this.#controls.showSituation(situation);
    if (situation.state === 'live') this.#view.volume.hidden = !this.#session.peer.hasAudio;
    this.#offerSound();
    this.dispatchEvent(new CustomEvent('state', { detail: situation }));
  }

  #counted() {
    const { statistics } = this.#session;
    this.#panel.show(statistics);
    if (this.state === 'live') this.#situation.showLatency(statistics.latencyMs);
    this.dispatchEvent(new CustomEvent('statistics', { detail: statistics }));
  }

  /** An operator wants to know which camera this is: every page that shows it displays a mark. */
  #identify(seconds) {
    const { identity } = this.#view;
    clearTimeout(this.#identifying);
    identity.textContent = 'This camera is being identified';
    this.#identifying = setTimeout(() => (identity.textContent = ''), Math.min(seconds, MOST_IDENTIFYING_S) * 1000);
    this.dispatchEvent(new CustomEvent('identify', { detail: seconds }));
  }

  /** Plays with sound if the browser allows that without a click, else muted and with a button to turn sound on. */
  async #playVideo() {
    const { video } = this.#view;
    try {
      await video.play();
    } catch (error) {
      // Any other error: there is a newer stream, or the connection has ended, which the session reports.
      if (error.name !== 'NotAllowedError') return;
      video.muted = this.#soundBlocked = true;
      await video.play().catch(() => {});
    }
  }

  /** Picture in picture and headset keys pause and play the bare video: this applies it to the whole viewer. */
  #followVideo() {
    const { video } = this.#view;
    video.addEventListener('pause', () => {
      const byPerson = !document.hidden || document.pictureInPictureElement === video;
      if (this.state === 'live' && !video.ended && byPerson) this.stop();
    });
    video.addEventListener('leavepictureinpicture', () => this.#visibilityChanged());
    video.addEventListener('volumechange', () => this.#offerSound());
    video.addEventListener('play', () => this.state === 'paused' && !this.#wanted && this.play());
  }

  #offerSound() {
    const { video, volume, unmute } = this.#view;
    if (!video.muted) this.#soundBlocked = false;
    unmute.hidden = !this.#soundBlocked || volume.hidden || this.state !== 'live';
  }

  #visibilityChanged() {
    clearTimeout(this.#hiding);
    if (!this.#wanted) return;
    if (!document.hidden) {
      if (['paused', 'login', 'offline'].includes(this.state)) this.play();
      return;
    }
    this.#hiding = setTimeout(() => {
      // Picture in picture is visible while its page is hidden.
      if (document.hidden && !document.pictureInPictureElement) this.#session.stop(HIDDEN_REASON);
    }, HIDDEN_MS);
  }

  /** The board's HTTP address. */
  #http() {
    return this.src.replace(/^ws/, 'http');
  }

  /**
   * Finds out why the board has refused its WebSocket, which no browser reports to a page: a request of another kind is
   * refused for the same reason. `null` if that is not known: the board is away, or another transport handles access
   * itself.
   */
  async #whyRefused() {
    if (this.transport) return null;
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const ask = (credentials) => fetch(this.#http(), { method: 'POST', headers, credentials }).catch(() => null);
    // If an answer is allowed for any page, the browser shows it only if the request had no cookies.
    const answer = (await ask('include')) ?? (await ask('omit'));
    const refusal = await answer?.json().catch(() => null);
    return refusal?.code ? refusal : null;
  }
}

customElements.define('peercam-viewer', PeercamViewer);
