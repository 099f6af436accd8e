/**
 * How long to hold the picture back so that it does not run ahead of its sound.
 *
 * Sound comes 20 ms at a time, through a jitter buffer and a sound card: with 30 ms in the buffer it is heard some 45 ms
 * after its picture is seen, which nobody notices (ITU-R BT.1359: 125 ms). Browsers that keep a stream's tracks in step
 * hold the picture back for this too, at the cost of its delay all the time. So the page does that itself, and only when
 * the buffer holds the sound for longer: after loss, on a path that delays, on a machine that was busy.
 */

/** The buffer's level wavers by half a packet: the picture waits from the first on, and does not from the second down. */
const BEGIN_MS = 45;
const END_MS = 35;
/** Changes below this are not worth the small hitch that each is. */
const STEP_MS = 15;
/** In one go; the picture stands still for as long, and Chromium counts a freeze from 150 ms on. */
const LARGEST_STEP_MS = 100;

export class LipSync {
  /** In milliseconds. */
  hold = 0;

  /**
   * @param {number | null} soundHeldMs  How long the jitter buffer held the sound, of late; `null` where nobody hears any.
   * @returns {number}  How long to hold the picture from now on.
   */
  update(soundHeldMs) {
    const held = Math.round(soundHeldMs ?? 0);
    if (held < (this.hold > 0 ? END_MS : BEGIN_MS)) this.hold = 0;
    else if (Math.abs(held - this.hold) >= STEP_MS) this.hold = Math.min(held, this.hold + LARGEST_STEP_MS);
    return this.hold;
  }
}
