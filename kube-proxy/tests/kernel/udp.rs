use crate::world::*;
use minik_net::conntrack::Conntrack;
use serde_json::json;

fn web() -> serde_json::Value {
    service(json!({ "type": "NodePort", "ports": [{ "protocol": "UDP", "port": 53, "nodePort": 30053 }] }))
}

#[test]
fn datagrams_reach_endpoints_and_are_refused_without() {
    let mut world = World::new();
    world.sync(&[(web(), vec![])]);
    assert_eq!(udp(&udp_socket(&world.a), VIP, 53), Seen::Refused);
    world.change(&web(), &[slice("UDP", &[(POD_B, "far", ready())])]);
    assert_eq!(udp(&udp_socket(&world.a), VIP, 53), answer("b", POD_A));
    assert_eq!(udp(&udp_socket(&world.node), VIP, 53), answer("b", "169.254.1.1"));
    assert_eq!(udp(&udp_socket(&world.client), NODE, 30053), answer("b", "169.254.1.1"));
}

#[test]
fn a_flow_that_is_forgotten_moves_to_another_endpoint() {
    let mut world = World::new();
    world.sync(&[(web(), vec![slice("UDP", &[(POD_A, "near", ready())])])]);
    let socket = udp_socket(&world.client);
    assert_eq!(udp(&socket, VIP, 53), answer("a", "169.254.1.1"));
    world.change(&web(), &[slice("UDP", &[(POD_B, "far", ready())])]);
    // The kernel knows the flow and asks no rule.
    assert_eq!(udp(&socket, VIP, 53), answer("a", "169.254.1.1"));
    let mut conntrack = Conntrack::open_in(&world.node).unwrap();
    let flows = conntrack.flows(|flow| flow.protocol == 17 && flow.destination == ip(VIP)).unwrap();
    assert_eq!((flows.len(), flows[0].port, flows[0].answers), (1, 53, ip(POD_A)));
    conntrack.forget(&flows[0]).unwrap();
    conntrack.forget(&flows[0]).unwrap();
    assert_eq!(udp(&socket, VIP, 53), answer("b", "169.254.1.1"));
}
