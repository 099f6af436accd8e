"""What the players in Python have in common: WHEP over the standard library, and the lines that the suite reads."""

import json
import re
import sys
import urllib.request


def told(**what):
    """Tells the suite how far this player is."""
    print(json.dumps(what), flush=True)


class Session:
    """A WHEP session. The secret goes along as Bearer token."""

    def __init__(self, url, secret):
        self.url, self.secret, self.answer = url, secret, None

    def _ask(self, method, content_type, body):
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": content_type, "If-Match": "*"}
        request = urllib.request.Request(self.url, body.encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {self.url}: {error.code} {error.read().decode()}")

    def join(self, offer):
        """The answer to an offer."""
        headers, self.answer = self._ask("POST", "application/sdp", offer)
        self.url = urllib.parse.urljoin(self.url, headers["Location"])
        return self.answer

    def restart(self, offer):
        """The answer to an offer that restarts ICE, of which WHEP tells the difference only (RFC 8840)."""
        kept = re.findall(r"^(?:a=(?:ice-ufrag|ice-pwd|candidate|mid):.*|m=.*)\r\n", offer, re.MULTILINE)
        _, fragment = self._ask("PATCH", "application/trickle-ice-sdpfrag", "".join(kept))
        candidates = "".join(sorted(set(re.findall(r"^a=candidate:.*\r\n", fragment, re.MULTILINE))))
        answer = re.sub(r"^a=(?:candidate:.*|end-of-candidates)\r\n", "", self.answer, flags=re.MULTILINE)
        for name in ("ice-ufrag", "ice-pwd"):
            fresh = re.search(rf"^a={name}:.*\r\n", fragment, re.MULTILINE)[0]
            answer = re.sub(rf"^a={name}:.*\r\n", fresh, answer, flags=re.MULTILINE)
        self.answer = re.sub(r"^(?=a=ice-ufrag:)", candidates, answer, count=1, flags=re.MULTILINE)
        return self.answer
