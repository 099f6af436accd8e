/**
 * Signalling over MQTT, for pages that reach a board through a broker.
 *
 * The page brings its own client, MQTT.js or a compatible one. So this module needs no bundler, and all players of a
 * page share one connection. While video plays, the broker may go and come back: only signalling waits for it.
 *
 * A slow camera and an absent one look the same to a viewer: nothing arrives. The device's retained `availability`
 * tells them apart.
 */
import { parse } from './signalling-socket.js';

/** Messages have to arrive at least once: a session ignores repeated ones (MQTT 5, section 4.3.2). */
const QOS = { qos: 1 };
/** MQTT 5, section 2.4. A broker of version 3.1.1 drops messages that it does not permit, without an error. */
const NOT_AUTHORISED = 0x87;

/** A relay's credential is renewed after this part of its lifetime: well before the end, even if clocks differ. */
const RENEWAL = 0.8;
/** The longest time of a browser's timer: 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const BROKER_AWAY = 'The broker cannot be reached. The picture comes as soon as it can.';
const CAMERA_AWAY = 'It is not at its broker. The picture comes as soon as it is back.';

/** Shared by the players of a page: the connection, and the known state of the devices. */
export class MqttTransport {
  #client;
  #prefix;
  /** By device, as last received from the broker. @type {Map<string, 'online' | 'offline'>} */
  #availability = new Map();
  /** By the topic on which each receives. @type {Map<string, MqttSignalling>} */
  #conversations = new Map();
  /** By device: settles when it is back. @type {Map<string, {back: Promise<void>, notify: () => void}>} */
  #returns = new Map();

  /**
   * @param {import('mqtt').MqttClient} client  Connected, or connecting. It has to subscribe again by itself when it
   *   reconnects, which is its default.
   * @param {{prefix?: string}} [options]  `prefix`: as in the boards' configuration.
   */
  constructor(client, { prefix = 'peercam' } = {}) {
    this.#client = client;
    this.#prefix = prefix;
    client.on('message', (topic, payload, packet) => this.#receive(topic, payload, packet));
    client.on('connect', () => this.#changed((conversation) => conversation.connected()));
    client.on('close', () => {
      this.#availability.clear();
      this.#changed((conversation) => conversation.disconnected());
    });
  }

  /**
   * Opens one viewer's signalling with a device.
   * @param {string} device
   * @param {string} [camera]  One of the device's cameras; by default the first.
   * @returns {MqttSignalling}
   * @throws {TypeError}  No device can have that name.
   */
  open(device, camera) {
    if (!device || /[+#/\0]/.test(device)) throw new TypeError(`"${device}" cannot be a device's name`);
    const root = `${this.#prefix}/${device}`;
    const conversation = new MqttSignalling(this.#client, {
      root,
      name: this.#name(root),
      camera,
      isAway: () => this.#availability.get(device) === 'offline',
      whenBack: () => this.#whenBack(device),
      onended: () => this.#conversations.delete(conversation.topic),
    });
    this.#conversations.set(conversation.topic, conversation);
    return conversation;
  }

  /**
   * The viewer's name: the client id of the connection, so that a broker can restrict each viewer to its own topics.
   * Only one conversation with a device can have it; a second one gets a random name, for brokers that permit that.
   */
  #name(root) {
    const { clientId } = this.#client.options;
    const isFree = /^[\w-]{1,64}$/.test(clientId) && !this.#conversations.has(hearingTopic(root, clientId));
    return isFree ? clientId : randomName();
  }

  /** Settles when the broker can be reached and does not report the device as offline. */
  #whenBack(device) {
    if (!this.#returns.has(device)) {
      let notify;
      const back = new Promise((done) => (notify = done));
      this.#returns.set(device, { back, notify });
    }
    return this.#returns.get(device).back;
  }

  #receive(topic, payload, packet) {
    this.#conversations.get(topic)?.receive(payload, packet.retain);
    const [device, name, ...rest] = this.#below(topic);
    if (name !== 'availability' || rest.length) return;
    this.#availability.set(device, String(payload));
    this.#changed((conversation) => conversation.availabilityChanged());
  }

  /** The levels of a topic below the prefix. */
  #below(topic) {
    return topic.startsWith(`${this.#prefix}/`) ? topic.slice(this.#prefix.length + 1).split('/') : [];
  }

