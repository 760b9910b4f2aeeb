//! SPDY/3.1, as far as Kubernetes' streams use it: one side opens streams with headers, both send data and end them.
//! There is no flow control in it: peers of this kind keep none.
//!
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>

use super::dictionary::dictionary;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use std::collections::{BTreeMap, HashMap};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Pieces of data that may wait for whoever reads a stream; then the whole connection waits.
const PIECES_WAITING: usize = 64;
/// Frames that may wait to be sent; then whoever sends waits.
const FRAMES_WAITING: usize = 64;
/// Streams that a client may have open: each forwarded connection has two.
const MOST_OPEN: usize = 4096;
/// Streams that may wait to be taken.
const STREAMS_WAITING: usize = 16;
/// The largest frame that is taken.
const MOST_FRAME_BYTES: usize = 1024 * 1024;
/// The largest headers of a stream, unpacked.
const MOST_HEADER_BYTES: usize = 64 * 1024;
/// The window that compressed headers refer back to.
const WINDOW_BYTES: usize = 32 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// The sender sends nothing more on the stream.
const FIN: u8 = 1;
const VERSION: u16 = 3;

/// Why a connection ended other than by wish. Final.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    /// The peer sends something else.
    #[error("the peer sends a malformed {0}")]
    Malformed(&'static str),
}

/// A stream that the peer opened.
pub struct Stream {
    /// Its headers, by names in small letters.
    pub headers: BTreeMap<String, String>,
    /// What the peer sends; it ends when the peer ends it.
    pub data: mpsc::Receiver<Vec<u8>>,
    /// What is sent to the peer.
    pub sender: Sender,
}

/// The way to the peer on one stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    frames: mpsc::Sender<Vec<u8>>,
}

impl Sender {
    /// Sends data. Gives whether the connection stands still.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(MOST_FRAME_BYTES) {
            if self.frames.send(data_frame(self.id, 0, piece)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Tells the peer that nothing more comes.
    pub async fn end(&self) {
        // The connection may have gone.
        let _ = self.frames.send(data_frame(self.id, FIN, &[])).await;
    }
}

fn data_frame(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = id.to_be_bytes().to_vec();
    frame.extend((u32::from(flags) << 24 | bytes.len() as u32).to_be_bytes());
    frame.extend(bytes);
    frame
}

fn control_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame
}

