//! A worker of a user's own: offers the handler `word_count` besides running programs.
//!
//! `word-count-worker [ADDRESS]`, by default this user's own daemon. Ctrl-C lets it finish what it holds and leave.

use qtf_examples::{KIND, count_words};
use qtf_worker::{Address, HandlerError, TaskContext, Worker};

/// The handler: payload in, output out; an error becomes the task's message.
async fn word_count(context: TaskContext) -> Result<Vec<u8>, HandlerError> {
    let text = core::str::from_utf8(&context.payload)?;
    if text.is_empty() {
        return Err("there is no text to count in".into());
    }
    Ok(count_words(text).into_bytes())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => Address::of_instance("default"),
    };
    let worker = Worker::builder(address)
        .name("word-counter")
        .slots(4)
        .prefetch(4)
        .handler(KIND, word_count)
        .build()?;
    let shutdown = async {
        // Without a signal handler there is no Ctrl-C to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            core::future::pending::<()>().await;
        }
    };
    Ok(worker.run(shutdown).await?)
}