  /** Notifies all conversations of a change, and those that wait for a device's return. */
  #changed(inform) {
    for (const conversation of [...this.#conversations.values()]) inform(conversation);
    if (!this.#client.connected) return;
    for (const [device, { notify }] of this.#returns) {
      if (this.#availability.get(device) === 'offline') continue;
      this.#returns.delete(device);
      notify();
    }
  }
}

/** The topic on which a viewer with this name receives from its board. */
const hearingTopic = (root, name) => `${root}/viewer/${name}/to-viewer`;

/**
 * One viewer's signalling over MQTT, created by {@link MqttTransport}.
 * @implements {import('./signalling-socket.js').Signalling}
 */
class MqttSignalling {
  onmessage = () => {};
  onclose = () => {};
  givesServers = true;

  #client;
  #surroundings;
  #root;
  /** Messages sent before the board's answers can be received; `null` from then on. @type {object[] | null} */
  #early = [];
  #subscribing = false;
  /** Messages received before the answer to its own request belong to an earlier conversation with the same name. */
  #isOwn = false;
  #answered = false;
  #renewing = 0;
  /** Whether the device was away since the conversation started, and may have forgotten it. */
  #interrupted = false;
  #ended = false;

  constructor(client, surroundings) {
    this.#client = client;
    this.#surroundings = surroundings;
    this.#root = surroundings.root;
    // The servers are needed before the answer to the offer, and the answer comes after them. A refusal of this request
    // is not recognised; the attempt is then given up after a while.
    this.send({ type: 'ice-servers' });
    // Deferred, so that the caller can set its handlers first.
    queueMicrotask(() => {
      if (this.#client.connected) this.connected();
      else if (this.#client.reconnecting) this.disconnected();
    });
  }

  /** The topic on which it receives. */
  get topic() {
    return hearingTopic(this.#root, this.#surroundings.name);
  }

  get isOpen() {
    return !this.#early && this.#client.connected && !this.#interrupted;
  }

  send(message) {
    if (this.#ended) return;
    if (this.#early) this.#early.push(message);
    else this.#publish(message);
  }

  close() {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#renewing);
    this.#surroundings.onended();
    if (this.#subscribing) this.#client.unsubscribe(this.topic, () => {});
  }

  // Called by the transport.

  /** The broker is connected, for the first time or again. */
  connected() {
    if (this.#ended || this.#subscribing) return;
    if (this.#surroundings.isAway()) {
      this.#end(CAMERA_AWAY);
      return;
    }
    this.#subscribing = true;
    // An offer must not be answered before the answer can be received.
    this.#client.subscribe([this.topic, `${this.#root}/availability`], QOS, (error) => {
      if (this.#ended || !this.#early) return;
      if (!error) for (const message of this.#unsent()) this.#publish(message);
      // Without a packet the connection has ended, which is reported separately.
      else if (error.packet) this.#refused('The broker does not let this user hear the camera.');
    });
  }

  /** The connection to the broker was lost or failed. A conversation that has its answer does not need it any more. */
  disconnected() {
    if (!this.#answered) this.#end(BROKER_AWAY);
  }

  availabilityChanged() {
    if (!this.#surroundings.isAway()) return;
    this.#interrupted = true;
    if (!this.#answered) this.#end(CAMERA_AWAY);
  }

  receive(payload, isRetained) {
    // Session descriptions are valid only at the moment: a retained one is no answer to this offer.
    const message = isRetained ? null : parse(new TextDecoder().decode(payload));
    this.#isOwn ||= message?.type === 'ice-servers';
    if (!message || !this.#isOwn || this.#ended) return;
    this.#answered ||= message.type === 'answer';
    if (message.type === 'ice-servers') this.#renew(message.lifetime);
    this.onmessage(message);
  }

  /** Requests servers again before their credentials expire: over MQTT the board sends them only on request. */
  #renew(lifetime) {
    clearTimeout(this.#renewing);
    const wait = Math.min(lifetime * RENEWAL * 1000, LONGEST_TIMER_MS);
    if (lifetime > 0) this.#renewing = setTimeout(() => this.send({ type: 'ice-servers' }), wait);
  }

  #unsent() {
    const unsent = this.#early;
    this.#early = null;
    return unsent;
  }

  /** Publishes a message. The client keeps it until the broker has it, even if the connection is lost meanwhile. */
  #publish(message) {
    const { name, camera } = this.#surroundings;
    const text = JSON.stringify(message.type === 'offer' && camera ? { ...message, camera } : message);
    this.#client.publish(`${this.#root}/viewer/${name}/to-device`, text, QOS, (error) => {
      const isRefused = error?.code === NOT_AUTHORISED && message.type === 'offer' && !this.#ended;
      if (isRefused) this.#refused('The broker does not let this user call the camera.');
    });
  }

  #refused(reason) {
    this.onmessage({ type: 'error', code: 'not-authorised', reason });
  }

  #end(reason) {
    if (!this.#ended) this.onclose({ opened: !this.#early, reason, again: this.#surroundings.whenBack() });
  }
}

/** 128 random bits. `crypto.randomUUID` exists only in secure contexts. */
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
