/** The board's own page: one viewer over the whole window, and a camera picker if the board has several cameras. */
import { keepLogin, keptLogin } from './kept-login.js';
import { Notices } from './notices.js';
import './peercam-viewer.js';

const VOLUME_KEY = 'peercam.volume';
/** How often the board is asked for new notices. They are not urgent, and the response is small. */
const STATUS_MS = 30_000;

const viewer = document.createElement('peercam-viewer');
const wanted = new URLSearchParams(location.search).get('camera');
if (wanted) viewer.camera = wanted;
for (const attribute of ['autoplay', 'controls']) viewer.toggleAttribute(attribute, true);
if (keptLogin()) viewer.token = keptLogin();
// The board no longer accepts the token: the next page has to ask for the secret.
viewer.addEventListener('login', () => keepLogin(null));
rememberVolume();
const notices = new Notices();
document.body.append(notices.element, viewer);
viewer.focus();
// Nothing else on this page uses keys, so they work wherever the focus is.
document.addEventListener('keydown', (event) => viewer.handleKey(event));

// The status is requested once the video is shown, so as not to delay it, or once it is known that there is none.
viewer.addEventListener('state', begin);

function begin() {
  if (viewer.state === 'connecting') return;
  viewer.removeEventListener('state', begin);
  offerCameras();
  setInterval(() => document.hidden || askStatus(), STATUS_MS);
}

/** Requests the board's status and shows its notices. Returns `null` if there is no answer. */
async function askStatus() {
  const token = keptLogin();
  // The first header keeps the browser from asking for user and password when the login has ended.
  const headers = { 'X-Requested-With': 'XMLHttpRequest', ...(token && { Authorization: `Bearer ${token}` }) };
  const status = await fetch('api/status', { headers })
    .then((response) => (response.ok ? response.json() : null))
    .catch(() => null);
  if (status) notices.show(status.notices ?? []);
  return status;
}

async function offerCameras() {
  const status = await askStatus();
  const cameras = (status?.cameras ?? []).map(({ name }) => name).filter(Boolean);
  name(viewer.camera || cameras[0]);
  if (cameras.length > 1) viewer.append(picker(cameras));
}

/** A camera picker that also updates the page's address, so that it can be bookmarked. */
function picker(cameras) {
  const select = document.createElement('select');
  select.slot = 'top';
  select.className = 'picker';
  select.ariaLabel = 'Camera';
  select.append(...cameras.map((camera) => new Option(camera, camera)));
  select.value = viewer.camera || cameras[0];
  select.addEventListener('change', () => {
    viewer.camera = select.value;
    name(select.value);
    const address = new URL(location.href);
    address.searchParams.set('camera', select.value);
    history.replaceState(null, '', address);
    viewer.focus();
  });
  return select;
}

function name(camera) {
  if (camera) document.title = `${camera} – camera`;
}

/** Stores the volume, so that a loud camera stays turned down. If storage is not allowed, each visit starts afresh. */
function rememberVolume() {
  const { video } = viewer;
  try {
    const { volume, muted } = JSON.parse(localStorage.getItem(VOLUME_KEY)) ?? {};
    if (volume >= 0 && volume <= 1) video.volume = volume;
    if (muted === true) video.muted = true;
  } catch {
    return;
  }
  // Only changes by a person are stored: the viewer also mutes when the browser forbids sound.
  video.addEventListener('volumechange', () => {
    if (!navigator.userActivation?.hasBeenActive) return;
    localStorage.setItem(VOLUME_KEY, JSON.stringify({ volume: video.volume, muted: video.muted }));
  });
}
