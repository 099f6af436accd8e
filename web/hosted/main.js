/**
 * The page's first script. It is small, so that the broker is being reached while all the rest is still loading: that
 * takes several round trips, and mosquitto takes a tenth of a second to accept a WebSocket.
 */
import { openEarly } from './early-socket.js';
import { isComplete, remembered, understood } from './settings.js';

const settings = remembered();
try {
  if (isComplete(settings)) openEarly(understood(settings).broker);
} catch {
  // What is wrong with the address is said by the page.
}
import('./hosted.js');
