// werift receives a board's picture and sound as RTP, restarts ICE, and falls silent.

import { RTCPeerConnection, useH264, useOPUS } from "werift";
import { Session, told, until } from "./whep.mjs";

const [url, secret] = process.argv.slice(2);
const connection = new RTCPeerConnection({ iceServers: [], codecs: { video: [useH264()], audio: [useOPUS()] } });
const session = new Session(url, secret);
let [frames, sound] = [0, 0];
connection.onTrack.subscribe((track) => {
    track.onReceiveRtp.subscribe(({ header }) => {
        if (track.kind === "audio") sound += 1;
        else frames += header.marker;
    });
});
for (const kind of ["video", "audio"]) connection.addTransceiver(kind, { direction: "recvonly" });

const offered = async () => {
    await connection.setLocalDescription(await connection.createOffer());
    await until(() => connection.iceGatheringState === "complete");
    return connection.localDescription.sdp;
};
await connection.setRemoteDescription({ type: "answer", sdp: await session.join(await offered()) });
await until(() => frames >= 100 && sound >= 100);
told({ frames, sound });
const states = [];
connection.iceConnectionStateChange.subscribe((state) => states.push(state));
connection.restartIce();
await connection.setRemoteDescription({ type: "answer", sdp: await session.restart(await offered()) });
await until(() => states.includes("connected") || states.includes("completed"));
[frames, sound] = [0, 0];
await until(() => frames >= 100 && sound >= 100);
told({ frames, sound });
await connection.close();
// Sockets of the time before the restart stay open.
process.exit();