/// Serves a connection: hands out the streams that the peer opens, until either side ends it.
///
/// # Errors
/// When the connection breaks or the peer sends something else.
pub async fn serve<I: AsyncRead + AsyncWrite + Send>(
    io: I,
    streams: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let (reader, mut writer) = tokio::io::split(io);
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(FRAMES_WAITING);
    let write = async {
        while let Some(frame) = outgoing.recv().await {
            writer.write_all(&frame).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    // Cancel-safe: the one that ends first ends the connection.
    tokio::select! {
        read = read(reader, frames, streams) => read,
        written = write => Ok(written?),
    }
}

/// The channel into which streams are put.
pub fn channel() -> (mpsc::Sender<Stream>, mpsc::Receiver<Stream>) {
    mpsc::channel(STREAMS_WAITING)
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    frames: mpsc::Sender<Vec<u8>>,
    streams: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let (mut headers, mut replies) = (Headers::new(), Replies::default());
    let mut open: HashMap<u32, mpsc::Sender<Vec<u8>>> = HashMap::new();
    loop {
        let Ok(head) = reader.read_u64().await else { return Ok(()) };
        let (first, flags, length) = ((head >> 32) as u32, (head >> 24) as u8, (head & 0xff_ffff) as usize);
        if length > MOST_FRAME_BYTES {
            return Err(SpdyError::Malformed("frame"));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        if first >> 31 == 0 {
            if let Some(stream) = open.get(&first).filter(|_| !body.is_empty()) {
                // Whoever read it may have gone; the rest of the connection goes on.
                let _ = stream.send(body).await;
            }
            if flags & FIN != 0 {
                open.remove(&first);
            }
            continue;
        }
        match first as u16 {
            SYN_STREAM => {
                let id = word(&body, 0).ok_or(SpdyError::Malformed("stream"))? & 0x7fff_ffff;
                let block = body.get(10..).ok_or(SpdyError::Malformed("stream"))?;
                let (sender, data) = mpsc::channel(PIECES_WAITING);
                let stream = Stream {
                    headers: headers.read(block)?,
                    data,
                    sender: Sender { id, frames: frames.clone() },
                };
                if open.len() >= MOST_OPEN {
                    return Err(SpdyError::Malformed("number of streams"));
                }
                if flags & FIN == 0 {
                    open.insert(id, sender);
                }
                let reply = [&id.to_be_bytes()[..], &replies.next()].concat();
                if frames.send(control_frame(SYN_REPLY, &reply)).await.is_err()
                    || streams.send(stream).await.is_err()
                {
                    return Ok(());
                }
            }
            RST_STREAM => {
                open.remove(&(word(&body, 0).unwrap_or(0) & 0x7fff_ffff));
            }
            PING if frames.send(control_frame(PING, &body)).await.is_ok() => {}
            PING | GOAWAY => return Ok(()),
            // Settings, windows and further headers change nothing here.
            _ => {}
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
}

/// Unpacks headers: all blocks of a connection are one compressed stream.
struct Headers {
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl Headers {
    fn new() -> Headers {
        let mut window = vec![0; WINDOW_BYTES];
        let dictionary = dictionary();
        // What the compressed stream refers back to lies before its beginning.
        window[..dictionary.len()].copy_from_slice(&dictionary);
        Headers { state: Box::default(), window, at: dictionary.len(), begun: false }
    }

    fn read(&mut self, mut block: &[u8]) -> Result<BTreeMap<String, String>, SpdyError> {
        let malformed = || SpdyError::Malformed("header");
        if !self.begun {
            // The stream's own head: two bytes, and the dictionary's checksum when a bit says so.
            let flags = *block.get(1).ok_or_else(malformed)?;
            block = block.get(if flags & 0x20 != 0 { 6 } else { 2 }..).ok_or_else(malformed)?;
            self.begun = true;
        }
        let mut unpacked = Vec::new();
        while !block.is_empty() {
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, taken, made) = decompress(&mut self.state, block, &mut self.window, self.at, flags);
            unpacked.extend_from_slice(&self.window[self.at..self.at + made]);
            self.at = (self.at + made) % WINDOW_BYTES;
            block = &block[taken..];
            let stuck = taken == 0 && made == 0;
            if (status as i32) < 0
                || status == TINFLStatus::Done
                || stuck
                || unpacked.len() > MOST_HEADER_BYTES
            {
                return Err(malformed());
            }
        }
        parse(&unpacked).ok_or_else(malformed)
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let (mut at, mut headers) = (4, BTreeMap::new());
    for _ in 0..word(bytes, 0)? {
        let mut text = || {
            let length = word(bytes, at)? as usize;
            let text = bytes.get(at + 4..at + 4 + length)?;
            at += 4 + length;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Some(headers)
}

/// Packs the headers of replies, which are none: stored as they are, which needs no compressor.
#[derive(Default)]
struct Replies {
    begun: bool,
}

impl Replies {
    fn next(&mut self) -> Vec<u8> {
        let mut block = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            block.extend([0x78, 0x01]);
        }
        // A stored block of the number of headers, then an empty one, which makes the peer take it.
        block.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED: &[u8] = b"78f9e3c6a7c202a6234694d29505641e000000ffff";

    fn stored(text: &[(&str, &str)], first: bool) -> Vec<u8> {
        let mut body = (text.len() as u32).to_be_bytes().to_vec();
        for word in text.iter().flat_map(|(name, value)| [name, value]) {
            body.extend((word.len() as u32).to_be_bytes());
            body.extend(word.as_bytes());
        }
        let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
        let length = body.len() as u16;
        block.push(0);
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(body);
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }

    #[test]
    fn headers_are_read_with_and_without_compression() {
        let mut headers = Headers::new();
        let one = headers.read(&stored(&[("streamType", "error"), ("port", "80")], true)).unwrap();
        assert_eq!(one["streamtype"], "error");
        let two = headers.read(&stored(&[("port", "81")], false)).unwrap();
        assert_eq!(two["port"], "81");
        // {"accept": "gzip"} as zlib packs it against the dictionary.
        let packed =
            PACKED.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        let packed: Vec<u8> = packed.collect();
        assert_eq!(Headers::new().read(&packed).unwrap()["accept"], "gzip");
        assert!(Headers::new().read(&[0x78]).is_err());
        assert!(Headers::new().read(&[0x78, 1, 0xff, 0xff, 0xff]).is_err());
    }

    #[tokio::test]
    async fn streams_are_answered_and_data_goes_both_ways() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (sender, mut streams) = channel();
        let served = tokio::spawn(serve(ours, sender));
        let head = [&1u32.to_be_bytes()[..], &[0; 6], &stored(&[("streamtype", "data")], true)].concat();
        theirs.write_all(&control_frame(SYN_STREAM, &head)).await.unwrap();
        theirs.write_all(&data_frame(1, 0, b"to")).await.unwrap();
        theirs.write_all(&data_frame(1, FIN, b"")).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        assert_eq!(stream.data.recv().await.as_deref(), Some(&b"to"[..]));
        assert_eq!(stream.data.recv().await, None);
        assert!(stream.sender.send(b"from").await);
        stream.sender.end().await;
        let mut reply = vec![0; 8 + 4 + 16];
        theirs.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..4], [0x80, 3, 0, 2]);
        let mut data = vec![0; 12 + 8];
        theirs.read_exact(&mut data).await.unwrap();
        assert_eq!((&data[8..12], data[16]), (&b"from"[..], FIN));
        drop(theirs);
        served.await.unwrap().unwrap();
    }
}
