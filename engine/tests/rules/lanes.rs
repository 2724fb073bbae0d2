//! Rules about local processes that speak through a lane: what is answered, who is told of an end, what a kill or a restart leaves, and that nobody
//! waits for anybody else.
#![expect(
    clippy::mem_forget,
    reason = "a process that is killed drops nothing; the segment is private and goes with this one"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the event that it waits for; any other one fails it"
)]

use qtf_engine::{Effect, Engine, EngineConfig, RejectReason};
use qtf_shm::lane::{Command, Event as LaneEvent};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::{Killed, killed_after};
use qtf_shm::{
    Attachment, AttachmentSpec, ClientIndex, Counter, Event, OwnedLane, Phase, SideRecord,
    TaskFields, TaskId, TaskOptions,
};

use crate::attaches::ground;
use qtf_world::{Ground, JournalWorld, SECOND, World};

/// LIMIT: a submission, or a turn of the engine for one command, takes fewer shared writes than this.
const WRITES_MAX: u32 = 400;

/// A local client over its lane.
struct Client<'a> {
    process: &'a Attachment,
    lane: OwnedLane<'a>,
    index: ClientIndex,
}

fn attach(world: &World, name: &str) -> Attachment {
    let spec = AttachmentSpec::new(AttachRole::Client, name, world.folder());
    let id = world.segment().shm_id().expect("it is the kernel's");
    Attachment::open_id(id, &spec).expect("an attach record is free")
}

/// Turns until the client has an answer, which comes in a turn or two.
fn said(world: &mut World, lane: &OwnedLane<'_>) -> Option<LaneEvent> {
    for _ in 0..3 {
        if let Some(event) = lane.next() {
            return Some(event);
        }
        world.cycle();
    }
    lane.next()
}

impl<'a> Client<'a> {
    fn of(world: &mut World, process: &'a Attachment) -> Self {
        let lane = process.open_lane().expect("the first time");
        lane.put(1, Command::Hello).expect("it is empty");
        let Some(LaneEvent::Welcome {
            number: 1,
            client: index,
            has_ends: true,
        }) = said(world, &lane)
        else {
            panic!("no welcome");
        };
        // An engine that starts finds the lane open, and cannot know what was told.
        let _stood = lane.take_missed();
        Self {
            process,
            lane,
            index,
        }
    }

    fn fields(&self) -> TaskFields {
        TaskFields {
            kind: self.process.kinds().find("exec"),
            priority: 9,
            client: Some(self.index),
            options: TaskOptions::TELLS_LANE,
            ..TaskFields::default()
        }
    }

    fn publish(&self, fields: &TaskFields, event: Event) -> TaskId {
        let mut claimed = self.process.claim().expect("a slot is free");
        claimed.set_payload(b"work").expect("it lies in the slot");
        claimed.write(fields).expect("there is room");
        let stamp = self.process.next_stamp();
        claimed.publish(event, stamp).expect("claimed")
    }

    /// A memory task that needs no judgement.
    fn submit(&self) -> TaskId {
        self.publish(&self.fields(), Event::Admit)
    }

    /// A task with a key.
    fn submit_key(&self, number: u32, key: u64, options: TaskOptions) -> TaskId {
        let fields = TaskFields {
            options: TaskOptions::TELLS_LANE.with(options),
            side: Some(SideRecord {
                key: [key, key],
                key_expiry: self.process.now().plus_ns(3_600 * SECOND).stamp(),
                ..SideRecord::default()
            }),
            ..self.fields()
        };
        let task = self.publish(&fields, Event::Submit);
        self.ask(number, Command::Submit(task));
        task
    }

    fn ask(&self, number: u32, command: Command) {
        self.lane.put(number, command).expect("there is room");
    }

    fn said(&self, world: &mut World) -> Option<LaneEvent> {
        said(world, &self.lane)
    }

