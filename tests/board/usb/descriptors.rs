//! What the webcam says of itself: USB Video Class 1.1 (sections 3.7 and 3.9) and USB Audio Class 1.0 (section 4).

/// What a frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yuyv,
    Mjpeg,
    H264,
}

/// A size that the camera has in one format, with its rates in frames per second.
#[derive(Clone, Debug)]
pub struct Size {
    pub width: u16,
    pub height: u16,
    pub rates: Vec<u32>,
}

/// What it captures with.
#[derive(Clone, Debug)]
pub struct Camera {
    /// What it says it is called.
    pub name: &'static str,
    /// Formats in the order in which the host sees them, each with its sizes.
    pub formats: Vec<(Format, Vec<Size>)>,
}

/// Its microphone.
#[derive(Clone, Copy, Debug)]
pub struct Microphone {
    pub rate: u32,
    pub channels: u8,
    /// Bytes of a sample: 2 or 4.
    pub bytes: u8,
}

/// Endpoint of the picture, to the host.
pub const PICTURE: u8 = 1;
/// Endpoint of the sound, to the host.
pub const SOUND: u8 = 2;

/// The video control and streaming interfaces, the audio control and streaming ones.
pub const VIDEO_CONTROL: u8 = 0;
pub const VIDEO_STREAMING: u8 = 1;
const AUDIO_CONTROL: u8 = 2;
pub const AUDIO_STREAMING: u8 = 3;

/// The camera's terminal, its processing unit, and where its picture leaves.
const CAMERA_TERMINAL: u8 = 1;
pub const PROCESSING_UNIT: u8 = 2;
const OUTPUT_TERMINAL: u8 = 3;

/// The longest video payload: a whole frame and its header, since the endpoint is a bulk one.
fn most_payload(format: Format, size: &Size) -> u32 {
    frame_bytes(format, size) + 2
}

/// The largest frame.
fn frame_bytes(format: Format, size: &Size) -> u32 {
    let pixels = u32::from(size.width) * u32::from(size.height);
    match format {
        Format::Yuyv => 2 * pixels,
        Format::Mjpeg | Format::H264 => pixels,
    }
}

/// In units of 100 ns.
pub fn interval(rate: u32) -> u32 {
    10_000_000 / rate
}

/// The one language of its strings: English (United States).
pub const LANGUAGES: [u8; 4] = [4, 3, 9, 4];

/// Bytes of the answer to a probe in UVC 1.1.
pub const PROBE_BYTES: u8 = 34;

/// The answer to a probe (UVC 1.1, table 4-47).
pub fn probe((number, frame, interval): (u8, u8, u32), format: Format, size: &Size) -> Vec<u8> {
    let mut bytes = vec![1, 0, number, frame];
    bytes.extend(interval.to_le_bytes());
    bytes.extend([0; 10]);
    bytes.extend(frame_bytes(format, size).to_le_bytes());
    bytes.extend(most_payload(format, size).to_le_bytes());
    bytes.extend(48_000_000_u32.to_le_bytes());
    bytes.extend([3, 0, 0, 0]);
    bytes
}

/// The device descriptor (USB 2.0, section 9.6.1).
pub fn device((vendor, product, _): (u16, u16, u8)) -> Vec<u8> {
    let mut bytes = vec![18, 1, 0, 2, 0xef, 2, 1, 64];
    bytes.extend(vendor.to_le_bytes());
    bytes.extend(product.to_le_bytes());
    // Release 1.0; maker, product and serial number by strings 1 to 3; one configuration.
    bytes.extend([0, 1, 1, 2, 3, 1]);
    bytes
}

pub fn configuration(camera: &Camera, microphone: Option<Microphone>) -> Vec<u8> {
    let mut bytes = video(camera);
    let mut interfaces = 2;
    if let Some(microphone) = microphone {
        bytes.extend(audio(microphone));
        interfaces += 2;
    }
    let mut whole = vec![9, 2];
    whole.extend((bytes.len() as u16 + 9).to_le_bytes());
    // Powered by the bus, 500 mA.
    whole.extend([interfaces, 1, 0, 0x80, 250]);
    whole.extend(bytes);
    whole
}

