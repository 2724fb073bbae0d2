//! A client of a user's own: submits some hundred texts and reads the results in the order in which they
//! are ready.
//!
//! `word-count-client [ADDRESS [TEXTS]]`, by default 300 texts to this user's own daemon. Needs a running
//! `word-count-worker`.

#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::collections::HashMap;

use futures_util::StreamExt as _;
use qtf_client::{Address, Client, Task};
use qtf_examples::KIND;

/// Text number `n`: the word "task" stands in it `n` times.
fn text(n: usize) -> String {
    format!("Text {n}. {}", "Task after task. ".repeat(n.div_ceil(2)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = match arguments.next() {
        Some(text) => text.parse()?,
        None => Address::of_instance("default"),
    };
    let count: usize = arguments.next().map_or(Ok(300), |count| count.parse())?;

    let client = Client::connect(&address).await?;
    // Submission and results run side by side: the first results come while later texts go out.
    let mut answers =
        client.submit_many((1..=count).map(|n| Task::handler(KIND, text(n)).retries(1)));
    let (feed, mut results) = client.result_feed();
    let submitting = async move {
        let mut numbers = HashMap::new();
        let mut n = 0;
        while let Some(answer) = answers.next().await {
            n += 1;
            let id = answer?.id;
            numbers.insert(id, n);
            feed.watch([id]);
        }
        // The feed is dropped here, so the results end when all are in.
        anyhow::Ok(numbers)
    };
    let reading = async move {
        let mut ends = Vec::new();
        while let Some(end) = results.next().await {
            let end = end?;
            results.acknowledge([end.id]);
            ends.push(end);
        }
        results.close().await?;
        anyhow::Ok(ends)
    };
    let (numbers, ends) = tokio::try_join!(submitting, reading)?;

    let mut failed = 0;
    for end in &ends {
        let number = numbers.get(&end.id).copied().unwrap_or(0);
        let output = end.output.clone().unwrap_or_default();
        if end.is_done() {
            let stdout = String::from_utf8_lossy(&output.stdout);
            println!(
                "text {number}: {}",
                stdout.lines().next().unwrap_or("no words")
            );
        } else {
            failed += 1;
            println!("text {number}: {:?}: {}", end.state, output.message);
        }
    }
    println!("{} texts, {failed} failed", ends.len());
    anyhow::ensure!(failed == 0, "{failed} of {} texts failed", ends.len());
    Ok(())
}
