/**
 * `<peercam-viewer>`: a live camera in a page. See docs/viewer.md for how another page uses it.
 */
import { Controls } from './controls.js';
import { Session } from './session.js';
import { SocketSignalling } from './signalling-socket.js';
import { SituationView } from './situation.js';
import { StatisticsPanel } from './statistics-panel.js';
import { build } from './view.js';

/** A page that is looked away from for a moment should not have to connect again; one that is left should cost nothing. */
const HIDDEN_MS = 30_000;
const HIDDEN_REASON = 'Nobody was looking, so the camera was let go.';
/** Whatever the board says: a mark over the picture is not there to stay. */
const MOST_IDENTIFYING_S = 600;

/**
 * @fires state  `detail` is the new {@link import('./session.js').Situation}.
 * @fires statistics  Once a second; `detail` is the new {@link import('./statistics.js').Statistics}.
 * @fires login  The viewer wants to log in. Without `preventDefault()` the board's login page is opened.
 */
export class PeercamViewer extends HTMLElement {
  static observedAttributes = ['src', 'camera', 'token', 'controls', 'muted'];

  /**
   * Opens signalling in another way than by a WebSocket, for pages that bring their own.
   * @type {((viewer: PeercamViewer) => import('./signalling-socket.js').Signalling) | null}
   */
  transport = null;
  /** For the next connection. `iceServers` in it are used in place of those that the board names. @type {RTCConfiguration} */
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
  /** The browser has forbidden sound before a click or key. */
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

  /** The address of the board's signalling; without the attribute, of the board that this module came from. */
  get src() {
    const given = this.getAttribute('src');
    const address = given === null ? new URL('api/signal', import.meta.url) : new URL(given, document.baseURI);
    address.protocol = address.protocol.replace('http', 'ws');
    return address.href;
  }
  set src(value) {
    this.setAttribute('src', value);
  }

  /** Which of the board's cameras; empty for its first. */
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

  /** The connection at hand, for measuring; `null` between connections. */
  get peerConnection() {
    return this.#session.peer?.connection ?? null;
  }

  /** The element that shows the picture, for reading frames, volume and the like. */
  get video() {
    return this.#view.video;
  }

  /** Whether watching is wanted, be there a picture at the moment or not. */
  get isPlaying() {
    return this.#wanted;
  }

  /** Starts watching, or tries again at once. */
  play() {
    this.#wanted = true;
    this.#session.start();
  }

  /** Stops watching; the board is told. */
  stop() {
    this.#wanted = false;
    this.#session.stop('');
  }

  /**
   * The picture at this moment, in the size in which it came.
   * @param {{type?: string, quality?: number}} [options]  As for `HTMLCanvasElement.toBlob`; PNG if not said.
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

  /** What the button over the missing picture does. */
  act() {
    if (this.state !== 'login') this.play();
    else if (this.dispatchEvent(new Event('login', { cancelable: true }))) location.assign(new URL('..', this.#http()));
  }

  /** Takes a key that was pressed elsewhere on the page, as if the component had the focus. */
  handleKey(event) {
    this.#controls.key(event);
  }

  connectedCallback() {
    // Focusable, so that its keys work after a click; a page may have said otherwise.
    if (!this.hasAttribute('tabindex')) this.tabIndex = 0;
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    document.addEventListener('visibilitychange', () => this.#visibilityChanged(), { signal });
    addEventListener('pagehide', () => this.#session.stop('the page was left'), { signal });
    // Only a page that comes back from the browser's back-forward cache: on the first load nothing was stopped.
    addEventListener('pageshow', ({ persisted }) => persisted && this.#wanted && this.play(), { signal });
    addEventListener('online', () => this.state === 'offline' && this.play(), { signal });
    if (this.hasAttribute('autoplay')) this.play();
    // A page that is opened in the background has nobody who looks, either.
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

  /** Somebody asks which camera is which: every page that shows this one says so. */
  #identify(seconds) {
    const { identity } = this.#view;
    clearTimeout(this.#identifying);
    identity.textContent = 'This camera is being identified';
    this.#identifying = setTimeout(() => (identity.textContent = ''), Math.min(seconds, MOST_IDENTIFYING_S) * 1000);
    this.dispatchEvent(new CustomEvent('identify', { detail: seconds }));
  }

  /** Plays with sound if the browser lets it without a click, else without and with an offer to turn it on. */
  async #playVideo() {
    const { video } = this.#view;
    try {
      await video.play();
    } catch (error) {
      // Any other error: a newer stream came, or the connection was given up, which the session tells.
      if (error.name !== 'NotAllowedError') return;
      video.muted = this.#soundBlocked = true;
      await video.play().catch(() => {});
    }
  }

  /** The window of picture in picture and the keys of a headset pause and play the bare video: what they mean is this. */
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
      // Picture in picture is seen while its page is not.
      if (document.hidden && !document.pictureInPictureElement) this.#session.stop(HIDDEN_REASON);
    }, HIDDEN_MS);
  }

  /** The board's HTTP address. */
  #http() {
    return this.src.replace(/^ws/, 'http');
  }

  /**
   * Why the board has refused its WebSocket, which no browser tells a page: a request of another kind is refused for
   * the same reason. `null` where it is not known: the board is away, or another transport has its own ways to be let in.
   */
  async #whyRefused() {
    if (this.transport) return null;
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const ask = (credentials) => fetch(this.#http(), { method: 'POST', headers, credentials }).catch(() => null);
    // An answer that is for just any page a browser shows only where no cookies went along.
    const answer = (await ask('include')) ?? (await ask('omit'));
    const refusal = await answer?.json().catch(() => null);
    return refusal?.code ? refusal : null;
  }
}

customElements.define('peercam-viewer', PeercamViewer);
