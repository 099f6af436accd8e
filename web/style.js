/**
 * The component's style. It is a constructed style sheet, since a page's content security policy may forbid inline
 * styles, and with a linked one the component would be unstyled until it is loaded.
 */
export const style = new CSSStyleSheet();

style.replaceSync(`
:host {
  --accent: var(--peercam-accent, #4cc2a5);
  --surface: rgb(18 20 23 / 0.86);
  --line: rgb(255 255 255 / 0.12);
  --text: #f3f4f5;
  --soft: rgb(243 244 245 / 0.68);
  --good: #46d18a;
  --busy: #f0b429;
  --bad: #ff6b5e;
  display: block;
  position: relative;
  overflow: hidden;
  aspect-ratio: 16 / 9;
  background: #0b0c0e;
  color: var(--text);
  font: 400 0.9375rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-font-smoothing: antialiased;
  -webkit-tap-highlight-color: transparent;
  user-select: none;
  contain: layout paint style;
}
:host(:fullscreen) { width: 100%; height: 100%; aspect-ratio: auto; border-radius: 0; }
:host(:focus-visible) { outline: 2px solid var(--accent); outline-offset: -2px; }
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; }

.stage { position: absolute; inset: 0; }
.picture { position: absolute; inset: 0; overflow: hidden; touch-action: pan-x pan-y; }
video { width: 100%; height: 100%; display: block; object-fit: contain; }
/* Nothing here blurs its background: that would be redrawn with each frame of the video and add to the delay. */
/* An old picture must not look like a live one. */
.stage.stale video { filter: grayscale(0.9) brightness(0.4) blur(6px); }
/* Opacity, not visibility: a browser reports the frames of a video only while it would draw them. */
.stage.private :is(.picture, .last) { opacity: 0; }

svg {
  width: 1.5rem; height: 1.5rem; display: block; flex: none;
  fill: none; stroke: currentColor; stroke-width: 1.75; stroke-linecap: round; stroke-linejoin: round;
}
button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0; cursor: pointer;
  touch-action: manipulation;
}
button:disabled { opacity: 0.35; cursor: default; }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

/* A video whose tracks have ended is a black square; a faint copy of its last picture is shown instead. */
.stage.blank .picture { opacity: 0; }
.last { position: absolute; width: 100%; height: 100%; object-fit: contain; filter: grayscale(0.9) brightness(0.3) blur(14px); }

/* The elements over the video fade while nobody needs them. */
.top, .bar, .unmute { transition: opacity 0.25s, transform 0.25s; }
.quiet .top, .quiet .bar, .quiet .unmute { opacity: 0; }
.quiet .top > *, .quiet .bar > *, .quiet .unmute { pointer-events: none; }
.quiet .bar { transform: translateY(0.5rem); }
.quiet { cursor: none; }

.top {
  position: absolute; inset: 0 0 auto 0; z-index: 2;
  display: flex; align-items: center; gap: 0.625rem; flex-wrap: wrap;
  padding: max(0.875rem, env(safe-area-inset-top)) max(0.875rem, env(safe-area-inset-right)) 2.25rem
    max(0.875rem, env(safe-area-inset-left));
  background: linear-gradient(rgb(0 0 0 / 0.45), transparent);
  pointer-events: none;
}
.top > * { pointer-events: auto; }
.pill {
  display: inline-flex; align-items: center; gap: 0.5rem; min-height: 2rem; padding: 0.25rem 0.8125rem 0.25rem 0.6875rem;
  border-radius: 1rem; background: var(--surface);
  font-size: 0.8125rem; font-weight: 550; letter-spacing: 0.01em; white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
.pill::before {
  content: ""; width: 0.5rem; height: 0.5rem; border-radius: 50%; background: var(--soft); flex: none;
}
.pill[data-tone="good"]::before { background: var(--good); }
.pill[data-tone="busy"]::before { background: var(--busy); animation: breathe 1.4s ease-in-out infinite; }
.pill[data-tone="bad"]::before { background: var(--bad); }
.pill span { color: var(--soft); font-weight: 450; }
.pill span:empty { display: none; }
@keyframes breathe { 50% { opacity: 0.3; } }

.veil {
  position: absolute; inset: 0; z-index: 1; display: grid; place-items: center; padding: 4rem 1.5rem; text-align: center;
  animation: appear 0.25s both;
}
.veil > div { max-width: 26rem; display: grid; justify-items: center; gap: 0.375rem; }
.veil .sign { color: var(--soft); margin-bottom: 0.625rem; }
.veil .sign svg { width: 2.75rem; height: 2.75rem; stroke-width: 1.4; }
.veil h2 { margin: 0; font-size: 1.1875rem; font-weight: 600; letter-spacing: -0.01em; text-wrap: balance; }
.veil p { margin: 0; color: var(--soft); text-wrap: pretty; overflow-wrap: anywhere; }
.veil .action { margin-top: 1rem; }
/* If the connection succeeds at once, nothing should flash up. */
[data-state="connecting"] .veil { animation-delay: 0.3s; }
@keyframes appear { from { opacity: 0; } }
.action {
  display: inline-flex; align-items: center; gap: 0.5rem; min-height: 2.75rem; padding: 0.5rem 1.25rem;
  border-radius: 1.375rem; background: var(--text); color: #15181b; font-weight: 600;
}
.action:hover { background: #fff; }
.spinner {
  width: 2.5rem; height: 2.5rem; margin-bottom: 0.625rem; border-radius: 50%;
  border: 2.5px solid rgb(255 255 255 / 0.16); border-top-color: var(--text); animation: turn 0.9s 0.3s linear infinite;
}
@keyframes turn { to { transform: rotate(1turn); } }

.unmute { position: absolute; z-index: 3; left: 50%; translate: -50% 0; bottom: calc(5.25rem + env(safe-area-inset-bottom)); }
.unmute svg { width: 1.25rem; height: 1.25rem; }

.bar {
  position: absolute; inset: auto 0 0 0; z-index: 3;
  display: flex; align-items: center; gap: 0.125rem;
  padding: 2.5rem max(0.625rem, env(safe-area-inset-right)) max(0.625rem, env(safe-area-inset-bottom))
    max(0.625rem, env(safe-area-inset-left));
  background: linear-gradient(transparent, rgb(0 0 0 / 0.6));
  pointer-events: none;
}
.bar > * { pointer-events: auto; }
.bar .gap { flex: 1; pointer-events: none; }
/* 44 px: a finger hits this without aiming. */
.bar button, .panel button {
  width: 2.75rem; height: 2.75rem; display: grid; place-items: center; border-radius: 0.75rem; color: rgb(255 255 255 / 0.88);
  transition: background 0.15s, color 0.15s;
}
.bar button:hover, .panel button:hover { background: rgb(255 255 255 / 0.14); color: #fff; }
.bar button:active { background: rgb(255 255 255 / 0.22); }
.bar button[aria-pressed="true"] { color: var(--accent); }
.volume { display: flex; align-items: center; }
.volume input {
  width: 0; opacity: 0; height: 2.75rem; margin: 0; accent-color: var(--text); cursor: pointer; transition: width 0.2s, opacity 0.2s;
}
.volume:hover input, .volume:focus-within input { width: 5.5rem; opacity: 1; margin-right: 0.5rem; }

.panel {
  position: absolute; z-index: 4; max-height: calc(100% - 2rem); overflow: auto; overscroll-behavior: contain;
  border-radius: 0.875rem; background: var(--surface); border: 1px solid var(--line);
  animation: appear 0.15s both;
}
.panel header { display: flex; align-items: center; justify-content: space-between; padding: 0.25rem 0.25rem 0 1rem; }
.panel h2 { margin: 0; font-size: 0.8125rem; font-weight: 600; }
.panel header svg { width: 1.125rem; height: 1.125rem; }
.panel dl {
  margin: 0; padding: 0 1rem 0.875rem; display: grid; grid-template-columns: auto 1fr; gap: 0.1875rem 1.25rem;
  font-size: 0.8125rem; font-variant-numeric: tabular-nums;
}
.panel dt { color: var(--soft); }
.panel dd { margin: 0; text-align: right; user-select: text; }
.statistics {
  top: calc(3.5rem + env(safe-area-inset-top)); left: max(0.875rem, env(safe-area-inset-left)); width: 17.5rem;
  max-width: calc(100% - 1.75rem); max-height: calc(100% - 8rem);
}
.latency { padding: 0 1rem 0.75rem; }
.latency b { display: block; font-size: 1.75rem; line-height: 1.15; font-weight: 600; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.latency b.gap { font-size: 0.9375rem; letter-spacing: 0; font-weight: 500; }
.latency small { color: var(--soft); font-size: 0.75rem; }
.latency svg { width: 100%; height: 2.25rem; margin-top: 0.5rem; color: var(--accent); stroke-width: 1.5; overflow: visible; }
.help dl { row-gap: 0.4375rem; }
.help { inset: 0; margin: auto; width: 19rem; max-width: calc(100% - 2rem); height: fit-content; }
kbd {
  font: 500 0.75rem/1 ui-monospace, "SF Mono", Menlo, Consolas, monospace; padding: 0.1875rem 0.4375rem; border-radius: 0.3125rem;
  border: 1px solid var(--line); background: rgb(255 255 255 / 0.07);
}
.flash { position: absolute; inset: 0; z-index: 2; background: #fff; opacity: 0; pointer-events: none; }
.flash.on { animation: flash 0.35s ease-out; }
@keyframes flash { from { opacity: 0.55; } }
.identity {
  position: absolute; inset: 0; z-index: 2; display: grid; place-items: start center; pointer-events: none;
  padding-top: 3.5rem; border: 0.375rem solid var(--busy); border-radius: inherit; font-size: 1.0625rem; font-weight: 600; text-align: center;
  text-shadow: 0 0 0.75rem #000, 0 0 0.25rem #000; animation: breathe 2s ease-in-out infinite;
}
.identity:empty { opacity: 0; animation: none; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

/* A small player: text and button must not overlap the controls. */
.stage { container-type: size; }
@container (max-height: 19rem) {
  .veil { padding: 2.75rem 1rem 3.25rem; }
  .veil .sign { display: none; }
  .veil .spinner { width: 1.75rem; height: 1.75rem; margin: 0; }
  .veil h2 { font-size: 1rem; }
  .veil p { font-size: 0.8125rem; }
  .veil .action { margin-top: 0.25rem; }
}
@media (max-width: 30rem) {
  .bar { justify-content: space-between; }
  .bar .gap { display: none; }
  .statistics { max-height: calc(100% - 8.5rem); }
}
/* Touch devices have volume keys of their own. */
@media (hover: none) { .volume input, .bar .for-keys { display: none; } }
@media (prefers-reduced-motion: reduce) {
  * { transition: none !important; }
  .veil, .panel, .flash.on { animation: none; }
  .pill::before, .identity { animation: none !important; }
  .spinner { animation-duration: 4s; }
}
`);
