// What the players in Node have in common: WHEP by fetch, and the lines that the suite reads.

/** Tells the suite how far this player is. */
export function told(what) {
    console.log(JSON.stringify(what));
}

/** Resolves when `is_so` holds. */
export async function until(isSo) {
    while (!isSo()) await new Promise((done) => setTimeout(done, 20));
}

/** Counts what an RTP packet of H.264 completes: 1 for the last packet of a picture (RFC 6184, section 5.1), else 0. */
export function completed(packet) {
    return packet[1] >> 7;
}

/** A WHEP session. The secret goes along as Bearer token. */
export class Session {
    constructor(url, secret) {
        this.url = url;
        this.secret = secret;
    }

    async ask(method, type, body) {
        const headers = { Authorization: `Bearer ${this.secret}`, "Content-Type": type, "If-Match": "*" };
        const response = await fetch(this.url, { method, headers, body });
        const text = await response.text();
        if (!response.ok) throw new Error(`${method} ${this.url}: ${response.status} ${text}`);
        return { text, location: response.headers.get("Location") };
    }

    /** The answer to an offer. */
    async join(offer) {
        const { text, location } = await this.ask("POST", "application/sdp", offer);
        this.url = new URL(location, this.url).href;
        this.answer = text;
        return text;
    }

    /** The answer to an offer that restarts ICE, of which WHEP tells the difference only (RFC 8840). */
    async restart(offer) {
        const kept = offer.match(/^(?:a=(?:ice-ufrag|ice-pwd|candidate|mid):.*|m=.*)\r\n/gm).join("");
        const { text } = await this.ask("PATCH", "application/trickle-ice-sdpfrag", kept);
        const candidates = [...new Set(text.match(/^a=candidate:.*\r\n/gm))].join("");
        let answer = this.answer.replace(/^a=(?:candidate:.*|end-of-candidates)\r\n/gm, "");
        for (const name of ["ice-ufrag", "ice-pwd"]) {
            const line = new RegExp(`^a=${name}:.*\r\n`, "gm");
            const [fresh] = text.match(line);
            answer = answer.replace(line, () => fresh);
        }
        this.answer = answer.replace(/^(?=a=ice-ufrag:)/m, () => candidates);
        return this.answer;
    }
}
