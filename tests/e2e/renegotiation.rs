//! Renegotiation: sections that a browser's further offers add, reuse, or exchange.

use anyhow::Result;
use serde_json::Value;

use crate::whep_viewer::WhepViewer;
use testkit::board::Board;
use testkit::browser::Browser;

/// A viewer by WebSocket: `negotiate` gives what is made of each section, `flows` waits until media come in one,
/// `opens` until the board answers on a data channel.
const VIEWER: &str = "
    const opens = (channel) => new Promise((done) => {
        channel.onmessage = ({ data }) => JSON.parse(data).type === 'pong' && done('pong');
        channel.onopen = () => channel.send(JSON.stringify({ type: 'ping', sent: 1 }));
        if (channel.readyState === 'open') channel.onopen();
        setTimeout(() => done(`${channel.readyState} and silent`), 10000);
    });
    const call = async (prepare, configuration, alter = (sdp) => sdp) => {
        const connection = new RTCPeerConnection(configuration);
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
            socket.send(JSON.stringify({ type: 'offer', sdp: alter(connection.localDescription.sdp) }));
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
async fn added_exchanged_and_reused_sections_are_served() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
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
    let steps: Value = viewer_page.ask(&format!("{VIEWER}{script}")).await?;
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
        steps.push(await opens(channel));
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
    let steps: Value = viewer_page.ask(&format!("{VIEWER}{script}")).await?;
    let added = ["audio sendonly", "video sendonly", "application channel"];
    assert_eq!(steps, serde_json::json!([["audio sendonly"], added, "pong", true]));
    Ok(())
}

/// When the tagged section of a transport is stopped, Chromium closes the transport and starts another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_goes_on_when_the_tagged_section_is_stopped() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    let script = "
        const steps = [];
        for (const bundlePolicy of ['balanced', 'max-bundle']) {
            const { connection, negotiate, flows, end } = await call((connection) => {
                for (const kind of ['audio', 'video']) connection.addTransceiver(kind, { direction: 'recvonly' });
                connection.createDataChannel('control');
            }, { bundlePolicy });
            const [sound, picture] = connection.getTransceivers();
            steps.push(await negotiate());
            await flows(picture);
            sound.stop();
            steps.push(await negotiate());
            await flows(picture);
            steps.push(await opens(connection.createDataChannel('control')));
            const again = connection.addTransceiver('audio', { direction: 'recvonly' });
            steps.push(await negotiate());
            for (const transceiver of [picture, again]) await flows(transceiver);
            for (const transceiver of connection.getTransceivers()) transceiver.stop();
            end();
        }
        return steps;";
    let steps: Value = viewer_page.ask(&format!("{VIEWER}{script}")).await?;
    let all = ["audio sendonly", "video sendonly", "application channel"];
    let stopped = ["audio rejected", "video sendonly", "application channel"];
    assert_eq!(steps, serde_json::json!([all, stopped, "pong", all, all, stopped, "pong", all]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbundled_sections_are_reused_and_all_may_pause() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    let script = "
        const steps = [];
        const { connection, negotiate, flows, end } = await call((connection) => {
            for (const kind of ['video', 'audio']) connection.addTransceiver(kind, { direction: 'recvonly' });
        }, { bundlePolicy: 'max-compat' }, (sdp) => sdp.replace(/a=group:.*\\r\\n/, ''));
        const [picture, sound] = connection.getTransceivers();
        steps.push(await negotiate());
        for (const transceiver of [picture, sound]) await flows(transceiver);
        sound.stop();
        steps.push(await negotiate());
        const second = connection.addTransceiver('audio', { direction: 'recvonly' });
        const channel = connection.createDataChannel('control');
        steps.push(await negotiate());
        for (const transceiver of [picture, second]) await flows(transceiver);
        steps.push(await opens(channel));
        picture.stop();
        steps.push(await negotiate());
        await flows(second);
        const third = connection.addTransceiver('video', { direction: 'recvonly' });
        steps.push(await negotiate());
        for (const transceiver of [third, second]) await flows(transceiver);
        end();
        return steps;";
    let steps: Value = viewer_page.ask(&format!("{VIEWER}{script}")).await?;
    let expected = serde_json::json!([
        ["video sendonly", "audio sendonly"],
        ["video sendonly", "audio rejected"],
        ["video sendonly", "audio sendonly", "application channel"],
        "pong",
        ["video rejected", "audio sendonly", "application channel"],
        ["video sendonly", "audio sendonly", "application channel"],
    ]);
    assert_eq!(steps, expected);

    let script = "
        const { connection, negotiate, flows, end } = await call((connection) =>
            connection.addTransceiver('video', { direction: 'recvonly' }));
        await negotiate();
        await flows(connection.getTransceivers()[0]);
        connection.getTransceivers()[0].stop();
        await negotiate();
        await pause(500);
        const again = connection.addTransceiver('video', { direction: 'recvonly' });
        const steps = await negotiate();
        await flows(again);
        end();
        return steps;";
    let steps: Value = viewer_page.ask(&format!("{VIEWER}{script}")).await?;
    assert_eq!(steps, serde_json::json!(["video sendonly"]));
    Ok(())
}
