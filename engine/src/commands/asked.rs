//! What commands of local processes ask for. Each asks for a state and not for a change, so that it may be done twice.
//!
//! Whoever has a lane can write to the segment: it is not asked whose task it is. Tested in `engine/tests/rules/lanes.rs`.

use qtf_shm::lane::{ACKNOWLEDGED_MAX, Command, Event};
use qtf_shm::{ClientIndex, Owner, Phase, TaskId};

use super::Reply;
use crate::clients::ClientHello;
use crate::cycle::Parts;
use crate::lanes::{OpenLane, WATCHED_MAX};
use crate::plm::{Accepted, Answer, Plm};
use crate::principal::Principal;
use crate::rejection::{Detail, RejectReason, Rejection};

impl Parts<'_> {
    /// Does what a command asks for; `None` is an entry that says nothing that is known.
    pub(super) fn answer(
        &mut self,
        open: OpenLane,
        number: u32,
        command: Option<Command>,
    ) -> Reply {
        let asked = command.and_then(Command::task);
        let answered = match command {
            Some(Command::Hello) => return self.hello(open, number).into(),
            Some(Command::Submit(task)) => return self.submit_by_lane(open, number, task),
            Some(Command::Cancel(task)) => self.plm.cancel(&mut self.turn, self.workers, task),
            Some(Command::Forget(task)) => self.plm.forget(&mut self.turn, task),
            Some(Command::Watch(task)) => self.watch(open, task),
            Some(Command::Update { task, priority }) => {
                self.plm
                    .update_priority(&self.turn, task, u32::from(priority))
            }
            Some(Command::Credits(_) | Command::Result { .. }) => Err(Rejection::new(
                RejectReason::Unsupported,
                Detail::Plain("assignments do not come by lanes yet: join as a local worker"),
            )),
            // Taken before, as it has no answer.
            Some(Command::Acknowledge(_)) | None => Err(Rejection::invalid(
                "the lane holds a command that is not known",
            )),
        };
        match (answered, asked) {
            (Ok(Answer { phase, durable }), Some(task)) => Reply {
                event: Event::Accepted {
                    number,
                    task,
                    asked: task,
                    phase,
                    is_repeat: false,
                    result_expired: false,
                },
                durable,
            },
            (Err(refused), _) => refusal(number, asked, refused).into(),
            (Ok(_), None) => refusal(number, None, Rejection::invalid("no task")).into(),
        }
    }

    /// Results were received. Of a task that cannot be forgotten nothing is said: it is gone, or has not ended, which its owner knows.
    pub(super) fn acknowledge(&mut self, tasks: [Option<TaskId>; ACKNOWLEDGED_MAX]) {
        for task in tasks.into_iter().flatten() {
            let _goes_or_is_gone = self.plm.forget(&mut self.turn, task);
        }
    }

    /// The process wants to be a client.
    fn hello(&mut self, open: OpenLane, number: u32) -> Event {
        let segment = self.turn.segment;
        let lane = (open.attach, open.incarnation);
        let opened = segment.attach_info(open.attach).and_then(|info| {
            let name = if info.name.is_empty() {
                "local"
            } else {
                &info.name
            };
            let hello = ClientHello {
                principal: Principal::Uid(info.uid),
                name,
                host: "",
                address: "shm",
                pid: info.process.pid,
            };
            let clients = &mut self.turn.clients;
            clients.hello_by_lane(segment, self.turn.now, &hello, lane)
        });
        self.turn.clients.ask_for_pass(self.turn.sweep);
        if let Some(known) = self.turn.lanes.of(open.attach) {
            known.client = opened;
        }
        Event::Welcome {
            number,
            client: opened.unwrap_or(ClientIndex::UNKNOWN),
            has_ends: opened.is_some(),
        }
    }

    /// A slot that its submitter has made SUBMITTED is to be judged. If it was, as after a restart, the answer says where it stands.
    fn submit_by_lane(&mut self, open: OpenLane, number: u32, task: TaskId) -> Reply {
        let judged = self.turn.find(task).and_then(|(slot, state)| {
            let is_new = Plm::is_unjudged(self.turn.segment.task(slot), state);
            if is_new && state.owner() != Owner::Attach(open.attach) {
                let text = "the task was submitted by another process, which is to ask for it";
                return Err(Rejection::invalid(text));
            }
            if is_new {
                return self.plm.judge_or_drop(&mut self.turn, slot, state);
            }
            let answer = self
                .plm
                .answer(self.turn.segment.task(slot), state.phase())?;
            Ok(Accepted::once(task, answer.durable))
        });
        match judged {
            Ok(accepted) => {
                let first = self.turn.find(accepted.task);
                let phase = first.map_or(Phase::Free, |(_, state)| state.phase());
                Reply {
                    event: Event::Accepted {
                        number,
                        task: accepted.task,
                        asked: task,
                        phase,
                        is_repeat: accepted.is_repeat,
                        result_expired: accepted.result_expired,
                    },
                    durable: accepted.durable,
                }
            }
            Err(refused) => refusal(number, Some(task), refused).into(),
        }
    }

    /// The end of a task is to be told by this lane. One that has ended is said to have.
    fn watch(&mut self, open: OpenLane, task: TaskId) -> Result<Answer, Rejection> {
        let ended = self.plm.settled_end(self.turn.segment, task)?;
        let phase = match ended {
            Some(phase) => phase,
            None => self.turn.find(task)?.1.phase(),
        };
        if ended.is_none() && !self.turn.lanes.watched.contains(&(task, open.attach)) {
            let is_full = |lane: &&mut OpenLane| lane.watched >= WATCHED_MAX;
            if self
                .turn
                .lanes
                .of(open.attach)
                .as_ref()
                .is_some_and(is_full)
            {
                return Err(Rejection::for_now(
                    RejectReason::TasksFull,
                    Detail::Plain(
                        "this process watches 4,096 tasks by its lane already: submit with the option that tells the lane, or look at the tasks",
                    ),
                ));
            }
            self.turn.lanes.watched.insert((task, open.attach));
            if let Some(lane) = self.turn.lanes.of(open.attach) {
                lane.watched = lane.watched.saturating_add(1);
            }
        }
        Ok(Answer {
            phase,
            durable: None,
        })
    }
}

fn refusal(number: u32, task: Option<TaskId>, refused: Rejection) -> Event {
    Event::Refused {
        number,
        task,
        reason: refused.reason as u16,
        retry_after_ms: refused.retry_after_ms,
    }
}
