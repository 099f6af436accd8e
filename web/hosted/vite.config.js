/** Bundles the page with the viewer and MQTT.js into `dist/`, which any web server can serve from any directory. */
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative addresses: the page need not be at the root of its host.
  base: './',
  build: {
    // The viewer itself needs these versions: constructed style sheets, private methods, static fields.
    target: ['chrome105', 'firefox113', 'safari16.4'],
    // The page's content security policy does not allow `data:`, so assets stay separate files.
    assetsInlineLimit: 0,
    // MQTT.js is more than half of the size, and needed at once.
    chunkSizeWarningLimit: 600,
    reportCompressedSize: false,
  },
  server: { fs: { allow: [fileURLToPath(new URL('..', import.meta.url))] } },
});
