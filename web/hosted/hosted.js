/** A page for any web server: it finds cameras at an MQTT broker and plays one. */
import '../peercam-viewer.js';
import { MqttTransport } from '../mqtt-signalling.js';
import { BrokerConnection } from './broker.js';
import { CameraList } from './cameras.js';
import { forgetPassword, isComplete, remember, remembered, showInAddress, understood } from './settings.js';

const entering = document.querySelector('#entering');
const finding = document.querySelector('#finding');
const form = document.querySelector('form');
const message = document.querySelector('#message');
const stage = finding.querySelector('main');

const cameras = new CameraList(finding.querySelector('nav'));
const viewer = document.createElement('peercam-viewer');
viewer.toggleAttribute('controls', true);

/** @type {BrokerConnection | null} */
let broker = null;
/** @type {MqttTransport | null} */
let transport = null;
let settings = remembered();

begin();

form.addEventListener('submit', (event) => {
  event.preventDefault();
  try {
    settings = { ...settings, ...understood(Object.fromEntries(new FormData(form))) };
  } catch (error) {
    say(error.message, 'bad');
    return;
  }
  say(`Connecting to ${new URL(settings.broker).host} …`);
  connect();
});

finding.querySelector('.leave').addEventListener('click', () => {
  forgetPassword();
  settings = { ...settings, password: '', device: '', camera: '' };
  release();
  showInAddress(settings);
  enter('');
});

cameras.addEventListener('choose', ({ detail: { device, camera } }) => play(device, camera));

/** Connects without asking if the settings are complete. */
function begin() {
  if (!isComplete(settings)) {
    enter('');
    return;
  }
  try {
    settings = { ...settings, ...understood(settings) };
  } catch (error) {
    enter(error.message);
    return;
  }
  show(finding);
  connect();
}

function connect() {
  release();
  broker = new BrokerConnection(settings);
  transport = new MqttTransport(broker.client, settings);
  broker.addEventListener('change', brokerChanged);
  cameras.listen(broker.client, settings.prefix);
  showBroker();
  // Plays at once: the offer is made while the broker is being connected.
  if (settings.device && !finding.hidden) play(settings.device, settings.camera);
}

function release() {
  viewer.remove();
  broker?.removeEventListener('change', brokerChanged);
  broker?.end();
  broker = transport = null;
}

function brokerChanged() {
  const { state, reason } = broker.standing;
  showBroker();
  if (state === 'refused') {
    release();
    enter(reason);
  } else if (state === 'online') {
    remember(settings);
    showInAddress(settings);
    if (finding.hidden) {
      show(finding);
      if (settings.device) play(settings.device, settings.camera);
    }
  } else if (!entering.hidden) {
    say(`${reason} Trying again.`, 'bad');
  }
}

function play(device, camera) {
  settings = { ...settings, device, camera };
  cameras.choose(device, camera);
  showInAddress(settings);
  document.title = `${cameras.title(device, camera)} – cameras`;
  viewer.transport = () => transport.open(device, camera);
  if (!viewer.isConnected) stage.append(viewer);
  viewer.play();
}

function showBroker() {
  const { state, reason } = broker.standing;
  const element = finding.querySelector('.broker');
  const words = { connecting: 'Connecting to', online: '', away: 'Trying to reach', refused: '' };
  element.dataset.tone = { connecting: 'busy', online: 'good', away: 'busy', refused: 'bad' }[state];
  element.title = reason;
  element.querySelector('.word').textContent = `${words[state]} ${broker.host}`.trim();
}

function enter(reason) {
  for (const name of ['broker', 'user', 'password']) form.elements[name].value = settings[name];
  form.elements.prefix.value = settings.prefix;
  show(entering);
  say(reason, 'bad');
  document.title = 'Cameras';
  // Focuses the first field that is still empty.
  const missing = ['broker', 'user', 'password'].find((name) => !form.elements[name].value);
  form.elements[missing ?? 'password'].focus();
}

function show(view) {
  for (const each of [entering, finding]) each.hidden = each !== view;
}

function say(text, tone = '') {
  message.textContent = text;
  message.className = `message ${tone}`;
}
