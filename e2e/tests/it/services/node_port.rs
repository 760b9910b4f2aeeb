//! Node ports: through either node, from the host and from Pods, over TCP and UDP.

use super::client::{From, spread};
use super::{World, reached};
use anyhow::{Result, ensure};
use std::net::SocketAddr;

pub fn both_nodes_lead_to_every_server(world: &World) -> Result<()> {
    let (tcp, udp) = (world.node_port("web-node", "http")?, world.node_port("web-node", "echo")?);
    for from in world.servers().map(From::Pod).chain([From::Host]) {
        for (node, ip) in &world.nodes {
            let to = SocketAddr::new(*ip, tcp);
            reached("the rules are there", || from.tcp(to))?;
            let counts = spread(|| from.tcp(to))?;
            ensure!(counts.len() == 3, "{from} met {counts:?} through {node} over TCP");
            let to = SocketAddr::new(*ip, udp);
            let counts = spread(|| from.udp(to))?;
            ensure!(counts.len() == 3, "{from} met {counts:?} through {node} over UDP");
        }
    }
    // The cluster IP of a NodePort Service works too.
    From::Host.tcp(SocketAddr::new(world.address("web-node")?, 80)).map(drop)
}
