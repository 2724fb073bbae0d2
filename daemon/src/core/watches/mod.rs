//! Who waits for the end of which task: in the memory of this process, by slot.
//!
//! When a task ends only its id moves to the streams that wait for it; outcome and output are read from
//! the segment when the stream is polled. A slow reader can therefore hold no more than the ids that it
//! named itself, and their number is bounded over all streams, and for each principal by the rule for all tables: an id counts once for
//! each stream from its naming until its end is told, however often it is named.
//!
//! No call takes longer because there are more watches. Where many are concerned (a stream that closes, a task that many wait
//! for, the stop) the call notes it, and [`Watches::tend`] does the rest, at most [`STEPS`] of each a turn.
//!
//! Tested in `tests.rs`.

mod accounts;
mod entries;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::task::Waker;

use qtf_engine::{Principal, ShareRule, ShareUsedUp, Usage};
use qtf_shm::{Phase, TaskId};

use accounts::{Account, AccountIndex, Accounts};
use entries::{Entries, Entry, Link, List};

/// LIMIT: entries, or streams, that one turn looks at for each thing there is to do.
pub(crate) const STEPS: usize = 1024;

/// Names one watching stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchKey {
    number: u32,
    tenant: u32,
}

/// A stream, or what is left of one.
#[derive(Debug, Default)]
struct Watcher {
    /// For whom it is.
    account: AccountIndex,
    /// Counts the streams that had this number.
    tenant: u32,
    is_open: bool,
    /// Tasks that it waits for.
    waiting: List,
    /// Ended, and not yet told.
    ended: List,
    waker: Option<Waker>,
}

/// All watches.
#[derive(Debug)]
pub(crate) struct Watches {
    entries: Entries,
    /// By number; 0 is nobody's.
    watchers: Vec<Watcher>,
    free: Vec<u32>,
    /// Tasks that have ended and that many waited for.
    ending: VecDeque<(TaskId, Phase)>,
    /// Head of the list of the one before, which is being gone through.
    telling: Option<Link>,
    /// Streams that are closed and have left entries.
    closed: VecDeque<u32>,
    /// The next stream that is to look again, while all are being woken.
    waking: Option<usize>,
    /// What all streams wait for, what has ended and is not told, and what closed streams have left.
    named: usize,
    /// The same by principal.
    accounts: Accounts,
    watches_max: usize,
    rule: ShareRule,
}

/// There are too many watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooManyWatches {
    /// All are in use.
    Full { limit: usize },
    /// Those are that one principal may use.
    Share(ShareUsedUp),
}

impl Watches {
    /// None yet; at most `watches_max` at the same time, of tasks in `slots` slots.
    pub(crate) fn new(slots: usize, watches_max: usize, rule: ShareRule) -> Self {
        Self {
            entries: Entries::new(slots),
            watchers: vec![Watcher::default()],
            free: Vec::new(),
            ending: VecDeque::new(),
            telling: None,
            closed: VecDeque::new(),
            waking: None,
            named: 0,
            accounts: Accounts::default(),
            watches_max,
            rule,
        }
    }

