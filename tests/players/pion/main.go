// Pion receives a board's picture and sound, takes the pictures out of their packets, restarts ICE, and closes its
// connection without a word by HTTP. The secret stands in the URL, of which Go's HTTP client makes Basic.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v3"
	"github.com/pion/webrtc/v3/pkg/media/samplebuilder"
)

var frames, sound int64

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ask(method, address, kind, body string) (*http.Response, string) {
	request, err := http.NewRequest(method, address, strings.NewReader(body))
	must(err)
	request.Header.Set("Content-Type", kind)
	request.Header.Set("If-Match", "*")
	response, err := http.DefaultClient.Do(request)
	must(err)
	text, err := io.ReadAll(response.Body)
	must(err)
	if response.StatusCode >= 300 {
		log.Fatalf("%s: %s %s", method, response.Status, text)
	}
	return response, string(text)
}

func count(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
	builder := samplebuilder.New(64, &codecs.H264Packet{}, track.Codec().ClockRate)
	for {
		packet, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		if track.Kind() == webrtc.RTPCodecTypeAudio {
			atomic.AddInt64(&sound, 1)
			continue
		}
		builder.Push(&rtp.Packet{Header: packet.Header, Payload: packet.Payload})
		for builder.Pop() != nil {
			atomic.AddInt64(&frames, 1)
		}
	}
}

// Tells the suite what has come, once it is enough.
func play() {
	atomic.StoreInt64(&frames, 0)
	atomic.StoreInt64(&sound, 0)
	for atomic.LoadInt64(&frames) < 100 || atomic.LoadInt64(&sound) < 100 {
		time.Sleep(20 * time.Millisecond)
	}
	told, err := json.Marshal(map[string]int64{"frames": frames, "sound": sound})
	must(err)
	fmt.Println(string(told))
}

// The local offer with all candidates.
func offered(connection *webrtc.PeerConnection, options *webrtc.OfferOptions) string {
	offer, err := connection.CreateOffer(options)
	must(err)
	gathered := webrtc.GatheringCompletePromise(connection)
	must(connection.SetLocalDescription(offer))
	<-gathered
	return connection.LocalDescription().SDP
}

func take(connection *webrtc.PeerConnection, answer string) {
	must(connection.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}))
}

func lines(pattern, text string) []string {
	return regexp.MustCompile("(?m)^" + pattern + "\r\n").FindAllString(text, -1)
}

// The answer to a restart, of which WHEP tells the difference only (RFC 8840).
func merged(answer, fragment string) string {
	answer = regexp.MustCompile("(?m)^a=(?:candidate:.*|end-of-candidates)\r\n").ReplaceAllString(answer, "")
	for _, name := range []string{"ice-ufrag", "ice-pwd"} {
		fresh := lines("a="+name+":.*", fragment)[0]
		answer = regexp.MustCompile("(?m)^a="+name+":.*\r\n").ReplaceAllLiteralString(answer, fresh)
	}
	seen, candidates := map[string]bool{}, ""
	for _, line := range lines("a=candidate:.*", fragment) {
		if !seen[line] {
			candidates += line
		}
		seen[line] = true
	}
	return strings.Replace(answer, "a=ice-ufrag:", candidates+"a=ice-ufrag:", 1)
}

func main() {
	address, err := url.Parse(os.Args[1])
	must(err)
	address.User = url.UserPassword("viewer", os.Args[2])
	connection, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	must(err)
	connection.OnTrack(count)
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo, webrtc.RTPCodecTypeAudio} {
		direction := webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}
		_, err = connection.AddTransceiverFromKind(kind, direction)
		must(err)
	}
	response, answer := ask("POST", address.String(), "application/sdp", offered(connection, nil))
	take(connection, answer)
	place, err := url.Parse(response.Header.Get("Location"))
	must(err)
	session := address.ResolveReference(place)
	session.User = address.User
	play()

	found := make(chan struct{}, 1)
	connection.OnICEConnectionStateChange(func(state webrtc.ICEConnectionState) {
		if state == webrtc.ICEConnectionStateConnected {
			found <- struct{}{}
		}
	})
	offer := offered(connection, &webrtc.OfferOptions{ICERestart: true})
	kept := strings.Join(lines("(?:a=(?:ice-ufrag|ice-pwd|candidate|mid):.*|m=.*)", offer), "")
	_, fragment := ask("PATCH", session.String(), "application/trickle-ice-sdpfrag", kept)
	take(connection, merged(answer, fragment))
	<-found
	play()
	must(connection.Close())
}