    /// The answer to the command with this number.
    fn answer(&self, world: &mut World, number: u32) -> LaneEvent {
        let event = self.said(world).expect("an answer");
        match event {
            LaneEvent::Accepted { number: of, .. } | LaneEvent::Refused { number: of, .. } => {
                assert_eq!(of, number, "{event:?}");
            }
            _ => panic!("{event:?}"),
        }
        event
    }
}

fn is_accepted(event: LaneEvent, of: TaskId, phase: Phase) {
    match event {
        LaneEvent::Accepted {
            task, phase: found, ..
        } => assert_eq!((task, found), (of, phase)),
        _ => panic!("{event:?}"),
    }
}

fn is_refused(event: LaneEvent, why: RejectReason) {
    match event {
        LaneEvent::Refused { reason, .. } => assert_eq!(reason, why as u16),
        _ => panic!("{event:?}"),
    }
}

/// Nobody has the slot that was the task's.
fn is_free(world: &World, task: TaskId) -> bool {
    world.segment().task(task.slot()).state().phase() == Phase::Free
}

/// Hands the next task to a worker, which ends it well.
fn run_one(world: &mut World) -> TaskId {
    let dispatched = world.dispatch();
    world.start(dispatched);
    world.end(dispatched, 0);
    dispatched.1
}

fn ended(task: TaskId, phase: Phase) -> Option<LaneEvent> {
    Some(LaneEvent::Ended { task, phase })
}

#[test]
fn client_is_told_of_the_end_of_each_task_of_its_own_and_of_no_other() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    world.worker(4, &["exec"]);
    let foreign = world.submit("exec");
    assert_eq!(run_one(&mut world), foreign);
    let own = client.submit();
    assert_eq!(run_one(&mut world), own);
    assert_eq!(client.said(&mut world), ended(own, Phase::Done));
    assert_eq!(client.said(&mut world), None);
    assert!(!client.lane.take_missed());
}

#[test]
fn commands_are_answered_with_their_numbers_and_change_what_they_say() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let task = client.submit();
    client.ask(
        7,
        Command::Update {
            task,
            priority: 200,
        },
    );
    is_accepted(client.answer(&mut world, 7), task, Phase::Ready);
    assert_eq!(world.segment().task(task.slot()).priority(), 200);
    client.ask(8, Command::Cancel(task));
    // The end comes first: it is told when it is decided, and the answer after it.
    assert_eq!(client.said(&mut world), ended(task, Phase::Cancelled));
    is_accepted(client.answer(&mut world, 8), task, Phase::Cancelled);
    client.ask(9, Command::Forget(task));
    is_accepted(client.answer(&mut world, 9), task, Phase::Cancelled);
    assert!(is_free(&world, task));
    client.ask(10, Command::Forget(task));
    is_refused(client.answer(&mut world, 10), RejectReason::UnknownTask);
    client.ask(11, Command::Credits(3));
    is_refused(client.answer(&mut world, 11), RejectReason::Unsupported);
    assert_eq!(world.counter(Counter::LaneCommand), 6);
    world.verify();
}

#[test]
fn acknowledgement_frees_up_to_three_tasks_without_an_answer_and_needs_no_room_for_one() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    world.worker(1, &["exec"]);
    // In the last round its ring of events is full.
    for _ in 0..3 {
        let mut tasks = Vec::new();
        for _ in 0..24 {
            tasks.push(client.submit());
            run_one(&mut world);
        }
        let open = client.submit();
        let dispatched = world.dispatch();
        client.ask(1, Command::Acknowledge([None, Some(open), None]));
        for some in tasks.chunks(3) {
            let task = |place: usize| some.get(place).copied();
            client.ask(2, Command::Acknowledge([task(0), task(1), task(2)]));
        }
        world.settle();
        assert!(client.lane.commands.are_taken());
        assert!(tasks.iter().all(|task| is_free(&world, *task)));
        assert!(!is_free(&world, open), "it has not ended");
        world.start(dispatched);
        world.end(dispatched, 0);
    }
    while let Some(event) = client.lane.next() {
        assert!(matches!(event, LaneEvent::Ended { .. }), "{event:?}");
    }
    world.verify();
}

