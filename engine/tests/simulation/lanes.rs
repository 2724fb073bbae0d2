//! Local clients that speak through lanes: they submit, cancel and forget, read what they are told or do not for long, while the daemon is killed after
//! any of its writes.
//!
//! Checked: a client that reads its events, and looks at the words of its tasks when it has missed some, learns of the end of each; no command is
//! answered more often than it was put in, but for those that a killed daemon had just answered; and at the end nothing remains.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qtf_engine::{Effect, Engine, EngineConfig};
use qtf_shm::lane::{Command, Event as LaneEvent};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::killed_after;
use qtf_shm::{
    Attachment, AttachmentSpec, Counter, Event, OwnedLane, Phase, SideRecord, TaskFields, TaskId,
    TaskOptions, WorkerId,
};
use qtf_world::{Ground, SECOND, World};

const CLIENTS: usize = 3;
const STEPS: u32 = 1_500;
/// LIMIT: a turn is cut after so many of its writes at most; most need fewer.
const WRITES_MAX: u32 = 60;

type Dispatched = (WorkerId, TaskId, u16);

/// What a client knows.
struct Client<'a> {
    process: &'a Attachment,
    lane: OwnedLane<'a>,
    fields: TaskFields,
    /// Tasks of which it has not heard that they have ended.
    waits: BTreeSet<TaskId>,
    /// Commands that are not answered, and those for which there was no room yet.
    asked: BTreeMap<u32, Command>,
    to_ask: VecDeque<Command>,
    /// How often each was put in, and answered.
    counts: BTreeMap<u32, (u32, u32)>,
    last_number: u32,
    /// It reads once in so many steps.
    reads_each: u32,
}

impl Client<'_> {
    fn ask(&mut self, command: Command) {
        self.to_ask.push_back(command);
        self.put_what_waits();
    }

    fn put_what_waits(&mut self) {
        while let Some(&command) = self.to_ask.front() {
            let number = self.last_number + 1;
            if self.lane.put(number, command).is_err() {
                return;
            }
            self.to_ask.pop_front();
            self.last_number = number;
            self.note_put(number, command);
        }
    }

    fn note_put(&mut self, number: u32, command: Command) {
        self.asked.insert(number, command);
        self.counts.entry(number).or_default().0 += 1;
    }

    fn submit(&mut self, key: Option<u64>) {
        let Ok(mut claimed) = self.process.claim() else {
            return;
        };
        let mut fields = self.fields.clone();
        fields.side = key.map(|key| SideRecord {
            key: [key, 1],
            key_expiry: self.process.now().plus_ns(3_600 * SECOND).stamp(),
            ..SideRecord::default()
        });
        claimed.write(&fields).expect("there is room");
        let event = match key {
            Some(_) => Event::Submit,
            None => Event::Admit,
        };
        let task = claimed.publish(event, self.process.next_stamp());
        let task = task.expect("claimed");
        self.waits.insert(task);
        if key.is_some() {
            self.ask(Command::Submit(task));
        }
    }

    /// Takes all that it is told; then, if it has missed something, looks for itself.
    fn read(&mut self, kills: u32) {
        while let Some(event) = self.lane.next() {
            self.told(event, kills);
        }
        if !self.lane.take_missed() {
            return;
        }
        let segment = self.process.segment();
        let ended = self.waits.iter().copied().filter(|task| {
            let state = segment.task(task.slot()).state();
            !state.is_of(*task) || state.phase().is_final() || state.phase() == Phase::Free
        });
        for task in ended.collect::<Vec<_>>() {
            self.has_ended(task);
        }
        for (number, command) in std::mem::take(&mut self.asked) {
            if self.lane.put(number, command).is_ok() {
                self.note_put(number, command);
            } else {
                self.to_ask.push_back(command);
            }
        }
    }

    fn told(&mut self, event: LaneEvent, kills: u32) {
        match event {
            LaneEvent::Ended { task, phase } => {
                assert!(phase.is_final(), "{phase}");
                self.has_ended(task);
            }
            LaneEvent::Accepted {
                number,
                asked,
                is_repeat,
                ..
            } => {
                self.answer(number, kills);
                if is_repeat {
                    self.waits.remove(&asked);
                }
            }
            LaneEvent::Refused { number, .. } => {
                if let Some(Command::Submit(task)) = self.answer(number, kills) {
                    self.waits.remove(&task);
                }
            }
            LaneEvent::Assign { .. }
            | LaneEvent::Stop { .. }
            | LaneEvent::Lost
            | LaneEvent::Welcome { .. } => panic!("{event:?}"),
        }
    }

    fn answer(&mut self, number: u32, kills: u32) -> Option<Command> {
        let (put, answered) = self.counts.entry(number).or_default();
        *answered += 1;
        // A daemon that is killed leaves one command that it has answered in the lane.
        assert!(*answered <= *put + kills, "answered without being asked");
        self.asked.remove(&number)
    }

    fn has_ended(&mut self, task: TaskId) {
        if self.waits.remove(&task) {
            self.ask(Command::Forget(task));
        }
    }
}

