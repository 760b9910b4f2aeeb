//! Targets of what runs on nodes: logs, image layers and documents, streams, the kernel's answers, DNS.

use crate::{choose, part, run};
use bytes::Bytes;
use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use minik_dns::index::Index;
use minik_dns::zone::{Question, Zone};
use minik_kubelet::logs::{self, Alive, Line, Wanted};
use minik_shim::log::{Log, Stream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

struct Ended;

impl Alive for Ended {
    async fn is_alive(&self) -> bool {
        false
    }
}

/// FLAGS OUTPUT: what a container writes is read back to the byte, over a rotation too; any file can be read.
pub(crate) fn log(mut input: &[u8]) {
    let Some(flags) = choose(&mut input, 1 << 16) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let mut log = Log::open(Some(&path)).unwrap();
    let rotated = flags & 1 != 0;
    let mut first = Vec::new();
    for (number, piece) in input.chunks(1 + (flags >> 8)).enumerate() {
        if rotated && number == 2 {
            first = read(&path, &Wanted::default());
            std::fs::rename(&path, folder.path().join("0.log.1")).unwrap();
            log.reopen().unwrap();
        }
        let stream = if flags & 2 != 0 && number % 2 == 1 { Stream::Stderr } else { Stream::Stdout };
        log.write(stream, piece, i64::from_ne_bytes([flags as u8; 8]));
    }
    log.finish(0);
    let whole = [first, read(&path, &Wanted::default())].concat();
    // With two streams their lines are mixed; with one what was written is read, whatever was cut where.
    if flags & 2 == 0 {
        assert_eq!(Bytes::from(whole), Bytes::copy_from_slice(input));
    }
    std::fs::write(&path, input).unwrap();
    let wanted = Wanted {
        follow: flags & 4 != 0,
        tail: (flags & 8 != 0).then_some(flags >> 10),
        since: (flags & 16 != 0).then_some(jiff::Timestamp::UNIX_EPOCH),
        timestamps: flags & 32 != 0,
        limit_bytes: (flags & 64 != 0).then_some(flags as u64 >> 7),
        stream: (flags & 128 != 0).then_some("stderr"),
    };
    let seen = read(&path, &wanted);
    assert!(wanted.limit_bytes.is_none_or(|most| seen.len() as u64 <= most));
    run(logs::last_words(&path, flags >> 12, flags >> 8)).unwrap();
    Line::parse(input);
}

fn read(path: &Path, wanted: &Wanted) -> Vec<u8> {
    run(async {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let gather = async {
            let mut all = Vec::new();
            while let Some(bytes) = receiver.recv().await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        let send = async {
            let sent = logs::send(path, wanted, &Ended, &sender).await;
            drop(sender);
            sent
        };
        let (sent, all) = tokio::join!(send, gather);
        sent.unwrap();
        all
    })
}

/// FORM, then an archive, or members of one (KIND SIZE NAME LINK): nothing outside the layer's folder changes.
pub(crate) fn layer(mut input: &[u8]) {
    let Some(form) = choose(&mut input, 4) else { return };
    let archive = if form == 0 { input.to_vec() } else { members(input) };
    let packed = match form {
        2 => zstd::encode_all(&archive[..], 1).unwrap(),
        3 => gzip(&archive),
        _ => archive,
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["target", "lower", "lower/d", "outside"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("lower/f"), "f").unwrap();
    std::fs::write(at("outside/kept"), "kept").unwrap();
    std::os::unix::fs::symlink("../outside", at("lower/l")).unwrap();
    let before = listing(&at("outside"));
    // A malformed archive is refused, half done.
    let _ = minik_runtime::fuzz::layer(&packed, &at("target"), &[at("lower")]);
    assert_eq!(listing(&at("outside")), before);
    let names: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(std::fs::read_to_string(at("lower/f")).unwrap(), "f");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn listing(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        entries.map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default())).collect();
    all.sort();
    all
}

/// An archive of members, with right checksums.
fn members(mut input: &[u8]) -> Vec<u8> {
    const KINDS: &[u8] = b"0123456751LKxgS7";
    let mut archive = Vec::new();
    while let (Some(kind), Some(size)) = (choose(&mut input, KINDS.len()), choose(&mut input, 2000)) {
        let (name, link) = (part(&mut input), part(&mut input));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(KINDS[kind]));
        let inner = header.as_gnu_mut().unwrap();
        let fit = |field: &mut [u8], text: &[u8]| {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        };
        fit(&mut inner.name, name);
        fit(&mut inner.linkname, link);
        // Long names and attributes have their text as content.
        let content = match KINDS[kind] {
            b'L' | b'K' | b'x' | b'g' => name.to_vec(),
            b'0' | b'7' => vec![b'c'; size],
            _ => Vec::new(),
        };
        header.set_mode(size as u32);
        header.set_uid(size as u64 % 3);
        header.set_gid(0);
        header.set_mtime(size as u64);
        header.set_size(content.len() as u64);
        // No real devices.
        header.set_device_major(0).unwrap();
        header.set_device_minor(if size % 2 == 0 { 0 } else { 3 }).unwrap();
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// NAME DOCUMENT: image names and documents, and an archive of an image with that document at every place.
pub(crate) fn image(mut input: &[u8]) {
    let name = part(&mut input);
    if let Ok(name) = std::str::from_utf8(name)
        && let Ok(reference) = name.parse::<minik_runtime::images::Reference>()
    {
        let printed = reference.to_string();
        assert_eq!(printed.parse().as_ref(), Ok(&reference), "{printed}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for member in ["manifest.json", "index.json", "config.json"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(input.len() as u64);
        header.set_mode(0o644);
        if member != "index.json" || input.first() != Some(&b'[') {
            archive.append_data(&mut header, member, input).unwrap();
        }
    }
    minik_runtime::fuzz::image(input, &archive.into_inner().unwrap(), folder.path());
}

/// Bytes: what a client of forwarded ports sends.
pub(crate) fn spdy(input: &[u8]) {
    run(async {
        // Frames lead to answers and data, all of which is read; a client that stands still is cut off.
        let _ = tokio::time::timeout(Duration::from_secs(5), minik_runtime::fuzz::spdy(input)).await;
    });
}

/// Messages, each with its length before it: what a client of a command sends on its channels.
pub(crate) fn channel(mut input: &[u8]) {
    let mut messages = Vec::new();
    while let Some(length) = choose(&mut input, 1 << 16) {
        let (message, rest) = input.split_at(length.min(input.len()));
        messages.push(Bytes::copy_from_slice(message));
        input = rest;
    }
    let open = messages.iter().take_while(|message| ***message != [255, 0]);
    let typed: Vec<u8> = open.filter_map(|message| message.strip_prefix(&[0])).flatten().copied().collect();
    let terminal =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    assert_eq!(run(minik_runtime::fuzz::to_stdin(messages, terminal)), typed);
}

/// FORM BYTES: what a runtime sends to a shim, or a shim to a runtime; what is read is written and read again as the same.
pub(crate) fn shim(mut input: &[u8]) {
    use minik_shim::protocol::{Call, Message};
    match choose(&mut input, 2) {
        Some(0) => framed::<Call>(input),
        Some(_) => framed::<Message>(input),
        None => {}
    }
}

fn framed<T: serde::Serialize + serde::de::DeserializeOwned>(input: &[u8]) {
    use minik_shim::frame::{Inbox, encode};
    use minik_shim::protocol::HEADER_BYTES;
    use std::io::Write;
    let (mut sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut inbox = Inbox::default();
    for piece in input.chunks(1000) {
        sender.write_all(piece).unwrap();
        inbox.fill(&receiver).expect("it is there");
        loop {
            let message = match inbox.take::<T>() {
                Ok(Some((message, _))) => serde_json::to_value(&message).expect("it can be written"),
                Ok(None) => break,
                Err(_) => return,
            };
            let bytes = encode(&message, 0).expect("it is no longer than it was");
            let again: T =
                serde_json::from_slice(&bytes[HEADER_BYTES..]).expect("what was written can be read");
            assert_eq!(serde_json::to_value(&again).unwrap(), message);
        }
    }
}

/// Bytes: the kernel's answers.
pub(crate) fn netlink(input: &[u8]) {
    minik_net::read_answers(input);
}

/// A packet: every question in it is answered, and what is answered can be written.
pub(crate) fn dns(input: &[u8]) {
    let Ok(message) = Message::from_vec(input) else { return };
    let domain = Name::from_ascii("cluster.local.").unwrap();
    let (zone, index) = (Zone::new(domain), names());
    for query in &message.queries {
        let lower = query.name().to_lowercase();
        let question = Question { lower: &lower, written: query.name(), kind: query.query_type() };
        if let minik_dns::zone::Verdict::Here(reply) = zone.answer(&index, question) {
            let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
            answer.answers = reply.answers;
            answer.authorities = reply.authorities;
            answer.additionals = reply.additionals;
            let bytes = answer.to_vec().expect("an answer can be written");
            Message::from_vec(&bytes).expect("an answer can be read");
        }
    }
}

/// A few Services of every kind.
fn names() -> Index {
    use minik_client::Change;
    use serde_json::{from_value, json};
    use std::sync::Arc;
    let mut index = Index::default();
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    for (name, spec) in [
        ("web", json!({"clusterIP": "10.3.0.1", "clusterIPs": ["10.3.0.1", "fd00::1"], "ports": ports})),
        ("db", json!({"clusterIP": "None", "ports": ports})),
        ("out", json!({"type": "ExternalName", "externalName": "web.prod.svc.cluster.local"})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.prod.svc.cluster.local"})),
    ] {
        let service = json!({"metadata": {"namespace": "prod", "name": name}, "spec": spec});
        index.service(&Change::Added(Arc::new(from_value(service).unwrap())));
    }
    let slice = json!({
        "metadata": {"namespace": "prod", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "db-0"}, {"addresses": ["10.1.0.2"]}],
    });
    index.slice(&Change::Added(Arc::new(from_value(slice).unwrap())));
    index
}
