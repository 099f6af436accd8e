// libdatachannel receives a board's picture and sound as RTP, and falls silent.

import datachannel from "node-datachannel";
import { Session, completed, told, until } from "./whep.mjs";

const [url, secret] = process.argv.slice(2);
const connection = new datachannel.PeerConnection("player", { iceServers: [] });
const video = new datachannel.Video("video", "RecvOnly");
video.addH264Codec(96);
const audio = new datachannel.Audio("audio", "RecvOnly");
audio.addOpusCodec(111);

let [frames, sound] = [0, 0];
const tracks = [video, audio].map((media) => connection.addTrack(media));
for (const track of tracks) track.setMediaHandler(new datachannel.RtcpReceivingSession());
tracks[0].onMessage((packet) => (frames += completed(packet)));
tracks[1].onMessage(() => (sound += 1));

connection.setLocalDescription("offer");
await until(() => connection.gatheringState() === "complete");
connection.setRemoteDescription(await new Session(url, secret).join(connection.localDescription().sdp), "answer");
await until(() => frames >= 100 && sound >= 100);
told({ frames, sound });
connection.close();
datachannel.cleanup();
