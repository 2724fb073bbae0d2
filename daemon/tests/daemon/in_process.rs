//! A daemon inside another program: no listening socket, nothing left behind.

use qtf_daemon::{Daemon, Settings};
use qtf_proto::address::Address;

use crate::support::{Peer, noop, on_both, run, small};

#[test]
fn way_in_is_closed_when_the_daemon_has_stopped() {
    on_both(&small(), |daemon| async move {
        let way_in = daemon.in_process();
        {
            let mut peer = Peer::new(&daemon).await;
            peer.submit(noop(b"")).await.unwrap();
        }
        daemon.stop().unwrap();
        let address = Address::InProcess(way_in);
        let error = qtf_proto::channel::connect(&address).await.unwrap_err();
        assert!(error.is_not_there(), "{error}");
    });
}

#[test]
fn several_daemons_live_in_one_process() {
    let start = || Daemon::start(Settings::private_with(small()).unwrap()).unwrap();
    let daemons = [start(), start(), start()];
    run(async {
        for daemon in &daemons {
            Peer::new(daemon).await.submit(noop(b"")).await.unwrap();
        }
    });
}

#[test]
fn call_that_does_not_end_is_cut_at_the_deadline() {
    use qtf_daemon::config::RawConfig;
    let raw = RawConfig {
        stop_deadline_ms: Some(50),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let (chunks, upload) = tokio::sync::mpsc::channel(1);
        let first = qtf_proto::v1::UploadChunk {
            session: 0,
            total_bytes: 100_000,
            data: vec![1; 10].into(),
        };
        chunks.send(first).await.unwrap();
        let mut plm = peer.plm.clone();
        let upload = tokio_stream::wrappers::ReceiverStream::new(upload);
        let unfinished = tokio::spawn(async move { plm.upload_payload(upload).await });
        peer.submit(noop(b"")).await.unwrap();
        let error = daemon.stop().unwrap_err();
        assert!(error.to_string().contains("stop_deadline_ms"), "{error}");
        assert!(unfinished.await.unwrap().is_err());
        drop(chunks);
    });
}

#[test]
fn peer_that_has_not_spoken_holds_no_stop_up() {
    on_both(&small(), |daemon| async move {
        let silent = daemon.in_process().open().unwrap();
        Peer::new(&daemon).await.submit(noop(b"")).await.unwrap();
        // Else it would end with the error that the deadline is over.
        daemon.stop().unwrap();
        drop(silent);
    });
}
