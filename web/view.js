/** The elements of the component, as markup and by name. */
import { icon } from './icons.js';
import { style } from './style.js';

const template = document.createElement('template');
template.innerHTML = `
  <div class="stage" part="stage">
    <canvas class="last" width="160" height="90" hidden></canvas>
    <div class="picture"><video playsinline disableremoteplayback></video></div>
    <div class="flash"></div>
    <div class="identity" role="status"></div>
    <div class="veil">
      <div>
        <div class="sign"></div>
        <div class="spinner"></div>
        <h2></h2>
        <p></p>
        <button class="action" type="button"></button>
      </div>
    </div>
    <div class="top">
      <div class="pill" part="pill">&nbsp;<span></span></div>
      <slot name="top"></slot>
    </div>
    <button class="action unmute" type="button" hidden>${icon('muted')}Turn on sound</button>
    <div class="bar" role="toolbar" aria-label="Camera controls" hidden>
      <button type="button" data-does="pause"></button>
      <div class="volume" hidden>
        <button type="button" data-does="mute"></button>
        <input type="range" min="0" max="1" step="0.05" aria-label="Volume">
      </div>
      <div class="gap"></div>
      <button type="button" data-does="snapshot" aria-label="Save a picture" title="Save a picture (s)">${icon('snapshot')}</button>
      <button type="button" data-does="statistics" aria-label="Statistics" title="Statistics (i)" aria-pressed="false">${icon('statistics')}</button>
      <button type="button" data-does="help" class="for-keys" aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)" aria-pressed="false">${icon('help')}</button>
      <button type="button" data-does="pip" aria-label="Picture in picture" title="Picture in picture (p)">${icon('pip')}</button>
      <button type="button" data-does="fullscreen"></button>
    </div>
    <section class="panel statistics" aria-label="Statistics" hidden>
      <header><h2>Statistics</h2><button type="button" data-does="statistics" aria-label="Close">${icon('close')}</button></header>
      <div class="latency"><b></b><small>from camera to display</small>
        <svg viewBox="0 0 60 20" preserveAspectRatio="none" aria-hidden="true"><polyline vector-effect="non-scaling-stroke"/></svg>
      </div>
      <dl></dl>
    </section>
    <section class="panel help" role="dialog" aria-label="Keyboard shortcuts" hidden>
      <header><h2>Keyboard</h2><button type="button" data-does="help" aria-label="Close">${icon('close')}</button></header>
      <dl>
        <dt>Pause, play</dt><dd><kbd>Space</kbd></dd>
        <dt>Full screen</dt><dd><kbd>F</kbd></dd>
        <dt>Picture in picture</dt><dd><kbd>P</kbd></dd>
        <dt>Save a picture</dt><dd><kbd>S</kbd></dd>
        <dt>Sound on, off</dt><dd><kbd>M</kbd></dd>
        <dt>Volume</dt><dd><kbd>↑</kbd> <kbd>↓</kbd></dd>
        <dt>Zoom in, out, reset</dt><dd><kbd>+</kbd> <kbd>−</kbd> <kbd>0</kbd></dd>
        <dt>Statistics</dt><dd><kbd>I</kbd></dd>
        <dt>This list</dt><dd><kbd>?</kbd></dd>
      </dl>
    </section>
    <div class="unseen" role="status"></div>
  </div>`;

/**
 * Fills a shadow root.
 * @param {ShadowRoot} root
 */
export function build(root) {
  root.adoptedStyleSheets = [style];
  root.append(template.content.cloneNode(true));
  const one = (selector) => root.querySelector(selector);
  return {
    stage: one('.stage'),
    picture: one('.picture'),
    /** @type {HTMLVideoElement} */
    video: one('video'),
    /** @type {HTMLCanvasElement} */
    last: one('.last'),
    flash: one('.flash'),
    identity: one('.identity'),
    veil: one('.veil'),
    pill: one('.pill'),
    unmute: one('.unmute'),
    bar: one('.bar'),
    volume: one('.volume'),
    /** @type {HTMLInputElement} */
    slider: one('.volume input'),
    statistics: one('.statistics'),
    help: one('.help'),
    announcement: one('.unseen'),
    /** The first control that does this. */
    control: (does) => one(`.bar [data-does=${does}]`),
  };
}
