"""aiortc plays a board's picture and sound, decodes them, and closes its connection without a word by HTTP."""

import asyncio
import sys

import aiortc
import whep


async def play(url, secret):
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    counts = {"video": 0, "audio": 0}

    async def count(track):
        while True:
            await track.recv()
            counts[track.kind] += 1

    tasks = []
    connection.on("track", lambda track: tasks.append(asyncio.ensure_future(count(track))))
    for kind in counts:
        connection.addTransceiver(kind, direction="recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    answer = whep.Session(url, secret).join(connection.localDescription.sdp)
    await connection.setRemoteDescription(aiortc.RTCSessionDescription(answer, "answer"))
    while min(counts.values()) < 100:
        await asyncio.sleep(0.05)
    whep.told(frames=counts["video"], sound=counts["audio"])
    for task in tasks:
        task.cancel()
    await connection.close()


asyncio.run(play(*sys.argv[1:]))
