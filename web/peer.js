/**
 * One peer connection to a board: offer, answer, candidates, and the data channel `control`.
 *
 * Everything here is arranged so that the first frame comes as soon as possible: the offer is sent before candidates
 * are gathered (and before the browser has even applied it), and candidates follow one by one. The board's own host
 * candidates are in its answer, so the first connectivity check can be sent as soon as the answer has arrived.
 */

/** The marks set on the performance timeline, in order. */
export const MARKS = Object.freeze({
  created: 'peercam:created',
  offer: 'peercam:offer',
  answer: 'peercam:answer',
  connected: 'peercam:connected',
  firstFrame: 'peercam:first-frame',
});

/**
 * Browsers decode Opus in mono unless their own description has `stereo=1` (RFC 7587, section 7.1), and have no other
 * way to request stereo. It does no harm to a mono stream.
 * @param {RTCSessionDescriptionInit} offer
 */
const withStereo = ({ type, sdp }) => ({
  type,
  sdp: sdp.replace(/^(a=fmtp:\d+ .*useinbandfec=1)(?!.*stereo=)/gm, '$1;stereo=1'),
});

/**
 * The name of the receiver's property that sets the jitter buffer target; `undefined` if this browser has none. The
 * second is Chromium's older name.
 * @type {'jitterBufferTarget' | 'playoutDelayHint' | undefined}
 */
const TARGET = ['jitterBufferTarget', 'playoutDelayHint'].find((name) => name in RTCRtpReceiver.prototype);

/**
 * Makes video and audio two streams in a browser that accepts the board's bounds on its jitter buffer (the header
 * extension `playout-delay`) and whose jitter buffer target can be set: the page then synchronises them, see
 * `lip-sync.js`. Any other browser synchronises them itself.
 * @param {string} answer
 */
const asTwoStreams = (answer) =>
  TARGET && answer.includes('/playout-delay') ? answer.replace(/^a=msid:\S+ (?=video)/m, 'a=msid:picture ') : answer;

export class Peer {
  /** Called with each change of `connectionState`. @type {(state: RTCPeerConnectionState) => void} */
  onstate = () => {};
  /** Called with each JSON message of the data channel. @type {(message: object) => void} */
  oncontrol = () => {};
  /** Called when the data channel can be written to. */
  oncontrolopen = () => {};
  /** Called when a description cannot be made or applied. @type {(error: Error) => void} */
  onfailure = () => {};

  #signalling;
  #configuration;
  #control;
  #answered = false;
  /** The targets that were last set for the jitter buffers. */
  #targets = {};
  #early = [];
  /** Ends the wait for the board's servers. */
  #heard;
  /** Settles with the board's first message of any type. */
  #first = new Promise((done) => (this.#heard = done));
  /** Settles when the current offer is applied; before that no answer can be applied. */
  #applied = Promise.resolve();

