//! Traffic policies: what stays on a node, and whose address a server sees.

use super::client::From;
use super::{World, reached};
use anyhow::{Result, ensure};
use std::net::SocketAddr;

pub fn internal_traffic_stays_on_the_node(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.address("solo-inner")?, 80);
    for pod in &world.web {
        let from = From::Pod(pod);
        if pod.node == world.solo.node {
            reached("the server of the node", || from.tcp(to))?;
        } else {
            // Nobody answers, and nobody refuses.
            ensure!(from.tcp(to).is_err(), "{from} reached a server of another node");
        }
    }
    Ok(())
}

pub fn external_traffic_keeps_its_source(world: &World) -> Result<()> {
    let port = world.node_port("solo-outer", "http")?;
    for (node, ip) in &world.nodes {
        let to = SocketAddr::new(*ip, port);
        if *node != world.solo.node {
            ensure!(From::Host.tcp(to).is_err(), "{node} has no server of its own and yet one answered");
            continue;
        }
        let met = reached("the server of the node", || From::Host.tcp(to))?;
        // The host's own address, which is none of the node's.
        ensure!(world.nodes.iter().all(|(_, ip)| met.client != *ip), "{met:?}");
    }
    // The policy is about node ports: within the cluster every Pod reaches it.
    let inside = SocketAddr::new(world.address("solo-outer")?, 80);
    for pod in &world.web {
        reached("the cluster IP", || From::Pod(pod).tcp(inside))?;
    }
    Ok(())
}