/// One daemon after the other, and the worker that runs what there is.
struct House {
    world: World,
    worker: WorkerId,
    held: Vec<Dispatched>,
    kills: u32,
}

impl House {
    fn cycle(&mut self) {
        self.world.engine.cycle(self.world.now);
        for effect in self.world.effects() {
            if let Effect::Dispatch {
                worker,
                task,
                attempt,
            } = effect
            {
                self.held.push((worker, task, attempt));
            }
        }
    }

    /// The daemon is killed in the middle of a result or a turn, and the worker with it.
    fn killed(mut self, writes: u32) -> Self {
        let now = self.world.now;
        let last = self.held.pop();
        let world = &mut self.world;
        let _ = killed_after(writes, || {
            if let Some(last) = last {
                world.end(last, 0);
            }
            world.engine.cycle(now);
        });
        self.world = self.world.restarted();
        self.kills += 1;
        self.world.engine.worker_gone(now, self.worker);
        self.worker = self.world.worker(4, &["exec"]);
        self.held.clear();
        self
    }
}

/// Lives one life; returns what was counted.
pub(crate) fn live(seed: u64) -> [u64; 2] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (segment, directory) = Ground::of(512, 64).shared().made();
    let id = segment.shm_id().expect("it is the kernel's");
    let processes: Vec<Attachment> = (0..CLIENTS)
        .map(|number| {
            let name = format!("client{number}");
            let spec = AttachmentSpec::new(AttachRole::Client, name, directory.path());
            Attachment::open_id(id, &spec).expect("an attach record is free")
        })
        .collect();
    let now = segment.now();
    let engine = Engine::new(segment, EngineConfig::default(), now).expect("usable");
    let mut world = World::of(engine, now, directory);
    let worker = world.worker(4, &["exec"]);
    let mut house = House {
        world,
        worker,
        held: Vec::new(),
        kills: 0,
    };
    let mut clients: Vec<Client<'_>> = processes
        .iter()
        .map(|process| comes(&mut house, process, rng.u32(1..700)))
        .collect();
    for step in 0..STEPS {
        let client = &mut clients[rng.usize(0..CLIENTS)];
        match rng.u8(0..16) {
            0..=3 => client.submit(None),
            4 | 5 => client.submit(Some(rng.u64(0..40))),
            6 => {
                let one = client.waits.iter().copied().nth(rng.usize(0..8));
                if let Some(task) = one {
                    client.ask(Command::Cancel(task));
                }
            }
            7..=10 => house.cycle(),
            11 if rng.u8(0..4) == 0 => house = house.killed(rng.u32(1..WRITES_MAX)),
            _ => {
                if let Some(one) = house.held.pop() {
                    house.world.end(one, u8::from(rng.u8(0..8) == 0));
                }
            }
        }
        for client in &mut clients {
            client.put_what_waits();
            if step % client.reads_each == 0 {
                client.read(house.kills);
            }
        }
    }
    comes_to_rest(&mut house, &mut clients);
    let counter = |counter| house.world.counter(counter);
    [counter(Counter::LaneMissed), counter(Counter::LaneCommand)]
}

fn comes<'a>(house: &mut House, process: &'a Attachment, reads_each: u32) -> Client<'a> {
    let lane = process.open_lane().expect("the first time");
    lane.put(0, Command::Hello).expect("it is empty");
    house.cycle();
    let welcome = lane.next();
    let Some(LaneEvent::Welcome {
        client,
        has_ends: true,
        ..
    }) = welcome
    else {
        panic!("{welcome:?}");
    };
    Client {
        process,
        lane,
        fields: TaskFields {
            kind: process.kinds().find("exec"),
            priority: 9,
            client: Some(client),
            max_attempts: 1,
            options: TaskOptions::TELLS_LANE,
            ..TaskFields::default()
        },
        waits: BTreeSet::new(),
        asked: BTreeMap::new(),
        to_ask: VecDeque::new(),
        counts: BTreeMap::new(),
        last_number: 0,
        reads_each,
    }
}

/// Everything is run, told and forgotten.
fn comes_to_rest(house: &mut House, clients: &mut [Client<'_>]) {
    for _ in 0..400 {
        house.world.pass(SECOND / 10);
        house.cycle();
        while let Some(one) = house.held.pop() {
            house.world.end(one, 0);
        }
        let _ = house.world.beat(house.worker, 0);
        for client in clients.iter_mut() {
            client.put_what_waits();
            client.read(house.kills);
        }
    }
    for client in clients {
        assert_eq!(client.waits, BTreeSet::new(), "it was never told");
        assert!(client.asked.is_empty() && client.to_ask.is_empty());
    }
    assert!(!house.world.segment().verify().broken());
    let segment = house.world.segment();
    let left = segment.allocated_slots(0..segment.high_water());
    assert_eq!(left.count(), 0, "all were forgotten");
}
