/**
 * A login that the page keeps by itself, where the browser keeps no cookie: in a frame of another site, by http.
 *
 * It is a session that ends by itself, and not the secret. The storage is this tab's, and in a frame that of the site
 * around it too: no other site that frames the board gets at it.
 */
const KEY = 'peercam.login';

/** Where storage is not allowed, the login lasts until the page is left. */
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
