/**
 * The settings of the page: broker, user and camera, from the page's address and from earlier input.
 *
 * A link may contain everything except user and password. The browser remembers the input, the password only until the
 * tab is closed. User and password are used only with the broker for which they were entered, since a link can name any
 * broker.
 *
 * @typedef {{broker: string, user: string, password: string, prefix: string}} Settings
 */
const SETTINGS_KEY = 'peercam.broker';
const PASSWORD_KEY = 'peercam.password';
export const USUAL_PREFIX = 'peercam';

/** @returns {Settings & {device: string, camera: string}} */
export function remembered() {
  const query = new URLSearchParams(location.search);
  const kept = read(localStorage, SETTINGS_KEY);
  const broker = query.get('broker') ?? kept.broker ?? '';
  const { user = '', prefix } = kept.broker === broker ? kept : {};
  const secret = read(sessionStorage, PASSWORD_KEY);
  return {
    broker,
    user,
    password: secret.broker === broker && secret.user === user ? (secret.password ?? '') : '',
    prefix: query.get('prefix') ?? prefix ?? USUAL_PREFIX,
    device: query.get('device') ?? '',
    camera: query.get('camera') ?? '',
  };
}

/** Whether the page can connect without asking for more. A broker that requires a user reports that. */
export const isComplete = ({ broker, user, password }) => Boolean(broker && (password || !user));

/** @param {Settings} settings */
export function remember({ broker, user, password, prefix }) {
  write(localStorage, SETTINGS_KEY, { broker, user, prefix });
  write(sessionStorage, PASSWORD_KEY, { broker, user, password });
}

export function forgetPassword() {
  write(sessionStorage, PASSWORD_KEY, {});
}

/**
 * Updates the page's address, so that it can be bookmarked and sent to somebody.
 * @param {{broker: string, prefix: string, device?: string, camera?: string}} what
 */
export function showInAddress({ broker, prefix, device = '', camera = '' }) {
  const address = new URL(location.pathname, location.href);
  const parts = { broker, prefix: prefix === USUAL_PREFIX ? '' : prefix, device, camera };
  for (const [name, value] of Object.entries(parts)) if (value) address.searchParams.set(name, value);
  history.replaceState(null, '', address);
}

/**
 * Validates and completes the input.
 * @param {Record<keyof Settings, FormDataEntryValue>} entered
 * @returns {Settings}
 * @throws {Error}  States what is invalid, and what is valid.
 */
export function understood(entered) {
  const prefix = String(entered.prefix ?? '').trim() || USUAL_PREFIX;
  if (/[+#\0]|^\/|\/$/.test(prefix)) throw new Error('The prefix is a topic without + and #, such as “peercam” or “house/cameras”.');
  return { broker: address(String(entered.broker).trim()), user: String(entered.user).trim(), password: String(entered.password), prefix };
}

function address(text) {
  const whole = text.includes('://') ? text : `wss://${text}`;
  const url = URL.canParse?.(whole) === false ? null : parsed(whole);
  if (!url?.hostname) throw new Error('That is not an address. A broker’s looks like wss://broker.example:8084/mqtt');
  if (/^mqtts?:$/.test(url.protocol)) {
    throw new Error(`Browsers reach a broker by WebSocket only: its ws:// or wss:// address is needed, not the one of ${url.protocol}//`);
  }
  if (!/^wss?:$/.test(url.protocol)) throw new Error('A broker’s address begins with wss:// (or ws:// in a network that you trust).');
  if (url.username || url.password) throw new Error('User and password belong into their own fields, not into the address.');
  const isSafe = url.protocol === 'wss:' || location.protocol !== 'https:' || /^(localhost|127\.|\[::1\])/.test(url.hostname);
  if (!isSafe) throw new Error('This page came by https, and from there a browser opens wss:// only.');
  return whole;
}

function parsed(text) {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

/** Reads an entry of the storage. If the browser forbids storage, it is empty, and each visit starts afresh. */
function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}

function write(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // Storage is forbidden, see `read`.
  }
}
