/**
 * Which broker, as whom, and which camera: from the page's address and from what was entered before.
 *
 * A link may name everything but user and password. What was entered is remembered by the browser, the password only
 * until the tab is closed; and both are used with the broker alone for which they were entered, since a link can name
 * any.
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

/** Whether it can be tried without asking for more. A broker that wants a user says so. */
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
 * Keeps the page's address in step, so that it can be bookmarked and sent to somebody.
 * @param {{broker: string, prefix: string, device?: string, camera?: string}} what
 */
export function showInAddress({ broker, prefix, device = '', camera = '' }) {
  const address = new URL(location.pathname, location.href);
  const parts = { broker, prefix: prefix === USUAL_PREFIX ? '' : prefix, device, camera };
  for (const [name, value] of Object.entries(parts)) if (value) address.searchParams.set(name, value);
  history.replaceState(null, '', address);
}

/**
 * Understands what was entered.
 * @param {Record<keyof Settings, FormDataEntryValue>} entered
 * @returns {Settings}
 * @throws {Error}  Says what cannot be used, and what can.
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

/** What a browser that forbids storage gives is nothing, and then each visit begins anew. */
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
    // As above.
  }
}
