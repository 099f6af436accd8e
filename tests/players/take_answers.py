"""libwebrtc, the stack of Chromium, takes each answer of `tests/offers/cases` as the answer to an offer of its own.

Each case's offer is first given the form that libwebrtc's own have: its certificate, `actpass`, `rtcp-mux`, a tag for
each section, and of the formats those that are answered, since it has to have them. What it has understood of the answer is compared
with what the case says, and answers that were damaged must not pass.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import webrtc
import whep
import wrtc

# Attributes of a section that say how an offer has to be answered.
KEPT = "mid|ice-ufrag|ice-pwd|ice-options|rtcp-rsize|bundle-only|sctp-port|sctpmap|max-message-size"
KEPT_OF_FORMATS = "rtpmap|fmtp|rtcp-fb"
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


def parts(sdp):
    """The lines of the whole, and those of each section."""
    head, *sections = re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)
    return head.splitlines(), [section.splitlines() for section in sections]


def value(lines, name):
    """The first value of an attribute."""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"a={name}:")), None)


def with_tags(sdp):
    """The description in which each section has a tag."""
    head, sections = parts(sdp)
    for index, section in enumerate(sections):
        if value(section, "mid") is None:
            section.insert(1, f"a=mid:untagged{index}")
    return "".join(f"{line}\r\n" for line in head + sum(sections, []))


def without_odd_kinds(offer, answer):
    """Both without the sections that libwebrtc could not have offered, which the answer rejects."""
    (head, offered), (answered_head, answered) = parts(offer), parts(answer)
    pairs = list(zip(offered, answered, strict=True))
    is_odd = [re.match("m=(audio|video|application) ", section[0]) is None for section in offered]
    assert all(section[0].split()[1] == "0" for section, odd in zip(answered, is_odd) if odd)
    pairs = [pair for pair, odd in zip(pairs, is_odd) if not odd]
    whole = [head + sum((pair[0] for pair in pairs), []), answered_head + sum((pair[1] for pair in pairs), [])]
    return ["".join(f"{line}\r\n" for line in lines) for lines in whole]


def is_kept(line, formats):
    """Whether a line of an offered section tells libwebrtc something that it understands."""
    if found := re.match(rf"a=(?:{KEPT_OF_FORMATS}):(\d+) ", line):
        return found[1] in formats
    if found := re.match(r"a=extmap:(\d+)", line):
        return 0 < int(found[1]) < 15
    return re.match(rf"a=(?:{KEPT})(?::|$)", line) is not None


def shaped(offer, answer, fingerprint):
    """The offer as libwebrtc would have made it."""
    head, offered = parts(offer)
    _, answered = parts(answer)
    tags = {value(section, "mid") for section in offered}
    lines = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0"]
    for group in re.findall(r"^a=group:BUNDLE(.*)$", "\n".join(head), re.MULTILINE):
        if members := [tag for tag in group.split() if tag in tags]:
            lines.append("a=group:BUNDLE " + " ".join(members))
    whole = {name: value(head, name) for name in ("ice-ufrag", "ice-pwd")}
    for name in whole:
        whole[name] = whole[name] or next(filter(None, (value(section, name) for section in offered)))
    for section, answered_as in zip(offered, answered):
        kind, port, protocol, *_ = section[0].split()
        formats = answered_as[0].split()[3:]
        is_media = kind in ("m=audio", "m=video")
        words = formats if is_media else section[0].split()[3:]
        lines += [" ".join([kind, port, protocol, *words]), "c=IN IP4 0.0.0.0"]
        lines += [re.sub(r"(?i)(opus/48000)$", r"\1/2", line) for line in section if is_kept(line, formats)]
        lines += [f"a={name}:{word}" for name, word in whole.items() if value(section, name) is None]
        said = [line[2:] for line in section + head if line[2:] in DIRECTIONS]
        lines += [f"a={said[0] if said else 'sendrecv'}", "a=rtcp-mux"] if is_media else []
        lines += [f"a=fingerprint:sha-256 {fingerprint}", "a=setup:actpass"]
    return "".join(f"{line}\r\n" for line in lines)


def understood(sdp):
    """What a description says, section by section."""
    head, sections = parts(sdp)
    groups = [line for line in head if line.startswith("a=group:BUNDLE")]
    facts = [sorted(groups)]
    for lines in sections:
        kind, port, _, *formats = lines[0].split()
        fact = {"kind": kind, "tag": value(lines, "mid"), "is rejected": port == "0"}
        if port != "0":
            fact["credentials"] = (value(lines, "ice-ufrag"), value(lines, "ice-pwd"))
            fact["fingerprint"] = (value(lines, "fingerprint") or value(head, "fingerprint")).lower()
            fact["setup"] = value(lines, "setup")
            fact["formats"] = formats
            # Of which libwebrtc forgets the direction.
            maps = [line.split() for line in lines if line.startswith("a=extmap:")]
            fact["extensions"] = sorted((number.split("/")[0], name) for number, name in maps)
            fact["direction"] = next((line for line in lines if line[2:] in DIRECTIONS), None)
            fact["sources"] = sorted({line.split()[0] for line in lines if line.startswith("a=ssrc:")})
        # Priority, address, port and kind.
        candidates = [line.split() for line in lines if line.startswith("a=candidate:")]
        fact["candidates"] = sorted((words[3], words[4], words[5], words[7]) for words in candidates)
        facts.append(fact)
    return facts


async def take(offer, answer):
    """Has a connection take the answer to the offer. Returns what is wrong."""
    connection = webrtc.RTCPeerConnection(webrtc.RTCConfiguration(bundle_policy="max-compat"))
    try:
        for kind in re.findall(r"^m=(\w+)", offer, re.MULTILINE):
            if kind in ("video", "audio"):
                connection.add_transceiver(kind, webrtc.RTCRtpTransceiverInit(direction="recvonly"))
            elif kind == "application":
                connection.create_data_channel("control")
        own = await connection.create_offer()
        fingerprint = re.search(r"a=fingerprint:sha-256 (\S+)", own.sdp)[1]
        offer = shaped(offer, answer, fingerprint)
        try:
            await connection.set_local_description(webrtc.RTCSessionDescriptionInit(type="offer", sdp=offer))
        except Exception as error:
            return f"the offer is not taken: {error}\n{offer}"
        try:
            await connection.set_remote_description(webrtc.RTCSessionDescriptionInit(type="answer", sdp=answer))
        except Exception as error:
            return f"the answer is not taken: {error}"
        said, heard = understood(answer), understood(connection.remote_description.sdp)
        return "" if said == heard else f"understood is\n{heard}\nof\n{said}"
    finally:
        connection.close()


# What each does to an answer that has at least one section that is served. All are against the offer.
DAMAGES = {
    "another tag": lambda text: re.sub(r"(?m)^a=mid:", "a=mid:x", text, count=1),
    "no choice of a part": lambda text: re.sub(r"a=setup:(active|passive)", "a=setup:actpass", text),
    "a section left out": lambda text: text[: text.rindex("m=")],
    "no password": lambda text: re.sub(r"a=ice-pwd:.*\r\n", "", text),
    "half a fingerprint": lambda text: re.sub(r"(?m)^(a=fingerprint:sha-256 .{40}).*\r$", r"\1\r", text),
    "another kind": lambda text: re.sub(r"m=(\w+)", "m=message", text, count=1),
    "a group that was not offered": lambda text: text.replace("a=msid-semantic", "a=group:BUNDLE y\r\na=msid-semantic"),
    "a candidate without an address": lambda text: re.sub(r"(a=candidate:1 1 udp \d+) \S+ \S+", r"\1", text),
}


async def main(folder):
    wrtc.loadOpenH264(os.environ["OPENH264"])
    taken = damaged = 0
    faults = []
    for path in sorted(Path(folder).glob("*.txt")):
        offer, answer = path.read_text().split("=>\n")
        if answer.startswith("refused"):
            continue
        offer = "".join(f"{line.strip()}\r\n" for line in offer.splitlines() if not line.startswith("#"))
        offer, answer = without_odd_kinds(with_tags(offer), with_tags(answer.replace("\n", "\r\n")))
        if fault := await asyncio.wait_for(take(offer, answer), 10):
            faults.append(f"{path.stem}: {fault}")
        taken += 1
        for name, damage in DAMAGES.items():
            if not await asyncio.wait_for(take(offer, damage(answer)), 10):
                faults.append(f"{path.stem} is taken with {name}")
            damaged += 1
    if faults:
        sys.exit("\n".join(faults))
    whep.told(taken=taken, damaged=damaged)


asyncio.run(main(*sys.argv[1:]))