#[test]
fn whoever_watches_a_task_of_another_is_told_of_its_end_once() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let foreign = world.submit("exec");
    for number in 2..4 {
        client.ask(number, Command::Watch(foreign));
        let answer = client.answer(&mut world, number);
        assert!(matches!(answer, LaneEvent::Accepted { .. }), "{answer:?}");
    }
    world.worker(1, &["exec"]);
    assert_eq!(run_one(&mut world), foreign);
    assert_eq!(client.said(&mut world), ended(foreign, Phase::Done));
    assert_eq!(client.said(&mut world), None);
    client.ask(4, Command::Watch(foreign));
    is_accepted(client.answer(&mut world, 4), foreign, Phase::Done);
}

#[test]
fn task_with_a_key_is_judged_once_and_its_repeat_gets_the_first_one() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let first = client.submit_key(2, 77, TaskOptions::NONE);
    is_accepted(client.answer(&mut world, 2), first, Phase::Ready);
    let second = client.submit_key(3, 77, TaskOptions::NONE);
    match client.answer(&mut world, 3) {
        LaneEvent::Accepted {
            task,
            asked,
            is_repeat: true,
            result_expired: false,
            ..
        } => assert_eq!((task, asked), (first, second)),
        other => panic!("{other:?}"),
    }
    assert!(is_free(&world, second));
    // Asked once more, as after a restart.
    client.ask(4, Command::Submit(first));
    is_accepted(client.answer(&mut world, 4), first, Phase::Ready);
    world.verify();
}

#[test]
fn what_cannot_be_promised_is_refused_and_its_slot_free() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let task = client.submit_key(2, 5, TaskOptions::JOURNAL);
    is_refused(client.answer(&mut world, 2), RejectReason::NoJournal);
    assert!(is_free(&world, task));
    let fields = TaskFields {
        kind: None,
        ..client.fields()
    };
    let task = client.publish(&fields, Event::Submit);
    client.ask(3, Command::Submit(task));
    is_refused(client.answer(&mut world, 3), RejectReason::InvalidArgument);
    assert!(is_free(&world, task));
    let again = client.submit_key(4, 5, TaskOptions::NONE);
    is_accepted(client.answer(&mut world, 4), again, Phase::Ready);
    world.verify();
}

#[test]
fn journal_task_is_answered_and_its_end_told_when_that_is_durable() {
    let mut world = JournalWorld::among_locals();
    let process = attach(&world.world, "journalled");
    let client = Client::of(&mut world.world, &process);
    let task = client.submit_key(2, 9, TaskOptions::JOURNAL);
    assert_eq!(client.said(&mut world.world), None, "not durable");
    world.sync();
    is_accepted(client.answer(&mut world.world, 2), task, Phase::Submitted);
    world.world.cycle();
    assert_eq!(world.world.phase(task), Phase::Ready);
    world.world.worker(1, &["exec"]);
    assert_eq!(run_one(&mut world.world), task);
    assert_eq!(client.said(&mut world.world), None, "not durable");
    world.sync();
    assert_eq!(client.said(&mut world.world), ended(task, Phase::Done));
    client.ask(3, Command::Forget(task));
    assert_eq!(client.said(&mut world.world), None, "not durable");
    world.sync();
    is_accepted(client.answer(&mut world.world, 3), task, Phase::Done);
}