    /// Opens a watching stream of a principal.
    pub(crate) fn open(&mut self, principal: Principal) -> WatchKey {
        let number = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(Watcher::default());
            // LIMIT: streams are bounded by connections and their streams.
            u32::try_from(self.watchers.len() - 1).unwrap_or(u32::MAX)
        });
        let account = self.accounts.enter(principal);
        let watcher = &mut self.watchers[number as usize];
        let tenant = watcher.tenant.wrapping_add(1);
        *watcher = Watcher {
            account,
            tenant,
            is_open: true,
            ..Watcher::default()
        };
        WatchKey { number, tenant }
    }

    fn watcher(&self, key: WatchKey) -> Option<&Watcher> {
        let watcher = self.watchers.get(key.number as usize)?;
        (watcher.is_open && watcher.tenant == key.tenant).then_some(watcher)
    }

    fn watcher_mut(&mut self, key: WatchKey) -> Option<&mut Watcher> {
        let watcher = self.watchers.get_mut(key.number as usize)?;
        (watcher.is_open && watcher.tenant == key.tenant).then_some(watcher)
    }

    /// The stream waits for the end of this task. Waiting twice is waiting once.
    pub(crate) fn add(&mut self, key: WatchKey, task: TaskId) -> Result<(), TooManyWatches> {
        self.name(key, task, None)
    }

    /// The stream is to be told of an end that it need not wait for; once, however often it names it meanwhile.
    pub(crate) fn add_ended(
        &mut self,
        key: WatchKey,
        task: TaskId,
        phase: Phase,
    ) -> Result<(), TooManyWatches> {
        self.name(key, task, Some(phase))
    }

    fn name(
        &mut self,
        key: WatchKey,
        task: TaskId,
        phase: Option<Phase>,
    ) -> Result<(), TooManyWatches> {
        let Some(account) = self.watcher(key).map(|watcher| watcher.account) else {
            return Ok(());
        };
        if let Some(link) = self.entries.find(key.number, task.as_raw()) {
            if let (Some(phase), None) = (phase, self.entries.get(link).phase) {
                self.tell(link, phase);
            }
            return Ok(());
        }
        self.check_share(account)?;
        let link = self.entries.insert(key.number, task.as_raw(), phase);
        let watcher = &mut self.watchers[key.number as usize];
        let list = match phase {
            None => &mut watcher.waiting,
            Some(_) => &mut watcher.ended,
        };
        self.entries.append(list, link);
        self.named = self.named.saturating_add(1);
        self.accounts.add(account);
        Ok(())
    }

    /// Whether a principal may have one more.
    fn check_share(&self, account: AccountIndex) -> Result<(), TooManyWatches> {
        let limit = self.watches_max;
        if self.named >= limit {
            return Err(TooManyWatches::Full { limit });
        }
        let Account {
            principal,
            held: own,
            ..
        } = self.accounts.get(account);
        let [held, used, size] =
            [own, self.named, limit].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        if self.rule.allows(Usage { held, used, size }, 1) {
            return Ok(());
        }
        Err(TooManyWatches::Share(ShareUsedUp {
            principal,
            held,
            size,
            what: "watches",
            until: "wait for some tasks first, and read their ends",
        }))
    }

    /// A task has ended: everybody who waits for it is to be told.
    pub(crate) fn finished(&mut self, task: TaskId, phase: Phase) {
        let raw = task.as_raw();
        let (near, count) = self.entries.near_waiting(raw);
        for &link in &near[..count] {
            self.tell(link, phase);
        }
        let is_in_list = self
            .telling
            .is_some_and(|head| self.entries.share_a_slot(self.entries.get(head).task, raw));
        let far = self.entries.first_far(raw);
        if is_in_list || far != 0 && self.entries.get(far).next_of_task != 0 {
            self.ending.push_back((task, phase));
        } else if far != 0 && self.entries.get(far).task == raw {
            self.tell(far, phase);
        }
    }

    /// The end that this entry waits for has come.
    fn tell(&mut self, link: Link, phase: Phase) {
        self.entries.note_end(link, phase);
        let number = self.entries.get(link).watcher;
        let watcher = &mut self.watchers[number as usize];
        if !watcher.is_open {
            // It stays where it is among what the stream has left.
            return;
        }
        self.entries.take_out(&mut watcher.waiting, link);
        self.entries.append(&mut watcher.ended, link);
        if let Some(waker) = watcher.waker.take() {
            waker.wake();
        }
    }

    /// Takes the next end that the stream is to tell.
    pub(crate) fn next_ended(&mut self, key: WatchKey) -> Option<(TaskId, Phase)> {
        let link = self.watcher(key)?.ended.first;
        if link == 0 {
            return None;
        }
        let entry = *self.entries.get(link);
        self.drop_entry(key.number, link);
        Some((TaskId::from_raw(entry.task)?, entry.phase?))
    }

    /// Removes an entry of a stream.
    fn drop_entry(&mut self, number: u32, link: Link) {
        let watcher = &mut self.watchers[number as usize];
        let list = if watcher.ended.first == link {
            &mut watcher.ended
        } else {
            &mut watcher.waiting
        };
        let account = watcher.account;
        self.entries.take_out(list, link);
        self.entries.remove(link);
        self.named = self.named.saturating_sub(1);
        self.accounts.subtract(account);
    }

    /// How many ends the stream has not yet told.
    pub(crate) fn untold(&self, key: WatchKey) -> usize {
        self.watcher(key).map_or(0, |watcher| watcher.ended.len)
    }

    /// Whether the stream waits for nothing and has told everything.
    pub(crate) fn is_idle(&self, key: WatchKey) -> bool {
        self.watcher(key)
            .is_none_or(|watcher| watcher.waiting.len == 0 && watcher.ended.len == 0)
    }

    /// The stream waits to be woken.
    pub(crate) fn keep_waker(&mut self, key: WatchKey, waker: &Waker) {
        if let Some(watcher) = self.watcher_mut(key) {
            watcher.waker = Some(waker.clone());
        }
    }

    /// Every stream looks again, in the turns that follow.
    pub(crate) fn wake_all(&mut self) {
        self.waking = Some(0);
    }

    /// The stream is gone. What it has left goes in the turns that follow, and counts until then.
    pub(crate) fn close(&mut self, key: WatchKey) {
        let Some(watcher) = self.watcher_mut(key) else {
            return;
        };
        watcher.is_open = false;
        watcher.waker = None;
        self.closed.push_back(key.number);
    }

    /// Goes on with what is left to be done, a bounded number of steps of each kind. Returns how many it took.
    pub(crate) fn tend(&mut self) -> usize {
        let told = self.tell_some();
        let dropped = self.drop_some();
        let woken = self.wake_some();
        told.saturating_add(dropped).saturating_add(woken)
    }

    /// Whether there is something to go on with.
    #[cfg(test)]
    fn is_busy(&self) -> bool {
        !self.ending.is_empty()
            || self.telling.is_some()
            || !self.closed.is_empty()
            || self.waking.is_some()
    }

    fn tell_some(&mut self) -> usize {
        for step in 0..STEPS {
            let Some(head) = self.telling.or_else(|| self.next_telling()) else {
                return step;
            };
            let Entry { task, phase, .. } = *self.entries.get(head);
            match (self.entries.get(head).next_of_task, phase) {
                (0, _) | (_, None) => {
                    self.entries.give_back(head);
                    self.telling = None;
                }
                (link, Some(phase)) if self.entries.get(link).task == task => {
                    self.tell(link, phase);
                }
                (link, Some(_)) => {
                    // Another tenant of the slot, whose end is told when it comes.
                    self.entries.take_off_task(link);
                    self.entries.put_at_task(link);
                }
            }
        }
        STEPS
    }

    fn next_telling(&mut self) -> Option<Link> {
        let (task, phase) = self.ending.pop_front()?;
        self.telling = Some(self.entries.take_far_off(task.as_raw(), phase));
        self.telling
    }

    fn drop_some(&mut self) -> usize {
        for step in 0..STEPS {
            let Some(&number) = self.closed.front() else {
                return step;
            };
            let watcher = &self.watchers[number as usize];
            match (watcher.ended.first, watcher.waiting.first) {
                (0, 0) => {
                    self.closed.pop_front();
                    self.accounts.leave(watcher.account);
                    self.free.push(number);
                }
                (0, link) | (link, _) => self.drop_entry(number, link),
            }
        }
        STEPS
    }

    fn wake_some(&mut self) -> usize {
        let Some(from) = self.waking else {
            return 0;
        };
        let until = from.saturating_add(STEPS).min(self.watchers.len());
        for watcher in &mut self.watchers[from..until] {
            if let Some(waker) = watcher.waker.take() {
                waker.wake();
            }
        }
        self.waking = (until < self.watchers.len()).then_some(until);
        until.saturating_sub(from)
    }
}
