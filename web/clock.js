/**
 * Estimates the board's clock on this page, and from it the true age of a frame.
 *
 * The page asks for the board's time over the data channel; the answer with the shortest round trip is the most
 * accurate (as in NTP, RFC 5905 section 10). Each answer also has the RTP timestamp of the video at that moment, with
 * which the capture time of a frame follows from its RTP timestamp.
 */

/**
 * How long an answer is used. Quartz clocks drift apart by up to about 50 ppm, 1.5 ms in 30 s, which is less than the
 * gain from finding a quicker round trip among so many answers.
 */
const WINDOW_MS = 30_000;

/** Ticks of a video RTP timestamp per millisecond (RFC 6184, section 8.1: 90 kHz). */
const TICKS_PER_MS = 90;

export class BoardClock {
  #samples = [];

  /**
   * Adds an answer of the board.
   * @param {{sent: number, board: number, rtp?: number}} pong  `sent` is the page's `performance.now()` of the request,
   *   `board` the board's clock in ms, `rtp` the video's RTP timestamp at that time.
   * @param {number} received  `performance.now()` when the answer arrived.
   */
  add({ sent, board, rtp }, received) {
    const roundTrip = received - sent;
    if (!Number.isFinite(board) || !(roundTrip >= 0)) return;
    this.#samples = this.#samples.filter((sample) => received - sample.received < WINDOW_MS);
    this.#samples.push({ received, roundTrip, board, rtp, page: (sent + received) / 2 });
  }

  /** The most accurate answer; `null` if there is none. */
  get #best() {
    return this.#samples.reduce((best, sample) => (best && best.roundTrip <= sample.roundTrip ? best : sample), null);
  }

  /** The shortest recent round trip in ms; half of it bounds the error of all results here. `null`: no answer yet. */
  get roundTripMs() {
    return this.#best?.roundTrip ?? null;
  }

  /**
   * The time at which the frame with this RTP timestamp was captured, on this page's `performance.now()` scale.
   * @param {number} rtp
   * @returns {number | null}  `null` before the board has answered.
   */
  capturedAt(rtp) {
    const best = this.#best;
    if (!best || !Number.isInteger(best.rtp)) return null;
    // `| 0` makes the difference signed modulo 2^32, so that it is correct across the wrap every 13 hours.
    return best.page + ((rtp - best.rtp) | 0) / TICKS_PER_MS;
  }
}
