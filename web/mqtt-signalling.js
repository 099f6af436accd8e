/**
 * Signalling over MQTT, for pages that reach a board through a broker.
 *
 * The page brings its client, MQTT.js or one that acts like it. So this module needs no bundler, and all the players of
 * a page share one connection. While a picture plays, the broker may go and come back: only signalling waits for it.
 *
 * What comes from a camera that is merely slow, and what from one that is away, looks alike to a viewer: nothing. The
 * device's retained `availability` tells them apart.
 */
import { parse } from './signalling-socket.js';

/** Messages have to arrive, and once: a session ignores what is repeated (MQTT 5, section 4.3.2). */
const QOS = { qos: 1 };
/** MQTT 5, section 2.4. A broker of version 3.1.1 drops what it does not permit, and says nothing. */
const NOT_AUTHORISED = 0x87;

/** The part of its lifetime after which a relay's credential is renewed: well before the end, whatever the clocks say. */
const RENEWAL = 0.8;
/** What a browser's timer can hold: 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const BROKER_AWAY = 'The broker cannot be reached. The picture comes as soon as it can.';
const CAMERA_AWAY = 'It is not at its broker. The picture comes as soon as it is back.';

/** What the players of a page share: the connection, and what is known of the devices. */
export class MqttTransport {
  #client;
  #prefix;
  /** As the broker last said. @type {Map<string, 'online' | 'offline'>} */
  #availability = new Map();
  /** By the topic on which it hears. @type {Map<string, MqttSignalling>} */
  #conversations = new Map();
  /** By device: what its players wait for. @type {Map<string, {back: Promise<void>, tell: () => void}>} */
  #returns = new Map();

  /**
   * @param {import('mqtt').MqttClient} client  Connected, or about to be. It has to subscribe again by itself when it
   *   connects again, as it does unless told otherwise.
   * @param {{prefix?: string}} [options]  `prefix` as in the boards' configuration.
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
   * Opens one viewer's conversation with a device.
   * @param {string} device
   * @param {string} [camera]  One of the device's cameras; its first if not said.
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
   * The viewer's name: that of the connection, so that a broker can keep each viewer to its own topics. Only one
   * conversation with a device can have it; a second one's is random, for brokers that permit that.
   */
  #name(root) {
    const { clientId } = this.#client.options;
    const isFree = /^[\w-]{1,64}$/.test(clientId) && !this.#conversations.has(hearingTopic(root, clientId));
    return isFree ? clientId : randomName();
  }

  /** Settles when the broker can be reached and does not call the device offline. */
  #whenBack(device) {
    if (!this.#returns.has(device)) {
      let tell;
      const back = new Promise((done) => (tell = done));
      this.#returns.set(device, { back, tell });
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

  /** Tells all conversations of a change, and those that wait for it. */
  #changed(inform) {
    for (const conversation of [...this.#conversations.values()]) inform(conversation);
    if (!this.#client.connected) return;
    for (const [device, { tell }] of this.#returns) {
      if (this.#availability.get(device) === 'offline') continue;
      this.#returns.delete(device);
      tell();
    }
  }
}

/** Where a viewer of that name hears its board. */
const hearingTopic = (root, name) => `${root}/viewer/${name}/to-viewer`;

/**
 * One conversation, made by {@link MqttTransport}.
 * @implements {import('./signalling-socket.js').Signalling}
 */
class MqttSignalling {
  onmessage = () => {};
  onclose = () => {};
  givesServers = true;

  #client;
  #surroundings;
  #root;
  /** What was sent before the board's answers would be heard; `null` from then on. @type {object[] | null} */
  #early = [];
  #subscribing = false;
  /** What comes before the answer to its own question was said to the conversation that had its name before. */
  #isOwn = false;
  #answered = false;
  #renewing = 0;
  /** The device was away since the conversation began, and may have forgotten it. */
  #interrupted = false;
  #ended = false;

  constructor(client, surroundings) {
    this.#client = client;
    this.#surroundings = surroundings;
    this.#root = surroundings.root;
    // The servers are wanted before the answer to the offer, which comes behind them. A board that refuses even this
    // is not understood, and given up after a while.
    this.send({ type: 'ice-servers' });
    // Not before whoever opens this has said who is told.
    queueMicrotask(() => {
      if (this.#client.connected) this.connected();
      else if (this.#client.reconnecting) this.disconnected();
    });
  }

  /** The topic on which it hears. */
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

  // What the transport tells.

  /** There is a connection to the broker, for the first time or again. */
  connected() {
    if (this.#ended || this.#subscribing) return;
    if (this.#surroundings.isAway()) {
      this.#end(CAMERA_AWAY);
      return;
    }
    this.#subscribing = true;
    // An offer must not be answered before the answer would be heard.
    this.#client.subscribe([this.topic, `${this.#root}/availability`], QOS, (error) => {
      if (this.#ended || !this.#early) return;
      if (!error) for (const message of this.#unsent()) this.#publish(message);
      // Without a packet it was the connection that ended, which is told by itself.
      else if (error.packet) this.#refused('The broker does not let this user hear the camera.');
    });
  }

  /** The connection to the broker was lost, or did not come about. A conversation that has its answer needs it no more. */
  disconnected() {
    if (!this.#answered) this.#end(BROKER_AWAY);
  }

  availabilityChanged() {
    if (!this.#surroundings.isAway()) return;
    this.#interrupted = true;
    if (!this.#answered) this.#end(CAMERA_AWAY);
  }

  receive(payload, isRetained) {
    // Descriptions are of the moment: one that the broker has kept is nobody's answer.
    const message = isRetained ? null : parse(new TextDecoder().decode(payload));
    this.#isOwn ||= message?.type === 'ice-servers';
    if (!message || !this.#isOwn || this.#ended) return;
    this.#answered ||= message.type === 'answer';
    if (message.type === 'ice-servers') this.#renew(message.lifetime);
    this.onmessage(message);
  }

  /** Asks for servers again before their credentials end: the board waits to be asked here. */
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

  /** Once it is written the client keeps it, through a loss of the connection too, until the broker has it. */
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

/** 128 random bits. `crypto.randomUUID` is there in secure contexts only. */
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
