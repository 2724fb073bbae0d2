//! Sockets under hostile peers: garbage, silence, storms of disconnects, too many connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::address::Address;
use qtf_proto::v1::RefusalReason;

use crate::process::remove_segment;
use crate::support::{Peer, noop, on_both, run, small, until};

fn with_tcp() -> RawConfig {
    RawConfig {
        listen: Some(vec!["127.0.0.1:0".into()]),
        handshake_ms: Some(200),
        ..small()
    }
}

fn tcp(daemon: &RunningDaemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.addresses()[0].to_string()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    stream
}

async fn over(address: &Address) -> Peer {
    Peer::over(qtf_proto::channel::connect(address).await.unwrap())
}

/// Descriptors of this process; daemon and test share it.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn tcp_and_unix_sockets_serve_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.sock");
    let listen = vec!["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let raw = RawConfig {
        listen: Some(listen),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let [tcp, unix] = daemon.addresses() else {
            panic!("{:?}", daemon.addresses())
        };
        let task_id = over(tcp).await.submit(noop(b"")).await.unwrap();
        assert_ne!(
            over(unix).await.state(task_id).await,
            qtf_proto::v1::TaskState::Unspecified
        );
        drop(daemon);
    });
    assert!(!path.exists(), "the socket file is gone with the daemon");
}

#[test]
fn garbage_ends_its_own_connection_and_nothing_else() {
    on_both(&with_tcp(), |daemon| async move {
        let mut good = over(&daemon.addresses()[0]).await;
        let garbage: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\0\0\0\0\0\0",
            &[0xFF; 100],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ];
        for bytes in garbage {
            let mut stream = tcp(&daemon);
            stream.write_all(bytes).unwrap();
            let mut rest = Vec::new();
            // Closed or reset: both are an end.
            let _ = stream.read_to_end(&mut rest);
        }
        good.submit(noop(b"")).await.unwrap();
    });
}

#[test]
fn silent_peer_is_closed_after_its_time() {
    on_both(&with_tcp(), |daemon| async move {
        let mut stream = tcp(&daemon);
        let mut half = tcp(&daemon);
        half.write_all(b"PRI * HT").unwrap();
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)));
        assert!(matches!(half.read(&mut byte), Ok(0) | Err(_)));
        over(&daemon.addresses()[0])
            .await
            .submit(noop(b""))
            .await
            .unwrap();
    });
}

#[test]
fn connection_over_the_limit_is_told_which_limit_and_room_comes_back() {
    let raw = RawConfig {
        connections_max: Some(3),
        handshake_ms: Some(60_000),
        ..with_tcp()
    };
    on_both(&raw, |daemon| async move {
        let held: Vec<TcpStream> = (0..3).map(|_| tcp(&daemon)).collect();
        // Its first call is refused, in the words of every refusal.
        let mut extra = over(&daemon.addresses()[0]).await;
        let refused = extra.submit(noop(b"")).await.unwrap_err();
        let refusal = qtf_proto::refusal::refusal_of(&refused).expect("a refusal");
        assert_eq!(refusal.reason(), RefusalReason::ConnectionsFull);
        assert!(refusal.message.contains("all 3 connections"), "{refused}");
        assert!(refusal.retry_after_ms > 0);
        // Of many at once some are told in the connection's last words; none is met with silence.
        let mut many: Vec<TcpStream> = (0..60).map(|_| tcp(&daemon)).collect();
        let mut told_at_once = 0;
        for stream in &mut many {
            let mut words = Vec::new();
            // Those that would be answered wait for the peer's first word, which does not come.
            let _ = stream.read_to_end(&mut words);
            let text = String::from_utf8_lossy(&words).into_owned();
            told_at_once += usize::from(text.contains("raise connections_max"));
        }
        assert!(told_at_once >= 20, "{told_at_once}");
        drop(held);
        until(|| async {
            over(&daemon.addresses()[0])
                .await
                .submit(noop(b""))
                .await
                .is_ok()
        })
        .await;
    });
}

#[test]
fn user_who_takes_all_connections_leaves_some_to_others_and_hears_so() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("connections-{}", std::process::id());
    let path = folder.path().join("run/q.sock");
    let settings = Settings::from_raw(RawConfig {
        instance: Some(name.clone()),
        runtime_dir: Some(folder.path().join("run")),
        listen: Some(vec![
            format!("unix:{}", path.display()),
            "127.0.0.1:0".into(),
        ]),
        core: Some("none".parse().unwrap()),
        connections_max: Some(8),
        handshake_ms: Some(60_000),
        ..small()
    });
    let daemon = Daemon::start(settings.unwrap()).unwrap();
    run(async {
        let [unix, tcp] = daemon.addresses() else {
            panic!("{:?}", daemon.addresses())
        };
        let held: Vec<UnixStream> = (0..7)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let refused = over(unix).await.submit(noop(b"")).await.unwrap_err();
        let refusal = qtf_proto::refusal::refusal_of(&refused).expect("a refusal");
        assert_eq!(refusal.reason(), RefusalReason::ConnectionsFull);
        let message = &refusal.message;
        assert!(message.contains("holds 7 of 8 connections"), "{message}");
        assert!(message.contains("raise connections_max"), "{message}");
        // Who comes from elsewhere is somebody else.
        over(tcp).await.submit(noop(b"")).await.unwrap();
        drop(held);
        until(async || over(unix).await.submit(noop(b"")).await.is_ok()).await;
    });
    drop(daemon);
    remove_segment(&name);
}

#[test]
fn storm_of_disconnects_gives_every_descriptor_back() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("q.sock").display());
    let raw = RawConfig {
        listen: Some(vec!["127.0.0.1:0".into(), unix]),
        ..with_tcp()
    };
    on_both(&raw, |daemon| async move {
        let mut good = over(&daemon.addresses()[0]).await;
        good.submit(noop(b"")).await.unwrap();
        let before = descriptors();
        for round in 0..60 {
            let mut stream = tcp(&daemon);
            if round % 3 == 0 {
                stream
                    .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                    .unwrap();
            }
            drop(stream);
            let Address::Unix(path) = &daemon.addresses()[1] else {
                panic!()
            };
            drop(UnixStream::connect(path).unwrap());
            // A call in mid-stream when its connection goes.
            let mut peer = over(&daemon.addresses()[round % 2]).await;
            let (_watch, _ends) = peer.watch().await;
        }
        // Other tests of this process open descriptors too: only many more would be a leak.
        until(|| async { descriptors() < before + 40 }).await;
        good.submit(noop(b"")).await.unwrap();
    });
}
