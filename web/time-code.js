/**
 * Reads the time code of the test picture from a video frame, for measuring latency from the outside.
 *
 * The code is at the top left, as two rows of 20 square blocks, white for 1: 32 bits of the Unix time in milliseconds
 * (modulo 2^32, most significant bit first), then a CRC-8 (polynomial 0x07, initially 0xff) of those 4 bytes. The edge
 * of a block is an 80th of the picture's width, at least 8 pixels, rounded down to an even number.
 * src/camera/time_code.rs paints it.
 */
const COLUMNS = 20;
const ROWS = 2;
const POLYNOMIAL = 0x07;

let canvas;

/**
 * @param {HTMLVideoElement} video  At the moment of a frame callback, its current frame is the callback's.
 * @returns {number | null}  The low 32 bits of the Unix time in ms; `null` if there is no valid time code.
 */
export function readTimeCode(video) {
  const width = video.videoWidth;
  if (!width) return null;
  const edge = Math.max(8, Math.floor(width / 80 / 2) * 2);
  canvas ??= new OffscreenCanvas(1, 1);
  if (canvas.width !== COLUMNS * edge) [canvas.width, canvas.height] = [COLUMNS * edge, ROWS * edge];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(video, 0, 0, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const bytes = [];
  for (let bit = 0; bit < COLUMNS * ROWS; bit++) {
    const [column, row] = [bit % COLUMNS, Math.floor(bit / COLUMNS)];
    bytes[bit >> 3] = ((bytes[bit >> 3] ?? 0) << 1) | isWhite(data, canvas.width, column * edge, row * edge, edge);
  }
  const time = bytes.slice(0, 4);
  if (crc8(time) !== bytes[4]) return null;
  return time.reduce((all, byte) => all * 256 + byte, 0);
}

/**
 * The age of a time code.
 * @param {number} code  The result of `readTimeCode`.
 * @param {number} [now]  Unix time in ms; fractions are kept.
 * @returns {number}  ms; negative if the clocks differ.
 */
export function ageOf(code, now = performance.timeOrigin + performance.now()) {
  const whole = Math.floor(now);
  return (((whole % 2 ** 32) - code) | 0) + (now - whole);
}

/** Reads only the middle half of the block: the encoder blurs its border. */
function isWhite(data, stride, left, top, edge) {
  let sum = 0;
  let pixels = 0;
  for (let y = top + edge / 4; y < top + (edge * 3) / 4; y++) {
    for (let x = left + edge / 4; x < left + (edge * 3) / 4; x++) {
      // Green alone is enough for black and white.
      sum += data[(Math.floor(y) * stride + Math.floor(x)) * 4 + 1];
      pixels++;
    }
  }
  return sum / pixels > 128 ? 1 : 0;
}

function crc8(bytes) {
  let crc = 0xff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x80 ? ((crc << 1) ^ POLYNOMIAL) & 0xff : (crc << 1) & 0xff;
  }
  return crc;
}
