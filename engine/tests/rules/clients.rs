//! Identities of clients, their sessions and their counts.

use qtf_engine::{ClientHello, Principal, RejectReason};

use qtf_world::{World, client};

#[test]
fn connections_of_one_identity_share_record_and_token() {
    let mut world = World::new();
    let now = world.now;
    let first = world.engine.client_hello(now, &client("qtf")).unwrap();
    let second = world.engine.client_hello(now, &client("qtf")).unwrap();
    assert_eq!(first, second);
    let record = world.segment().client(first.index);
    assert_eq!(record.connections(), 2);
    assert_eq!(record.name(), "qtf");
    assert_eq!(world.engine.client_of(first.token).unwrap(), first.index);
}

#[test]
fn another_user_another_name_or_another_host_is_another_identity() {
    let mut world = World::new();
    let now = world.now;
    let base = client("qtf");
    let others = [
        base,
        ClientHello {
            principal: Principal::Uid(1001),
            ..base
        },
        ClientHello {
            principal: Principal::Unknown,
            ..base
        },
        ClientHello {
            host: "there",
            ..base
        },
        client("other"),
    ];
    let mut indices: Vec<_> = others
        .iter()
        .map(|hello| world.engine.client_hello(now, hello).unwrap().index)
        .collect();
    indices.dedup();
    assert_eq!(indices.len(), 5);
}

#[test]
fn record_is_given_back_when_it_has_neither_connection_nor_task() {
    let mut world = World::new();
    let now = world.now;
    let session = world.engine.client_hello(now, &client("qtf")).unwrap();
    world.client = session.index;
    let task = world.submit("exec");
    world.engine.client_closed(now, session.index);
    let record = |world: &World| {
        let record = world.segment().client(session.index);
        (record.is_used(), record.connections(), record.unfinished())
    };
    assert_eq!(record(&world), (true, 0, 1));
    let back = world.engine.client_hello(now, &client("qtf")).unwrap();
    assert_eq!(back, session, "its tasks keep the identity");
    world.engine.client_closed(now, session.index);
    world.engine.cancel(now, task).unwrap();
    assert!(record(&world).0);
    world.engine.forget(now, task).unwrap();
    assert!(!record(&world).0);
    let gone = world.engine.client_of(session.token).unwrap_err();
    assert_eq!(gone.reason, RejectReason::UnknownSession);
}

#[test]
fn wrong_tokens_are_refused() {
    let mut world = World::new();
    let now = world.now;
    let session = world.engine.client_hello(now, &client("qtf")).unwrap();
    for token in [0, 1, u64::MAX, session.token ^ (1 << 40), session.token ^ 1] {
        let refused = world.engine.client_of(token).unwrap_err();
        assert_eq!(refused.reason, RejectReason::UnknownSession);
    }
}

#[test]
fn client_without_a_name_or_with_a_long_one_is_refused() {
    let mut world = World::new();
    let now = world.now;
    let long = "n".repeat(64);
    for name in ["", long.as_str()] {
        let refused = world.engine.client_hello(now, &client(name)).unwrap_err();
        assert_eq!(refused.reason, RejectReason::InvalidArgument);
    }
}

#[test]
fn heartbeat_is_noted() {
    let mut world = World::new();
    world.pass(5_000_000_000);
    let (now, client) = (world.now, world.client);
    world.engine.client_beat(now, client);
    assert_eq!(world.segment().client(client).heartbeat(), now.stamp());
}
