/** A WebSocket to the broker that is opened before the MQTT client is loaded. */

/** @type {WebSocket | null} */
let early = null;

/** @param {string} address */
export function openEarly(address) {
  early = new WebSocket(address, ['mqtt']);
}

/**
 * Returns the early socket, once, if it is for this address and has not failed; else a new one.
 * @param {string} address  @param {string[]} protocols
 */
export function openSocket(address, protocols) {
  const had = early;
  early = null;
  if (had?.url === new URL(address).href && had.readyState <= WebSocket.OPEN) return had;
  had?.close();
  return new WebSocket(address, protocols);
}
