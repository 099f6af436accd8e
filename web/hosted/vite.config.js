/** Bundles the page with the viewer and MQTT.js into `dist/`, which any web server can serve from any directory. */
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative addresses: the page need not lie at the root of its host.
  base: './',
  build: {
    // What the viewer itself needs: constructed style sheets, private methods, static fields.
    target: ['chrome105', 'firefox113', 'safari16.4'],
    // The page's content security policy has no `data:`; a file of its own is as good.
    assetsInlineLimit: 0,
    // MQTT.js is more than half of it, and needed at once.
    chunkSizeWarningLimit: 600,
    reportCompressedSize: false,
  },
  server: { fs: { allow: [fileURLToPath(new URL('..', import.meta.url))] } },
});
