/**
 * What the board's operator should know, in a bar above the picture: a mistake in the provisioning file, a full disk.
 * Who has read a notice puts it away until the tab is closed, or until it says something else.
 */
import { icon } from './icons.js';

const READ_KEY = 'peercam.notices';

export class Notices {
  /** There from the start, since a screen reader reads out only what comes into a place that it knows. */
  element = document.createElement('section');
  #read = new Set();
  /** What is shown. */
  #unread = [];

  constructor() {
    this.element.className = 'notices';
    this.element.ariaLabel = 'Notices';
    this.element.role = 'status';
    this.element.addEventListener('click', ({ target }) => this.#clicked(target));
    // Where storage is not allowed, what was put away comes back with the next visit.
    try {
      this.#read = new Set(JSON.parse(sessionStorage.getItem(READ_KEY)));
    } catch {}
  }

  /** @param {{about: string, text: string}[]} notices  All that hold now. */
  show(notices) {
    const unread = notices.filter((notice) => !this.#read.has(key(notice)));
    // Written only when it is news, since a screen reader reads it out each time, and the focus would be lost.
    if (JSON.stringify(unread) === JSON.stringify(this.#unread)) return;
    this.#unread = unread;
    this.element.replaceChildren(...unread.map(line));
  }

  #clicked(target) {
    const read = target.closest('button')?.closest('.notice-line');
    if (!read) return;
    this.#read.add(read.dataset.key);
    try {
      sessionStorage.setItem(READ_KEY, JSON.stringify([...this.#read]));
    } catch {}
    const next = read.nextElementSibling ?? read.previousElementSibling;
    read.remove();
    this.#unread = this.#unread.filter((notice) => key(notice) !== read.dataset.key);
    // The focus does not fall out of the page with its button.
    (next?.querySelector('button') ?? document.querySelector('peercam-viewer')).focus();
  }
}

function key({ about, text }) {
  return `${about}\n${text}`;
}

function line(notice) {
  const element = document.createElement('div');
  element.className = 'notice-line';
  element.dataset.key = key(notice);
  const text = document.createElement('p');
  const about = document.createElement('b');
  about.textContent = `${notice.about.replaceAll('-', ' ')}: `;
  text.append(about, notice.text);
  const button = document.createElement('button');
  button.type = 'button';
  button.ariaLabel = `Dismiss the notice about ${notice.about}`;
  button.title = 'Dismiss';
  button.innerHTML = icon('close');
  element.append(text, button);
  return element;
}