#[test]
fn submitter_killed_after_any_write_leaves_a_task_that_is_whole_or_nothing() {
    let mut was_accepted = 0;
    for cut in 1..WRITES_MAX {
        let (mut world, process) = ground();
        let client = Client::of(&mut world, &process);
        let mut task = None;
        let killed = killed_after(cut, || {
            task = Some(client.submit_key(2, 6, TaskOptions::NONE));
            client.lane.ring();
        });
        let index = process.index();
        world.settle();
        world.engine.attach_gone(world.now, index);
        for _ in 0..4 {
            world.pass(2 * SECOND);
            world.settle();
        }
        assert!(world.segment().attach_info(index).is_none(), "{cut}");
        let tasks = world.segment().counters().gauge(Phase::Ready);
        was_accepted += tasks;
        world.worker(1, &["exec"]);
        if tasks == 1 {
            run_one(&mut world);
        }
        world.verify();
        assert!(!world.segment().verify().broken(), "{cut}");
        std::mem::forget(process);
        if killed.is_ok() {
            assert_eq!(tasks, 1);
            assert!(
                was_accepted > 1,
                "killed between the submission and the command"
            );
            return;
        }
    }
    panic!("it takes more writes than were tried");
}

#[test]
fn daemon_killed_after_any_write_of_a_turn_leaves_commands_that_its_successor_answers() {
    for cut in 1..WRITES_MAX {
        let (mut world, process) = ground();
        let client = Client::of(&mut world, &process);
        let waiting = client.submit();
        world.cycle();
        let new = client.submit_key(2, 6, TaskOptions::NONE);
        client.ask(3, Command::Cancel(waiting));
        let now = world.now;
        let killed = killed_after(cut, || world.engine.cycle(now));
        let mut world = world.restarted();
        world.settle();
        // As an owner does: all events, then the mark, then it asks again for what was not answered.
        let mut answered = Vec::new();
        while let Some(event) = client.lane.next() {
            if let LaneEvent::Accepted { number, .. } = event {
                answered.push(number);
            }
        }
        assert!(client.lane.take_missed(), "a daemon that starts says so");
        assert_eq!(world.phase(waiting), Phase::Cancelled, "{cut}");
        if !answered.contains(&2) {
            client.ask(2, Command::Submit(new));
            is_accepted(client.answer(&mut world, 2), new, Phase::Ready);
        }
        assert_eq!(world.phase(new), Phase::Ready, "{cut}");
        let again = client.submit_key(5, 6, TaskOptions::NONE);
        match client.answer(&mut world, 5) {
            LaneEvent::Accepted { task, asked, .. } => assert_eq!((task, asked), (new, again)),
            other => panic!("{other:?}"),
        }
        world.verify();
        if killed.is_ok() {
            return;
        }
    }
    panic!("it takes more writes than were tried");
}

#[test]
fn ends_that_a_daemon_could_not_tell_any_more_are_found_by_the_mark_that_its_successor_sets() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    world.worker(1, &["exec"]);
    let task = client.submit();
    let dispatched = world.dispatch();
    world.start(dispatched);
    let mut world = world.restarted();
    assert!(!client.lane.take_missed());
    world.settle();
    assert!(client.lane.take_missed());
    assert_eq!(world.phase(task), Phase::Running);
    // The client is known by its lane, without another hello.
    world.end(dispatched, 0);
    assert_eq!(client.said(&mut world), ended(task, Phase::Done));
}

#[test]
fn owner_that_never_reads_holds_up_its_own_commands_and_nobody_else() {
    let (mut world, process) = ground();
    let second = attach(&world, "second");
    let idle = Client::of(&mut world, &process);
    let busy = Client::of(&mut world, &second);
    for _ in 0..4 {
        for number in 0..32 {
            if idle.lane.put(number, Command::Watch(idle_task())).is_err() {
                break;
            }
        }
        world.cycle();
    }
    assert!(
        idle.lane.put(1, Command::Hello).is_err(),
        "its ring is full"
    );
    let info = world
        .segment()
        .lane_info(process.index())
        .expect("it is there");
    assert_eq!(
        info.events.0 - info.events.1,
        64,
        "answers, until there is no room"
    );
    assert!(!info.is_mark_set, "and none is dropped");
    // Turns that the other one's command takes: one, as ever.
    for number in 2..40 {
        busy.ask(number, Command::Watch(idle_task()));
        world.cycle();
        let event = busy.lane.next();
        assert!(
            matches!(event, Some(LaneEvent::Refused { .. })),
            "{event:?}"
        );
    }
    assert_eq!(
        world.engine.cycle(world.now).get(),
        0,
        "what waits for it is no work"
    );
    // It reads after all.
    let mut answers = 0;
    while answers < 96 {
        match idle.lane.next() {
            Some(_) => answers += 1,
            None => {
                assert!(world.engine.cycle(world.now).get() > 0, "{answers}");
            }
        }
    }
}

