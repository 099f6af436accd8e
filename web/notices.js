/**
 * Shows notices for the board's operator in a bar above the video: an error in the provisioning file, a full disk. A
 * dismissed notice stays away until the tab is closed, or until its text changes.
 */
import { icon } from './icons.js';

const READ_KEY = 'peercam.notices';

export class Notices {
  /** Exists from the start, since a screen reader reads out only changes of an element that it knows. */
  element = document.createElement('section');
  #read = new Set();
  /** The notices that are shown. */
  #unread = [];

  constructor() {
    this.element.className = 'notices';
    this.element.ariaLabel = 'Notices';
    this.element.role = 'status';
    this.element.addEventListener('click', ({ target }) => this.#clicked(target));
    // If storage is not allowed, dismissed notices come back with the next visit.
    try {
      this.#read = new Set(JSON.parse(sessionStorage.getItem(READ_KEY)));
    } catch {}
  }

  /** @param {{about: string, text: string}[]} notices  All current notices. */
  show(notices) {
    const unread = notices.filter((notice) => !this.#read.has(key(notice)));
    // Written only when it has changed, since a screen reader reads it out each time, and the focus would be lost.
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
    // Keeps the focus on the page when its button is removed.
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
