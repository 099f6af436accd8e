/**
 * Watches the frames that a video element really shows: when the last one was shown, and how old each was then.
 */
import { MARKS } from './peer.js';

/** The reported latency is the median over this time: steady enough to read, quick enough to follow a change. */
const LATENCY_WINDOW_MS = 1000;
/** No path and no buffer holds a frame for longer. */
const LONGEST_MS = 60_000;
const HAS_CALLBACK = 'requestVideoFrameCallback' in HTMLVideoElement.prototype;

export class FrameWatch {
  /** `performance.now()` of the last new frame; `-Infinity` before the first. */
  lastFrame = -Infinity;
  /** Called once per connection, with its first frame. */
  onfirst = () => {};
  #video;
  #clock = null;
  #ages = [];
  #callback = 0;
  #decoded = 0;
  #lacksTimestamp = false;

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
  }

  /**
   * Resets everything and starts to watch a new connection.
   * @param {import('./clock.js').BoardClock} clock
   */
  start(clock) {
    this.stop();
    this.#clock = clock;
    this.lastFrame = -Infinity;
    this.#decoded = 0;
    this.#ages = [];
    this.#next();
  }

  stop() {
    if (this.#callback) this.#video.cancelVideoFrameCallback(this.#callback);
    this.#callback = 0;
    this.#clock = null;
  }

  /** Takes the decoder's frame count, the only source without frame callbacks or while the video is not on screen. */
  decoded(frames) {
    const more = frames > this.#decoded;
    this.#decoded = frames;
    // The first frame is reported by its callback, which is exact, if the browser has callbacks.
    if (this.#clock && more && (this.lastFrame > 0 || !HAS_CALLBACK || document.hidden)) this.#seen(performance.now());
  }

  /** Median time from capture to display of the last second's frames in ms; `null` if it is not known. */
  get latencyMs() {
    const now = performance.now();
    const ages = this.#ages.filter(({ at }) => now - at <= LATENCY_WINDOW_MS).map(({ age }) => age);
    if (ages.length === 0) return null;
    return ages.sort((a, b) => a - b)[ages.length >> 1];
  }

  /** Why `latencyMs` stays `null`; empty if it is only not known yet. */
  get latencyGap() {
    return HAS_CALLBACK && !this.#lacksTimestamp ? '' : 'not available in this browser';
  }

  #next() {
    if (!HAS_CALLBACK) return;
    this.#callback = this.#video.requestVideoFrameCallback((now, frame) => {
      this.#seen(now);
      this.#measure(now, frame);
      this.#next();
    });
  }

  #seen(now) {
    const first = this.lastFrame === -Infinity;
    this.lastFrame = now;
    if (!first) return;
    performance.mark(MARKS.firstFrame);
    this.onfirst();
  }

  #measure(now, { rtpTimestamp, expectedDisplayTime }) {
    this.#lacksTimestamp = rtpTimestamp === undefined;
    if (this.#lacksTimestamp) return;
    const captured = this.#clock.capturedAt(rtpTimestamp);
    if (captured === null) return;
    const age = (expectedDisplayTime ?? now) - captured;
    // Outside this range the board's answers do not match these timestamps: no value is better than a wrong one.
    if (age < -this.#clock.roundTripMs || age > LONGEST_MS) return;
    this.#ages.push({ at: now, age });
    while (now - this.#ages[0].at > LATENCY_WINDOW_MS) this.#ages.shift();
  }
}
