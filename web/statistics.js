/**
 * What the browser counts of a peer connection, as figures a person can use.
 *
 * @typedef {object} Statistics
 * @property {number} at  `performance.now()` of the reading.
 * @property {string | null} codec  Of the picture, as `H264 42e01f`.
 * @property {string | null} audioCodec
 * @property {number | null} width  In pixels, as is height.
 * @property {number | null} height
 * @property {number | null} fps  Frames decoded per second, of late.
 * @property {number | null} kbps  Picture and sound together, of late.
 * @property {number | null} rttMs  Of the ICE checks, else of the data channel.
 * @property {number | null} lossPercent  Packets that did not come at first, of late; most come again when asked for.
 * @property {number | null} jitterBufferMs  How long frames waited in the jitter buffer, of late.
 * @property {number} jitterBufferTargetMs  What this page asks for, for the picture.
 * @property {number} framesDecoded
 * @property {number} framesDropped
 * @property {number} freezeCount
 * @property {number} totalFreezesDuration  In seconds, as the browser counts it.
 * @property {number | null} latencyMs  Capture to display, median of the last second.
 * @property {string} latencyGap  Why it is not known, if it cannot be.
 * @property {string | null} path  The candidate pair, as `host - prflx, udp`.
 * @property {number | null} viewers  How many watch this camera, as the board says.
 */

/**
 * @typedef {object} Since
 * @property {number} lost  Packets of the picture.
 * @property {number} received
 * @property {number} freezes
 * @property {number | null} soundHeldMs  How long the jitter buffer held what was played; `null` if nothing was.
 */

/** Rates are taken over this time: a second alone would jump with each key frame. */
const RATE_WINDOW_MS = 3000;

export class StatisticsReader {
  #connection;
  #readings = [];

  /** @param {RTCPeerConnection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * Reads the counters.
   * @returns {Promise<{figures: Partial<Statistics>, since: Since}>}  The figures, and what happened since the last reading.
   */
  async read() {
    const counters = await count(this.#connection);
    const before = this.#readings.at(-1) ?? counters;
    this.#readings.push(counters);
    while (counters.at - this.#readings[0].at > RATE_WINDOW_MS) this.#readings.shift();
    const since = {
      // A late packet is taken off the count of lost ones again, so that the difference can be negative.
      lost: Math.max(0, counters.lost - before.lost),
      received: counters.received - before.received,
      freezes: counters.freezeCount - before.freezeCount,
      soundHeldMs: held(counters.sound, before.sound),
    };
    return { figures: figures(counters, this.#readings[0]), since };
  }
}

/** The counters that are of interest, from the browser's whole report. */
async function count(connection) {
  const report = await connection.getStats();
  const all = [...report.values()];
  const inbound = (kind) => all.find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind) ?? {};
  const video = inbound('video');
  const audio = inbound('audio');
  const transport = all.find((entry) => entry.type === 'transport') ?? {};
  // Firefox has no transport entry, but says which pair is selected.
  const pair = report.get(transport.selectedCandidatePairId) ?? all.find((entry) => entry.selected) ?? {};
  return {
    at: performance.now(),
    codec: codecName(report.get(video.codecId)),
    audioCodec: codecName(report.get(audio.codecId)),
    width: video.frameWidth ?? null,
    height: video.frameHeight ?? null,
    bytes: (video.bytesReceived ?? 0) + (audio.bytesReceived ?? 0),
    lost: video.packetsLost ?? 0,
    received: video.packetsReceived ?? 0,
    framesDecoded: video.framesDecoded ?? 0,
    framesDropped: video.framesDropped ?? 0,
    freezeCount: video.freezeCount ?? 0,
    totalFreezesDuration: video.totalFreezesDuration ?? 0,
    picture: buffered(video),
    sound: buffered(audio),
    rttMs: pair.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
    path: pathName(report.get(pair.localCandidateId), report.get(pair.remoteCandidateId)),
  };
}

/** What has left a jitter buffer: how many frames or samples, and for how many seconds they were in it, added up. */
const buffered = ({ jitterBufferDelay, jitterBufferEmittedCount }) =>
  ({ delay: jitterBufferDelay ?? 0, emitted: jitterBufferEmittedCount ?? 0 });

/** How long a jitter buffer held what left it between two counts, in milliseconds; `null` if nothing did. */
function held(now, then) {
  const emitted = now.emitted - then.emitted;
  return emitted > 0 ? ((now.delay - then.delay) / emitted) * 1000 : null;
}

function figures(now, then) {
  const { bytes, lost, received, picture, sound, ...rest } = now;
  const seconds = (now.at - then.at) / 1000;
  const perSecond = (difference) => (seconds > 0 ? difference / seconds : null);
  const share = (part, whole) => (whole > 0 ? part / whole : null);
  const kilobits = perSecond(((bytes - then.bytes) * 8) / 1000);
  const missing = Math.max(0, lost - then.lost);
  const loss = share(missing, missing + received - then.received);
  return {
    ...rest,
    fps: perSecond(now.framesDecoded - then.framesDecoded),
    kbps: kilobits,
    lossPercent: loss === null ? null : loss * 100,
    jitterBufferMs: held(picture, then.picture),
  };
}

function codecName(codec) {
  if (!codec) return null;
  const profile = /profile-level-id=(\w+)/.exec(codec.sdpFmtpLine ?? '')?.[1];
  return [codec.mimeType.split('/')[1], profile].filter(Boolean).join(' ');
}

function pathName(local, remote) {
  if (!local || !remote) return null;
  return `${local.candidateType} – ${remote.candidateType}, ${local.relayProtocol ?? local.protocol}`;
}
