"""libwebrtc, the stack of Chromium, plays a board's picture and sound, restarts ICE, and closes its connection.

H.264 is decoded by the OpenH264 in the file that OPENH264 names. With `apart` before the address, the sound has a
transport of its own, and the picture shares one with a data channel.
"""

import asyncio
import os
import re
import sys

import webrtc
import whep
import wrtc


async def count(connection):
    """Pictures decoded and packets of sound received so far."""
    stats = (await connection.get_stats()).values()
    inbound = {entry.kind: entry for entry in stats if entry.type == "inbound-rtp"}
    frames = getattr(inbound.get("video"), "frames_decoded", None) or 0
    return frames, getattr(inbound.get("audio"), "packets_received", None) or 0


async def wait_for(connection, frames, sound):
    while True:
        seen = await count(connection)
        if seen[0] >= frames and seen[1] >= sound:
            return seen
        await asyncio.sleep(0.05)


async def wait_for_path(connection):
    """Waits until each path is one that was found since the last offer. Returns how many there are."""
    offer = connection.local_description.sdp
    while True:
        stats = (await connection.get_stats()).values()
        transports = [entry for entry in stats if entry.type == "transport"]
        fragments = [entry.ice_local_username_fragment for entry in transports if entry.ice_state == "connected"]
        if fragments and all(f"a=ice-ufrag:{fragment}\r\n" in offer for fragment in fragments):
            return len(fragments)
        await asyncio.sleep(0.05)


async def offered(connection, group):
    """The local offer with all candidates, in which the sections of these tags share a transport."""
    offer = await connection.create_offer()
    offer.sdp = re.sub(r"a=group:BUNDLE .*\r\n", f"a=group:BUNDLE {group}\r\n", offer.sdp)
    await connection.set_local_description(offer)
    while connection.ice_gathering_state != "complete":
        await asyncio.sleep(0.01)
    return connection.local_description.sdp


async def play(*arguments):
    *apart, url, secret = arguments
    wrtc.loadOpenH264(os.environ["OPENH264"])
    connection = webrtc.RTCPeerConnection(webrtc.RTCConfiguration(bundle_policy="max-compat"))
    for kind in ("video", "audio"):
        connection.add_transceiver(kind, webrtc.RTCRtpTransceiverInit(direction="recvonly"))
    connection.create_data_channel("control")
    group, transports = ("0 2", 2) if apart else ("0 1 2", 1)
    session = whep.Session(url, secret)

    async def take(answer):
        await connection.set_remote_description(webrtc.RTCSessionDescriptionInit(type="answer", sdp=answer))

    await take(session.join(await offered(connection, group)))
    frames, sound = await wait_for(connection, 100, 100)
    whep.told(frames=frames, sound=sound)
    connection.restart_ice()
    await take(session.restart(await offered(connection, group)))
    while await wait_for_path(connection) < transports:
        await asyncio.sleep(0.05)
    frames, sound = await count(connection)
    after = await wait_for(connection, frames + 100, sound + 100)
    whep.told(frames=after[0] - frames, sound=after[1] - sound)
    connection.close()


asyncio.run(play(*sys.argv[1:]))
