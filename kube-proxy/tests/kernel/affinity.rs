use crate::world::*;
use minik_kube_proxy::{Frontend, Protocol};
use serde_json::json;

#[test]
fn a_client_keeps_its_endpoint_until_that_goes() {
    let mut world = World::new();
    let web = service(json!({
        "type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 100 } },
        "ports": [{ "protocol": "TCP", "port": 80, "nodePort": 30080 }],
    }));
    world.sync(&[(web.clone(), vec![both()])]);
    for (address, port) in [(VIP, 80), (NODE, 30080)] {
        assert_eq!(all_tcp(&world.client, address, port).len(), 1, "{address}");
    }
    let Seen::Answer(kept, _) = tcp(&world.client, VIP, 80) else { panic!("no answer") };
    let (gone, left) = if kept == "a" { (POD_A, POD_B) } else { (POD_B, POD_A) };
    world.change(&web, &[slice("TCP", &[(left, "far", ready())])]);
    let vip = Frontend { address: ip(VIP), protocol: Protocol::Tcp, port: 80 };
    let book = &world.book;
    let forgotten = world
        .kernel
        .forget_affinity(|of, endpoint| {
            let of = if of.port == 80 { of } else { Frontend { address: ip("0.0.0.0"), ..of } };
            book.sends_to(of, endpoint)
        })
        .unwrap();
    assert!((1..=2).contains(&forgotten), "{forgotten} of those that {gone} had");
    assert!(world.book.sends_to(vip, minik_kube_proxy::Endpoint { address: ip(left), port: 8080 }));
    let Seen::Answer(other, _) = tcp(&world.client, VIP, 80) else { panic!("no answer") };
    assert_ne!(other, kept);
    // Once remembered, it holds although another is there again.
    world.change(&web, &[both()]);
    assert!(
        all_tcp(&world.client, VIP, 80).iter().all(|seen| matches!(seen, Seen::Answer(n, _) if *n == other))
    );
}

#[test]
fn a_client_of_an_endpoint_on_the_node_is_remembered_too() {
    let mut world = World::new();
    let web = service(json!({ "sessionAffinity": "ClientIP" }));
    let here = slice("TCP", &[(NODE, "near", ready()), (POD_B, "far", ready())]);
    world.sync(&[(web, vec![here])]);
    assert_eq!(all_tcp(&world.a, VIP, 80).len(), 1);
    assert_eq!(all_tcp(&world.client, VIP, 80).len(), 1);
}

#[test]
fn clients_are_remembered_in_version_six() {
    let mut world = World::new();
    let web = service(json!({
        "clusterIP": "fd98::1", "clusterIPs": ["fd98::1"], "sessionAffinity": "ClientIP",
    }));
    let mut six = slice("TCP", &[("fd99::a", "near", ready()), ("fd99::b", "far", ready())]);
    six["addressType"] = json!("IPv6");
    world.sync(&[(web, vec![six])]);
    assert_eq!(all_tcp(&world.client, "fd98::1", 80).len(), 1);
    assert_eq!(world.kernel.forget_affinity(|of, _| of.address != ip("fd98::1")).unwrap(), 1);
}