/// An id that was never given.
fn idle_task() -> TaskId {
    TaskId::from_raw((1 << 58) | 3).expect("it could be one")
}

#[test]
fn ends_of_a_client_that_does_not_read_are_missed_and_none_waits_in_the_daemon() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let tasks: Vec<TaskId> = (0..80)
        .map(|_| {
            let task = client.submit();
            world.engine.cancel(world.now, task).expect("it waits");
            world.engine.forget(world.now, task).expect("it has ended");
            task
        })
        .collect();
    world.cycle();
    let mut told = Vec::new();
    while let Some(event) = client.lane.next() {
        told.push(event);
    }
    assert_eq!(told.len(), 64);
    assert!(client.lane.take_missed());
    let rest = world.counter(Counter::LaneMissed);
    assert_eq!(rest, tasks.len() as u64 - 64);
}

#[test]
fn owner_stopped_for_an_hour_goes_on_where_it_was() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    client.ask(2, Command::Watch(idle_task()));
    world.settle();
    for _ in 0..60 {
        world.pass(60 * SECOND);
        world.settle();
    }
    assert!(matches!(
        client.lane.next(),
        Some(LaneEvent::Refused { number: 2, .. })
    ));
    let task = client.submit();
    world.engine.cancel(world.now, task).expect("it waits");
    assert_eq!(client.said(&mut world), ended(task, Phase::Cancelled));
}

#[test]
fn lane_of_nonsense_is_left_alone_and_counted_once() {
    let (mut world, process) = ground();
    let second = attach(&world, "second");
    let _mad = process.open_lane().expect("the first time");
    let sane = Client::of(&mut world, &second);
    scribble(&world, &process);
    for number in 2..20 {
        sane.ask(number, Command::Watch(idle_task()));
        world.cycle();
        assert!(matches!(sane.lane.next(), Some(LaneEvent::Refused { .. })));
    }
    assert_eq!(world.counter(Counter::LaneNonsense), 1);
    let info = world
        .segment()
        .lane_info(process.index())
        .expect("it is there");
    assert!(!info.makes_sense());
    let findings = world.segment().verify().findings;
    assert_eq!(findings.len(), 1, "the lane, and no task: {findings:?}");
}

#[test]
fn commands_of_random_words_are_refused_and_harm_nobody() {
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut world, process) = ground();
    let second = attach(&world, "second");
    let mad = Client::of(&mut world, &process);
    let sane = Client::of(&mut world, &second);
    let known: Vec<TaskId> = (0..4).map(|_| mad.submit()).collect();
    for round in 0..400 {
        let heads = rng.bool();
        let mut at = 0;
        world
            .segment()
            .scribble_commands(process.index(), rng.u64(0..40), || {
                at += 1;
                match at % 4 {
                    1 if heads => (rng.u64(0..11) << 56) | (rng.u64(..) >> 8),
                    2 if heads => known[rng.usize(0..4)].as_raw(),
                    _ => rng.u64(..) >> rng.u32(0..64),
                }
            });
        let before = world.counter(Counter::LaneCommand);
        world.cycle();
        assert!(world.counter(Counter::LaneCommand) - before <= 32);
        while mad.lane.next().is_some() {}
        sane.ask(round, Command::Watch(idle_task()));
        is_refused(sane.answer(&mut world, round), RejectReason::UnknownTask);
    }
    world.segment().scribble_commands(process.index(), 0, || 0);
    world.settle();
    assert!(!world.segment().verify().broken());
}

