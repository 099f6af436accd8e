/** Trades the secret for a cookie. Wrong attempts are slowed down by the board; the page only says how long. */

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
  const answer = await post(field.value.trim());
  if (answer?.status === 204) {
    location.replace('/');
    return;
  }
  if (answer?.status === 429) await wait(Number(answer.headers.get('Retry-After')) || USUAL_WAIT_S);
  else if (answer?.status === 401) wrong();
  else if (answer) say(`The camera answered with an error (${answer.status}). Please try again.`, 'bad');
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
function post(secret) {
  const headers = { 'Content-Type': 'application/json' };
  return fetch('/api/login', { method: 'POST', headers, body: JSON.stringify({ secret }) }).catch(() => null);
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
