/**
 * Exchanges the secret for a cookie, or, if the browser stores no cookie, for a session that the page stores. The board
 * slows down wrong attempts; the page only shows how long to wait.
 */
import { keepLogin, keptLogin } from './kept-login.js';

const form = document.querySelector('form');
const field = document.querySelector('#secret');
const show = document.querySelector('#show');
const message = document.querySelector('#message');
const enter = document.querySelector('.enter');

/** Used if the board does not state how long to wait. */
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

/** @returns {Promise<Response | null>}  `null` if the board cannot be reached. */
function post(login) {
  const headers = { 'Content-Type': 'application/json' };
  return fetch('api/login', { method: 'POST', headers, body: JSON.stringify(login) }).catch(() => null);
}

/** Whether the board accepts a request like those of the viewer. */
async function isLetIn() {
  const token = keptLogin();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch('api/signal', { method: 'POST', headers }).catch(() => null);
  // The address accepts only WebSockets; a request that passes the login gets this status.
  return answer?.status === 426;
}

async function keepByPage(secret) {
  const answer = await post({ secret, keep: 'token' });
  keepLogin((await answer?.json().catch(() => null))?.token ?? null);
}

/** Shows the viewer in place of the login form: a request for the board's page would not carry a login stored here. */
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

/** Counts down until the board accepts attempts again. */
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

// After a link from another site the viewer may be logged in already: the browser sends the cookie only from this page.
if (await isLetIn()) enterPage();
