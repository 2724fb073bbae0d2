//! Room in the daemon's segment and journal: what `qtf submit` does and says where there is none.
//!
//! Tested at the end of this file and in `tests/full.rs`.

use std::time::Duration;

use qtf_client::{RefusalReason, SubmitError};
use qtf_proto::v1::DaemonInfo;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::exit::{Exit, Failure};
use crate::notices::{RECONNECT_FOR, waiting_for_place};
use crate::output::message;

/// LIMIT: a daemon that was killed and started again writes to its journal what it found, and makes files for it.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// A hint is worth so much time, and no more.
const HINT_WITHIN: Duration = Duration::from_secs(1);

/// LIMIT: a place for a key is waited for at this pace, however far off the end of the next key is: others give keys back before.
const ASK_FOR_PLACE_AFTER: Duration = Duration::from_millis(500);

/// Submits a task. A journal without room is asked again, but not for long: the disk may be full. So is a table of keys without a
/// place, which is told.
pub(super) async fn submit_when_there_is_room<T, F>(
    mut submit: impl FnMut() -> F,
) -> Result<T, SubmitError>
where
    F: Future<Output = Result<T, SubmitError>>,
{
    let begun = Instant::now();
    let give_up = begun + ROOM_WITHIN;
    let mut is_told = false;
    loop {
        match submit().await {
            Err(SubmitError::Refused(refusal))
                if refusal.reason == RefusalReason::KeysFull
                    && refusal.retry_after_ms > 0
                    && begun.elapsed() < refusal.worth_waiting(RECONNECT_FOR) =>
            {
                if !core::mem::replace(&mut is_told, true) {
                    let up_to = refusal.worth_waiting(RECONNECT_FOR);
                    message(waiting_for_place(&refusal, up_to));
                }
                let hint = Duration::from_millis(refusal.retry_after_ms.into());
                tokio::time::sleep(hint.min(ASK_FOR_PLACE_AFTER)).await;
            }
            Err(SubmitError::Refused(refusal))
                if refusal.reason == RefusalReason::JournalFull
                    && refusal.retry_after_ms > 0
                    && Instant::now() < give_up =>
            {
                tokio::time::sleep(Duration::from_millis(refusal.retry_after_ms.into())).await;
            }
            answer => return answer,
        }
    }
}

/// Refuses an array that would wait for ever, as each of its members keeps its slot until its result is acknowledged.
pub(super) async fn must_fit(daemon: &Daemon, members: u64) -> Result<(), Failure> {
    let info = daemon.client.info().await?;
    let (slots, most) = (info.task_slots, info.task_slots_of_one);
    // A daemon that does not tell finds out.
    if most == 0 || members <= most {
        return Ok(());
    }
    let share = if most == slots {
        String::new()
    } else {
        format!(", of which one user can have {most}")
    };
    Err(Failure::new(
        Exit::Refused,
        format!(
            "an array of {members} members cannot fit: the daemon has {slots} task slots{share}, and each member keeps its own until \
             its result is forgotten; submit it in parts, keep no results (--no-result), or start the daemon with a larger segment \
             (segment_bytes)"
        ),
    ))
}

/// What a person is told while members wait for room, or for the daemon.
pub(super) async fn waiting(daemon: &Daemon) -> String {
    let end = "Ctrl-C ends this and keeps what is accepted";
    match kept(daemon).await {
        Some(kept) => format!("waiting for room in the daemon's segment: {kept}; {end}"),
        None => format!("waiting for room in the daemon's segment, or for the daemon; {end}"),
    }
}

/// A refusal for want of room, with what a person can do about it.
pub(super) async fn explained(daemon: &Daemon, error: SubmitError) -> Failure {
    let SubmitError::Refused(refusal) = &error else {
        return error.into();
    };
    let is_full = matches!(
        refusal.reason,
        RefusalReason::TasksFull | RefusalReason::ArenaFull | RefusalReason::SpillFailed
    );
    let kept = if is_full { kept(daemon).await } else { None };
    let failure = Failure::from(error);
    match (kept, failure.message()) {
        (Some(kept), Some(text)) => Failure::new(failure.exit(), format!("{text}; {kept}")),
        _ => failure,
    }
}

