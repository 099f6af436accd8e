/** The board's own page: one viewer over the whole window, and a choice where the board has several cameras. */
import { keepLogin, keptLogin } from './kept-login.js';
import { Notices } from './notices.js';
import './peercam-viewer.js';

const VOLUME_KEY = 'peercam.volume';
/** How often the board is asked whether there is something new to know. Nobody waits for it, and it is a small page. */
const STATUS_MS = 30_000;

const viewer = document.createElement('peercam-viewer');
const wanted = new URLSearchParams(location.search).get('camera');
if (wanted) viewer.camera = wanted;
for (const attribute of ['autoplay', 'controls']) viewer.toggleAttribute(attribute, true);
if (keptLogin()) viewer.token = keptLogin();
// The board does not take it any more: the next page is to ask for the secret.
viewer.addEventListener('login', () => keepLogin(null));
rememberVolume();
const notices = new Notices();
document.body.append(notices.element, viewer);
viewer.focus();
// Nothing else on this page wants keys, so they work wherever the focus is.
document.addEventListener('keydown', (event) => viewer.handleKey(event));

// Asked when the picture is there, which must not wait for it; and where there is none, at once.
viewer.addEventListener('state', begin);

function begin() {
  if (viewer.state === 'connecting') return;
  viewer.removeEventListener('state', begin);
  offerCameras();
  setInterval(() => document.hidden || askStatus(), STATUS_MS);
}

/** What the board says of itself; `null` where it says nothing. Shows its notices. */
async function askStatus() {
  const token = keptLogin();
  // The first keeps the browser from asking for user and password when the login has ended.
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

/** A choice of cameras that keeps the address in step, so that it can be bookmarked. */
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

/** A loud camera stays turned down. Where storage is not allowed, each visit begins anew. */
function rememberVolume() {
  const { video } = viewer;
  try {
    const { volume, muted } = JSON.parse(localStorage.getItem(VOLUME_KEY)) ?? {};
    if (volume >= 0 && volume <= 1) video.volume = volume;
    if (muted === true) video.muted = true;
  } catch {
    return;
  }
  // Only what a person did: muting because the browser forbids sound is not a wish.
  video.addEventListener('volumechange', () => {
    if (!navigator.userActivation?.hasBeenActive) return;
    localStorage.setItem(VOLUME_KEY, JSON.stringify({ volume: video.volume, muted: video.muted }));
  });
}
