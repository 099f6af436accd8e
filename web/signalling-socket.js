/**
 * Signalling over a WebSocket.
 *
 * Another kind of signalling (MQTT, for example) is another class with this interface; nothing else of the viewer
 * changes. A signalling connection serves one viewer's session and is not reopened: the session makes a new one.
 *
 * @typedef {object} Signalling
 * @property {(message: Message) => void} send  Sends a message, or keeps it until the connection is open, in order.
 * @property {() => void} close  Ends the connection; messages sent before are still delivered.
 * @property {boolean} isOpen  Whether a message is sent at once.
 * @property {boolean} [givesServers]  Whether the board's first message names STUN and TURN servers, as `ice-servers`.
 * @property {(message: Message) => void} onmessage
 * @property {(end: End) => void} onclose  Called when the connection has ended, or could not be opened.
 *
 * @typedef {{opened: boolean, reason: string, again?: Promise<void>}} End
 *   `again` settles when another attempt makes sense, if that can be detected; without it the next attempt is timed.
 *
 * @typedef {{type: 'offer' | 'answer', sdp: string}
 *   | {type: 'candidate', candidate: RTCIceCandidateInit | null}
 *   | {type: 'ice-servers', servers: RTCIceServer[], lifetime?: number}
 *   | {type: 'error', code?: string, reason: string}
 *   | {type: 'bye', reason?: string}} Message
 */

/** @implements {Signalling} */
export class SocketSignalling {
  onmessage = () => {};
  onclose = () => {};
  givesServers = true;
  #socket;
  #early = [];
  #opened = false;

  /**
   * @param {string | URL} url  The board's signalling address, `wss://host/api/signal`.
   * @param {{camera?: string | null, token?: string | null}} [options]
   */
  constructor(url, { camera, token } = {}) {
    const address = new URL(url);
    if (camera) address.searchParams.set('camera', camera);
    // A browser's WebSocket cannot carry an Authorization header, so the token is part of the address.
    if (token) address.searchParams.set('token', token);
    this.#socket = new WebSocket(address);
    this.#socket.onopen = () => {
      this.#opened = true;
      for (const text of this.#early.splice(0)) this.#socket.send(text);
    };
    this.#socket.onmessage = ({ data }) => {
      const message = parse(data);
      if (message) this.onmessage(message);
    };
    // `error` has no information that `close`, which always follows, does not have.
    this.#socket.onclose = ({ reason }) => this.onclose({ opened: this.#opened, reason });
  }

  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  send(message) {
    const text = JSON.stringify(message);
    if (this.isOpen) this.#socket.send(text);
    else if (this.#socket.readyState === WebSocket.CONNECTING) this.#early.push(text);
  }

  close() {
    this.#socket.close();
  }
}

/**
 * Parses a message. One that is not a JSON object is an error of the board: it is logged and skipped.
 * @returns {Message | null}
 */
export function parse(data) {
  try {
    const message = JSON.parse(data);
    if (message && typeof message === 'object') return message;
  } catch {
    // Logged below like any other wrong type.
  }
  console.warn('peercam: a signalling message is not a JSON object');
  return null;
}
