//! What each principal has of the watches: looked up when a stream is opened, and counted by number from then on.
//!
//! Invariant: a principal has an account exactly while it has streams, or something is left of one. Tested in `tests.rs`.

use std::collections::BTreeMap;

use qtf_engine::Principal;

/// Number of an account.
pub(super) type AccountIndex = usize;

/// What a principal has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    pub(super) principal: Principal,
    /// Its streams, and what is left of some.
    streams: usize,
    /// What those wait for, and what they have not told.
    pub(super) held: usize,
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: Vec<Account>,
    free: Vec<AccountIndex>,
    by_principal: BTreeMap<Principal, AccountIndex>,
}

impl Accounts {
    /// A principal has one stream more.
    pub(super) fn enter(&mut self, principal: Principal) -> AccountIndex {
        let index = *self.by_principal.entry(principal).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.accounts.push(Account::default());
                self.accounts.len() - 1
            })
        });
        let account = &mut self.accounts[index];
        account.principal = principal;
        account.streams = account.streams.saturating_add(1);
        index
    }

    /// A stream is gone, with all that it had left.
    pub(super) fn leave(&mut self, index: AccountIndex) {
        let account = &mut self.accounts[index];
        account.streams = account.streams.saturating_sub(1);
        if account.streams == 0 {
            self.by_principal.remove(&account.principal);
            self.free.push(index);
        }
    }

    pub(super) fn get(&self, index: AccountIndex) -> Account {
        self.accounts[index]
    }

    /// It holds one more.
    pub(super) fn add(&mut self, index: AccountIndex) {
        let held = &mut self.accounts[index].held;
        *held = held.saturating_add(1);
    }

    /// It holds one less.
    pub(super) fn subtract(&mut self, index: AccountIndex) {
        let held = &mut self.accounts[index].held;
        *held = held.saturating_sub(1);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_principal.is_empty()
    }
}
