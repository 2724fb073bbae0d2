//! The rules of the engine, a file for each set; test names are the rules.

#[cfg(test)]
mod cancellation;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod liveness;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod results;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod scheduling;
#[cfg(test)]
mod submission;
#[cfg(test)]
mod timers;
#[cfg(test)]
mod world;
