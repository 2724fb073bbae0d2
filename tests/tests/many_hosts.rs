//! One user on more hosts than there are client records, each with a task: all commands work for all of the tasks, before and
//! after a restart. The rule is in `engine/src/clients/folding.rs`.

use std::time::Duration;

use qtf_client::{Address, Client, Task};
use qtf_tests::{Place, Process};

/// More than the 1,021 records that can have a name of their own.
const HOSTS: usize = 1_022;

fn qtf(place: &Place, words: &[&str]) -> qtf_tests::Finished {
    let address = place.address();
    let words = ["--addr", &address]
        .into_iter()
        .chain(words.iter().copied());
    place.qtf(words)
}

/// Submits a task from each host, and hangs up.
fn submit_from_all(place: &Place) -> Vec<String> {
    let address: Address = place.address().parse().expect("it is an address");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut ids = Vec::new();
        for host in 0..HOSTS {
            let client = Client::builder(address.clone())
                .name("qtf")
                .host(format!("host-{host}"))
                .reconnect_for(Duration::ZERO)
                .connect()
                .await
                .unwrap_or_else(|error| panic!("host {host}: {error}"));
            let id = client
                .submit(Task::exec(["true"]))
                .await
                .unwrap_or_else(|error| panic!("host {host}: {error}"));
            ids.push(id.id.to_string());
        }
        ids
    })
}

fn states(place: &Place) -> Vec<(String, String)> {
    let listed = qtf(place, &["ps", "--all", "--json"]).expect_code(0).json();
    let tasks = listed["tasks"].as_array().expect("a list").iter();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    tasks
        .map(|task| (text(&task["id"]), text(&task["state"])))
        .collect()
}

/// All commands that name tasks, on these.
fn cancel_look_and_forget(place: &Place, ids: &[&str]) {
    for id in [ids[0], ids[ids.len() / 2], ids[ids.len() - 1]] {
        let task = qtf(place, &["task", id, "--json"]).expect_code(0).json();
        assert_eq!(task["state"], "ready", "{task}");
    }
    let words = |command| [&[command][..], ids].concat();
    qtf(place, &words("cancel")).expect_code(0);
    let known = states(place);
    for id in ids {
        assert!(
            known.contains(&((*id).to_owned(), "cancelled".to_owned())),
            "{id}"
        );
    }
    qtf(place, &words("wait")).expect_code(1);
    qtf(place, &words("forget")).expect_code(0);
    qtf(place, &words("cancel")).expect_code(3);
}

#[test]
fn user_on_more_hosts_than_there_are_client_records_has_all_tasks_before_and_after_a_restart() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let ids = submit_from_all(&place);
    let clients = qtf(&place, &["client", "ls", "--json"])
        .expect_code(0)
        .json();
    let records = clients["clients"].as_array().expect("a list").len();
    assert!(records < HOSTS, "{records} records for all hosts");
    let check = |left: &[&str]| {
        let info = qtf(&place, &["info", "--json"]).expect_code(0).json();
        assert_eq!(info["tasks"]["ready"], left.len(), "{info}");
        let mine = qtf(&place, &["ps", "--mine", "--json"])
            .expect_code(0)
            .json();
        assert_eq!(mine["tasks"].as_array().map(Vec::len), Some(left.len()));
    };
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    check(&all);
    // Every third, so that hosts with a record and hosts without are among them.
    let part = |n: usize| -> Vec<&str> { all.iter().skip(n).step_by(3).copied().collect() };
    cancel_look_and_forget(&place, &part(0));
    let left = [part(1), part(2)].concat();
    check(&left);
    daemon.kill();
    let mut daemon = place.daemon(&[]);
    check(&left);
    cancel_look_and_forget(&place, &part(1));
    check(&part(2));
    assert_eq!(daemon.terminate(), Some(0));
    let _daemon: Process = place.daemon(&[]);
    check(&part(2));
    cancel_look_and_forget(&place, &part(2));
    assert_eq!(states(&place), []);
    // Hosts that were there before and new ones are taken again.
    let again = submit_from_all(&place);
    assert_eq!(states(&place).len(), again.len());
    place.verify();
}
