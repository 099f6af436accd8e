/**
 * Chooses how long to delay the video so that it is not ahead of its sound.
 *
 * Sound arrives 20 ms at a time, through a jitter buffer and a sound card: with 30 ms in the buffer it is heard some 45
 * ms after its video is seen, which nobody notices (ITU-R BT.1359: 125 ms). Browsers that synchronise a stream's tracks
 * delay the video for this too, and so add to its delay all the time. So the page does that itself, and only when the
 * buffer holds the sound for longer: after loss, on a path with delays, on a machine that was busy.
 */

/** The buffer's level varies by half a packet: the video is delayed from BEGIN_MS up, and no longer below END_MS. */
const BEGIN_MS = 45;
const END_MS = 35;
/** Changes below this are not worth the small hitch that each causes. */
const STEP_MS = 15;
/** Largest increase at once; the video stands still for that time, and Chromium counts a freeze from 150 ms on. */
const LARGEST_STEP_MS = 100;

export class LipSync {
  /** In milliseconds. */
  hold = 0;

  /**
   * @param {number | null} soundHeldMs  How long the jitter buffer held the sound recently; `null` if none is heard.
   * @returns {number}  How long to delay the video from now on, in milliseconds.
   */
  update(soundHeldMs) {
    const held = Math.round(soundHeldMs ?? 0);
    if (held < (this.hold > 0 ? END_MS : BEGIN_MS)) this.hold = 0;
    else if (Math.abs(held - this.hold) >= STEP_MS) this.hold = Math.min(held, this.hold + LARGEST_STEP_MS);
    return this.hold;
  }
}
