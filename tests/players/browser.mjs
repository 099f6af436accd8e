// The players that pages use, in a page of another origin than the board's. The suite calls what `window` gets.

import { WHEPClient as Binbat } from "@binbat/whip-whep/whep.js";
import { WebRTCPlayer } from "@eyevinn/webrtc-player";
import { WHEPClient as Medooze } from "whip-whep/whep.js";

const connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...configuration) {
        super(...configuration);
        connections.push(this);
    }
};

const video = document.querySelector("video");

// Both are used alike.
function whepClient(Client) {
    return async (url, secret) => {
        const connection = new RTCPeerConnection();
        for (const kind of ["video", "audio"]) connection.addTransceiver(kind, { direction: "recvonly" });
        const stream = new MediaStream();
        connection.ontrack = ({ track }) => stream.addTrack(track);
        video.srcObject = stream;
        const client = new Client();
        await client.view(connection, url, secret);
        return { restart: () => client.restart(), stop: () => client.stop() };
    };
}

const players = {
    "whip-whep": whepClient(Medooze),
    "@binbat/whip-whep": whepClient(Binbat),
    async "@eyevinn/webrtc-player"(url, secret) {
        const player = new WebRTCPlayer({ video, type: "whep", iceServers: [] });
        await player.load(new URL(url), `Bearer ${secret}`);
        return { stop: () => player.unload() };
    },
};

let player;

/** Plays by one of them. */
window.play = async (name, url, secret) => {
    player = await players[name](url, secret);
};

/** Pictures decoded and packets of sound received so far. */
window.count = async () => {
    const counts = { frames: 0, sound: 0 };
    for (const entry of (await connections.at(-1)?.getStats())?.values() ?? []) {
        if (entry.type !== "inbound-rtp") continue;
        if (entry.kind === "video") counts.frames = entry.framesDecoded;
        else counts.sound = entry.packetsReceived;
    }
    return counts;
};

// The name by which the path at hand was found, if there is one.
const path = async () => {
    const transports = [...(await connections.at(-1).getStats()).values()].filter(({ type }) => type === "transport");
    return transports.find(({ iceState }) => iceState === "connected")?.iceLocalUsernameFragment;
};

let former;

/** Restarts ICE. */
window.restart = async () => {
    former = await path();
    await player.restart();
};

/** Whether the path at hand was found after the restart. */
window.isRestarted = async () => ![undefined, former].includes(await path());

/** Ends as this player ends. */
window.stop = () => player.stop();
