//! On the real kernel, as root, inside namespaces of their own.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use minik_net::{Cidr, Error, NetNs, Netlink, Request, Route, RouteKind, Veth, nft, sysctl};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn routed_pair_carries_tcp() {
    let (host, pod) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let mut outer = Netlink::open_in(&host).unwrap();
    let mac = [0x0a, 0, 0, 0, 0, 1];
    let veth = Veth {
        name: "vhost",
        peer: "eth0",
        peer_netns: Some(&pod),
        mtu: Some(1400),
        mac: Some(mac),
        ..Veth::default()
    };
    let near = outer.add_veth(&veth).unwrap();
    outer.apply(&[Request::set_alias(near, "a pod")]).unwrap();
    outer.add_address(near, cidr("169.254.1.1/32")).unwrap();
    outer.add_address(near, cidr("169.254.1.1/32")).unwrap();
    outer.replace_route(&Route::to(Cidr::host(ip("10.9.0.5"))).dev(near)).unwrap();

    let mut inner = Netlink::open_in(&pod).unwrap();
    let eth0 = inner.index_of("eth0").unwrap();
    inner
        .apply(&[
            Request::link_up(1),
            Request::link_up(eth0),
            Request::add_address(eth0, cidr("10.9.0.5/32")),
            Request::add_route(&Route::to(Cidr::host(ip("169.254.1.1"))).dev(eth0)),
            Request::add_route(
                &Route::to(Cidr::default_v4()).via(ip("169.254.1.1")).dev(eth0).src(ip("10.9.0.5")),
            ),
            Request::add_neighbour(eth0, ip("169.254.1.1"), mac),
        ])
        .unwrap();

    let link = outer.link("vhost").unwrap().unwrap();
    assert!(link.up && link.running && link.kind == "veth" && link.mtu == 1400, "{link:?}");
    assert_eq!(
        (link.mac.as_slice(), link.alias.as_deref(), link.peer),
        (&mac[..], Some("a pod"), Some(eth0))
    );
    assert!(
        outer.routes().unwrap().iter().any(|r| r.destination == cidr("10.9.0.5/32") && r.link == Some(near))
    );
    assert!(inner.routes().unwrap().iter().any(|r| r.gateway == Some(ip("169.254.1.1")) && r.table == 254));
    assert!(inner.neighbours().unwrap().iter().any(|n| n.address == ip("169.254.1.1") && n.permanent));
    assert!(inner.addresses().unwrap().iter().any(|a| a.cidr == cidr("10.9.0.5/32") && a.link == eth0));

    let listener = pod.run(|| TcpListener::bind("10.9.0.5:0")).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let stream = host.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap().unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!((peer.ip(), peer.port()), (ip("169.254.1.1"), stream.local_addr().unwrap().port()));

    // The end of the pod's namespace takes the pair with it.
    drop((listener, stream, inner, pod));
    let gone = (0..500).any(|_| {
        let gone = outer.link("vhost").unwrap().is_none();
        if !gone {
            // The kernel ends namespaces in the background; this is a bounded wait on that.
            std::thread::park_timeout(Duration::from_millis(10));
        }
        gone
    });
    assert!(gone, "the link outlived its peer's namespace");
}

#[test]
fn bridge_joins_two_namespaces() {
    let (net, a, b) = (NetNs::create().unwrap(), NetNs::create().unwrap(), NetNs::create().unwrap());
    let mut hub = Netlink::open_in(&net).unwrap();
    let bridge = hub.add_bridge("br0").unwrap();
    for (name, ns, address) in [("to-a", &a, "10.8.0.1/24"), ("to-b", &b, "10.8.0.2/24")] {
        let port =
            hub.add_veth(&Veth { name, peer: "eth0", peer_netns: Some(ns), ..Veth::default() }).unwrap();
        hub.set_master(port, bridge).unwrap();
        let mut inner = Netlink::open_in(ns).unwrap();
        let eth0 = inner.index_of("eth0").unwrap();
        inner.set_up(eth0).unwrap();
        inner.add_address(eth0, cidr(address)).unwrap();
    }
    assert_eq!(hub.links().unwrap().iter().filter(|l| l.master == Some(bridge)).count(), 2);
    let listener = a.run(|| TcpListener::bind("10.8.0.1:0")).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    b.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap().unwrap();
    assert!(hub.delete_link("to-a").unwrap());
    assert!(!hub.delete_link("to-a").unwrap());
}

