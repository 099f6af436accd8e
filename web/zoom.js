/** Digital zoom of the picture: wheel, pinch, drag and double click. */

const MOST = 8;
/** One notch of a usual wheel (100) zooms by about a sixth. */
const WHEEL = 0.0015;

export class Zoom {
  #box;
  #video;
  #scale = 1;
  #x = 0;
  #y = 0;
  #pointers = new Map();

  /**
   * @param {HTMLElement} box  The element that the video fills.
   * @param {HTMLVideoElement} video
   */
  constructor(box, video) {
    this.#box = box;
    this.#video = video;
    box.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    box.addEventListener('pointerdown', (event) => this.#down(event));
    box.addEventListener('pointermove', (event) => this.#move(event));
    for (const end of ['pointerup', 'pointercancel']) {
      box.addEventListener(end, ({ pointerId }) => this.#pointers.delete(pointerId));
    }
  }

  /** 1 is the whole picture. */
  get scale() {
    return this.#scale;
  }

  reset() {
    this.by(1 / this.#scale);
  }

  /** Zooms by a factor around a point, given in pixels from the middle of the box. */
  by(factor, x = 0, y = 0) {
    const scale = Math.min(MOST, Math.max(1, this.#scale * factor));
    const real = scale / this.#scale;
    this.#x = x - (x - this.#x) * real;
    this.#y = y - (y - this.#y) * real;
    this.#scale = scale;
    this.#apply();
  }

  #wheel(event) {
    // While the whole picture is shown, zooming out does nothing here, so that the page can scroll.
    if (event.deltaY > 0 && this.#scale === 1) return;
    event.preventDefault();
    this.by(Math.exp(-event.deltaY * WHEEL), ...this.#place(event));
  }

  #down(event) {
    this.#pointers.set(event.pointerId, this.#place(event));
    if (this.#scale > 1 || this.#pointers.size > 1) this.#box.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#place(event);
    this.#pointers.set(event.pointerId, now);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const factor = distance(now, other) / Math.max(1, distance(before, other));
      this.by(factor, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    // With two fingers, each moves the picture by half its distance, so that both together move it by the whole.
    const share = other ? 0.5 : 1;
    this.#x += (now[0] - before[0]) * share;
    this.#y += (now[1] - before[1]) * share;
    this.#apply();
  }

  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.#box.getBoundingClientRect();
    return [clientX - left - width / 2, clientY - top - height / 2];
  }

  #apply() {
    const [width, height] = [this.#box.clientWidth, this.#box.clientHeight];
    const most = (size) => (size * (this.#scale - 1)) / 2;
    this.#x = Math.min(most(width), Math.max(-most(width), this.#x));
    this.#y = Math.min(most(height), Math.max(-most(height), this.#y));
    const moved = this.#scale > 1;
    this.#video.style.transform = moved ? `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})` : '';
    // While the whole picture is shown, one finger scrolls the page; two fingers always zoom.
    this.#box.style.touchAction = moved ? 'none' : 'pan-x pan-y';
  }
}

function distance([x1, y1], [x2, y2]) {
  return Math.hypot(x1 - x2, y1 - y2);
}
