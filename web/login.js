/**
 * Trades the secret for a cookie, or where the browser keeps none for a session that the page keeps. Wrong attempts are
 * slowed down by the board; the page only says how long.
 */
import { keepLogin, keptLogin } from './kept-login.js';

const form = document.querySelector('form');
const field = document.querySelector('#secret');
const show = document.querySelector('#show');
const message = document.querySelector('#message');
const enter = document.querySelector('.enter');

/** Where the board does not say how long to wait. */
const USUAL_WAIT_S = 5;

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  enter.disabled = true;
  say('');
  const secret = field.value.trim();
  const answer = await post({ secret });
  if (answer?.status === 204) {
    if (!(await isLetIn())) await keepByPage(secret);
    enterPage();
    return;
  }
  if (answer?.status === 429) await wait(Number(answer.headers.get('Retry-After')) || USUAL_WAIT_S);
  else if (answer?.status === 401) wrong();
  else if (answer) await refused(answer);
  else say('The camera does not answer. Is it on, and are you in its network?', 'bad');
  enter.disabled = false;
});

field.addEventListener('input', () => field.removeAttribute('aria-invalid'));

show.addEventListener('click', () => {
  const visible = field.type === 'password';
  field.type = visible ? 'text' : 'password';
  show.textContent = visible ? 'Hide' : 'Show';
  show.ariaPressed = String(visible);
  field.focus();
});

/** @returns {Promise<Response | null>}  `null` where the board cannot be reached. */
function post(login) {
  const headers = { 'Content-Type': 'application/json' };
  return fetch('api/login', { method: 'POST', headers, body: JSON.stringify(login) }).catch(() => null);
}

/** Whether a request like those of the viewer is let in. */
async function isLetIn() {
  const token = keptLogin();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch('api/signal', { method: 'POST', headers }).catch(() => null);
  // It takes WebSockets only; that it says so is what is asked for.
  return answer?.status === 426;
}

async function keepByPage(secret) {
  const answer = await post({ secret, keep: 'token' });
  keepLogin((await answer?.json().catch(() => null))?.token ?? null);
}

/** Shows the viewer in place of the question: the board would not know of a login kept here if asked for its page. */
function enterPage() {
  document.title = 'Camera';
  document.querySelector('meta[name="color-scheme"]').content = 'dark';
  document.body.className = 'watching';
  document.body.replaceChildren();
  import('./index.js');
}

async function refused(answer) {
  const reason = (await answer.json().catch(() => null))?.reason;
  say(reason ? `The camera says: ${reason}.` : `The camera answered with an error (${answer.status}).`, 'bad');
}

function wrong() {
  say('That is not the secret of this camera.', 'bad');
  field.setAttribute('aria-invalid', 'true');
  field.select();
}

/** Counts down until the board listens again. */
async function wait(seconds) {
  for (let left = Math.ceil(seconds); left > 0; left--) {
    say(`Too many attempts. You can try again in ${left} s.`, 'bad');
    await new Promise((done) => setTimeout(done, 1000));
  }
  say('You can try again now.');
  field.focus();
}

function say(text, kind = '') {
  message.textContent = text;
  message.className = `message ${kind}`;
}

// Who followed a link from another site may be logged in: a browser sends the cookie with requests of this page only.
if (await isLetIn()) enterPage();