#[test]
fn refusals_name_what_was_attempted() {
    let ns = NetNs::create().unwrap();
    let mut netlink = Netlink::open_in(&ns).unwrap();
    let missing = netlink.index_of("nothere").unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("find link nothere"), "{missing}");
    netlink.add_bridge("br0").unwrap();
    let twice = netlink.add_bridge("br0").unwrap_err();
    assert!(twice.is_exists(), "{twice}");
    let error = netlink
        .apply(&[Request::link_up(1), Request::link_up(4242), Request::add_address(1, cidr("10.7.0.1/32"))])
        .unwrap_err();
    assert!(error.to_string().starts_with("set link 4242 up: No such device"), "{error}");
    assert_eq!(netlink.addresses().unwrap().iter().filter(|a| a.cidr == cidr("10.7.0.1/32")).count(), 1);
    netlink.delete_route(&Route::to(cidr("10.6.0.0/16")).dev(1)).unwrap();
    let mut dead = Route::to(cidr("10.6.0.0/16"));
    dead.kind = RouteKind::Blackhole;
    netlink.replace_route(&dead).unwrap();
    assert!(
        netlink
            .routes()
            .unwrap()
            .iter()
            .any(|r| r.kind == RouteKind::Blackhole && r.destination == dead.destination)
    );
    netlink.delete_route(&dead).unwrap();
    assert!(!netlink.rules().unwrap().is_empty());
}

#[test]
fn pins_hold_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node/net");
    let made = NetNs::create_pinned(&path).unwrap();
    let id = made.id().unwrap();
    drop(made);
    assert!(NetNs::is_pinned(&path));
    assert_eq!(NetNs::open(&path).unwrap().id().unwrap(), id);
    assert_ne!(NetNs::current().unwrap().id().unwrap(), id);
    match NetNs::create_pinned(&path) {
        Err(e @ Error::Namespace { .. }) => assert!(e.is_exists(), "{e}"),
        other => panic!("{other:?}"),
    }
    NetNs::unpin(&path).unwrap();
    NetNs::unpin(&path).unwrap();
    assert!(!path.exists() && !NetNs::is_pinned(&path));
}

#[test]
fn rules_and_settings_belong_to_the_namespace() {
    let ns = NetNs::create().unwrap();
    ns.run(|| {
        nft::load("table inet t { chain c { type filter hook forward priority 0; }; }").unwrap();
        assert!(nft::list(&[]).unwrap().contains("table inet t"));
        let error = nft::load("table inet u { chain c { nonsense } }").unwrap_err();
        assert!(matches!(error, Error::Nft(_)), "{error}");
        nft::delete_table("inet", "t").unwrap();
        nft::delete_table("inet", "t").unwrap();
        assert_eq!(nft::list(&[]).unwrap(), "");
        // A new namespace takes it over from the host.
        sysctl::write("net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(sysctl::ensure("net/ipv4/ip_forward", "1").unwrap(), "0");
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
        assert!(sysctl::read("net/ipv4/nothing").unwrap_err().is_not_found());
    })
    .unwrap();
}

#[test]
fn nftables_elements_change_together_or_not_at_all() {
    use minik_net::nftables::{Batch, Data, Element, Expression, Family, NfTables, SetName};
    let ns = NetNs::create().unwrap();
    let text =
        "table ip t {\n comment \"mine\"\n map m { type ipv4_addr : verdict; }\n chain c { drop; }\n}\n";
    ns.run(|| nft::load(text).unwrap()).unwrap();
    let mut tables = NfTables::open_in(&ns).unwrap();
    let set = SetName { family: Family::Ip, table: "t", set: "m" };
    assert_eq!(tables.table_comment(Family::Ip, "t").unwrap().as_deref(), Some("mine"));
    assert_eq!(tables.table_comment(Family::Ip, "u").unwrap(), None);
    assert!(tables.elements(SetName { set: "n", ..set }).unwrap_err().is_not_found());
    // More than fits one message, and one socket's usual buffer.
    let element = |n: u32| Element {
        key: n.to_be_bytes().to_vec(),
        data: Some(if n.is_multiple_of(2) { Data::Drop } else { Data::Goto("c".into()) }),
        ..Element::default()
    };
    let all: Vec<Element> = (1..20_000).map(element).collect();
    let mut batch = Batch::default();
    batch.add(set, &all);
    let rule = [Expression::Network { offset: 16, length: 4, register: 0 }];
    batch.add_chain((Family::Ip, "t"), "d", &rule);
    tables.commit(&batch).unwrap();
    let found = tables.elements(set).unwrap();
    assert_eq!(found, all);
    assert_eq!(
        (tables.chains(Family::Ip, "t").unwrap().len(), tables.rules(Family::Ip, "t").unwrap()),
        (2, 2)
    );
    let generation = tables.generation().unwrap();
    let mut batch = Batch::default();
    batch.delete(set, &all[..10]);
    batch.delete(set, &[element(50_000)]);
    let error = tables.commit(&batch).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(tables.elements(set).unwrap().len(), all.len());
    assert_eq!(tables.generation().unwrap(), generation);
    let mut batch = Batch::default();
    batch.delete(set, &all[..1]);
    batch.add(set, &[Element { data: Some(Data::Drop), comment: Some("first".into()), ..all[0].clone() }]);
    tables.commit(&batch).unwrap();
    let listed = ns.run(|| nft::list(&["ip", "t"]).unwrap()).unwrap();
    assert!(listed.contains("0.0.0.1 comment \"first\" : drop"), "{}", &listed[..200]);
}