fn video(camera: &Camera) -> Vec<u8> {
    let mut control = vec![
        // Camera terminal without controls of its own.
        18,
        0x24,
        2,
        CAMERA_TERMINAL,
        1,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        3,
        0,
        0,
        0, //
        // Processing unit: brightness and contrast.
        12,
        0x24,
        5,
        PROCESSING_UNIT,
        CAMERA_TERMINAL,
        0,
        0,
        3,
        0x03,
        0,
        0,
        0,
    ];
    control.extend([9, 0x24, 3, OUTPUT_TERMINAL, 1, 1, 0, PROCESSING_UNIT, 0]);
    let mut header = vec![13, 0x24, 1, 0x10, 1];
    header.extend((13 + control.len() as u16).to_le_bytes());
    header.extend(48_000_000_u32.to_le_bytes());
    header.extend([1, VIDEO_STREAMING]);

    let mut formats = Vec::new();
    for (index, (format, sizes)) in camera.formats.iter().enumerate() {
        let (number, count) = (index as u8 + 1, sizes.len() as u8);
        match format {
            Format::Yuyv => {
                formats.extend([27, 0x24, 4, number, count]);
                formats.extend(*b"YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
                formats.extend([16, 1, 0, 0, 0, 0]);
            }
            Format::Mjpeg => formats.extend([11, 0x24, 6, number, count, 0, 1, 0, 0, 0, 0]),
            Format::H264 => {
                formats.extend([28, 0x24, 0x10, number, count]);
                formats.extend(*b"H264\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
                formats.extend([16, 1, 0, 0, 0, 0, 1]);
            }
        }
        for (index, size) in sizes.iter().enumerate() {
            formats.extend(frame(*format, index as u8 + 1, size));
        }
        // The colours are those of BT.709 (section 3.9.2.6).
        formats.extend([6, 0x24, 0x0d, 1, 1, 1]);
    }
    let count = camera.formats.len() as u8;
    let mut input = vec![13 + count, 0x24, 1, count];
    input.extend((u16::from(13 + count) + formats.len() as u16).to_le_bytes());
    input.extend([0x80 | PICTURE, 0, OUTPUT_TERMINAL, 0, 0, 0, 1]);
    input.extend(vec![0; usize::from(count)]);

    let mut bytes = vec![8, 11, VIDEO_CONTROL, 2, 14, 3, 0, 0];
    bytes.extend([9, 4, VIDEO_CONTROL, 0, 0, 14, 1, 0, 0]);
    bytes.extend(header);
    bytes.extend(control);
    bytes.extend([9, 4, VIDEO_STREAMING, 0, 1, 14, 2, 0, 0]);
    bytes.extend(input);
    bytes.extend(formats);
    bytes.extend([7, 5, 0x80 | PICTURE, 2, 0, 2, 0]);
    bytes
}

fn frame(format: Format, number: u8, size: &Size) -> Vec<u8> {
    let subtype = match format {
        Format::Yuyv => 5,
        Format::Mjpeg => 7,
        Format::H264 => 0x11,
    };
    let mut bytes = vec![26 + 4 * size.rates.len() as u8, 0x24, subtype, number, 0];
    bytes.extend(size.width.to_le_bytes());
    bytes.extend(size.height.to_le_bytes());
    let largest = frame_bytes(format, size);
    let fastest = size.rates.iter().copied().max().unwrap_or(30);
    for bits in [largest * 8, largest * 8 * fastest] {
        bytes.extend(bits.to_le_bytes());
    }
    if format != Format::H264 {
        bytes.extend(largest.to_le_bytes());
    }
    bytes.extend(interval(fastest).to_le_bytes());
    bytes.push(size.rates.len() as u8);
    if format == Format::H264 {
        bytes.extend([0; 4]);
    }
    for rate in &size.rates {
        bytes.extend(interval(*rate).to_le_bytes());
    }
    bytes
}

fn audio(microphone: Microphone) -> Vec<u8> {
    let Microphone { rate, channels, bytes: sample } = microphone;
    let mut control = vec![12, 0x24, 2, 1, 1, 2, 0, channels, 0, 0, 0, 0];
    control.extend([9, 0x24, 3, 2, 1, 1, 0, 1, 0]);
    let mut bytes = vec![8, 11, AUDIO_CONTROL, 2, 1, 0, 0, 0];
    bytes.extend([9, 4, AUDIO_CONTROL, 0, 0, 1, 1, 0, 0]);
    bytes.extend([9, 0x24, 1, 0, 1]);
    bytes.extend((9 + control.len() as u16).to_le_bytes());
    bytes.extend([1, AUDIO_STREAMING]);
    bytes.extend(control);
    // Without and with bandwidth.
    bytes.extend([9, 4, AUDIO_STREAMING, 0, 0, 1, 2, 0, 0]);
    bytes.extend([9, 4, AUDIO_STREAMING, 1, 1, 1, 2, 0, 0]);
    bytes.extend([7, 0x24, 1, 2, 1, 1, 0]);
    bytes.extend([11, 0x24, 2, 1, channels, sample, sample * 8, 1]);
    bytes.extend(&rate.to_le_bytes()[..3]);
    // Isochronous and asynchronous, a packet each millisecond (8 microframes).
    bytes.extend([9, 5, 0x80 | SOUND, 5]);
    bytes.extend((packet_room(microphone) as u16).to_le_bytes());
    bytes.extend([4, 0, 0]);
    bytes.extend([7, 0x25, 1, 0, 0, 0, 0]);
    bytes
}

/// The bytes of a packet at most.
fn packet_room(microphone: Microphone) -> u32 {
    (microphone.rate / 1000 + 1) * u32::from(microphone.channels) * u32::from(microphone.bytes)
}

/// A string in the form of USB.
pub fn string(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = vec![units.len() as u8 + 2, 3];
    bytes.extend(units);
    bytes
}
