/** The page's connection to its broker, and the state of the connection as text. */
import mqtt from 'mqtt';
import { openSocket } from './early-socket.js';

/** Pause between attempts; random, so that many pages do not reconnect at the same moment. */
const RETRY_MS = [800, 1600];
/** Time limit for connecting: over a slow mobile path a TLS connection with MQTT takes several seconds. */
const CONNECT_MS = 10_000;
/** Keep-alive interval: a lost path is detected within one and a half of these (MQTT 5, section 3.1.2.10). */
const KEEP_ALIVE_S = 20;

/** By CONNACK reason code, of version 5 and of 3.1.1. Brokers differ in which of two codes means a wrong password. */
const VERSION = 'The broker does not speak MQTT 5.';
const LOGIN = 'The broker does not admit this user, or the password is wrong.';
const REFUSALS = { 1: VERSION, 4: LOGIN, 5: LOGIN, 132: VERSION, 134: LOGIN, 135: LOGIN, 138: 'The broker has banned this user.' };

/**
 * `connecting`: the first attempt; `online`; `away`: retried; `refused`: not retried until something changes.
 * @typedef {{state: 'connecting' | 'online' | 'away' | 'refused', reason: string}} Standing
 */

/** @fires change  The standing has changed. */
export class BrokerConnection extends EventTarget {
  /** @type {Standing} */
  standing = { state: 'connecting', reason: '' };
  /** @type {import('mqtt').MqttClient} */
  client;
  #url;
  #isNamed;

  /** @param {import('./settings.js').Settings} settings */
  constructor({ broker, user, password }) {
    super();
    this.#url = new URL(broker);
    this.#isNamed = user !== '';
    const [least, most] = RETRY_MS;
    this.client = mqtt.connect(broker, {
      clientId: `peercam-page-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(36)).join('')}`,
      protocolVersion: 5,
      clean: true,
      createWebsocket: openSocket,
      keepalive: KEEP_ALIVE_S,
      connectTimeout: CONNECT_MS,
      reconnectPeriod: least + Math.random() * (most - least),
      ...(user && { username: user, password }),
    });
    this.client.on('connect', () => this.#tell('online', ''));
    this.client.on('error', ({ code, message }) => this.#failed(code, message));
    this.client.on('close', () => this.standing.state !== 'refused' && this.#tell('away', this.#whyAway()));
  }

  /** The broker's host, for people. */
  get host() {
    return this.#url.host;
  }

  end() {
    this.#tell = () => {};
    this.client.end();
  }

  #failed(code, message) {
    // Numbers are CONNACK codes; an error without a code, or with a word, is the network's and is followed by `close`.
    if (typeof code !== 'number') console.warn('peercam: the broker’s connection:', message);
    else if (REFUSALS[code] === LOGIN && !this.#isNamed) this.#tell('refused', 'The broker wants a user and a password.');
    else this.#tell('refused', REFUSALS[code] ?? `The broker refuses: ${message.replace(/^Connection refused: /, '')} (${code}).`);
  }

  #whyAway() {
    const certificate = this.#url.protocol === 'wss:' ? ' A certificate that this browser does not trust looks the same.' : '';
    return `Nothing answers at ${this.host}. Is the address right, and has the broker a WebSocket listener there?${certificate}`;
  }

  #tell = (state, reason) => {
    if (this.standing.state === state && this.standing.reason === reason) return;
    this.standing = { state, reason };
    this.dispatchEvent(new Event('change'));
  };
}