  /**
   * @param {import('./signalling-socket.js').Signalling} signalling
   * @param {RTCConfiguration} [configuration]  Its servers replace the board's.
   */
  constructor(signalling, configuration) {
    // Marks describe the current connection; those of an earlier one could be mistaken for them.
    for (const name of Object.values(MARKS)) performance.clearMarks(name);
    this.#signalling = signalling;
    performance.mark(MARKS.created);
    this.#configuration = { bundlePolicy: 'max-bundle', ...configuration };
    this.connection = new RTCPeerConnection(this.#configuration);
    this.video = this.connection.addTransceiver('video', { direction: 'recvonly' });
    this.audio = this.connection.addTransceiver('audio', { direction: 'recvonly' });
    this.setJitterBufferTargets({ video: 0, audio: 0 });
    this.#openControl();
    this.connection.onicecandidate = ({ candidate }) =>
      signalling.send({ type: 'candidate', candidate: candidate ? candidate.toJSON() : null });
    this.connection.onconnectionstatechange = () => {
      const state = this.connection.connectionState;
      if (state === 'connected') performance.mark(MARKS.connected);
      this.onstate(state);
    };
  }

  /** Video and audio. The tracks exist before the answer, so a video element can wait for the first frame at once. */
  get stream() {
    return new MediaStream([this.video.receiver.track, this.audio.receiver.track]);
  }

  /** Whether the board has answered. */
  get isAnswered() {
    return this.#answered;
  }

  /** Whether the board sends sound, according to its answer. */
  get hasAudio() {
    return ['recvonly', 'sendrecv'].includes(this.audio.currentDirection);
  }

  /** Makes an offer and sends it; on a connection that has an answer already, this restarts ICE. */
  offer() {
    if (this.#answered) this.connection.restartIce();
    this.renegotiate();
  }

  /** Makes an offer and sends it, without an ICE restart. */
  renegotiate() {
    this.#applied = this.#offer().catch((error) => this.#fail(error));
  }

  async #offer() {
    const offer = withStereo(await this.connection.createOffer());
    performance.mark(MARKS.offer);
    // The offer is sent before it is applied: applying it takes milliseconds which the board can use. The order stays
    // right, since candidates come only after it is applied, and so does the answer.
    this.#signalling.send({ type: 'offer', sdp: offer.sdp });
    // Applying it starts the gathering of candidates, which ignores servers that are named later. The board names them
    // in its first message, which arrives a round trip before the answer, so this wait delays nothing.
    if (this.#signalling.givesServers && !this.#configuration.iceServers) await this.#first;
    if (this.connection.signalingState !== 'closed') await this.connection.setLocalDescription(offer);
  }

  /**
   * Uses the servers that the board names: at first for this connection, later, with new credentials, for its next ICE
   * restart. Servers that the page has set itself are kept.
   * @param {RTCIceServer[]} servers
   */
  useServers(servers) {
    try {
      if (!this.#configuration.iceServers) this.connection.setConfiguration({ ...this.#configuration, iceServers: servers });
    } catch (error) {
      // This browser cannot use the servers: on the same network video works without them.
      console.warn('peercam: the servers that the board names were not taken:', error.message);
    }
    this.#heard();
  }

  /** Handles an answer or a candidate from the board. */
  async receive(message) {
    // The first message of a board that names no servers is another one.
    this.#heard();
    try {
      if (message.type === 'answer') {
        performance.mark(MARKS.answer);
        await this.#applied;
        await this.connection.setRemoteDescription({ type: 'answer', sdp: asTwoStreams(message.sdp) });
        this.#answered = true;
        for (const candidate of this.#early.splice(0)) await this.#add(candidate);
      } else if (this.#answered) {
        await this.#add(message.candidate);
      } else {
        this.#early.push(message.candidate);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Sends a message over the data channel; if it is not open, the message is dropped. */
  control(message) {
    if (this.#control.readyState === 'open') this.#control.send(JSON.stringify(message));
  }

  /**
   * Sets how long the jitter buffers hold media back, in milliseconds; the browser uses more if it has to.
   * @param {{video: number, audio: number}} targets
   */
  setJitterBufferTargets(targets) {
    for (const kind of ['video', 'audio']) {
      if (!TARGET || this.#targets[kind] === targets[kind]) continue;
      this.#targets[kind] = targets[kind];
      // The older property is in seconds.
      this[kind].receiver[TARGET] = TARGET === 'playoutDelayHint' ? targets[kind] / 1000 : targets[kind];
    }
  }

  close() {
    this.onstate = this.oncontrol = this.oncontrolopen = this.onfailure = () => {};
    this.connection.onicecandidate = this.connection.onconnectionstatechange = null;
    this.connection.close();
  }

  #openControl() {
    this.#control = this.connection.createDataChannel('control');
    this.#control.onopen = () => this.oncontrolopen();
    this.#control.onmessage = ({ data }) => {
      let message;
      try {
        message = JSON.parse(data);
      } catch {
        console.warn('peercam: a message on the data channel is not JSON');
        return;
      }
      if (message && typeof message === 'object') this.oncontrol(message);
    };
  }

  async #add(candidate) {
    try {
      await this.connection.addIceCandidate(candidate ?? undefined);
    } catch (error) {
      // One candidate that this browser cannot use does not affect the others.
      console.warn('peercam: a candidate was not taken:', error.message);
    }
  }

  #fail(error) {
    // A connection that was closed meanwhile rejects pending operations; nothing waits for them.
    if (this.connection.signalingState !== 'closed') this.onfailure(error);
  }
}
