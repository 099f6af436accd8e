/** A WebSocket to the broker that is opened before the MQTT client is there to use it. */

/** @type {WebSocket | null} */
let early = null;

/** @param {string} address */
export function openEarly(address) {
  early = new WebSocket(address, ['mqtt']);
}

/**
 * The one that was opened early, once, if it leads there and has not failed; else another.
 * @param {string} address  @param {string[]} protocols
 */
export function openSocket(address, protocols) {
  const had = early;
  early = null;
  if (had?.url === new URL(address).href && had.readyState <= WebSocket.OPEN) return had;
  had?.close();
  return new WebSocket(address, protocols);
}
