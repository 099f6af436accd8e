/**
 * The board's clock as seen from this page, and with it the true age of a frame.
 *
 * The page asks for the board's time over the data channel; the answer with the shortest round trip is the one whose
 * middle is known best (as in NTP, RFC 5905 section 10). Each answer also says which RTP timestamp the video had at
 * that moment, which leads from a frame's RTP timestamp to when it was captured.
 */

/**
 * How long an answer counts. Quartz clocks drift apart by up to about 50 ppm, 1.5 ms in 30 s, which is less than what
 * is gained by finding a quicker round trip in so many.
 */
const WINDOW_MS = 30_000;

/** Ticks of a video RTP timestamp per millisecond (RFC 6184, section 8.1: 90 kHz). */
const TICKS_PER_MS = 90;

export class BoardClock {
  #samples = [];

  /**
   * Takes an answer.
   * @param {{sent: number, board: number, rtp?: number}} pong  `sent` is the page's `performance.now()` of the question,
   *   `board` the board's clock in ms, `rtp` the video's RTP timestamp at that time.
   * @param {number} received  `performance.now()` when the answer came.
   */
  add({ sent, board, rtp }, received) {
    const roundTrip = received - sent;
    if (!Number.isFinite(board) || !(roundTrip >= 0)) return;
    this.#samples = this.#samples.filter((sample) => received - sample.received < WINDOW_MS);
    this.#samples.push({ received, roundTrip, board, rtp, page: (sent + received) / 2 });
  }

  /** The answer trusted most, if there is any. */
  get #best() {
    return this.#samples.reduce((best, sample) => (best && best.roundTrip <= sample.roundTrip ? best : sample), null);
  }

  /** The shortest round trip of late, in ms; half of it bounds the error of everything told here. `null`: no answer yet. */
  get roundTripMs() {
    return this.#best?.roundTrip ?? null;
  }

  /**
   * When the frame of this RTP timestamp was captured, on this page's `performance.now()` scale.
   * @param {number} rtp
   * @returns {number | null}  `null` before the board has answered.
   */
  capturedAt(rtp) {
    const best = this.#best;
    if (!best || !Number.isInteger(best.rtp)) return null;
    // `| 0` makes the difference signed modulo 2^32: right across the wrap, which comes every 13 hours.
    return best.page + ((rtp - best.rtp) | 0) / TICKS_PER_MS;
  }
}
