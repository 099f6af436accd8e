/** The controls of the viewer: buttons and keys, and the fading of the buttons while nobody needs them. */
import { icon } from './icons.js';
import { Zoom } from './zoom.js';

/** Time before the controls fade: long enough to reach a button after the pointer has stopped. */
const FADE_MS = 3000;
const VOLUME_STEP = 0.1;
const ZOOM_STEP = 1.25;

/** States in which nothing happens until a person acts. */
const AT_REST = new Set(['idle', 'paused', 'login']);

const KEYS = {
  ' ': 'pause',
  f: 'fullscreen',
  p: 'pip',
  s: 'snapshot',
  m: 'mute',
  i: 'statistics',
  '?': 'help',
  '+': 'zoomIn',
  '=': 'zoomIn',
  '-': 'zoomOut',
  0: 'zoomReset',
  ArrowUp: 'louder',
  ArrowDown: 'softer',
  Escape: 'dismiss',
};

export class Controls {
  #viewer;
  #view;
  #zoom;
  #fading = 0;

  /**
   * @param {import('./peercam-viewer.js').PeercamViewer} viewer
   * @param {ReturnType<typeof import('./view.js').build>} view
   */
  constructor(viewer, view) {
    this.#viewer = viewer;
    this.#view = view;
    this.#zoom = new Zoom(view.picture, view.video);
    const { stage, video, slider } = view;
    stage.addEventListener('click', (event) => this.#clicked(event));
    view.picture.addEventListener('dblclick', () => (this.#zoom.scale > 1 ? this.#zoom.reset() : this.#fullscreen()));
    slider.addEventListener('input', () => this.#setVolume(Number(slider.value)));
    viewer.addEventListener('keydown', (event) => this.key(event));
    video.addEventListener('volumechange', () => this.showVolume());
    viewer.addEventListener('fullscreenchange', () => this.#showFullscreen());
    for (const sign of ['pointermove', 'pointerdown', 'focusin']) viewer.addEventListener(sign, () => this.wake());
    viewer.addEventListener('pointerleave', () => this.#fadeIn(FADE_MS / 3));
    view.control('pip').hidden = !document.pictureInPictureEnabled;
    view.control('fullscreen').hidden = !document.fullscreenEnabled && !video.webkitEnterFullscreen;
    this.showVolume();
    this.#showFullscreen();
  }

  /** Shows the controls, and lets them fade again. */
  wake() {
    this.#view.stage.classList.remove('quiet');
    this.#fadeIn(FADE_MS);
  }

  /** Adapts the controls to a situation, and shows them. */
  showSituation({ state }) {
    const resting = AT_REST.has(state);
    label(this.#view.control('pause'), resting ? 'play' : 'pause', resting ? 'Play' : 'Pause', 'Space');
    // The last picture can be saved as long as its connection exists.
    const picture = ['live', 'waiting', 'stalled'].includes(state) && this.#view.video.videoWidth > 0;
    this.#view.control('snapshot').disabled = !picture;
    this.wake();
  }

  showVolume() {
    const { video, slider } = this.#view;
    const silent = video.muted || video.volume === 0;
    label(this.#view.control('mute'), silent ? 'muted' : 'sound', silent ? 'Sound on' : 'Sound off', 'm');
    slider.value = video.muted ? 0 : video.volume;
  }

  /** Handles a key, unless it is meant for a field or is part of a browser shortcut. */
  key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0];
    const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const isField = target instanceof Element && target.matches('input, select, textarea, [contenteditable]');
    const pressesButton = event.key === ' ' && target instanceof Element && target.matches('button, a, summary');
    if (!action || isField || pressesButton) return;
    event.preventDefault();
    this.wake();
    this.#do(action);
  }

  #clicked(event) {
    const button = event.target.closest('button');
    if (button?.dataset.does) this.#do(button.dataset.does);
    else if (button === this.#view.unmute) this.#do('mute');
    else if (button) this.#viewer.act();
  }

  #do(action) {
    const { video } = this.#view;
    const actions = {
      pause: () => (AT_REST.has(this.#viewer.state) ? this.#viewer.play() : this.#viewer.stop()),
      mute: () => this.#setVolume(video.muted || video.volume === 0 ? video.volume || 1 : 0),
      louder: () => this.#setVolume((video.muted ? 0 : video.volume) + VOLUME_STEP),
      softer: () => this.#setVolume((video.muted ? 0 : video.volume) - VOLUME_STEP),
      snapshot: () => this.#download(),
      statistics: () => this.#toggle('statistics'),
      help: () => this.#toggle('help'),
      pip: () => this.#pictureInPicture(),
      fullscreen: () => this.#fullscreen(),
      zoomIn: () => this.#zoom.by(ZOOM_STEP),
      zoomOut: () => this.#zoom.by(1 / ZOOM_STEP),
      zoomReset: () => this.#zoom.reset(),
      dismiss: () => ['help', 'statistics'].forEach((name) => this.#view[name].hidden || this.#toggle(name)),
    };
    actions[action]();
  }

  /** Silence is set by the muted flag and not by a volume of 0, so that the previous volume is kept. */
  #setVolume(volume) {
    const { video } = this.#view;
    video.muted = volume < 0.01;
    if (!video.muted) video.volume = Math.min(1, volume);
  }

  #toggle(name) {
    const panel = this.#view[name];
    panel.hidden = !panel.hidden;
    this.#view.control(name).setAttribute('aria-pressed', String(!panel.hidden));
  }

  async #download() {
    const { flash } = this.#view;
    const blob = await this.#viewer.snapshot().catch(() => null);
    if (!blob) return;
    const link = document.createElement('a');
    const time = new Date().toISOString().replace(/[:.]/g, '-').slice(0, 19);
    link.download = `${this.#viewer.camera || 'camera'}-${time}.png`;
    link.href = URL.createObjectURL(blob);
    link.click();
    // The download reads the address after this task; a minute is more than enough.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    flash.classList.remove('on');
    // Reading a size makes the browser apply the removal of the class, so that the animation runs again.
    void flash.offsetWidth;
    flash.classList.add('on');
  }

  #pictureInPicture() {
    const { video } = this.#view;
    const done = document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture?.();
    // Refused without video or a user's gesture: there is nothing to report.
    done?.catch(() => {});
  }

  #fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (document.fullscreenEnabled) this.#viewer.requestFullscreen().catch(() => {});
    // An iPhone shows only the bare video in full screen.
    else this.#view.video.webkitEnterFullscreen?.();
  }

  #showFullscreen() {
    const full = document.fullscreenElement === this.#viewer;
    label(this.#view.control('fullscreen'), full ? 'window' : 'fullscreen', full ? 'Leave full screen' : 'Full screen', 'f');
  }

  #fadeIn(milliseconds) {
    clearTimeout(this.#fading);
    this.#fading = setTimeout(() => {
      const inUse = this.#viewer.shadowRoot.querySelector('.bar :focus-visible, .bar :hover');
      if (this.#viewer.state === 'live' && !inUse) this.#view.stage.classList.add('quiet');
    }, milliseconds);
  }
}

function label(button, sign, name, key) {
  button.innerHTML = icon(sign);
  button.ariaLabel = name;
  button.title = `${name} (${key})`;
}
