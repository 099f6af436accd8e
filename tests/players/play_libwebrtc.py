"""libwebrtc, the stack of Chromium, plays a board's picture and sound, restarts ICE, and closes its connection.

H.264 is decoded by the OpenH264 in the file that OPENH264 names.
"""

import asyncio
import os
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
    """Waits until the path at hand is one that was found since the last offer."""
    offer = connection.local_description.sdp
    while True:
        stats = (await connection.get_stats()).values()
        transports = [entry for entry in stats if entry.type == "transport"]
        fragments = [entry.ice_local_username_fragment for entry in transports if entry.ice_state == "connected"]
        if any(f"a=ice-ufrag:{fragment}\r\n" in offer for fragment in fragments):
            return
        await asyncio.sleep(0.05)


async def offered(connection):
    """The local offer with all candidates."""
    await connection.set_local_description(await connection.create_offer())
    while connection.ice_gathering_state != "complete":
        await asyncio.sleep(0.01)
    return connection.local_description.sdp


async def play(url, secret):
    wrtc.loadOpenH264(os.environ["OPENH264"])
    connection = webrtc.RTCPeerConnection()
    for kind in ("video", "audio"):
        connection.add_transceiver(kind, webrtc.RTCRtpTransceiverInit(direction="recvonly"))
    session = whep.Session(url, secret)

    async def take(answer):
        await connection.set_remote_description(webrtc.RTCSessionDescriptionInit(type="answer", sdp=answer))

    await take(session.join(await offered(connection)))
    frames, sound = await wait_for(connection, 100, 100)
    whep.told(frames=frames, sound=sound)
    connection.restart_ice()
    await take(session.restart(await offered(connection)))
    await wait_for_path(connection)
    frames, sound = await count(connection)
    after = await wait_for(connection, frames + 100, sound + 100)
    whep.told(frames=after[0] - frames, sound=after[1] - sound)
    connection.close()


asyncio.run(play(*sys.argv[1:]))
