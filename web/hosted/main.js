/**
 * The page's first script. It is small, so that the connection to the broker starts while everything else is still
 * loading: connecting takes several round trips, and mosquitto takes a tenth of a second to accept a WebSocket.
 */
import { openEarly } from './early-socket.js';
import { isComplete, remembered, understood } from './settings.js';

const settings = remembered();
try {
  if (isComplete(settings)) openEarly(understood(settings).broker);
} catch {
  // The page shows what is wrong with the address.
}
import('./hosted.js');