/// The results that keep slots, if there are any.
async fn kept(daemon: &Daemon) -> Option<String> {
    let info = tokio::time::timeout(HINT_WITHIN, daemon.client.info()).await;
    results_kept(&info.ok()?.ok()?)
}

fn results_kept(info: &DaemonInfo) -> Option<String> {
    let ended = |name: &str| ["done", "failed", "cancelled"].contains(&name);
    let states = info.tasks_by_state.iter();
    let kept: u64 = states
        .filter(|state| ended(&state.name))
        .map(|state| state.value)
        .sum();
    (kept > 0).then(|| {
        format!(
            "{kept} of its {} task slots hold results that are kept: `qtf forget all` frees yours, `qtf forget SEL` some",
            info.task_slots
        )
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qtf_client::{Refusal, RefusalReason};
    use tokio::time::Instant;

    use super::*;

    /// What is answered where the first `refused` calls are refused, after how long, and how often it was asked.
    async fn asked(
        reason: RefusalReason,
        retry_after_ms: u32,
        refused: u32,
    ) -> (bool, Duration, u32) {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let answer = submit_when_there_is_room(|| {
            calls.set(calls.get() + 1);
            let message = "no room".to_owned();
            let refusal = Refusal {
                reason,
                message,
                retry_after_ms,
            };
            std::future::ready(if calls.get() > refused {
                Ok(())
            } else {
                Err(SubmitError::Refused(refusal))
            })
        });
        (answer.await.is_ok(), start.elapsed(), calls.get())
    }

    #[test]
    fn kept_results_are_counted_and_what_frees_them_is_named() {
        let state = |name: &str, value| qtf_proto::v1::NamedValue {
            name: name.to_owned(),
            value,
        };
        let mut info = DaemonInfo {
            task_slots: 200,
            tasks_by_state: vec![state("ready", 9), state("done", 180), state("failed", 5)],
            ..DaemonInfo::default()
        };
        let text = results_kept(&info).unwrap();
        assert!(text.starts_with("185 of its 200 task slots"), "{text}");
        assert!(text.contains("qtf forget"), "{text}");
        info.tasks_by_state.truncate(1);
        assert_eq!(results_kept(&info), None);
    }

    #[tokio::test(start_paused = true)]
    async fn journal_without_room_is_asked_again_for_a_while_and_other_refusals_are_told_at_once() {
        use RefusalReason::{JournalFull, TasksFull};
        let (ms, once) = (Duration::from_millis, (false, Duration::ZERO, 1));
        assert_eq!(asked(JournalFull, 100, 3).await, (true, ms(300), 4));
        assert_eq!(
            asked(JournalFull, 500, 1000).await,
            (false, ROOM_WITHIN, 11)
        );
        assert_eq!(asked(JournalFull, 0, 1).await, once);
        assert_eq!(asked(TasksFull, 100, 1).await, once);
    }

    #[tokio::test(start_paused = true)]
    async fn place_for_a_key_is_waited_for_while_that_is_short_and_known_and_else_a_moment() {
        use RefusalReason::KeysFull;
        let s = Duration::from_secs;
        assert_eq!(
            asked(KeysFull, 300, 2).await,
            (true, s(0) + Duration::from_millis(600), 3)
        );
        assert_eq!(
            asked(KeysFull, 2_000, 9).await,
            (true, Duration::from_millis(4_500), 10)
        );
        assert_eq!(asked(KeysFull, 25_000, 1_000).await, (false, s(30), 61));
        assert_eq!(asked(KeysFull, 3_500_000, 1_000).await, (false, s(5), 11));
        assert_eq!(asked(KeysFull, 0, 1).await, (false, s(0), 1));
    }
}
