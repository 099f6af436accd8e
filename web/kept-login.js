/**
 * A login that the page stores itself if the browser stores no cookie: in a frame of another site, over http.
 *
 * It is a session that expires, not the secret. The storage belongs to this tab, and in a frame also to the surrounding
 * site: no other site that frames the board can read it.
 */
const KEY = 'peercam.login';

/** If storage is not allowed, the login lasts until the page is left. */
let kept = null;

/** @returns {string | null} */
export function keptLogin() {
  try {
    return sessionStorage.getItem(KEY) ?? kept;
  } catch {
    return kept;
  }
}

/** @param {string | null} token  `null` forgets it. */
export function keepLogin(token) {
  kept = token;
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {}
}
