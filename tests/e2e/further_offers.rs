//! Sections that a browser's further offers add, use again, or exchange.

use anyhow::Result;
use serde_json::Value;

use crate::board::Board;
use crate::browser::Browser;
use crate::caller::Caller;

/// A viewer by WebSocket: `negotiate` gives what is made of each section, `flows` waits until media come in one.
const VIEWER: &str = "
    const call = async (prepare) => {
        const connection = new RTCPeerConnection();
        prepare(connection);
        connection.ontrack = ({ track }) => {
            const element = document.createElement('video');
            Object.assign(element, { muted: true, autoplay: true, srcObject: new MediaStream([track]) });
            document.body.append(element);
        };
        const socket = new WebSocket(location.origin.replace('http', 'ws') + '/api/signal');
        await new Promise((done) => (socket.onopen = done));
        let answered;
        socket.onmessage = async ({ data }) => {
            const message = JSON.parse(data);
            if (message.type === 'candidate') return connection.addIceCandidate(message.candidate ?? undefined);
            if (message.type !== 'ice-servers') answered?.(message);
        };
        const negotiate = async () => {
            await connection.setLocalDescription();
            const answer = new Promise((done) => (answered = done));
            socket.send(JSON.stringify({ type: 'offer', sdp: connection.localDescription.sdp }));
            const message = await answer;
            if (message.type !== 'answer') throw new Error(JSON.stringify(message));
            await connection.setRemoteDescription(message);
            const word = (section) => / 0 /.test(section.split('\\r\\n')[0]) ? 'rejected'
                : /a=(sendonly|inactive)/.exec(section)?.[1] ?? 'channel';
            return message.sdp.split(/^m=/m).slice(1).map((section) => section.split(' ')[0] + ' ' + word(section));
        };
        const count = async (mid) => {
            const all = [...(await connection.getStats()).values()];
            const one = all.find((one) => one.type === 'inbound-rtp' && one.mid === mid);
            return (one?.kind === 'video' ? one.framesDecoded : one?.packetsReceived) ?? 0;
        };
        const flows = async (transceiver) => {
            const before = await count(transceiver.mid);
            for (let turn = 0; turn < 300; turn += 1) {
                if (await count(transceiver.mid) > before + 5) return;
                await pause(20);
            }
            throw new Error(`nothing comes in the section with a=mid:${transceiver.mid}`);
        };
        return { connection, negotiate, flows, end: () => (socket.close(), connection.close()) };
    };
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sections_that_further_offers_add_exchange_or_use_again_are_served() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let caller = Caller::new(&browser, &board).await?;
    let script = "
        const steps = [];
        const { connection, negotiate, flows, end } = await call((connection) => {
            for (const direction of ['inactive', 'recvonly']) connection.addTransceiver('video', { direction });
        });
        const [first, second] = connection.getTransceivers();
        steps.push(await negotiate());
        await flows(second);
        [first.direction, second.direction] = ['recvonly', 'inactive'];
        steps.push(await negotiate());
        await flows(first);
        const sound = connection.addTransceiver('audio', { direction: 'recvonly' });
        steps.push(await negotiate());
        await flows(sound);
        second.stop();
        sound.stop();
        steps.push(await negotiate());
        const again = ['video', 'audio'].map((kind) => connection.addTransceiver(kind, { direction: 'recvonly' }));
        first.direction = 'inactive';
        steps.push(await negotiate());
        for (const transceiver of again) await flows(transceiver);
        end();
        return steps;";
    let steps: Value = caller.ask(&format!("{VIEWER}{script}")).await?;
    let expected = serde_json::json!([
        ["video inactive", "video sendonly"],
        ["video sendonly", "video inactive"],
        ["video sendonly", "video inactive", "audio sendonly"],
        ["video sendonly", "video rejected", "audio rejected"],
        ["video inactive", "video sendonly", "audio sendonly"],
    ]);
    assert_eq!(steps, expected);

    let script = "
        const steps = [];
        const { connection, negotiate, flows, end } = await call((connection) =>
            connection.addTransceiver('audio', { direction: 'recvonly' }));
        steps.push(await negotiate());
        await flows(connection.getTransceivers()[0]);
        const picture = connection.addTransceiver('video', { direction: 'recvonly' });
        const channel = connection.createDataChannel('control');
        steps.push(await negotiate());
        await flows(picture);
        steps.push(channel.readyState);
        const codecs = RTCRtpReceiver.getCapabilities('video').codecs;
        const chosen = codecs.filter(({ sdpFmtpLine }) => !/profile-level-id=42e0/.test(sdpFmtpLine));
        picture.setCodecPreferences(chosen);
        const type = () => / 9 \\S+ (\\d+)/.exec(connection.remoteDescription.sdp.split('m=video')[1])[1];
        const former = type();
        await negotiate();
        steps.push(former !== type());
        await flows(picture);
        end();
        return steps;";
    let steps: Value = caller.ask(&format!("{VIEWER}{script}")).await?;
    let added = ["audio sendonly", "video sendonly", "application rejected"];
    assert_eq!(steps, serde_json::json!([["audio sendonly"], added, "closed", true]));
    Ok(())
}
