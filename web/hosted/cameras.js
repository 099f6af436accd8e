/** The page's list of the cameras that announce themselves at a broker. */

/** Time for a broker to send all its retained messages; only then the page may state that there are no cameras. */
const PATIENCE_MS = 1500;

const STATES = { live: 'Live', idle: 'Ready', starting: 'Starting', waiting: 'No picture', private: 'Private' };
const TONES = { waiting: 'busy', private: 'quiet' };

/** Order by name, as people sort: camera 2 before camera 10. An entry does not move when its camera comes or goes. */
const order = new Intl.Collator(undefined, { numeric: true });

/**
 * @fires choose  A person has chosen a camera; `detail` is `{device, camera}`.
 */
export class CameraList extends EventTarget {
  #list;
  #hint;
  #prefix;
  /** @type {Map<string, {availability: string, status: object | null}>} */
  #devices = new Map();
  /** By device and camera. @type {Map<string, HTMLLIElement>} */
  #entries = new Map();
  #chosen = '';
  #patience = 0;
  /** Why no cameras can be found, if there is a reason. */
  #obstacle = '';

  /**
   * @param {HTMLElement} element  With a list and a paragraph for hints.
   */
  constructor(element) {
    super();
    this.#list = element.querySelector('ul');
    this.#hint = element.querySelector('.hint');
    element.addEventListener('keydown', (event) => this.#key(event));
    this.#list.addEventListener('click', ({ target }) => {
      const entry = target.closest('button');
      if (entry) this.dispatchEvent(new CustomEvent('choose', { detail: { device: entry.dataset.device, camera: entry.dataset.camera } }));
    });
  }

  /**
   * Fills the list from a broker.
   * @param {import('mqtt').MqttClient} client
   * @param {string} prefix
   */
  listen(client, prefix) {
    this.#prefix = prefix;
    this.#devices.clear();
    this.#obstacle = '';
    const topics = [`${prefix}/+/availability`, `${prefix}/+/status`];
    client.on('message', (topic, payload) => this.#receive(topic, payload));
    client.subscribe(topics, { qos: 1 }, (error) => {
      if (error?.packet) this.#obstacle = `The broker does not let this user read ${topics.join(' and ')}.`;
      this.#show();
    });
    client.on('connect', () => this.#wait());
    // The cameras' state is unknown meanwhile, and is sent again afterwards.
    client.on('close', () => {
      for (const device of this.#devices.values()) device.availability = 'unknown';
      this.#show();
    });
    this.#wait();
    this.#show();
  }

  /** Marks the camera that is shown. */
  choose(device, camera) {
    this.#chosen = key(device, camera);
    this.#show();
  }

  /** @returns {string}  The name of a camera in the list; it includes the device's name. */
  title(device, camera) {
    const several = (this.#devices.get(device)?.status?.cameras?.length ?? 0) > 1;
    return camera && several ? `${device} · ${camera}` : device;
  }

  #wait() {
    clearTimeout(this.#patience);
    this.#patience = setTimeout(() => {
      this.#patience = 0;
      this.#show();
    }, PATIENCE_MS);
  }

  #receive(topic, payload) {
    if (!topic.startsWith(`${this.#prefix}/`)) return;
    const [name, what, ...rest] = topic.slice(this.#prefix.length + 1).split('/');
    if (rest.length || !['availability', 'status'].includes(what)) return;
    const device = this.#devices.get(name) ?? { availability: '', status: null };
    if (what === 'availability') device.availability = String(payload);
    else device.status = parsed(payload);
    this.#devices.set(name, device);
    this.#show();
  }

  #show() {
    const wanted = new Map();
    for (const [name, device] of this.#devices) {
      // A device announces itself with its availability; an empty one removes it.
      if (!device.availability) continue;
      const cameras = Array.isArray(device.status?.cameras) && device.status.cameras.length ? device.status.cameras : [{}];
      for (const camera of cameras) wanted.set(key(name, cameras.length > 1 ? camera.name : ''), { name, device, camera });
    }
    for (const [id, entry] of this.#entries) {
      if (!wanted.has(id)) {
        entry.remove();
        this.#entries.delete(id);
      }
    }
    for (const id of [...wanted.keys()].sort(order.compare)) this.#fill(this.#entry(id), id, wanted.get(id));
    this.#arrange();
    this.#hint.textContent = wanted.size ? '' : this.#none();
    this.#hint.hidden = wanted.size > 0;
  }

  #none() {
    if (this.#obstacle) return this.#obstacle;
    if (this.#patience) return 'Looking for cameras …';
    return `No camera has announced itself under “${this.#prefix}/” yet. It appears here as soon as it does. If one is on, look at
      its broker, its prefix, and what the broker lets this user read.`;
  }

  #entry(id) {
    const had = this.#entries.get(id);
    if (had) return had;
    const entry = document.createElement('li');
    entry.innerHTML = '<button type="button"><span class="dot"></span><span class="name"></span><span class="state"></span></button>';
    this.#entries.set(id, entry);
    return entry;
  }

  #fill(entry, id, { name, device, camera }) {
    const button = entry.firstChild;
    const several = (device.status?.cameras?.length ?? 0) > 1;
    const { tone, words } = situation(device, camera);
    Object.assign(button.dataset, { device: name, camera: several ? (camera.name ?? '') : '', tone });
    if (id === this.#chosen) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
    write(button.querySelector('.name'), several ? `${name} · ${camera.name}` : name);
    write(button.querySelector('.state'), words);
  }

  /** Moves only entries that are out of order: a moved element would lose the focus. */
  #arrange() {
    const ids = [...this.#entries.keys()].sort(order.compare);
    ids.forEach((id, index) => {
      const entry = this.#entries.get(id);
      if (this.#list.children[index] !== entry) this.#list.insertBefore(entry, this.#list.children[index] ?? null);
    });
  }

  /** Handles up, down, home and end, as in any list; the buttons handle Enter and space themselves. */
  #key(event) {
    const buttons = [...this.#list.querySelectorAll('button')];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || !buttons[to]) return;
    event.preventDefault();
    buttons[to].focus();
  }
}

function situation({ availability, status }, camera) {
  if (availability === 'offline') return { tone: 'bad', words: 'Offline' };
  if (availability !== 'online') return { tone: 'quiet', words: 'Not known at the moment' };
  const { state, reason, mode } = camera;
  // The board's own count includes all its cameras, and calls that are not connected yet.
  const watches = (viewer) => viewer.camera === camera.name && ['watching', 'interrupted'].includes(viewer.state);
  const viewers = status?.viewers?.list?.filter(watches).length;
  const words = [
    state === 'waiting' && reason ? sentence(reason) : (STATES[state] ?? 'Online'),
    mode?.width > 0 && `${mode.width} × ${mode.height}`,
    viewers > 0 && `${viewers} watching`,
  ];
  return { tone: TONES[state] ?? 'good', words: words.filter(Boolean).join('  ·  ') };
}

const key = (device, camera = '') => `${device}/${camera}`;

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Parses a status. An invalid one is treated as missing: the camera can be watched all the same. */
function parsed(payload) {
  try {
    const status = JSON.parse(new TextDecoder().decode(payload));
    return status && typeof status === 'object' ? status : null;
  } catch {
    return null;
  }
}
