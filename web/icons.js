/** The icons, drawn on a grid of 24 with lines of 1.75, in the colour of the text. */
const shapes = {
  play: '<path d="M8 5.5v13l10.5-6.5z"/>',
  pause: '<path d="M9 6v12M15 6v12"/>',
  sound: '<path d="M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a7.8 7.8 0 0 1 0 11"/>',
  muted: '<path d="M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM16 9.5l5 5M21 9.5l-5 5"/>',
  snapshot:
    '<path d="M4 8.5h3.5L9 6h6l1.5 2.5H20v10.5H4z"/><circle cx="12" cy="13.5" r="3.25"/>',
  statistics: '<path d="M4 19.5h16M6.5 16v-4M12 16V5M17.5 16V9"/>',
  pip: '<path d="M20 11V5.5H4v13h6.5"/><path d="M13 13.5h7v5h-7z"/>',
  fullscreen: '<path d="M4.5 9V4.5H9M15 4.5h4.5V9M19.5 15v4.5H15M9 19.5H4.5V15"/>',
  window: '<path d="M9 4.5V9H4.5M19.5 9H15V4.5M15 19.5V15h4.5M4.5 15H9v4.5"/>',
  help: '<path d="M9 9.2a3 3 0 1 1 4.4 2.7c-.9.5-1.4 1-1.4 2.1"/><path d="M12 17.5v.01"/>',
  camera: '<path d="M3.5 7h11.5v10H3.5zM15 11l5.5-3.5v9L15 13z"/>',
  'camera-off': '<path d="M8 7h7v7M15 11l5.5-3.5v9L17 14M15 17H3.5V7H5M3 3l18 18"/>',
  away: '<path d="M3.5 9.5a13 13 0 0 1 5-2.8M12 6a13 13 0 0 1 8.5 3.5M6.5 13a8.5 8.5 0 0 1 4-2.2M15 11.3a8.5 8.5 0 0 1 2.5 1.7M9.8 16.5a4 4 0 0 1 4.4 0M12 19.5v.01M4 3.5l16 17"/>',
  key: '<circle cx="8" cy="15" r="4"/><path d="M11 12l8.5-8.5M16 6.5l2.5 2.5M13.5 9l2 2"/>',
  close: '<path d="M6 6l12 12M18 6L6 18"/>',
};

/**
 * @param {keyof typeof shapes} name
 * @returns {string}  Markup of an icon that assistive technology ignores.
 */
export function icon(name) {
  return `<svg viewBox="0 0 24 24" aria-hidden="true" focusable="false">${shapes[name]}</svg>`;
}
