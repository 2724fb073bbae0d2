//! The rules of the engine, a file for each set; test names are the rules, and are told in the sentences of `qtf_world`.

#[cfg(test)]
mod at_most_once;
#[cfg(test)]
mod attaches;
#[cfg(test)]
mod batches;
#[cfg(test)]
mod calling;
#[cfg(test)]
mod calling_lives;
#[cfg(test)]
mod cancellation;
#[cfg(test)]
mod capacity;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod cold_start;
#[cfg(test)]
mod cut_short;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod forgetting;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod history;
mod holding;
#[cfg(test)]
mod holds;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lane_workers;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod liveness;
#[cfg(test)]
mod local_offers;
#[cfg(test)]
mod local_takes;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod pace;
#[cfg(test)]
mod put_off;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod results;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod room;
#[cfg(test)]
mod scheduling;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod spent_keys;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod submission;
#[cfg(test)]
mod timers;
