//! Cluster IPs: from Pods of both nodes and from the host, over TCP and UDP.

use super::client::{From, TRIES, spread};
use super::{SOON, World, reached};
use anyhow::{Context, Result, bail, ensure};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

fn clients(world: &World) -> Vec<From<'_>> {
    world.servers().map(From::Pod).chain([From::Host]).collect()
}

pub fn every_client_reaches_every_server(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.address("web")?, 80);
    for from in clients(world) {
        reached("the rules are there", || from.tcp(to))?;
        // Among the servers is the client itself.
        let tcp = spread(|| from.tcp(to))?;
        ensure!(tcp.len() == 3, "{from} met {tcp:?} over TCP");
        let udp = spread(|| from.udp(to))?;
        ensure!(udp.len() == 3, "{from} met {udp:?} over UDP");
    }
    Ok(())
}

pub fn servers_see_the_address_of_the_pod(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.address("web")?, 80);
    for _ in 0..TRIES {
        let met = From::Pod(&world.solo).tcp(to)?;
        ensure!(met.client == world.solo.ip, "{met:?}, not {}", world.solo.ip);
    }
    Ok(())
}

pub fn a_client_stays_with_its_server(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.address("web-sticky")?, 80);
    for from in clients(world) {
        reached("the rules are there", || from.tcp(to))?;
        let counts = spread(|| from.tcp(to))?;
        ensure!(counts.len() == 1, "{from} met {counts:?}");
    }
    Ok(())
}

pub fn a_service_without_endpoints_refuses(world: &World) -> Result<()> {
    let inner = SocketAddr::new(world.address("empty")?, 80);
    let outer = world.node_port("empty", "http")?;
    let targets = world.nodes.iter().map(|(_, ip)| SocketAddr::new(*ip, outer)).chain([inner]);
    for to in targets {
        for from in [From::Host, From::Pod(&world.web[0]), From::Pod(&world.web[2])] {
            reached("a refusal", || refused(from.tcp(to)))?;
        }
    }
    reached("a refusal over UDP", || refused(From::Pod(&world.web[0]).exchange(inner, b"x")))
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> Result<()> {
    match result {
        Err(error) if format!("{error:#}").contains("refused") => Ok(()),
        other => bail!("no refusal: {other:?}"),
    }
}

/// A client that goes on sending from one port is never left with a server that is gone.
pub fn datagrams_follow_the_endpoints(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.address("solo-echo")?, 80);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.connect(to)?;
    let before = answered(&socket, |_| true)?;
    ensure!(before.starts_with("db-0 "), "{before:?}");
    let label = |app: &str, pod: &str| {
        world.cluster.kubectl_ok(&format!("label pod {pod} --overwrite app={app}"), "")
    };
    // Another server takes over while the first one goes on listening.
    label("solo", "heir")?;
    label("none", "solo")?;
    let after = answered(&socket, |answer| answer.starts_with("heir "));
    label("solo", "solo")?;
    label("spare", "heir")?;
    after.context("the flow was not taken over").map(drop)
}

/// Sends until an answer is as wanted.
fn answered(socket: &UdpSocket, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let began = Instant::now();
    let mut last = String::from("nothing");
    while began.elapsed() < SOON {
        // A refusal of an earlier datagram shows here; it is sent again.
        let mut buffer = [0; 512];
        match socket.send(b"hello").and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => last = String::from_utf8_lossy(&buffer[..length]).into_owned(),
            Err(_) => continue,
        }
        if wanted(&last) {
            return Ok(last);
        }
    }
    bail!("the last answer was {last:?}")
}