/// Another process writes to the count of commands.
fn scribble(world: &World, victim: &Attachment) {
    world.segment().scribble_on_lane(victim.index(), 1 << 40);
}

#[test]
fn tasks_of_a_client_that_has_died_are_counted_and_its_record_goes_when_they_have_gone() {
    let (mut world, process) = ground();
    let client = Client::of(&mut world, &process);
    let record = client.index;
    let tasks = [client.submit(), client.submit()];
    world.settle();
    assert_eq!(
        world.segment().client(record).unfinished(),
        0,
        "seen by nobody yet"
    );
    let index = process.index();
    world.engine.attach_gone(world.now, index);
    std::mem::forget(process);
    for _ in 0..6 {
        world.pass(SECOND);
        world.settle();
    }
    let slot = world.segment().client(record);
    assert!(slot.is_used());
    assert_eq!((slot.unfinished(), slot.lane()), (2, None));
    for task in tasks {
        world.engine.cancel(world.now, task).expect("it waits");
        world.engine.forget(world.now, task).expect("it has ended");
    }
    assert!(!world.segment().client(record).is_used());
    world.verify();
}

#[test]
fn two_processes_of_one_name_have_two_records_and_each_is_told_of_its_own() {
    let (mut world, process) = ground();
    let twin = attach(&world, "local");
    let (first, second) = (
        Client::of(&mut world, &process),
        Client::of(&mut world, &twin),
    );
    assert_ne!(first.index, second.index);
    let (one, two) = (first.submit(), second.submit());
    for task in [one, two] {
        world.engine.cancel(world.now, task).expect("it waits");
    }
    world.cycle();
    assert_eq!(first.said(&mut world), ended(one, Phase::Cancelled));
    assert_eq!(second.said(&mut world), ended(two, Phase::Cancelled));
    assert_eq!((first.lane.next(), second.lane.next()), (None, None));
}

#[test]
fn sixty_three_clients_at_once_get_as_many_ends_as_they_have_submitted() {
    // As many attach records as there are beside the daemon's.
    let (segment, directory) = Ground::of(1_024, 1_024).shared().made();
    let now = segment.now();
    let engine = Engine::new(segment, EngineConfig::default(), now).expect("usable");
    let mut world = World::of(engine, now, directory);
    let processes: Vec<Attachment> = (0..63)
        .map(|number| attach(&world, &format!("c{number}")))
        .collect();
    let clients: Vec<Client<'_>> = processes
        .iter()
        .map(|process| Client::of(&mut world, process))
        .collect();
    world.worker(64, &["exec"]);
    let (mut submitted, mut told, mut rng) = (0, 0, fastrand::Rng::with_seed(7));
    for _ in 0..40 {
        for client in &clients {
            for _ in 0..rng.usize(0..3) {
                client.submit();
                submitted += 1;
            }
        }
        for _ in 0..8 {
            for effect in world.cycle() {
                if let Effect::Dispatch {
                    worker,
                    task,
                    attempt,
                } = effect
                {
                    world.end((worker, task, attempt), 0);
                }
            }
        }
        for client in &clients {
            while let Some(event) = client.lane.next() {
                match event {
                    LaneEvent::Ended {
                        task,
                        phase: Phase::Done,
                    } => {
                        told += 1;
                        client.ask(9, Command::Forget(task));
                        world.cycle();
                    }
                    LaneEvent::Accepted { number: 9, .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(!client.lane.take_missed());
        }
    }
    assert!(submitted > 2_000);
    assert_eq!(told, submitted);
    world.verify();
}

#[test]
fn killed_turn_is_cut_where_it_was_to_be() {
    // What the tests above rely on.
    let (mut world, _process) = ground();
    let now = world.now;
    assert_eq!(
        killed_after(1, || world.engine.cycle(now)).err(),
        Some(Killed)
    );
}
