/**
 * Reads the browser's counters of a peer connection and turns them into figures for people.
 *
 * @typedef {object} Statistics
 * @property {number} at  `performance.now()` of the reading.
 * @property {string | null} codec  The video codec, for example `H264 42e01f`.
 * @property {string | null} audioCodec
 * @property {number | null} width  In pixels, as is height.
 * @property {number | null} height
 * @property {number | null} fps  Frames decoded per second, recently.
 * @property {number | null} kbps  Bitrate of video and audio together, in kbit/s, recently.
 * @property {number | null} rttMs  Round trip of the ICE checks, or else of the data channel.
 * @property {number | null} lossPercent  Packets lost at first, recently; most are repeated on request.
 * @property {number | null} jitterBufferMs  How long frames waited in the jitter buffer, recently.
 * @property {number} jitterBufferTargetMs  The target that this page sets for video.
 * @property {number} framesDecoded
 * @property {number} framesDropped
 * @property {number} freezeCount
 * @property {number} totalFreezesDuration  In seconds, as the browser counts it.
 * @property {number | null} latencyMs  Capture to display, median of the last second.
 * @property {string} latencyGap  Why the latency is not known, if it cannot be.
 * @property {string | null} path  The candidate pair, for example `host - prflx, udp`.
 * @property {number | null} viewers  Number of viewers of this camera, as the board reports it.
 */

/**
 * @typedef {object} Since
 * @property {number} lost  Lost video packets.
 * @property {number} received
 * @property {number} freezes
 * @property {number | null} soundHeldMs  How long the jitter buffer held the played audio; `null` if none was played.
 */

/** Rates are averaged over this time: over a single second they would jump with each key frame. */
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
   * @returns {Promise<{figures: Partial<Statistics>, since: Since}>}  The figures, and what changed since the last one.
   */
  async read() {
    const counters = await count(this.#connection);
    const before = this.#readings.at(-1) ?? counters;
    this.#readings.push(counters);
    while (counters.at - this.#readings[0].at > RATE_WINDOW_MS) this.#readings.shift();
    const since = {
      // A late packet is subtracted from the count of lost ones again, so the difference can be negative.
      lost: Math.max(0, counters.lost - before.lost),
      received: counters.received - before.received,
      freezes: counters.freezeCount - before.freezeCount,
      soundHeldMs: held(counters.sound, before.sound),
    };
    return { figures: figures(counters, this.#readings[0]), since };
  }
}

/** Picks the needed counters from the browser's report. */
async function count(connection) {
  const report = await connection.getStats();
  const all = [...report.values()];
  const inbound = (kind) => all.find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind) ?? {};
  const video = inbound('video');
  const audio = inbound('audio');
  const transport = all.find((entry) => entry.type === 'transport') ?? {};
  // Firefox has no transport entry, but marks the selected pair.
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

/** The frames or samples that have left a jitter buffer: their number, and the sum of their seconds in it. */
const buffered = ({ jitterBufferDelay, jitterBufferEmittedCount }) =>
  ({ delay: jitterBufferDelay ?? 0, emitted: jitterBufferEmittedCount ?? 0 });

/** The mean time in a jitter buffer between two counts, in milliseconds; `null` if nothing left it. */
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
