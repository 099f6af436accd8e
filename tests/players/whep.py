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
        self.answer = merged(self.answer, fragment)
        return self.answer


def value(text, name):
    """The value of an attribute."""
    found = re.search(rf"^a={name}:(.*)\r\n", text, re.MULTILINE)
    return found and found[1]


def merged(answer, fragment):
    """The answer with what a fragment tells of each transport: of all sections that had the same credentials."""
    head, *sections = re.split(r"^(?=m=)", answer, flags=re.MULTILINE)
    transports = {}
    for told in re.split(r"^(?=m=)", fragment, flags=re.MULTILINE)[1:]:
        of_tag = next(section for section in sections if value(section, "mid") == value(told, "mid"))
        transports[value(of_tag, "ice-ufrag")] = told
    for index, section in enumerate(sections):
        told = transports.get(value(section, "ice-ufrag"))
        if told is None:
            continue
        section = re.sub(r"^a=(?:candidate:.*|end-of-candidates)\r\n", "", section, flags=re.MULTILINE)
        for name in ("ice-ufrag", "ice-pwd"):
            section = re.sub(rf"^a={name}:.*\r\n", f"a={name}:{value(told, name)}\r\n", section, flags=re.MULTILINE)
        if value(section, "mid") == value(told, "mid"):
            section += "".join(re.findall(r"^a=candidate:.*\r\n", told, re.MULTILINE))
        sections[index] = section
    return head + "".join(sections)
